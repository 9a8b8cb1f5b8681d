"""`lrexp compare A B`: what differs between two runs, on one screen. Imports no torch."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from lrexp.commands.answer import parser_of
from lrexp.config.names import shown_path
from lrexp.config.schema import MONITORS
from lrexp.folder.layout import PREDICTIONS
from lrexp.plan.plan import difference_lines
from lrexp.runs.differences import (
    CurveDifference,
    SavedRun,
    change_lines,
    config_changes,
    curve_differences,
    environment_changes,
    lone_epochs,
    number,
    printable,
    read_run,
    shown,
)
from lrexp.runs.predictions import paired_differences

WIDTH = 100
MOST = {"config": 12, "plan": 4, "env": 8, "curves": 8}  # lines of each part
OTHERWISE_TOLD = ("name", "run_id")  # settings that say nothing of what differs
DESCRIPTION = """\
What differs between two runs: outcome, curves, config, plan and environment.

RUN_A and RUN_B are run folders, points of a grid, downloaded W&B artifacts, a config.yaml by
itself, or `latest`.
"""
EXAMPLES = """\
  lrexp compare outputs/NAME/RUN latest
  lrexp compare SWEEP/0_seed_0 SWEEP/1_seed_1
"""


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("compare", DESCRIPTION, EXAMPLES, "0 done, 2 a mistake in the request")
    words.add_argument("a", metavar="RUN_A", help="the one that B is held against")
    words.add_argument("b", metavar="RUN_B", help="the other one")
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_args(argv)
    a, b = read_run(args.a), read_run(args.b)
    print("\n".join(map(printable, comparison(a, b))))
    return 0


def comparison(a: SavedRun, b: SavedRun) -> list[str]:
    """Lines of at most 100 columns that say what differs."""
    monitor = _monitor(a, b)
    lines = [*_names(a, b), "", *_outcome(a, b, monitor)]
    lines += [line for part in (_noise(a, b, monitor), _curves(a, b)) for line in part]
    changes = [
        change for change in config_changes(a.config, b.config) if change[0] not in OTHERWISE_TOLD
    ]
    lines += ["", *_part("config", change_lines(changes, MOST["config"]), "the same settings")]
    if a.plan is None or b.plan is None:
        lines += _part("plan", [f"{_missing(a.plan, b.plan)} has no plan.csv"], "")
    else:
        plan = difference_lines(a.plan.diff(b.plan))
        more = [f"and {len(plan) - MOST['plan']} more"] if len(plan) > MOST["plan"] else []
        lines += _part("plan", [*plan[: MOST["plan"]], *more], "the same plan")
    if not a.environment or not b.environment:
        lines += _part("env", [f"{_missing(a.environment, b.environment)} has no record of it"], "")
    else:
        env = change_lines(environment_changes(a.environment, b.environment), MOST["env"])
        lines += _part("env", env, "the same code, packages, machine and data, as far as recorded")
    return lines


def _missing(of_a: Any, of_b: Any) -> str:
    return "neither run" if not of_a and not of_b else "A" if not of_a else "B"


def _names(a: SavedRun, b: SavedRun) -> list[str]:
    return [
        f"{letter}  {shown_path(run.folder or run.file)}"
        + (f" (seed {run.config['seed']})" if "seed" in run.config else "")
        for letter, run in (("A", a), ("B", b))
    ]


def _part(title: str, lines: Sequence[str], otherwise: str) -> list[str]:
    """Lines under a title, folded to the screen."""
    found: list[str] = []
    for line in lines or [otherwise]:
        found += textwrap.wrap(
            line, WIDTH - 8, subsequent_indent="  ", drop_whitespace=True, break_on_hyphens=False
        ) or [""]
    return [f"{title if i == 0 else '':<8}{line}" for i, line in enumerate(found)]


def _monitor(a: SavedRun, b: SavedRun) -> str:
    """What decides in both; val/loss where they disagree."""
    found = {str(_dig(run.config, ("trainer", "monitor"))) for run in (a, b)}
    monitor = found.pop() if len(found) == 1 else "val/loss"
    return monitor if monitor in MONITORS else "val/loss"


def _outcome(a: SavedRun, b: SavedRun, monitor: str) -> list[str]:
    """A line per figure of both summaries, and their difference."""
    if not a.summary or not b.summary:
        return _part("outcome", [f"{_missing(a.summary, b.summary)} has no summary.json"], "")
    figures: list[tuple[str, Any, Any]] = []

    def of_both(title: str, *path: str) -> None:
        figures.append((title, _dig(a.summary, path), _dig(b.summary, path)))

    for metric in dict.fromkeys([monitor, "val/loss", "val/accuracy", "gap/loss"]):
        of_both(f"best {metric}", "best", metric)
    of_both("test loss", "test", "loss")
    of_both("test accuracy", "test", "accuracy")
    of_both("best epoch", "best", "epoch")
    of_both("last epoch", "last", "epoch")
    of_both("trained parameters", "parameters", "trainable")
    of_both("training, s", "timings", "train_s")
    lines = [f"{'outcome':<8}{'':<24}{'A':>16}{'B':>16}{'B - A':>16}"]
    lines.append(f"{'':<8}{'status':<24}{a.status:>16}{b.status:>16}")
    for title, was, now in figures:
        if was is None and now is None:
            continue
        x, y = number(was), number(now)
        apart = f"{y - x:>+16.5g}" if math.isfinite(x) and math.isfinite(y) else ""
        lines.append(f"{'':<8}{title:<24}{_cell(was):>16}{_cell(now):>16}{apart}")
    hashes = [run.summary.get("weights_hash") for run in (a, b)]
    if all(hashes):
        same = "equal bit for bit" if hashes[0] == hashes[1] else "differ"
        lines.append(f"{'':<8}{'final weights':<24}{same}")
    return lines


def _dig(section: Any, path: Sequence[str]) -> Any:
    for key in path:
        section = section.get(key) if isinstance(section, dict) else None
    return section


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else shown(value, 15)


def _noise(a: SavedRun, b: SavedRun, monitor: str) -> list[str]:
    """Who is better by the monitor, and whether that is more than noise."""
    values = [number(_dig(run.summary, ("best", monitor))) for run in (a, b)]
    if not all(map(math.isfinite, values)):
        return []
    lower = MONITORS[monitor] == "min"
    if values[0] == values[1]:
        return ["", *_part("better", [f"neither: {monitor} is the same"], "")]
    better = "A" if (values[0] < values[1]) == lower else "B"
    said = f"{better} by {monitor} ({'lower' if lower else 'higher'} is better)"
    lines = [f"{said}, by {abs(values[1] - values[0]):.4g}"]
    if a.folder is None or b.folder is None:
        return ["", *_part("better", lines, "")]
    pairs = paired_differences(a.folder / PREDICTIONS, b.folder / PREDICTIONS)
    if not pairs:
        lines.append("how much of it is noise is not known: no predictions on the same images")
    for pair in pairs:
        verdict = "more than noise" if pair.beyond_noise else "within noise"
        lines.append(
            f"{pair.metric} of the best weights, B - A: {pair.mean:+.4g} ± {pair.se:.2g} "
            f"(paired over {pair.images} images): {verdict}"
        )
    grouped = [_dig(run.config, ("data", "group_by")) for run in (a, b)]
    if pairs and any(grouped):
        lines.append("images of one group are alike (data.group_by): the real noise is larger")
    if pairs and a.config.get("seed") == b.config.get("seed"):
        lines.append("one seed each: another seed moves both numbers as well")
    return ["", *_part("better", lines, "")]


def _curves(a: SavedRun, b: SavedRun) -> list[str]:
    """How far the metrics of the epochs that both have are apart, and where."""
    if not a.rows or not b.rows:
        return ["", *_part("curves", [f"{_missing(a.rows, b.rows)} has no metrics.jsonl"], "")]
    curves, alone = curve_differences(a.rows, b.rows), lone_epochs(a.rows, b.rows)
    lines = ["", *_part("curves", _curve_summary(curves, a, b), "")]
    for letter, epochs in zip("AB", alone, strict=True):
        if epochs:
            lines.append(f"{'':<8}only {letter} has epochs {epochs[0]} to {epochs[-1]}")
    return lines


def _curve_summary(curves: list[CurveDifference], a: SavedRun, b: SavedRun) -> list[str]:
    if not curves:
        return ["equal bit for bit in every epoch that both have (speed aside)"]
    measured = [{key for row in run.rows for key in row} for run in (a, b)]
    common = [d for d in curves if d.metric in measured[0] & measured[1]]
    lines = []
    if common:
        first = min(d.first_epoch for d in common)
        lines = [f"{len(common)} metrics differ, first in epoch {first}; largest differences:"]
    place = {metric: i for i, metric in enumerate(FIRST)}
    listed = sorted(common, key=lambda d: place.get(d.metric, len(FIRST)))[: MOST["curves"]]
    lines += [
        f"{d.metric:<20} {d.largest:>10.4g} in epoch {d.epoch} ({d.was:.5g} → {d.now:.5g})"
        for d in listed
    ]
    for letter, own, other in (("A", *measured), ("B", *reversed(measured))):
        if lone := sorted(own - other):
            more = f" and {len(lone) - 6} more" if len(lone) > 6 else ""
            lines.append(f"only {letter} has {', '.join(lone[:6])}{more}")
    return lines


# curves that are shown before others
FIRST = ("val/loss", "val/accuracy", "train_eval/loss", "train/loss", "gap/loss", "grad_norm")
