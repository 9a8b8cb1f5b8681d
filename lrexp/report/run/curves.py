"""A run over its epochs: losses, gap, overfitting, and the rates and moves of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrexp.report.html.charts import Mark, Rule, Series, heat_map, xy_chart
from lrexp.report.html.page import Html, element, grid, join, notes
from lrexp.report.run.words import as_number, is_finite, is_share, monitor_of, settings_of
from lrexp.runs.run import Run, read_table

CURSOR = "epoch"  # the charts over epochs share it
MOST_NAMES = 6  # layers of a group, and groups, that are spelled out
MOST_LINES = 8  # groups drawn as lines; more are a heat map
NO_LOSS = "No loss was a finite number in any epoch: there is no curve to draw."
STYLES: dict[str, dict[str, Any]] = {
    "train": {"colour": 6, "dash": 2},
    "train_eval": {"colour": 0, "dash": 1},
    "val": {"colour": 1, "dash": 0},
}
TRAIN, TRAIN_EVAL, VAL = STYLES.values()


def learning_charts(run: Run) -> Html:
    """Loss, gap, accuracy and overfitting over the epochs."""
    rows = run.rows
    if not rows:
        return notes(["No epoch was finished: there is nothing to draw."])
    x, marks = epochs_of(rows), _marks(run)
    common: dict[str, Any] = {
        "x_label": "epoch", "cursor": CURSOR, "marks": marks, "x_range": _x_range(rows),
    }  # fmt: skip
    train, train_eval, val = (column(rows, f"{s}/loss") for s in ("train", "train_eval", "val"))
    se = column(rows, "gap/loss_se")
    losses = [v for v in (*train, *train_eval, *val) if v is not None and v > 0]
    wide = bool(losses) and max(losses) > 100 * min(losses)
    series = [Series("gap", x, kind="area", low=train_eval, high=val, colour=1, quiet=True)]
    if any(v is not None for v in train):
        series.append(Series("train, running", x, train, **TRAIN))
    series += [
        Series("train-eval", x, train_eval, **TRAIN_EVAL),
        Series("val", x, val, low=less(val, se), high=more(val, se), **VAL),
    ]
    loss = xy_chart(
        "Loss", series, y_label="loss", log_button=True, y_log=wide, **common,
        note="train-eval and val: the same weights, mode and transforms, after the epoch; the shade"
        " between them is the gap, the band its ± 1 standard error. train: over the epoch's"
        " batches, as optimised.",
    )  # fmt: skip
    gap = column(rows, "gap/loss")
    running = column(rows, "gap/loss_running")
    gaps = [
        Series("val − train-eval", x, gap, low=less(gap, se), high=more(gap, se), **VAL),
        Series("val − train, running", x, running, hidden=True, **TRAIN),
    ]
    gap_chart = xy_chart(
        "Gap", gaps, y_label="loss", rules=[Rule(0)], y_zero=True, **common,
        note="± 1 standard error. What stays within two of them is noise; the rest is overfitting"
        " or a difference between the splits.",
    )  # fmt: skip
    lines = [*train, *train_eval, *val]
    charts = [loss] if any(v is not None for v in lines) else [notes([NO_LOSS])]
    charts += [gap_chart] if any(v is not None for v in gap) else []
    labels: dict[str, Any] = {"colour": 2, "dash": 3}
    accuracies = [
        Series(name, x, column(rows, key), **style)
        for name, key, style in (
            ("train, running", "train/accuracy", TRAIN),
            ("train-eval", "train_eval/accuracy", TRAIN_EVAL),
            ("val", "val/accuracy", VAL),
            ("val, single labels", "val/label_accuracy", labels),
        )
        if any(key in row for row in rows)
    ]
    if accuracies:
        charts.append(
            xy_chart("Accuracy", accuracies, y_label="accuracy", y_percent=True, **common)
        )
    rise, rise_se = column(rows, "overfit/loss"), column(rows, "overfit/loss_se")
    if any(v for v in rise):
        overfit = Series("val loss above its best", x, rise, low=less(rise, rise_se),
                         high=more(rise, rise_se), **VAL)  # fmt: skip
        charts.append(
            xy_chart(
                "Overfitting",
                [overfit],
                y_label="loss",
                rules=[Rule(0)],
                y_zero=True,
                **common,
                note="Val loss minus its best so far, ± 1 standard error paired over images."
                " Overfitting is claimed where this, not the gap, clears two of them.",
            )
        )
    monitor = monitor_of(run)
    drawn = {"train/loss", "train_eval/loss", "val/loss", "gap/loss", "overfit/loss",
             "train/accuracy", "train_eval/accuracy", "val/accuracy"}  # fmt: skip
    values = column(rows, monitor)
    if monitor not in drawn and any(v is not None for v in values):
        series = [Series(monitor, x, values, **VAL)]
        charts.append(
            xy_chart("Monitor", series, y_label=monitor, y_percent=is_share(monitor), **common)
        )
    return grid(*charts)


def layer_charts(run: Run) -> Html:
    """Rates, sizes of steps and drift by parameter group."""
    rows, groups, layers = run.rows, groups_of(run), layers_of(run)
    charts = [_rate_chart(run, groups)]
    if rows:
        x, marks = epochs_of(rows), _marks(run)
        norm = column(rows, "grad_norm")
        if any(v is not None for v in norm):
            positive = [v for v in norm if v is not None and v > 0]
            charts.append(
                xy_chart(
                    "Gradient norm",
                    [Series("gradient norm", x, norm, colour=0)],
                    x_label="epoch",
                    y_label="‖g‖",
                    y_log=_wide(positive),
                    x_range=_x_range(rows),
                    cursor=CURSOR,
                    marks=marks,
                    note="Median over the measured steps of an epoch.",
                )
            )
        for title, prefix, label, note in (
            ("Update ratio", "update_ratio", "‖Δw‖ / ‖w‖",
             "Size of one step relative to the weights, median over tensors and measured steps."),
            ("Drift", "drift", "‖w − w₀‖ / ‖w₀‖", "How far the weights are from where they began."),
        ):  # fmt: skip
            named = [g for g in groups if any(f"{prefix}/{g}" in row for row in rows)]
            values = [column(rows, f"{prefix}/{g}") for g in named]
            found = [v for line in values for v in line if v is not None]
            if not any(found):
                continue
            log = min(found, default=0) >= 0 and max(found) > 0
            if len(named) == 1:
                line = Series(named[0], x, values[0], colour=0)
                charts.append(
                    xy_chart(
                        title,
                        [line],
                        x_label="epoch",
                        y_label=label,
                        y_log=log and prefix == "update_ratio",
                        y_zero=prefix == "drift",
                        x_range=_x_range(rows),
                        cursor=CURSOR,
                        marks=marks,
                        note=note,
                    )
                )
            else:
                charts.append(
                    heat_map(
                        title,
                        [_row_name(group, layers) for group in named[::-1]],
                        x,
                        values[::-1],
                        x_label="epoch",
                        value_label=label,
                        log=log,
                        cursor=CURSOR,
                        note=f"{note} The head is at the top.",
                    )
                )
    shown = [chart for chart in charts if chart]
    lead = _groups_in_words({group: layers.get(group, []) for group in groups})
    return (
        join(element("p", lead, class_="lead") if lead else None, grid(*shown))
        if shown
        else Html("")
    )


def _rate_chart(run: Run, groups: Sequence[str]) -> Html:
    """The rate of every group over the steps."""
    rows = run.rows
    series, planned = rate_series(run, groups)
    if len(series) > MOST_LINES and rows:
        layers = layers_of(run)
        values = [column(rows, f"lr/{group}", zero_is_gap=True) for group in groups]
        return heat_map(
            "Learning rate by group", [_row_name(group, layers) for group in groups[::-1]],
            epochs_of(rows), values[::-1],
            x_label="epoch", value_label="rate", log=True, cursor=CURSOR,
            note="At the epoch's last step; the head is at the top. Hatched: frozen.",
        )  # fmt: skip
    peaks = [max((v for v in one.y if v is not None), default=0.0) for one in series]
    peaks = [peak for peak in peaks if peak > 0]
    if not peaks:
        return Html("")
    marks = _marks(run)
    if rows and planned and rows[-1]["epoch"] < max(one.x[-1] for one in series) - 1e-9:
        marks = [*marks, Mark(rows[-1]["epoch"], "ended")]
    note = (
        "Step by step, as planned: base rate × scale × g(t) × s(t)."
        if planned
        else "At each epoch's last step."
    )
    return xy_chart(
        "Learning rate by group", series, x_label="epoch", y_label="rate", y_zero=True,
        log_button=True, y_log=_wide(peaks), cursor=CURSOR, marks=marks, note=note,
    )  # fmt: skip


def rate_series(run: Run, groups: Sequence[str]) -> tuple[list[Series], bool]:
    """The rate of every group over the epochs, and whether it is the plan's, step by step.

    Of a plateau and of measured scales the plan knows nothing: there it is what the rows say, once
    per epoch, and so it is where schedule.csv is missing.
    """
    moving = settings_of(run, "scheduler").get("name") == "plateau"
    moving = moving or any(row.measured for row in run.plan)
    planned = [] if moving else read_table(run.folder / "schedule.csv", run.notes)
    per_epoch = steps_per_epoch(run, planned)
    if planned and per_epoch:
        x = [(int(line["step"]) + 1) / per_epoch for line in planned]
        return [
            Series(group, x, [as_number(line.get(f"lr/{group}")) for line in planned])
            for group in groups
            if f"lr/{group}" in planned[0]
        ], True
    x = epochs_of(run.rows)
    return [
        Series(group, x, column(run.rows, f"lr/{group}", zero_is_gap=True))
        for group in groups
        if any(f"lr/{group}" in row for row in run.rows)
    ], False


def column(
    rows: Sequence[Mapping[str, Any]], key: str, zero_is_gap: bool = False
) -> list[float | None]:
    """A metric over the rows; what is missing or not finite is None."""
    return [
        None
        if not isinstance(value := row.get(key), int | float)
        or not math.isfinite(value)
        or (zero_is_gap and value == 0)
        else float(value)
        for row in rows
    ]


def less(values: Sequence[float | None], errors: Sequence[float | None]) -> list[float | None]:
    """Values minus their errors; None where either is unknown."""
    return [None if v is None or e is None else v - e for v, e in zip(values, errors, strict=True)]


def more(values: Sequence[float | None], errors: Sequence[float | None]) -> list[float | None]:
    """Values plus their errors; None where either is unknown."""
    return [None if v is None or e is None else v + e for v, e in zip(values, errors, strict=True)]


def epochs_of(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The x axis that curves over epochs share."""
    return [float(row["epoch"]) for row in rows]


