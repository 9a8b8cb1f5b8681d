"""`lrexp confirm SWEEP`: a sweep's best configurations on fresh seeds, and what may be said."""

from __future__ import annotations

import argparse

from lrexp.commands.answer import columns, compared_words, parser_of
from lrexp.config.errors import for_terminal
from lrexp.config.names import shown_path

DESCRIPTION = """\
Train each policy's best configuration of a sweep again on fresh seeds, the same for all, and
compare them with the baseline on the test images.

SWEEP is a sweep's folder, or `latest`. Its own results are exploratory: the best was chosen by
them. What is compared, the metric and the margin are written down before anything is trained, in
protocol.json of a folder beside the sweep, and cannot change afterwards; seeds can be added. The
same command again goes on with what was stopped. OVERRIDES say where the runs are trained; without
any that is as the sweep's were.
"""
EXAMPLES = """\
  lrexp confirm latest
  lrexp confirm outputs/NAME/SWEEP --seeds 20 --margin 0.01 --baseline layerwise_decay
  lrexp confirm latest hydra/launcher=slurm hydra.launcher.partition=gpu
"""
CODES = "0 concluded, 1 a run failed, 2 a mistake in the request, or nothing to conclude yet"


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("confirm", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument("sweep", metavar="SWEEP", help="whose best configurations are confirmed")
    words.add_argument(
        "overrides", metavar="OVERRIDE", nargs="*", default=[], help="hydra.launcher.KEY=VALUE"
    )
    words.add_argument("--seeds", type=_seeds, help="of every configuration (default 10)")
    compared_words(words)
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_intermixed_args(argv)

    from lrexp.report.comparison.lines import conclusion_lines
    from lrexp.report.comparison.page import write_conclusion
    from lrexp.session.confirm import Asked, confirm

    asked = Asked(args.seeds, args.baseline, args.margin, args.metric, tuple(args.overrides))
    done = confirm(args.sweep, asked, lambda line: print(for_terminal(line), flush=True))
    page = write_conclusion(done.folder, done.conclusion)  # first: the terminal may be gone
    width = columns()
    print("\n".join(["", *conclusion_lines(done.conclusion, width)]))
    print(f"page   {for_terminal(shown_path(page))}")
    return 0


def _seeds(text: str) -> int:
    count = int(text)
    if count < 3:
        raise argparse.ArgumentTypeError("at least 3 seeds: fewer decide nothing")
    if count > 1000:
        raise argparse.ArgumentTypeError("at most 1000 seeds")
    return count


_seeds.__name__ = "whole number"  # what argparse calls it
