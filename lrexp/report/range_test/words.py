"""What a range test says, in lines for the terminal and sentences for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrexp.judge.range_test import LEAST, RULES, Ramp
from lrexp.report.range_test.found import RangeTest, rate_text

WIDE = 10.0  # between the lowest and the highest rate over seeds
BLOCKS = " ▁▂▃▄▅▆▇█"
OFF = "schedule, warmup and momentum cycles are off"


def opening_lines(test: RangeTest) -> list[str]:
    """What was tested: the ramp, its seeds, what is off, and what else to know."""
    task, summary = test.task, test.run.summary
    low, high = (rate_text(float(task[key])) for key in ("lr_from", "lr_to"))
    seeds = [ramp.seed for ramp in test.ramps]
    of = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    together = ", stacked" if summary.get("executor") == "stacked" else ""
    ramp = f"ramp   {test.tested} {low} to {high} in {task['steps']} steps{_passes(test)}"
    lines = [f"{ramp}, {of}{together}"]
    lines.append(f"note   {OFF}; {held(test)}")
    return lines + [f"note   {note}" for note in summary["remarks"]]


def held(test: RangeTest) -> str:
    """What does not rise."""
    if test.task.get("group"):
        return "all other rates stay what they are at the start of the plan"
    return "the policy's ratios hold"


def _passes(test: RangeTest) -> str:
    """How often the ramp goes through the training images."""
    images: Any = test.run.summary["data"].get("images") or {}
    batch = (test.run.config.get("data") or {}).get("batch_size")
    if not isinstance(batch, int) or not isinstance(images.get("train"), int | float):
        return ""
    batch *= (test.run.config.get("trainer") or {}).get("accumulate", 1)
    passes = int(test.task["steps"]) * batch / images["train"]
    return f" ({passes:.2g} passes over {images['train']:,.0f} images)"


def cautions(test: RangeTest) -> list[str]:
    """Why a suggestion is to be taken with care, a sentence each."""
    found, taken, task = [], test.default, test.task
    if taken is None and all(ramp.usable < LEAST for ramp in test.ramps):
        first = test.ramps[0]
        return [
            f"The ramp of seed {first.seed} ended at step {len(first.losses)}, as {first.reason},"
            " so no rate is suggested: lower task.lr_from."
        ]
    if taken is None:
        return [
            "The loss falls by no more than its noise, so no rate is suggested. Try more steps"
            " (task.steps), more seeds (task.repeats) or other bounds (task.lr_from, task.lr_to)."
        ]
    if taken.seeds < len(test.ramps):
        found.append(f"The loss falls in {taken.seeds} of {len(test.ramps)} ramps only.")
    if taken.high > WIDE * taken.low:
        times = taken.high / taken.low
        found.append(f"Seeds disagree by a factor of {times:.0f}: take it as a hint.")
    if any(ramp.open_end for ramp in test.ramps):
        high = rate_text(float(task["lr_to"]))
        found.append(f"The loss was lowest at the end of the ramp: raise task.lr_to above {high}.")
    if test.task.get("group") and not test.overrides:
        found.append(
            "No single override gives this group its rate and leaves the policy as it is: write"
            " the plan as rules (lr_policy=per_layer)."
        )
    return found


def result_lines(test: RangeTest) -> list[str]:
    """Suggestions with their spread over seeds, cautions, and the line to paste."""
    lines = []
    several = len(test.ramps) > 1
    if test.suggestions:
        lines.append(
            f"{'rule':<15}{'rate':>9}   {'over seeds':<20}"
            if several
            else f"{'rule':<15}{'rate':>9}"
        )
    for one in test.suggestions:
        spread = f"{rate_text(one.low)} to {rate_text(one.high)}" if several else ""
        star = "→" if one == test.default else " "
        words = RULES[one.rule][1]
        column = f"   {spread:<20}" if several else "   "
        lines.append(f"{star} {one.rule:<13}{rate_text(one.rate):>9}{column}{words}")
    lines += [f"note   {caution}" for caution in cautions(test)]
    if test.command:
        lines.append(f"take   {test.command}")
    return lines


def mean_curve(ramps: Sequence[Ramp]) -> tuple[list[float], list[float]]:
    """Rates and the mean over seeds of the smoothed loss, as far as every ramp goes."""
    steps = min((ramp.usable for ramp in ramps), default=0)
    means = np.mean([ramp.smoothed[:steps] for ramp in ramps], axis=0) if steps else []
    return list(ramps[0].rates[:steps]) if steps else [], [float(m) for m in means]


def curve_plot(test: RangeTest, width: int = 64, height: int = 7) -> list[str]:
    """The mean smoothed loss over log rate as lines of block characters, ▲ under what is taken.

    The axis ends a little above where the ramp began: how high the loss rises is of no interest.
    """
    rates, losses = mean_curve(test.ramps)
    if len(losses) < 2:
        return []
    all_rates = test.ramps[0].rates
    span = math.log(all_rates[-1] / all_rates[0])
    columns: list[list[float]] = [[] for _ in range(width)]
    for rate, loss in zip(rates, losses, strict=True):
        columns[_column(rate, all_rates[0], span, width)].append(loss)
    top = 1.15 * max(losses[: max(1, len(losses) // 3)])
    low = min(losses)
    bottom = max(0.0, low - 0.15 * (top - low))
    heights: list[float] = []
    last = _column(rates[-1], all_rates[0], span, width)
    for i, column in enumerate(columns):
        mean = sum(column) / len(column) if column else None
        value = heights[-1] if mean is None and heights else mean
        known = i <= last and value is not None
        if mean is not None:
            value = (mean - bottom) / (top - bottom) * height if top > bottom else 0.0
        heights.append(float(value or 0.0) if known else 0.0)
    lines = []
    for level in reversed(range(height)):
        label = f"{top:.3g}" if level == height - 1 else f"{bottom:.3g}" if not level else ""
        cells = (BLOCKS[round(8 * min(1.0, max(0.0, h - level)))] for h in heights)
        name = "loss" if level == height // 2 else ""
        lines.append(f"{name:<5}{label:>6} │{''.join(cells)}")
    lines.append(f"{'':<11} └{'─' * width}")
    ends = rate_text(all_rates[0]), rate_text(all_rates[-1])
    lines.append(f"{'':<11}  {ends[0]:<{width - len(ends[1])}}{ends[1]}")
    if test.default:
        place = _column(test.default.rate, all_rates[0], span, width)
        said = f"▲ {rate_text(test.default.rate)}"
        row = list(f"{'':<{width}}")
        start = min(place, width - len(said))
        row[start : start + len(said)] = said if start == place else f"{said[2:]} ▲"[-len(said) :]
        lines[-1] = _over(lines[-1], 13, "".join(row))
    return lines


def _over(line: str, offset: int, row: str) -> str:
    """A line with what another holds written over it, where there is room for it."""
    cells = list(line.ljust(offset + len(row)))
    wanted = [(offset + i, sign) for i, sign in enumerate(row) if sign != " "]
    if any(cells[i] != " " for i, _ in wanted):
        return line
    for i, sign in wanted:
        cells[i] = sign
    return "".join(cells).rstrip()


def _column(rate: float, low: float, span: float, width: int) -> int:
    return min(width - 1, max(0, int(math.log(rate / low) / span * width)))
