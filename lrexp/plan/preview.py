"""What `task=plan` shows: who would learn how fast, as a table, a plot, CSV and a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrexp.plan.plan import Plan, Row

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100  # characters, where the terminal does not say
# columns of a narrow terminal: as many of these, in this order, as it has room for
FIRST = (
    "layer",
    "peak",
    "trains",
    "scale",
    "start",
    "end",
    "parameters",
    "decay",
    "share",
    "weights",
)
BETWEEN = 3  # characters
MOST_STEPS = 10_000  # rates are worked out at no more steps than about this many


@dataclass(frozen=True)
class Preview:
    """A run that has not started: its plan, and every group's rate over time."""

    plan: Plan
    train_size: int  # images per epoch
    exact_size: bool  # False where the size of chosen classes is estimated from their share
    steps_per_epoch: int
    total_steps: int
    steps: list[int]  # those the rates below are of, in order
    s: list[float]  # (steps,) the schedule's multiplier
    rates: dict[str, list[float | None]]  # group → (steps,) rate, None while it is frozen
    notes: list[str]  # what these numbers leave open


@dataclass(frozen=True)
class LayerLine:
    """One line of the table: parameters of one layer that are treated alike over time."""

    layer: str
    source: str  # loaded, fresh or both
    parameters: int
    trains: str
    scale: str
    start: float | None
    peak: float | None
    end: float | None
    weight_decay: str


