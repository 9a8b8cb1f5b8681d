"""`lrexp report FOLDER`: the report of whatever a folder holds made anew from its files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from lrexp.commands.answer import parser_of
from lrexp.config.errors import UserError, for_terminal
from lrexp.config.names import shown_path
from lrexp.folder.layout import COMPARISON, LAYER_TEST, RANGE_TEST
from lrexp.report.comparison.figures import write_conclusion_plots
from lrexp.report.comparison.files import read_conclusion
from lrexp.report.comparison.page import write_conclusion
from lrexp.report.layer_test.figures import write_layer_plots
from lrexp.report.layer_test.files import read_layer_test
from lrexp.report.layer_test.page import write_layer_test
from lrexp.report.range_test.found import read_range_test
from lrexp.report.range_test.page import write_range_picture, write_range_report
from lrexp.report.run.figures import write_run_plots
from lrexp.report.run.page import write_run_report
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.figures import draw_sweep
from lrexp.report.sweep.page import write_explored
from lrexp.runs.run import is_run, is_sweep, named_folder
from lrexp.runs.sweep import read_grid, read_sweep

DESCRIPTION = """\
Make the report of a run or a sweep anew, from its files alone: report.html, and figures in plots/.
Of a comparison (by `which` or `confirm`) which.html and its tables, from comparison.json; of
task=layer_test its report and table, from layer_test.json; of task=range_test its report and
picture.
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
    trained = not sweep or _trains(folder)
    if not trained and not asked.runs:
        raise UserError(
            f"{_shown(folder)} holds no trained runs, which a sweep's report compares\n"
            "  --runs makes the reports of its runs"
        )
    if asked.runs and not sweep:
        raise UserError(f"--runs is for a sweep, and {_shown(folder)} is none")
    compared = (folder / COMPARISON).exists()
    layers = (folder / LAYER_TEST).exists()
    if not sweep and not compared and not layers and not is_run(folder):
        raise UserError(
            f"{_shown(folder)} is neither a run nor a sweep nor a comparison: it has no"
            " summary.json, metrics.jsonl, points.json, comparison.json or layer_test.json"
        )
    runs = [folder] if is_run(folder) else []
    if sweep:
        inside = sorted((f for f in folder.iterdir() if f.is_dir() and is_run(f)), key=_in_order)
        runs = inside if asked.runs else []
    failed = sum(not _write_run(run, not asked.no_plots) for run in runs)
    made: list[tuple[Callable[[Path], Sequence[Path]], Callable[[Path], Path]]] = []
    if sweep and trained and not compared:  # last, so that it links to reports that are there
        read = cache(lambda: read_sweep(folder, lambda line: print(for_terminal(line), flush=True)))
        made.append((lambda _: draw_sweep(read()), lambda _: write_explored(explore(read()))))
    if compared:
        found = read_conclusion(folder)
        made.append((partial(write_conclusion_plots, conclusion=found),
                     partial(write_conclusion, conclusion=found)))  # fmt: skip
    if layers:
        tested = read_layer_test(folder)
        made.append((partial(write_layer_plots, found=tested),
                     partial(write_layer_test, found=tested)))  # fmt: skip
    failed += sum(not _write(folder, not asked.no_plots, *how) for how in made)
    return 1 if failed else 0


def _trains(sweep: Path) -> bool:
    """Whether any point of a sweep trains, as far as its files say."""
    tasks = {point.settings.get("task.name", "train") for point in read_grid(sweep, [])[1]}
    return not tasks or "train" in tasks


def _write(
    folder: Path,
    plots: bool,
    draw: Callable[[Path], Sequence[Path]],
    report: Callable[[Path], Path],
) -> bool:
    """Plots and report of a sweep or a comparison; False, and a line, when there is no room."""
    try:
        drawn = draw(folder) if plots else []
        line = f"report {_shown(report(folder))}"
        print(f"{line}, {len(drawn)} files in plots/" if drawn else line)
    except OSError as error:
        print(f"error: {_shown(folder)}: {for_terminal(str(error))}", file=sys.stderr)
        return False
    return True


def _write_run(folder: Path, plots: bool) -> bool:
    """Report and plots of one run; False, and a line, when they cannot be written."""
    try:
        if (folder / RANGE_TEST).exists():
            print(f"report {_shown(write_range_report(folder))}")
            if plots:
                print(f"picture {_shown(write_range_picture(folder, read_range_test(folder)))}")
            return True
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
