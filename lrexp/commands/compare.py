"""`lrexp compare A B`: what differs between two runs, on one screen. Imports no torch."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from lrexp.commands.answer import parser_of
from lrexp.config.names import shown_path
from lrexp.config.schema import MONITORS, direction
from lrexp.folder.layout import METRICS, PLAN, PREDICTIONS, SUMMARY
from lrexp.plan.plan import difference_lines
from lrexp.runs.differences import (
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
# of summary.json beside the best metrics: title, and where it stands
FIGURES = (
    ("test loss", "test", "loss"),
    ("test accuracy", "test", "accuracy"),
    ("best epoch", "best", "epoch"),
    ("last epoch", "last", "epoch"),
    ("trained parameters", "parameters", "trainable"),
    ("training, s", "timings", "train_s"),
)
# curves that are shown before others
FIRST = ("val/loss", "val/accuracy", "train_eval/loss", "train/loss", "gap/loss", "grad_norm")
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
    monitors = {str(_dig(run.config, ("trainer", "monitor"))) for run in (a, b)}
    monitor = monitors.pop() if len(monitors) == 1 else "val/loss"  # where they disagree
    known = monitor in MONITORS or _dig(a.summary, ("best", monitor)) is not None  # the user's own
    monitor = monitor if known else "val/loss"
    lines = [
        f"{letter}  {shown_path(run.folder or run.file)}"
        + (f" (seed {run.config['seed']})" if "seed" in run.config else "")
        for letter, run in (("A", a), ("B", b))
    ]
    lines += ["", *_outcome(a, b, monitor)]
    if better := _better(a, b, monitor):
        lines += ["", *_part("better", better)]
    if found := found_lines(a, b):
        lines += ["", *_part("found", found)]
    lines += ["", *_part("curves", _curves(a, b))]
    settings = [one for one in config_changes(a.config, b.config) if one[0] not in OTHERWISE_TOLD]
    changed = change_lines(settings, MOST["config"])
    lines += ["", *_part("config", changed or ["the same settings"])]
    changed = _lacking(a.plan, b.plan, PLAN)
    if a.plan is not None and b.plan is not None:
        changed, most = difference_lines(a.plan.diff(b.plan)), MOST["plan"]
        if len(changed) > most:
            changed = [*changed[:most], f"and {len(changed) - most} more"]
    lines += _part("plan", changed or ["the same plan"])
    changed = _lacking(a.environment, b.environment, "record of it") or change_lines(
        environment_changes(a.environment, b.environment), MOST["env"]
    )
    same = "the same code, packages, machine and data, as far as recorded"
    return lines + _part("env", changed or [same])


def _lacking(of_a: Any, of_b: Any, what: str) -> list[str]:
    """A line that says who does not have it; none when both do."""
    if of_a and of_b:
        return []
    if not of_a and not of_b:
        return [f"neither run has a {what}"]
    return [f"{'B' if of_a else 'A'} has no {what}"]


def _part(title: str, lines: Sequence[str]) -> list[str]:
    """Lines under a title, folded to the screen."""
    folded = [
        part
        for line in lines
        for part in textwrap.wrap(line, WIDTH - 8, subsequent_indent="  ", break_on_hyphens=False)
    ]
    return [f"{title if i == 0 else '':<8}{line}" for i, line in enumerate(folded)]


def _outcome(a: SavedRun, b: SavedRun, monitor: str) -> list[str]:
    """A line per figure of both summaries, and their difference."""
    if lacking := _lacking(a.summary, b.summary, SUMMARY):
        return _part("outcome", lacking)
    metrics = dict.fromkeys([monitor, "val/loss", "val/accuracy", "gap/loss"])
    lines = [f"{'outcome':<8}{'':<24}{'A':>16}{'B':>16}{'B - A':>16}"]
    lines.append(f"{'':<8}{'status':<24}{a.status:>16}{b.status:>16}")
    for title, *path in (*((f"best {m}", "best", m) for m in metrics), *FIGURES):
        was, now = (_dig(run.summary, path) for run in (a, b))
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


def _better(a: SavedRun, b: SavedRun, monitor: str) -> list[str]:
    """Who is better by the monitor, and whether that is more than noise."""
    was, now = (number(_dig(run.summary, ("best", monitor))) for run in (a, b))
    if not math.isfinite(was) or not math.isfinite(now):
        return []
    if was == now:
        return [f"neither: {monitor} is the same"]
    lower = direction(monitor) == "min"
    said = f"{'A' if (was < now) == lower else 'B'} by {monitor}"
    lines = [f"{said} ({'lower' if lower else 'higher'} is better), by {abs(now - was):.4g}"]
    steps = [run.rows[-1].get("step") for run in (a, b) if run.rows]
    if len(set(steps)) > 1:
        lines.append(f"not on the same budget: A took {steps[0]} steps, B {steps[1]}")
    if a.folder is None or b.folder is None:
        return lines
    pairs = paired_differences(a.folder / PREDICTIONS, b.folder / PREDICTIONS)
    if not pairs:
        return [*lines, "how much of it is noise is not known: no predictions on the same images"]
    for pair in pairs:
        verdict = "more than noise" if pair.beyond_noise else "within noise"
        lines.append(
            f"{pair.metric} of the best weights, B - A: {pair.mean:+.4g} ± {pair.se:.2g} "
            f"(paired over {pair.images} images): {verdict}"
        )
    if any(_dig(run.config, ("data", "group_by")) for run in (a, b)):
        lines.append("images of one group are alike (data.group_by): the real noise is larger")
    if a.config.get("seed") == b.config.get("seed"):
        lines.append("one seed each: another seed moves both numbers as well")
    return lines


def found_lines(a: SavedRun, b: SavedRun) -> list[str]:
    """The headline of each run's verdicts, and the kinds of its others; none where neither has."""
    lines = []
    for letter, run in (("A", a), ("B", b)):
        listed = run.summary.get("verdicts")
        said = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        if said:
            first, *rest = said
            more = f"; and {', '.join(str(one.get('kind')) for one in rest)}" if rest else ""
            lines.append(f"{letter}: {first.get('message') or first.get('kind')}{more}")
    return lines


def _curves(a: SavedRun, b: SavedRun) -> list[str]:
    """How far the metrics of the epochs that both have are apart, and where."""
    if lacking := _lacking(a.rows, b.rows, METRICS):
        return lacking
    differences = curve_differences(a.rows, b.rows)
    ours, theirs = ({key for row in run.rows for key in row} for run in (a, b))
    common = [d for d in differences if d.metric in ours & theirs]
    lines = []
    if not differences:
        lines.append("equal bit for bit in every epoch that both have (speed aside)")
    if common:
        first = min(d.first_epoch for d in common)
        lines.append(f"{len(common)} metrics differ, first in epoch {first}; largest differences:")
    common.sort(key=lambda d: FIRST.index(d.metric) if d.metric in FIRST else len(FIRST))
    lines += [
        f"{d.metric:<20} {d.largest:>10.4g} in epoch {d.epoch} ({d.was:.5g} → {d.now:.5g})"
        for d in common[: MOST["curves"]]
    ]
    for letter, lone in (("A", sorted(ours - theirs)), ("B", sorted(theirs - ours))):
        if lone and differences:
            more = f" and {len(lone) - 6} more" if len(lone) > 6 else ""
            lines.append(f"only {letter} has {', '.join(lone[:6])}{more}")
    for letter, epochs in zip("AB", lone_epochs(a.rows, b.rows), strict=True):
        if epochs:
            lines.append(f"only {letter} has epochs {epochs[0]} to {epochs[-1]}")
    return lines
