"""`lrexp which`: which policy, by how much better, how surely; from policies to a conclusion."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.commands.answer import columns, compared_words, parser_of
from lrexp.config.errors import UserError, for_terminal
from lrexp.config.names import shown_path
from lrexp.judge.ladders import MOST_TRIES

if TYPE_CHECKING:
    from lrexp.judge.conclusion import Conclusion
    from lrexp.session.which import Answer

DESCRIPTION = """\
Find out which learning-rate policy to use: tune each, train the best of each again on fresh seeds,
and compare them with the baseline on the test images.

Every policy gets a ladder of base rates around optimizer.lr, half a decade apart, and two values of
its main setting where it has one; ladders whose best lies at an edge are extended. With --search
optuna as many tries of each are drawn instead, from what came of earlier ones. The best of each
is then compared on 5, 10 and 20 fresh seeds: what is decided stops. What is going to be done is
written to protocol.json before anything is trained. OVERRIDES are settings that all runs have.
"""
EXAMPLES = """\
  lrexp which experiment=finetune_digits
  lrexp which experiment=finetune_digits --policies layerwise_decay,lp_ft --budget 30m --dry-run
  lrexp which --resume                            go on with the newest that was stopped
"""
CODES = "0 concluded, 1 a run failed, 2 a mistake in the request"
TRIES = 16  # of every policy in a search: 28 runs on three seeds, about as many as a ladder's
MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "minutes": 1.0, "h": 60.0}


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("which", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument("overrides", metavar="OVERRIDE", nargs="*", default=[], help="KEY=VALUE")
    words.add_argument(
        "--policies", type=_policies, metavar="A,B", default=(), help="options of lr_policy"
    )
    words.add_argument(
        "--budget", type=_budget, metavar="RUNS", help="at most so many runs, or a time: 90m, 2h"
    )
    words.add_argument(
        "--search", choices=("optuna",), help="draw what is tried instead of ladders of rates"
    )
    words.add_argument(
        "--tries", type=_tries, metavar="N", help=f"of every policy, with --search ({TRIES})"
    )
    compared_words(words)
    words.add_argument(
        "--dry-run", action="store_true", help="say what it would take, and train nothing"
    )
    words.add_argument(
        "--resume", nargs="?", const="latest", metavar="FOLDER", help="go on with what was stopped"
    )
    words.add_argument("--config-dir", "-cd", help="folder of your own YAML files")
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_intermixed_args(argv)

    from lrexp.config.compose import CheckedLoader
    from lrexp.session.hydra import hydra_of
    from lrexp.session.which import begin_which, resume_which
    from lrexp.session.which_asked import MARGIN, Asked, plan_which
    from lrexp.session.which_cost import dry_lines, probe

    if args.resume is not None:
        _refuse_beside_resume(args)
        return _told(resume_which(args.resume, _say, _keep))
    if args.tries and not args.search:
        raise UserError("--tries: ladders have tries of their own; --search optuna draws so many")
    runs, minutes = args.budget or (None, None)
    asked = Asked(
        tuple(args.overrides),
        args.policies,
        args.baseline,
        MARGIN if args.margin is None else args.margin,
        args.metric,
        runs,
        minutes,
        args.config_dir,
        (args.tries or TRIES) if args.search else None,
    )
    loader = CheckedLoader(args.config_dir)
    with hydra_of(loader):
        planned = plan_which(loader, asked, lambda plan: probe(loader, plan).seconds_per_run)
        if args.dry_run:
            print(
                for_terminal(
                    "\n".join(dry_lines(planned.procedure, probe(loader, planned.procedure)))
                )
            )
            return 0
    return _told(begin_which(loader, planned.folder, planned.procedure, _say, _keep))


def _told(done: Answer) -> int:
    """Show what it came to."""
    from lrexp.report.comparison.lines import conclusion_lines

    width = columns()
    lines = ["", *conclusion_lines(done.conclusion, width), f"page   {shown_path(done.page)}"]
    if done.offline:
        lines.append(
            f"wandb  offline; upload with: lrexp sync {shlex.quote(shown_path(done.folder))}"
        )
    print(for_terminal("\n".join(lines)))
    return 0


def _say(line: str) -> None:
    print(for_terminal(line), flush=True)


def _keep(folder: Path, conclusion: Conclusion) -> Path:
    from lrexp.report.comparison.page import write_conclusion

    return write_conclusion(folder, conclusion)


def _refuse_beside_resume(args: argparse.Namespace) -> None:
    """Raise a UserError for words that a procedure cannot take once it was begun."""
    if args.overrides:
        raise UserError(f"{args.overrides[0]}: --resume goes on as it was begun: leave it out")
    own = ("policies", "baseline", "budget", "search", "tries", "margin", "metric", "dry_run")
    for name in (*own, "config_dir"):
        if getattr(args, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: --resume goes on as it was begun: leave it out")


def _policies(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("names such as uniform,layerwise_decay")
    return names


def _tries(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= MOST_TRIES:
        raise argparse.ArgumentTypeError(f"a number from 2 to {MOST_TRIES}")
    return int(text)


def _budget(text: str) -> tuple[float | None, float | None]:
    """Runs, or minutes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    unit = found[2] if found else "?"
    if found is None or (unit and unit not in MINUTES) or not float(found[1]):
        raise argparse.ArgumentTypeError("a number of runs (200), or a time (90m, 2h)")
    if unit:
        return None, float(found[1]) * MINUTES[unit]
    return float(found[1]), None
