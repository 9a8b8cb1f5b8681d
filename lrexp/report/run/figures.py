"""The figures of a run: losses, gap, overfitting over its epochs, rates and moves of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.folder.layout import CONFUSION, SCHEDULE
from lrexp.judge.words import is_share
from lrexp.report.figure import Axis, Chart, Figure, HeatMap, Mark, Rule, Series
from lrexp.report.plots import write_plots
from lrexp.report.run.words import as_number, is_finite, monitor_of, settings_of
from lrexp.runs.run import Run, read_run, read_table

CURSOR = "epoch"  # the charts over epochs share it
MOST_NAMES = 6  # layers of a group, and groups, that are spelled out
MOST_LINES = 8  # groups drawn as lines; more are a heat map
MOST_CLASSES = 60  # of a confusion matrix that is drawn
SPOKEN_CLASSES = 25  # up to so many every cell has a sentence of its own
TRAIN: dict[str, Any] = {"colour": 6, "dash": 2}
TRAIN_EVAL: dict[str, Any] = {"colour": 0, "dash": 1}
VAL: dict[str, Any] = {"colour": 1, "dash": 0}
LABELS: dict[str, Any] = {"colour": 2, "dash": 3}
ON_PAPER = ("loss", "gap", "accuracy", "rates", "update_ratio", "drift", "confusion")
# metrics that the charts of learning show, whatever the monitor is
SHOWN = {
    "gap/loss",
    "overfit/loss",
    *(
        f"{split}/{name}"
        for split in ("train", "train_eval", "val")
        for name in ("loss", "accuracy")
    ),
}


def write_run_plots(folder: Path) -> list[Path]:
    """Draw what a run folder has rows and tables for; what cannot be drawn is left out.

    Returns:
        The files: `plots/NAME.png` and `.svg`.

    Raises:
        OSError: when they cannot be written.
    """
    run = read_run(folder)
    figures: dict[str, Figure] = {}
    for make in (learning_figures, layer_figures, _confusion_on_paper):
        try:
            figures |= make(run)
        except (ValueError, TypeError, KeyError):  # a damaged file
            continue
    return write_plots(folder, {name: [figures[name]] for name in ON_PAPER if name in figures})


def learning_figures(run: Run) -> dict[str, Figure]:
    """Loss, gap, accuracy, overfitting and monitor over the epochs, as far as measured."""
    if not run.rows:
        return {}
    makers: dict[str, Callable[[Run], Chart | None]] = {
        "loss": _loss,
        "gap": _gap,
        "accuracy": _accuracy,
        "overfit": _overfit,
        "monitor": _monitor,
    }
    return {name: made for name, make in makers.items() if (made := make(run))}


def _over_epochs(run: Run, title: str, series: Sequence[Series], y: Axis, **more: Any) -> Chart:
    first, last = run.rows[0]["epoch"], run.rows[-1]["epoch"]
    x = Axis("epoch", range=(first - 0.5, last + 0.5) if first == last else None)
    return Chart(title, series, x, y, cursor=CURSOR, marks=_marks(run), **more)


def _line(run: Run, name: str, key: str, error: str = "", **style: Any) -> Series:
    """A metric over the epochs, with a band of ± 1 standard error where there is one."""
    values = column(run.rows, key)
    band = {}
    if error:
        errors = column(run.rows, error)
        both = list(zip(values, errors, strict=True))
        band = {
            side: [None if v is None or e is None else v + sign * e for v, e in both]
            for side, sign in (("low", -1), ("high", 1))
        }
    return Series(name, epochs_of(run.rows), values, **band, **style)


def _loss(run: Run) -> Chart | None:
    train = _line(run, "train, running", "train/loss", **TRAIN)
    train_eval = _line(run, "train-eval", "train_eval/loss", **TRAIN_EVAL)
    val = _line(run, "val", "val/loss", "gap/loss_se", **VAL)
    found = [v for one in (train, train_eval, val) for v in one.y if v is not None]
    if not found:
        return None
    positive = [v for v in found if v > 0]
    wide = bool(positive) and max(positive) > 100 * min(positive)
    gap = Series("gap", val.x, kind="area", low=train_eval.y, high=val.y, colour=1, quiet=True)
    lines = [train, train_eval, val] if _known(train) else [train_eval, val]
    return _over_epochs(
        run, "Loss", [gap, *lines], Axis("loss", log=wide, button=True),
        note="train-eval and val: the same weights, mode and transforms, after the epoch; the shade"
        " between them is the gap, the band its ± 1 standard error. train: over the epoch's"
        " batches, as optimised.",
    )  # fmt: skip


def _gap(run: Run) -> Chart | None:
    gap = _line(run, "val − train-eval", "gap/loss", "gap/loss_se", **VAL)
    running = _line(run, "val − train, running", "gap/loss_running", hidden=True, **TRAIN)
    if not _known(gap):
        return None
    return _over_epochs(
        run, "Gap", [gap, running], Axis("gap of the loss", zero=True), rules=[Rule(0)],
        note="± 1 standard error. What stays within two of them is noise; the rest is overfitting"
        " or a difference between the splits.",
    )  # fmt: skip


def _accuracy(run: Run) -> Chart | None:
    lines = [
        _line(run, name, key, **style)
        for name, key, style in (
            ("train, running", "train/accuracy", TRAIN),
            ("train-eval", "train_eval/accuracy", TRAIN_EVAL),
            ("val", "val/accuracy", VAL),
            ("val, single labels", "val/label_accuracy", LABELS),
        )
        if any(key in row for row in run.rows)
    ]
    return _over_epochs(run, "Accuracy", lines, Axis("accuracy", percent=True)) if lines else None


def _overfit(run: Run) -> Chart | None:
    rise = _line(run, "val loss above its best", "overfit/loss", "overfit/loss_se", **VAL)
    if not any(rise.y):
        return None
    return _over_epochs(
        run, "Overfitting", [rise], Axis("loss", zero=True), rules=[Rule(0)],
        note="Val loss minus its best so far, ± 1 standard error paired over images."
        " Overfitting is claimed where this, not the gap, clears two of them.",
    )  # fmt: skip


def _monitor(run: Run) -> Chart | None:
    """Of a metric that no other chart shows."""
    name = monitor_of(run)
    line = _line(run, name, name, **VAL)
    if name in SHOWN or not _known(line):
        return None
    return _over_epochs(run, "Monitor", [line], Axis(name, percent=is_share(name)))


def layer_figures(run: Run) -> dict[str, Figure]:
    """Rates, sizes of steps and drift by parameter group, and the gradient's norm."""
    groups = groups_of(run)
    makers: dict[str, Callable[[], Figure | None]] = {
        "rates": lambda: _rates(run, groups),
        "grad_norm": lambda: _gradient_norm(run),
        "update_ratio": lambda: _moves(
            run, groups, "Update ratio", "update_ratio", "‖Δw‖ / ‖w‖",
            "Size of one step relative to the weights, median over tensors and measured steps.",
        ),
        "drift": lambda: _moves(
            run, groups, "Drift", "drift", "‖w − w₀‖ / ‖w₀‖",
            "How far the weights are from where they began.",
        ),
    }  # fmt: skip
    return {name: made for name, make in makers.items() if (made := make())}


