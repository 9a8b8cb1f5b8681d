"""The figures of a run: losses, gap, overfitting over its epochs, rates and moves of its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.folder.layout import SCHEDULE
from lrexp.judge.overfit import first_rise
from lrexp.judge.words import is_share, uneven
from lrexp.report.figure import Axis, Chart, Figure, HeatMap, Mark, Rule, Series
from lrexp.report.html.page import is_finite
from lrexp.report.plots import write_plots
from lrexp.report.run.findings import finding_marks
from lrexp.report.run.mistakes import confusion_figures
from lrexp.report.run.words import as_number, monitor_of, settings_of, val_sample
from lrexp.runs.run import Run, read_run, read_table

CURSOR = "epoch"  # the charts over epochs share it
MOST_NAMES = 6  # layers of a group, and groups, that are spelled out
MOST_LINES = 8  # groups drawn as lines; more are a heat map
TRAIN: dict[str, Any] = {"colour": 6, "dash": 2}
TRAIN_EVAL: dict[str, Any] = {"colour": 0, "dash": 1}
VAL: dict[str, Any] = {"colour": 1, "dash": 0}
LABELS: dict[str, Any] = {"colour": 2, "dash": 3}
BALANCED: dict[str, Any] = {"colour": 2, "dash": 1}
ON_PAPER = ("loss", "gap", "accuracy", "rates", "update_ratio", "drift", "confusion")
# metrics that the charts of learning show, whatever the monitor is
SHOWN = "(gap|overfit)/loss|(train|train_eval|val)/(loss|accuracy)"


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


def _confusion_on_paper(run: Run) -> dict[str, Figure]:
    """Of the test set, where there is one."""
    found = confusion_figures(run)
    return {"confusion": found.get("test") or next(iter(found.values()))} if found else {}


def learning_figures(run: Run) -> dict[str, Figure]:
    """Loss, gap, accuracy, overfitting and monitor over the epochs, as far as measured."""
    if not run.rows:
        return {}
    made = {
        "loss": _loss(run),
        "gap": _gap(run),
        "accuracy": _accuracy(run),
        "overfit": _overfit(run),
        "monitor": _monitor(run),
    }
    return {name: one for name, one in made.items() if one}


def _over_epochs(
    run: Run, title: str, series: Sequence[Series], y: Axis, marks: Sequence[Mark] = (), **more: Any
) -> Chart:  # fmt: skip
    first, last = run.rows[0]["epoch"], run.rows[-1]["epoch"]
    x = Axis("epoch", range=(first - 0.5, last + 0.5) if first == last else None)
    return Chart(title, series, x, y, cursor=CURSOR, marks=[*_marks(run), *marks], **more)


def _line(run: Run, name: str, key: str, error: str = "", **style: Any) -> Series:
    """A metric over the epochs, with a band of ± 1 standard error where there is one."""
    values = _column(run, key)
    band = {}
    if error:
        both = list(zip(values, _column(run, error), strict=True))
        band = {
            side: [None if v is None or e is None else v + sign * e for v, e in both]
            for side, sign in (("low", -1), ("high", 1))
        }
    return Series(name, _epochs(run), values, **band, **style)


def _loss(run: Run) -> Chart | None:
    train = _line(run, "train, running", "train/loss", **TRAIN)
    train_eval = _line(run, "train-eval", "train_eval/loss", **TRAIN_EVAL)
    val = _line(run, "val", "val/loss", "gap/loss_se", **VAL)
    found = [v for one in (train, train_eval, val) for v in one.y if v is not None]
    if not found:
        return None
    wide = _wide(found, 100)
    gap = Series("gap", val.x, kind="area", low=train_eval.y, high=val.y, colour=1, quiet=True)
    lines = [train, train_eval, val] if _known(train) else [train_eval, val]
    return _over_epochs(
        run, "Loss", [gap, *lines], Axis("loss", log=wide, button=True), marks=finding_marks(run),
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
        note="± 1 standard error against this training set. More of it than chance explains is what"
        " was learned by heart, or a difference between the splits.",
    )  # fmt: skip


def _accuracy(run: Run) -> Chart | None:
    lines = [
        _line(run, name, key, **style)
        for name, key, style in (
            ("train, running", "train/accuracy", TRAIN),
            ("train-eval", "train_eval/accuracy", TRAIN_EVAL),
            ("val", "val/accuracy", VAL),
            ("val, single labels", "val/label_accuracy", LABELS),
            ("val, balanced", "val/balanced_accuracy", BALANCED),
        )
        if any(key in row for row in run.rows)
        and (uneven(run.summary) or key != "val/balanced_accuracy")
    ]
    if not lines:
        return None
    marks = finding_marks(run)
    return _over_epochs(run, "Accuracy", lines, Axis("accuracy", percent=True), marks=marks)


def _overfit(run: Run) -> Chart | None:
    rise = _line(run, "val loss above its best", "overfit/loss", "overfit/loss_se", **VAL)
    if not any(rise.y):
        return None
    rises = first_rise(run.rows, val_sample(run))
    marks = [Mark(rises, f"overfits {rises}")] if rises else []
    return _over_epochs(
        run, "Overfitting", [rise], Axis("loss", zero=True), rules=[Rule(0)], marks=marks,
        note="Val loss minus its best so far, ± 1 standard error paired over images. Overfitting is"
        " claimed on this, not on the gap, where it is more than choosing the best of all epochs"
        " explains; the mark is the first epoch at which it is.",
    )  # fmt: skip


def _monitor(run: Run) -> Chart | None:
    """Of a metric that no other chart shows."""
    name = monitor_of(run)
    line = _line(run, name, name, **VAL)
    if re.fullmatch(SHOWN, name) or not _known(line):
        return None
    return _over_epochs(run, "Monitor", [line], Axis(name, percent=is_share(name)))


def layer_figures(run: Run) -> dict[str, Figure]:
    """Rates, sizes of steps and drift by parameter group, and the gradient's norm."""
    made = {
        "rates": _rates(run),
        "grad_norm": _gradient_norm(run),
        "update_ratio": _moves(
            run, "Update ratio", "update_ratio", "‖Δw‖ / ‖w‖",
            "Size of one step relative to the weights, median over tensors and measured steps.",
        ),
        "drift": _moves(
            run, "Drift", "drift", "‖w − w₀‖ / ‖w₀‖",
            "How far the weights are from where they began.",
        ),
    }  # fmt: skip
    return {name: one for name, one in made.items() if one}