def _x_range(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    return (first - 0.5, last + 0.5) if first == last else None


def _marks(run: Run) -> list[Mark]:
    """Best epoch, and where the loss stopped being a number."""
    marks, rows, best = [], run.rows, run.summary["best"].get("epoch")
    if isinstance(best, int) and len(rows) > 1:
        marks.append(Mark(best, f"best {best}"))
    keys = ("train_eval/loss", "val/loss")
    bad = [r["epoch"] for r in rows if not all(is_finite(r.get(key)) for key in keys)]
    if bad:
        marks.append(Mark(bad[0], "diverged", "bad"))
    return marks


def _wide(values: Sequence[float]) -> bool:
    """Whether a linear axis would hide most of it."""
    return bool(values) and max(values) > 50 * min(values)


def groups_of(run: Run) -> list[str]:
    """Parameter groups that have rows, from the input to the head."""
    planned = [row.group for row in sorted(run.plan, key=lambda row: row.layer)]
    prefixes = ("lr", "drift", "update_ratio")
    measured = [
        key.partition("/")[2]
        for row in run.rows
        for key in row
        if key.partition("/")[0] in prefixes
    ]
    found = set(measured) or set(planned)
    return [group for group in dict.fromkeys([*planned, *measured]) if group in found]


def layers_of(run: Run) -> dict[str, list[str]]:
    """Names of the layers that a group's parameters lie in, from the input to the head."""
    found: dict[str, list[str]] = {}
    for row in sorted(run.plan, key=lambda row: row.layer):
        if row.layer_name not in (names := found.setdefault(row.group, [])):
            names.append(row.layer_name)
    return found


def _row_name(group: str, layers: Mapping[str, Sequence[str]]) -> str:
    count = len(layers.get(group, ()))
    return f"{group} ({count} layers)" if count > 1 else group


def _groups_in_words(layers: Mapping[str, Sequence[str]]) -> str:
    """What the groups of more than one layer hold; empty when every layer has its own."""
    said = [
        f"{group} is {', '.join(names)}"
        if len(names) <= MOST_NAMES
        else f"{group} is {names[0]} to {names[-1]}, {len(names)} layers"
        for group, names in layers.items()
        if len(names) > 1
    ]
    if not said:
        return ""
    more = f"; and {len(said) - MOST_NAMES} more" if len(said) > MOST_NAMES else ""
    return (
        "Layers with equal settings are one group and measured together: "
        f"{'; '.join(said[:MOST_NAMES])}{more}."
    )


def steps_per_epoch(run: Run, planned: Sequence[Mapping[str, str]]) -> float:
    """From a row, or from the planned steps; 0 where neither tells."""
    for row in run.rows:
        if row["epoch"] and isinstance(row.get("step"), int | float):
            return row["step"] / row["epoch"]
    epochs = settings_of(run, "trainer").get("epochs")
    if planned and isinstance(epochs, int) and epochs:
        return (int(planned[-1]["step"]) + 1) / epochs
    return 0.0
