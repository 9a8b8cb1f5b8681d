"""`lrexp report FOLDER`: the report of a run or a sweep made anew, from its files alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lrexp.commands.answer import parser_of
from lrexp.config.errors import UserError, for_terminal
from lrexp.config.names import shown_path
from lrexp.report.run.figures import write_run_plots
from lrexp.report.run.page import write_run_report
from lrexp.report.sweep.figures import write_sweep_plots
from lrexp.report.sweep.page import write_sweep_report
from lrexp.runs.run import is_run, is_sweep, named_folder

DESCRIPTION = """\
Make the report of a run or a sweep anew, from its files alone: report.html, and figures in plots/.
"""
EXAMPLES = """\
  lrexp report latest
  lrexp report SWEEP --runs --no-plots     reports of all its runs as well, no PNG and SVG files
"""
CODES = "0 done, 1 a report could not be written, 2 a mistake in the request"


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("report", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument("folder", metavar="FOLDER", help="of a run or a sweep, or `latest`")
    words.add_argument(
        "--runs", action="store_true", help="of a sweep: the reports and plots of its runs as well"
    )
    words.add_argument("--no-plots", action="store_true", help="no PNG and SVG files in plots/")
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    asked = parser().parse_args(argv)
    folder = named_folder(asked.folder)
    sweep = is_sweep(folder)
    if asked.runs and not sweep:
        raise UserError(f"--runs is for a sweep, and {_shown(folder)} is a single run")
    if not sweep and not is_run(folder):
        raise UserError(
            f"{_shown(folder)} is neither a run nor a sweep: it has no summary.json,"
            " metrics.jsonl or points.json"
        )
    runs = [folder]
    if sweep:
        inside = sorted((f for f in folder.iterdir() if f.is_dir() and is_run(f)), key=_in_order)
        runs = inside if asked.runs else []
    failed = sum(not _write_run(run, not asked.no_plots) for run in runs)
    if sweep:  # last, so that it links to reports that are there
        try:
            drawn = [] if asked.no_plots else write_sweep_plots(folder)
            line = f"report {_shown(write_sweep_report(folder))}"
            print(f"{line}, {len(drawn)} files in plots/" if drawn else line)
        except OSError as error:
            failed += 1
            print(f"error: {_shown(folder)}: {for_terminal(str(error))}", file=sys.stderr)
    return 1 if failed else 0


def _write_run(folder: Path, plots: bool) -> bool:
    """Report and plots of one run; False, and a line, when they cannot be written."""
    try:
        line = f"report {_shown(write_run_report(folder))}"
        drawn = write_run_plots(folder) if plots else []
    except Exception as error:  # one damaged run must not cost the others
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(for_terminal(f"error: {shown_path(folder)}: {said}"), file=sys.stderr)
        return False
    print(f"{line}, {len(drawn)} files in plots/" if drawn else line)
    return True


def _shown(path: Path) -> str:
    """Others may have named the folder."""
    return for_terminal(shown_path(path))


def _in_order(folder: Path) -> tuple[int, str]:
    """Points by their number."""
    number = folder.name.partition("_")[0]
    return int(number) if number.isdigit() else sys.maxsize, folder.name