def _gradient_norm(run: Run) -> Chart | None:
    line = _line(run, "gradient norm", "grad_norm", colour=0)
    if not _known(line):
        return None
    note = "Median over the measured steps of an epoch."
    return _over_epochs(run, "Gradient norm", [line], Axis("‖g‖", log=_wide(line.y)), note=note)


def _moves(run: Run, title: str, prefix: str, label: str, note: str) -> Figure | None:
    """A heat map of groups over epochs; of a single group a line."""
    named = [g for g in groups_of(run) if any(f"{prefix}/{g}" in row for row in run.rows)]
    values = [_column(run, f"{prefix}/{g}") for g in named]
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
    counts = {group: len(names) for group, names in _layers(run).items()}
    rows = [f"{g} ({n} layers)" if (n := counts.get(g, 1)) > 1 else g for g in groups]
    return HeatMap(
        title, rows[::-1], _epochs(run), values[::-1], x_label="epoch", value_label=label, log=log,
        cursor=CURSOR, note=note,
    )  # fmt: skip


def _rates(run: Run) -> Chart | None:
    """The rate of every group over the steps."""
    series, planned = _rate_series(run)
    peaks = [max((v for v in one.y if v is not None), default=0.0) for one in series]
    if not any(peak > 0 for peak in peaks):
        return None
    marks, rows = _marks(run), run.rows
    if rows and planned and rows[-1]["epoch"] < max(one.x[-1] for one in series) - 1e-9:
        marks = [*marks, Mark(rows[-1]["epoch"], "ended")]
    by_step = "Step by step, as planned: base rate × scale × g(t) × s(t)."
    return Chart(
        "Learning rate by group", series, Axis("epoch"),
        Axis("learning rate", log=_wide(peaks), zero=True, button=True),
        cursor=CURSOR, marks=marks, note=by_step if planned else "At each epoch's last step.",
    )  # fmt: skip


def rate_map(run: Run) -> HeatMap:
    """The rates of many groups, which as lines nobody could tell apart on a page."""
    groups = groups_of(run)
    values = [_rates_by_epoch(run, group) for group in groups]
    note = "At the epoch's last step; the head is at the top. Hatched: frozen."
    return _by_group(run, "Learning rate by group", groups, values, "rate", True, note)