def _gradient_norm(run: Run) -> Chart | None:
    line = _line(run, "gradient norm", "grad_norm", colour=0)
    if not _known(line):
        return None
    wide = _wide([v for v in line.y if v is not None and v > 0])
    note = "Median over the measured steps of an epoch."
    return _over_epochs(run, "Gradient norm", [line], Axis("‖g‖", log=wide), note=note)


def _moves(
    run: Run, groups: Sequence[str], title: str, prefix: str, label: str, note: str
) -> Figure | None:
    """A heat map of groups over epochs; of a single group a line."""
    named = [g for g in groups if any(f"{prefix}/{g}" in row for row in run.rows)]
    values = [column(run.rows, f"{prefix}/{g}") for g in named]
    found = [v for line in values for v in line if v is not None]
    if not any(found):
        return None
    log = min(found) >= 0 and max(found) > 0
    if len(named) == 1:
        ratio = prefix == "update_ratio"
        axis = Axis(label, log=log and ratio, zero=not ratio)
        line = _line(run, named[0], f"{prefix}/{named[0]}", colour=0)
        return _over_epochs(run, title, [line], axis, note=note)
    return _by_group(run, title, named, values, label, log, f"{note} The head is at the top.")


def _by_group(
    run: Run, title: str, groups: Sequence[str], values: Sequence[Any], label: str, log: bool,
    note: str,
) -> HeatMap:  # fmt: skip
    """Groups from the head down to the input, over epochs."""
    layers = layers_of(run)
    return HeatMap(
        title, [_row_name(group, layers) for group in groups[::-1]], epochs_of(run.rows),
        values[::-1], x_label="epoch", value_label=label, log=log, cursor=CURSOR, note=note,
    )  # fmt: skip