def shown_steps(schedule: list[float], steps_per_epoch: int, most: int = MOST_STEPS) -> list[int]:
    """Every step, or of a long run evenly spaced ones with each epoch's first and last, the run's
    last, and those where s(t) is largest and smallest.

    Args:
        schedule: s(t) for every step.
        steps_per_epoch: optimizer steps in an epoch.
        most: about how many steps to take.
    """
    total = len(schedule)
    if total <= most:
        return list(range(total))
    steps = {*range(0, total, -(-total // most)), total - 1}
    steps |= {schedule.index(max(schedule)), schedule.index(min(schedule))}
    if total // steps_per_epoch <= most:
        first = range(0, total, steps_per_epoch)
        steps |= {*first, *(step - 1 for step in first if step)}
    return sorted(steps)


def layer_lines(preview: Preview) -> list[LayerLine]:
    """The table's lines from the input to the head."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in preview.plan.rows:
        treated = (row.lr_scale, row.trainable_from, row.trainable_until, row.g, row.measured != "")
        found.setdefault((row.layer, row.layer_name, *treated), []).append(row)
    return [_line(rows, preview) for _, rows in sorted(found.items(), key=lambda at: at[0][0])]  # type: ignore[arg-type,return-value]


def layer_table(preview: Preview, plain: bool, width: int = WIDTH) -> Table:
    """A rich table of the layers; of a narrow terminal as many columns as it has room for.

    Args:
        preview: of the run.
        plain: without rules and colours, for a file or a pipe.
        width: in characters.
    """
    from rich import box
    from rich.table import Table

    total, lines = sum(row.size for row in preview.plan.rows), layer_lines(preview)
    most = 24 if width >= 60 else 14
    cells = {
        "layer": [_shortened(line.layer, most) for line in lines],
        "weights": [line.source for line in lines],
        "parameters": [f"{line.parameters:,}" for line in lines],
        "share": [f"{100 * line.parameters / total:.1f}%" for line in lines],
        "trains": [line.trains for line in lines],
        "scale": [line.scale for line in lines],
        "start": [_rate(line.start) for line in lines],
        "peak": [_rate(line.peak) for line in lines],
        "end": [_rate(line.end) for line in lines],
        "decay": [line.weight_decay for line in lines],
    }
    kept, left = set[str](), width
    for heading in FIRST:
        needs = max(map(len, [heading, *cells[heading]])) + BETWEEN * bool(kept)
        if needs <= left or not kept:
            kept.add(heading)
            left -= needs
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, header_style="")
    for heading in (one for one in cells if one in kept):
        left_aligned = heading in ("layer", "weights")
        table.add_column(heading, justify="left" if left_aligned else "right", no_wrap=True)
    for i, line in enumerate(lines):
        row = [column[i] for heading, column in cells.items() if heading in kept]
        table.add_row(*row, style="dim" if line.trains == "never" else "")
    return table


def parameter_counts(plan: Plan) -> dict[str, int]:
    """Numbers of values in all parameters, and in those that ever train."""
    trainable = sum(row.size for row in plan.rows if not row.frozen)
    return {"total": sum(row.size for row in plan.rows), "trainable": trainable}


def total_lines(preview: Preview) -> list[str]:
    """Totals, a sentence each: parameters, groups, steps."""
    rows = preview.plan.rows
    total, ever = parameter_counts(preview.plan).values()
    first = sum(row.size for row in rows if row.trains_after(0))
    trains = "all train" if ever == total else f"{ever:,} train"
    later = f", {first:,} of them from the first epoch" if first < ever else ""
    layers = len({row.layer for row in rows})
    groups = len(preview.rates)
    about = "" if preview.exact_size else "about "
    epochs = preview.total_steps / preview.steps_per_epoch
    return [
        f"total  {total:,} parameters in {layers} layers, {trains}{later};"
        f" {groups} group{'s' * (groups != 1)}",
        f"steps  {about}{preview.total_steps:,} = {about}{preview.steps_per_epoch:,} per epoch ×"
        f" {epochs:.4g} epochs, {about}{preview.train_size:,} training images",
    ]


def schedule_plot(preview: Preview, width: int = 64, height: int = 5) -> list[str]:
    """s(t) as lines of block characters, each column the mean of s over its stretch of steps."""
    if not preview.steps:
        return []
    top = max(preview.s)
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, s in zip(preview.steps, preview.s, strict=True):
        columns[step * width // preview.total_steps].append(s)
    heights: list[float] = []
    for column in columns:  # a stretch without a step of its own shows the one before
        mean = sum(column) / len(column) if column else None
        heights.append(heights[-1] if mean is None else mean / top * height if top else 0.0)
    blocks = " ▁▂▃▄▅▆▇█"
    lines = []
    for level in reversed(range(height)):
        label = f"{top:.3g}" if level == height - 1 else "0" if not level else ""
        cells = (blocks[round(8 * min(1.0, max(0.0, h - level)))] for h in heights)
        lines.append(f"{'s(t)' if level == height // 2 else '':<5}{label:>6} │{''.join(cells)}")
    epochs = f"{preview.total_steps / preview.steps_per_epoch:.4g}"
    lines.append(f"{'':<11} └{'─' * width}")
    lines.append(f"{'':<11}  {'epoch 0':<{width - len(epochs)}}{epochs}")
    return lines


def schedule_csv(preview: Preview) -> str:
    """A header and a line per step: step, s, and each group's rate, empty while it is frozen."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "s", *(f"lr/{group}" for group in preview.rates)])
    columns = [preview.steps, preview.s, *preview.rates.values()]
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def group_rates(
    plan: Plan, base_lr: float, schedule: list[float], steps_per_epoch: int, steps: list[int]
) -> dict[str, list[float | None]]:
    """Group → base_lr × lr_scale × s(t) × g(t) at each of the steps, None while it is frozen.

    What is only known while it trains, measured scales and a plateau, is left at 1.
    """
    factors = plan.factors(len(schedule), steps_per_epoch)
    rates: dict[str, list[float | None]] = {}
    for group, (row, *_) in plan.groups.items():
        if not row.frozen:
            g = factors.get(group)
            rates[group] = [
                base_lr * row.lr_scale * schedule[t] * (g[t] if g else 1.0)
                if row.trains_after(t // steps_per_epoch)
                else None
                for t in steps
            ]
    return rates


def planned_rates(
    plan: Plan, base_lr: float, schedule: list[float], steps_per_epoch: int, most: int = 2000
) -> str:
    """schedule.csv of a run about to start: see `schedule_csv`, `shown_steps`, `group_rates`."""
    steps = shown_steps(schedule, steps_per_epoch, most)
    rates = group_rates(plan, base_lr, schedule, steps_per_epoch, steps)
    s = [schedule[step] for step in steps]
    return schedule_csv(Preview(plan, 0, True, steps_per_epoch, len(schedule), steps, s, rates, []))


def went_on(before: str, coming: str, done: int) -> str:
    """schedule.csv of a run that goes on: of the steps done what it said before, then what comes.

    Raises:
        ValueError, KeyError, TypeError: when `before` is no such table.
    """
    then, now = (csv.DictReader(io.StringIO(text)) for text in (before, coming))
    rows = [row for row in then if int(row["step"]) < done]
    rows += [row for row in now if int(row["step"]) >= done]
    text = io.StringIO()
    names = dict.fromkeys([*(then.fieldnames or ()), *(now.fieldnames or ())])
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _line(rows: list[Row], preview: Preview) -> LayerLine:
    row = rows[0]
    rates = [] if row.frozen else [r for r in preview.rates[row.group] if r is not None]
    decays = sorted({r.weight_decay for r in rows}, reverse=True)
    sources = sorted({r.source for r in rows})
    return LayerLine(
        layer=row.layer_name,
        source=sources[0] if len(sources) == 1 else "both",
        parameters=sum(r.size for r in rows),
        trains=_span(row),
        scale="-" if row.frozen else "measured" if row.measured else f"{row.lr_scale:.4g}",
        start=rates[0] if rates else None,
        peak=max(rates, default=None),
        end=rates[-1] if rates else None,
        weight_decay="-" if row.frozen else ", ".join(f"{decay:.3g}" for decay in decays),
    )


def _shortened(name: str, width: int = 24) -> str:
    """A name with its middle cut out where it is too long: its end tells layers apart."""
    return name if len(name) <= width else f"{name[:7]}…{name[-(width - 8) :]}"


def _span(row: Row) -> str:
    """When a parameter trains, in epochs counted from 1."""
    first, last = row.trainable_from + 1, row.trainable_until
    if row.frozen:
        return "never"
    if last is None:
        return "always" if first == 1 else f"from {first}"
    return f"only {last}" if first == last else f"{first} to {last}"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.3g}"