def _rate_series(run: Run) -> tuple[list[Series], bool]:
    """The rate of every group over the epochs, and whether it is the plan's, step by step.

    Of a plateau and of measured scales the plan knows nothing: there it is what the rows say, once
    per epoch, and so it is where schedule.csv is missing.
    """
    moving = settings_of(run, "scheduler").get("name") == "plateau"
    moving = moving or any(row.measured for row in run.plan.rows)
    planned = [] if moving else read_table(run.folder / SCHEDULE, run.notes)
    per_epoch = _steps_per_epoch(run, planned)
    if planned and per_epoch:
        x = [(int(line["step"]) + 1) / per_epoch for line in planned]
        return [
            Series(group, x, [as_number(line.get(f"lr/{group}")) for line in planned])
            for group in groups_of(run)
            if f"lr/{group}" in planned[0]
        ], True
    return [
        Series(group, _epochs(run), _rates_by_epoch(run, group))
        for group in groups_of(run)
        if any(f"lr/{group}" in row for row in run.rows)
    ], False


def _rates_by_epoch(run: Run, group: str) -> list[float | None]:
    """What is frozen, at rate 0, is a gap."""
    return [rate or None for rate in _column(run, f"lr/{group}")]


def _column(run: Run, key: str) -> list[float | None]:
    """A metric over the rows; what is missing or not finite is None."""
    found = [row.get(key) for row in run.rows]
    return [float(value) if is_finite(value) else None for value in found]


def _epochs(run: Run) -> list[float]:
    """The x axis that curves over epochs share."""
    return [float(row["epoch"]) for row in run.rows]


def _marks(run: Run) -> list[Mark]:
    """Best epoch, and where the loss stopped being a number."""
    marks, rows, best = [], run.rows, run.summary["best"].get("epoch")
    if isinstance(best, int) and len(rows) > 1:
        marks.append(Mark(best, f"best {best}"))
    keys = ("train_eval/loss", "val/loss")
    bad = [r["epoch"] for r in rows if not all(is_finite(r.get(key)) for key in keys)]
    return [*marks, Mark(bad[0], "diverged", "bad")] if bad else marks


def _known(one: Series) -> bool:
    return any(v is not None for v in one.y)


def _wide(values: Sequence[float | None], factor: float = 50) -> bool:
    """Whether a linear axis would hide most of it."""
    positive = [value for value in values if value is not None and value > 0]
    return bool(positive) and max(positive) > factor * min(positive)


def groups_of(run: Run) -> list[str]:
    """Parameter groups that have rows, from the input to the head."""
    keys = dict.fromkeys(key for row in run.rows for key in row)
    pairs = [
        key.split("/", 1) for key in keys if key.startswith(("lr/", "drift/", "update_ratio/"))
    ]
    measured, planned = dict.fromkeys(group for _, group in pairs), dict.fromkeys(_layers(run))
    return [g for g in planned | measured if g in measured] if measured else list(planned)


def _layers(run: Run) -> dict[str, list[str]]:
    """Names of the layers that a group's parameters lie in, from the input to the head."""
    found: dict[str, list[str]] = {}
    for row in sorted(run.plan.rows, key=lambda row: row.layer):
        if row.layer_name not in (names := found.setdefault(row.group, [])):
            names.append(row.layer_name)
    return found


def groups_in_words(run: Run) -> str:
    """What the groups of more than one layer hold; empty when every layer has its own."""
    shown = groups_of(run)
    said = [
        f"{group} is {', '.join(names)}"
        if len(names) <= MOST_NAMES
        else f"{group} is {names[0]} to {names[-1]}, {len(names)} layers"
        for group, names in _layers(run).items()
        if len(names) > 1 and group in shown
    ]
    if not said:
        return ""
    more = f"; and {len(said) - MOST_NAMES} more" if len(said) > MOST_NAMES else ""
    return (
        "Layers with equal settings are one group and measured together: "
        f"{'; '.join(said[:MOST_NAMES])}{more}."
    )


def _steps_per_epoch(run: Run, planned: Sequence[Mapping[str, str]]) -> float:
    """From a row, or from the planned steps; 0 where neither tells."""
    for row in run.rows:
        if row["epoch"] and isinstance(row.get("step"), int | float):
            return row["step"] / row["epoch"]
    epochs = settings_of(run, "trainer").get("epochs")
    if planned and isinstance(epochs, int) and epochs:
        return (int(planned[-1]["step"]) + 1) / epochs
    return 0.0