def _rates(run: Run, groups: Sequence[str]) -> Chart | None:
    """The rate of every group over the steps."""
    series, planned = rate_series(run, groups)
    peaks = [max((v for v in one.y if v is not None), default=0.0) for one in series]
    peaks = [peak for peak in peaks if peak > 0]
    if not peaks:
        return None
    marks, rows = _marks(run), run.rows
    if rows and planned and rows[-1]["epoch"] < max(one.x[-1] for one in series) - 1e-9:
        marks = [*marks, Mark(rows[-1]["epoch"], "ended")]
    note = (
        "Step by step, as planned: base rate × scale × g(t) × s(t)."
        if planned
        else "At each epoch's last step."
    )
    return Chart(
        "Learning rate by group", series, Axis("epoch"),
        Axis("learning rate", log=_wide(peaks), zero=True, button=True),
        cursor=CURSOR, marks=marks, note=note,
    )  # fmt: skip


def rate_map(run: Run) -> HeatMap:
    """The rates of many groups, which as lines nobody could tell apart on a page."""
    groups = groups_of(run)
    values = [column(run.rows, f"lr/{group}", zero_is_gap=True) for group in groups]
    note = "At the epoch's last step; the head is at the top. Hatched: frozen."
    return _by_group(run, "Learning rate by group", groups, values, "rate", True, note)


def rate_series(run: Run, groups: Sequence[str]) -> tuple[list[Series], bool]:
    """The rate of every group over the epochs, and whether it is the plan's, step by step.

    Of a plateau and of measured scales the plan knows nothing: there it is what the rows say, once
    per epoch, and so it is where schedule.csv is missing.
    """
    moving = settings_of(run, "scheduler").get("name") == "plateau"
    moving = moving or any(row.measured for row in run.plan.rows)
    planned = [] if moving else read_table(run.folder / SCHEDULE, run.notes)
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


def epochs_of(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The x axis that curves over epochs share."""
    return [float(row["epoch"]) for row in rows]


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


def _known(one: Series) -> bool:
    return any(v is not None for v in one.y)


def _wide(values: Sequence[float]) -> bool:
    """Whether a linear axis would hide most of it."""
    return bool(values) and max(values) > 50 * min(values)


def groups_of(run: Run) -> list[str]:
    """Parameter groups that have rows, from the input to the head."""
    planned = [row.group for row in sorted(run.plan.rows, key=lambda row: row.layer)]
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
    for row in sorted(run.plan.rows, key=lambda row: row.layer):
        if row.layer_name not in (names := found.setdefault(row.group, [])):
            names.append(row.layer_name)
    return found


def _row_name(group: str, layers: Mapping[str, Sequence[str]]) -> str:
    count = len(layers.get(group, ()))
    return f"{group} ({count} layers)" if count > 1 else group


def groups_in_words(layers: Mapping[str, Sequence[str]]) -> str:
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


def confusion_figures(run: Run) -> dict[str, HeatMap]:
    """Confusion matrices by split, of so many classes as can be drawn."""
    return {
        split: _confusion(split, names, true, counts)
        for split, (names, true, counts) in confusions(run).items()
        if len(names) <= MOST_CLASSES
    }


def _confusion_on_paper(run: Run) -> dict[str, Figure]:
    """Of the test set, where there is one."""
    found = confusion_figures(run)
    return {"confusion": found.get("test") or next(iter(found.values()))} if found else {}


def confusions(run: Run) -> dict[str, tuple[list[str], list[str], list[list[int]]]]:
    """By split: predicted classes, true classes, and counts of images (true, predicted)."""
    by_split: dict[str, list[dict[str, str]]] = {}
    for line in read_table(run.folder / CONFUSION, run.notes):
        by_split.setdefault(line["split"], []).append(line)
    found = {}
    for split, part in by_split.items():
        names = [name for name in part[0] if name not in ("split", "true")]
        try:
            counts = [[int(line[name]) for name in names] for line in part]
        except (TypeError, ValueError):
            continue
        found[split] = (names, [line["true"] for line in part], counts)
    return found


def _confusion(
    split: str, names: Sequence[str], true: Sequence[str], counts: Sequence[Sequence[int]]
) -> HeatMap:
    right = sum(row[i] for i, row in enumerate(counts) if i < len(row))
    spoken = len(names) <= SPOKEN_CLASSES
    labels = [
        [f"{n} of {sum(row)} images of {t} called {p}" for p, n in zip(names, row, strict=True)]
        for t, row in zip(true, counts, strict=True)
    ]
    return HeatMap(
        f"Confusion on {split}", true, names, counts,
        x_label="predicted", y_label="true", value_label="images", numbers=True, square=True,
        labels=labels if spoken else (),
        note=f"{right:,} of {sum(map(sum, counts)):,} right, on the diagonal.",
    )  # fmt: skip
