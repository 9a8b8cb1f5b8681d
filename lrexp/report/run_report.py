"""report.html of one run: what came out, how it learned, how fast each layer, what is wrong."""

from __future__ import annotations

import base64
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.record.files import write_atomically
from lrexp.record.words import gap_in_words, leak_effect_in_words, overfit_in_words
from lrexp.report.charts import Bar, Mark, Rule, Series, bar_chart, heat_map, xy_chart
from lrexp.report.defaults import changes, flat
from lrexp.report.page import (
    Cell,
    Column,
    Html,
    Section,
    badge,
    code_block,
    definitions,
    details,
    element,
    facts,
    grid,
    join,
    link,
    notes,
    number,
    page,
    percent,
    plus_minus,
    table,
)
from lrexp.report.pixels import png
from lrexp.report.read import PlanRow, Run, read_choices, read_run, read_table
from lrexp.schema import MONITORS

FILE = "report.html"
CURSOR = "epoch"  # the charts over epochs share it
MOST_LINES = 8  # groups drawn as lines; more are a heat map
MOST_ROWS = 300  # epochs in the table
MOST_TENSORS = 600
MOST_CLASSES = 60  # of a confusion matrix that is drawn; of more, only the most frequent mix-ups
MOST_SCORES = 2_000_000  # numbers in predictions.parquet that are read for one standard error
LOG_LINES = 60
STYLES: dict[str, dict[str, Any]] = {
    "train": {"colour": 6, "dash": 2},
    "train_eval": {"colour": 0, "dash": 1},
    "val": {"colour": 1, "dash": 0},
}
TRAIN, TRAIN_EVAL, VAL = STYLES.values()


def write_run_report(folder: Path) -> Path:
    """Write report.html of a run folder from its files alone; what is missing is left out.

    Returns:
        The file.

    Raises:
        OSError: when it cannot be written.
    """
    run = read_run(folder)
    file = folder / FILE
    write_atomically(file, run_page(run))
    return file


def run_page(run: Run) -> str:
    """The whole report as HTML."""
    name = str(run.config.get("name") or run.summary.get("name") or run.folder.name)
    policy = _chosen(run, "lr_policy")
    title = f"{name} · {policy}" if policy else name
    over = [badge(run.status), _rate_words(run), run.folder.name]
    head = join(
        element("p", *(element("span", part) for part in over if part), class_="over"),
        element("h1", title),
        element("p", headline(run), class_="headline"),
        notes([_home(str(run.summary["error"]))] if run.summary.get("error") else [], "error"),
        facts(_figures(run)) if run.rows else None,
        notes(_remarks(run), "warning"),
    )
    sections = [
        Section("Learning", _learning(run)),
        Section("Rates and layers", _layers(run)),
        Section("Plan", _plan(run), _plan_words(run)),
        Section("Results", _results(run)),
        Section("Mistakes", _mistakes(run)),
        Section("Epochs", _epochs(run)),
        Section("Configuration", _configuration(run)),
        Section("Environment", _environment(run)),
        Section("Log", _log(run)),
    ]
    version = run.environment.get("lrexp")
    footer = f"lrexp {version or ''} · made from the files of this run folder alone · "
    again = element("code", "python -m lrexp.report FOLDER")
    return page(title, head, sections, join(footer, again, " makes it anew, with plots/."))


# ---- what came out, in words and figures


def headline(run: Run) -> str:
    """The run in a few sentences: the policy, its best, the gap, whether it overfits, the test."""
    best, last, policy = run.summary["best"], run.summary["last"], _chosen(run, "lr_policy")
    if not run.summary.get("status"):
        return "summary.json cannot be read; this report shows what the other files hold."
    parts = [_ending(run)]
    if best:
        monitor = _monitor(run)
        better = "lowest" if MONITORS.get(monitor) == "min" else "highest"
        value = _metric(monitor, best.get(monitor), _monitor_se(run))
        accuracy = best.get("val/accuracy")
        also = "" if monitor == "val/accuracy" or accuracy is None else (
            f" (val accuracy {_metric('val/accuracy', accuracy, _accuracy_se(run, accuracy))})"
        )  # fmt: skip
        with_policy = f"With lr_policy={policy}, " if policy else ""
        what = (
            f"{monitor} was {better} in epoch {best.get('epoch')}{_of_epochs(run)}: {value}{also}."
        )
        parts.append(with_policy + what if with_policy else what[0].upper() + what[1:])
        if {"gap/loss", "gap/loss_se"} <= best.keys():
            parts.append(f"The gap there is {gap_in_words(best)}.")
        parts.append(_overfit_sentence(best, last))
    test = run.summary["test"]
    if "accuracy" in test:
        accuracy = test["accuracy"]
        images = test.get("images")
        se = _binomial_se(accuracy, images)
        on = f" on {images:,} images never used for any choice" if images else ""
        parts.append(f"Test accuracy is {_metric('test/accuracy', accuracy, se)}{on}.")
    return " ".join(part for part in parts if part)


def _ending(run: Run) -> str:
    """How the run ended, where that is not simply its end."""
    done, status = len([row for row in run.rows if row["epoch"] > 0]), run.status
    epochs = f"{done} epoch{'s' * (done != 1)}"
    last = run.summary["last"].get("epoch", run.rows[-1]["epoch"] if run.rows else 0)
    if status == "diverged":
        return (
            f"Diverged in epoch {last}: the loss is no longer a finite number; a lower optimizer.lr"
            " or a scheduler.warmup usually helps."
        )
    if status == "failed":
        return (
            f"The run failed after {epochs}."
            if done
            else "The run failed before its first epoch ended."
        )
    if status == "interrupted":
        held = "checkpoints/last.pt holds the state after the last of them" if done else ""
        return f"Interrupted after {epochs}{'; ' * bool(held)}{held}."
    if status == "running":
        return f"The run goes on, or was killed: {epochs} so far."
    if not done:
        return "Nothing was trained: the network as it was built."
    return ""


def _overfit_sentence(best: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    keys = {"overfit/loss", "overfit/loss_se", "overfit/accuracy", "overfit/accuracy_se"}
    if not (keys <= last.keys() and "train_eval/loss" in last and "train_eval/loss" in best):
        return ""
    if not math.isfinite(last["overfit/loss"]) or not last.get("epoch"):
        return ""
    if words := overfit_in_words(dict(best), dict(last)):
        return words[0].upper() + words[1:] + "."
    rise, se = last["overfit/loss"], last["overfit/loss_se"]
    if rise <= 0:
        return "Val loss was at its best in the last epoch: no sign of overfitting."
    return (
        f"No overfitting beyond noise: val loss ends {plus_minus(rise, se)} above its best"
        " (paired over images)."
    )


def _figures(run: Run) -> list[tuple[str, Any, Any]]:
    """The row of figures under the headline."""
    best, last, test = run.summary["best"], run.summary["last"], run.summary["test"]
    monitor, found = _monitor(run), []
    if best:
        value = _metric(monitor, best.get(monitor), _monitor_se(run))
        found.append((f"Best {monitor}", value, f"epoch {best.get('epoch')}{_of_epochs(run)}"))
        accuracy = best.get("val/accuracy")
        if monitor != "val/accuracy" and accuracy is not None:
            se = _accuracy_se(run, accuracy)
            images = _images(run, "val")
            found.append(("Val accuracy there", _metric("accuracy", accuracy, se), images))
    if "accuracy" in test:
        se = _binomial_se(test["accuracy"], test.get("images"))
        images = f"{test['images']:,} images" if test.get("images") else ""
        found.append(("Test accuracy", _metric("accuracy", test["accuracy"], se), images))
    if "gap/loss" in best:
        gap = plus_minus(best["gap/loss"], best.get("gap/loss_se"))
        found.append(("Gap at the best epoch", gap, "val − train-eval loss"))
    if "overfit/loss" in last and last.get("epoch"):
        rise = plus_minus(last["overfit/loss"], last.get("overfit/loss_se"))
        found.append(("Val loss above its best", rise, f"at the end, epoch {last.get('epoch')}"))
    parameters, timings = run.summary["parameters"], run.summary["timings"]
    if "total" in parameters:
        part = parameters.get("trainable")
        share = "all train" if part == parameters["total"] else f"{number(part)} train"
        found.append(("Parameters", number(parameters["total"]), share))
    if "train_s" in timings:
        found.append(("Training took", _duration(timings["train_s"]), run.summary.get("device")))
    return found


def _remarks(run: Run) -> list[Any]:
    """Verdicts and what else one should know before believing the figures."""
    said = []
    for verdict in run.summary["verdicts"]:
        if isinstance(verdict, dict) and verdict.get("kind") != "diverged":  # the headline says it
            advice = verdict.get("advice")
            said.append(f"{verdict.get('message')}{': ' * bool(advice)}{advice or ''}")
    try:
        twins = leak_effect_in_words(run.summary)
    except (KeyError, TypeError):
        twins = ""
    if twins:
        said.append(f"Near or exact copies across splits: {twins}")
    proof = run.summary.get("frozen_proof") or {}
    if proof.get("identical") is False:
        said.append("Frozen tensors changed while training: this should never happen.")
    return said + run.notes


# ---- curves


def _learning(run: Run) -> Html:
    rows = run.rows
    if not rows:
        return notes(["No epoch was finished: there is nothing to draw."])
    x, marks = _epochs_of(rows), _marks(run)
    common: dict[str, Any] = {
        "x_label": "epoch", "cursor": CURSOR, "marks": marks, "x_range": _x_range(rows),
    }  # fmt: skip
    train, train_eval, val = (_column(rows, f"{s}/loss") for s in ("train", "train_eval", "val"))
    se = _column(rows, "gap/loss_se")
    losses = [v for v in (*train, *train_eval, *val) if v is not None and v > 0]
    wide = bool(losses) and max(losses) > 100 * min(losses)
    series = [Series("gap", x, kind="area", low=train_eval, high=val, colour=1, quiet=True)]
    if any(v is not None for v in train):
        series.append(Series("train, running", x, train, **TRAIN))
    series += [
        Series("train-eval", x, train_eval, **TRAIN_EVAL),
        Series("val", x, val, low=_less(val, se), high=_more(val, se), **VAL),
    ]
    loss = xy_chart(
        "Loss", series, y_label="loss", log_button=True, y_log=wide, **common,
        note="train-eval and val: the same weights, mode and transforms, after the epoch; the shade"
        " between them is the gap, the band its ± 1 standard error. train: over the epoch's batches,"
        " as optimised.",
    )  # fmt: skip
    gap = _column(rows, "gap/loss")
    running = _column(rows, "gap/loss_running")
    gaps = [
        Series("val − train-eval", x, gap, low=_less(gap, se), high=_more(gap, se), **VAL),
        Series("val − train, running", x, running, hidden=True, **TRAIN),
    ]
    gap_chart = xy_chart(
        "Gap", gaps, y_label="loss", rules=[Rule(0)], y_zero=True, **common,
        note="± 1 standard error. What stays within two of them is noise; the rest is overfitting or"
        " a difference between the splits.",
    )  # fmt: skip
    charts = [loss, gap_chart]
    labels: dict[str, Any] = {"colour": 2, "dash": 3}
    accuracies = [
        Series(name, x, _column(rows, key), **style)
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
    rise, rise_se = _column(rows, "overfit/loss"), _column(rows, "overfit/loss_se")
    if any(v is not None for v in rise) and len(rows) > 1:
        overfit = Series("val loss above its best", x, rise, low=_less(rise, rise_se),
                         high=_more(rise, rise_se), **VAL)  # fmt: skip
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
            )  # fmt: skip
        )
    monitor = _monitor(run)
    drawn = {"train/loss", "train_eval/loss", "val/loss", "gap/loss", "overfit/loss",
             "train/accuracy", "train_eval/accuracy", "val/accuracy"}  # fmt: skip
    values = _column(rows, monitor)
    if monitor not in drawn and any(v is not None for v in values):
        series = [Series(monitor, x, values, **VAL)]
        charts.append(
            xy_chart("Monitor", series, y_label=monitor, y_percent=_is_share(monitor), **common)
        )
    return grid(*charts)


def _layers(run: Run) -> Html:
    rows, groups = run.rows, _groups(run)
    charts = [_rates(run, groups)]
    if rows:
        x, marks = _epochs_of(rows), _marks(run)
        for title, prefix, label, note in (
            ("Update ratio", "update_ratio", "‖Δw‖ / ‖w‖",
             "Size of one step relative to the weights, median over tensors and measured steps."),
            ("Drift", "drift", "‖w − w₀‖ / ‖w₀‖", "How far the weights are from where they began."),
        ):  # fmt: skip
            named = [g for g in groups if any(f"{prefix}/{g}" in row for row in rows)]
            values = [_column(rows, f"{prefix}/{g}") for g in named]
            found = [v for line in values for v in line if v is not None]
            if not found:
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
                    )  # fmt: skip
                )
            else:
                charts.append(
                    heat_map(
                        title,
                        named[::-1],
                        x,
                        values[::-1],
                        x_label="epoch",
                        value_label=label,
                        log=log,
                        cursor=CURSOR,
                        note=f"{note} The head is at the top.",
                    )  # fmt: skip
                )
        norm = _column(rows, "grad_norm")
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
                )  # fmt: skip
            )
    shown = [chart for chart in charts if chart]
    return grid(*shown) if shown else Html("")


def _rates(run: Run, groups: Sequence[str]) -> Html:
    """The rate of every group over the steps."""
    rows = run.rows
    moving = _section(run, "scheduler").get("name") == "plateau" or any(
        row.measured for row in run.plan
    )
    planned = [] if moving else read_table(run.folder / "schedule.csv", run.notes)
    per_epoch = _steps_per_epoch(run, planned)
    if planned and per_epoch and len(groups) <= MOST_LINES:
        x = [(int(line["step"]) + 1) / per_epoch for line in planned]
        series = [
            Series(group, x, [_float(line.get(f"lr/{group}")) for line in planned], kind="line")
            for group in groups
            if f"lr/{group}" in planned[0]
        ]
        note = "Step by step, as planned: base rate × scale × g(t) × s(t)."
    elif rows:
        x = _epochs_of(rows)
        known = [group for group in groups if any(f"lr/{group}" in row for row in rows)]
        if len(known) > MOST_LINES:
            values = [_column(rows, f"lr/{group}", zero_is_gap=True) for group in known]
            return heat_map(
                "Learning rate by group", known[::-1], x, values[::-1], x_label="epoch",
                value_label="rate", log=True, cursor=CURSOR,
                note="At the epoch's last step; the head is at the top. Hatched: frozen.",
            )  # fmt: skip
        series = [
            Series(group, x, _column(rows, f"lr/{group}", zero_is_gap=True), kind="line")
            for group in known
        ]
        note = "At each epoch's last step."
    else:
        return Html("")
    values = [v for one in series for v in one.y if v is not None and v > 0]
    if not values:
        return Html("")
    marks = _marks(run)
    if rows and per_epoch and planned and rows[-1]["step"] < int(planned[-1]["step"]) + 1:
        marks = [*marks, Mark(rows[-1]["epoch"], "ended")]
    return xy_chart(
        "Learning rate by group", series, x_label="epoch", y_label="rate", y_zero=True,
        log_button=True, y_log=_wide(values), cursor=CURSOR, marks=marks, note=note,
    )  # fmt: skip


# ---- the plan


def _plan_words(run: Run) -> str:
    if not run.plan:
        return ""
    base = _section(run, "optimizer").get("lr")
    proof = run.summary.get("frozen_proof") or {}
    frozen = proof.get("tensors")
    same = (
        f" {frozen} frozen tensors and buffers are bit-identical before and after training."
        if frozen and proof.get("identical")
        else ""
    )
    return (
        f"Base rate {number(base)}; a layer's rate is base × scale, before schedule and g(t).{same}"
    )


def _plan(run: Run) -> Html:
    plan, base = run.plan, _section(run, "optimizer").get("lr")
    if not plan or not isinstance(base, int | float):
        return Html("")
    layers: dict[tuple[int, str], list[PlanRow]] = {}
    for row in plan:
        layers.setdefault((row.layer, row.layer_name), []).append(row)
    bars = [_bar(name, rows, base) for (_, name), rows in sorted(layers.items())]
    lengths = [bar.value for bar in bars if bar.value]
    heading = (
        "tensor", Column("shape"), "layer", "group", "weights", Column("scale", number=True),
        Column("rate", number=True), Column("decay", number=True), Column("trains"),
        Column("g(t)", hint="the policy's own factor over time"),
    )  # fmt: skip
    cells = [
        [
            Cell(element("code", row.name), row.name),
            Cell(row.shape and "×".join(map(str, row.shape)) or "1", row.size),
            Cell(row.layer_name, row.layer),
            row.group,
            f"{row.source}{', head' if row.head else ''}",
            Cell("–" if row.frozen else "measured" if row.measured else number(row.lr_scale, 4),
                 0.0 if row.frozen else row.lr_scale),
            Cell("–" if row.frozen else number(base * row.lr_scale),
                 0.0 if row.frozen else base * row.lr_scale),
            Cell("–" if row.frozen else number(row.weight_decay), row.weight_decay),
            Cell(_span(row), float(row.trainable_from), mark="quiet" if row.frozen else ""),
            row.g or "1",
        ]
        for row in plan[:MOST_TENSORS]
    ]  # fmt: skip
    more = f" (the first {MOST_TENSORS}; plan.csv has all)" if len(plan) > MOST_TENSORS else ""
    log = bool(lengths) and max(lengths) > 50 * min(lengths)
    return join(
        bar_chart(
            "Rate by layer, from the input to the head", bars, log=log,
            note="Bar lengths are logarithmic." if log else "",
        ),
        details(f"All {len(plan)} tensors{more}", table(heading, cells, tall=True)),
    )  # fmt: skip


def _bar(name: str, rows: Sequence[PlanRow], base: float) -> Bar:
    size = f"{sum(row.size for row in rows):,} parameters"
    trained = [row for row in rows if not row.frozen]
    if not trained:
        return Bar(name, None, "frozen", size, hatched=True)
    rates = sorted({base * row.lr_scale for row in trained})
    spans = sorted({_span(row) for row in trained})
    when = "" if spans == ["always"] else f" · trains {', '.join(spans)}"
    part = f" · {sum(r.size for r in trained):,} of them train" if len(trained) < len(rows) else ""
    if any(row.measured for row in trained):
        return Bar(name, rates[-1], f"{number(rates[-1])} at most", f"{size}{when} · measured")
    text = number(rates[-1]) if len(rates) == 1 else f"{number(rates[0])} … {number(rates[-1])}"
    return Bar(name, rates[-1], text, f"{size}{when}{part}")


def _span(row: PlanRow) -> str:
    """When a parameter trains, in epochs counted from 1."""
    first, last = row.trainable_from + 1, row.trainable_until
    if row.frozen:
        return "never"
    if last is None:
        return "always" if first == 1 else f"from epoch {first}"
    return f"in epoch {first}" if first == last else f"epochs {first} to {last}"


# ---- results and mistakes


def _results(run: Run) -> Html:
    """Metrics by split at the best epoch, at the last, and on the test sets."""
    best, last, test = run.summary["best"], run.summary["last"], run.summary["test"]
    columns: list[tuple[str, dict[str, Any]]] = []
    if best:
        for split in ("train", "train_eval", "val"):
            part = {k.partition("/")[2]: v for k, v in best.items() if k.startswith(f"{split}/")}
            columns.append((f"{split.replace('_', '-')}, best epoch", part))
    if last and last.get("epoch") != best.get("epoch"):
        part = {k.partition("/")[2]: v for k, v in last.items() if k.startswith("val/")}
        columns.append(("val, last epoch", part))
    columns.append(("test", {k: v for k, v in test.items() if k != "eval_sets"}))
    sets = test.get("eval_sets")
    for name, found in (sets if isinstance(sets, dict) else {}).items():
        columns.append((f"test/{name}", found if isinstance(found, dict) else {}))
    columns = [(name, part) for name, part in columns if part]
    metrics = list(dict.fromkeys(key for _, part in columns for key in part))
    if not metrics:
        return Html("")
    if "images" in metrics:
        metrics = [*(m for m in metrics if m != "images"), "images"]
        sizes = run.summary["data"].get("images")
        if isinstance(sizes, dict):
            for name, part in columns:
                split = name.partition(",")[0]
                if "images" not in part and split in sizes:
                    part["images"] = sizes[split]
    heads = ["metric", *(Column(name, number=True) for name, _ in columns)]
    cells = [
        [metric.replace("_", " "), *(Cell(_value(metric, part.get(metric))) for _, part in columns)]
        for metric in metrics
    ]
    return table(heads, cells, sortable=False, tall=True)


def _mistakes(run: Run) -> Html:
    parts = [_confusions(run), _wrong_images(run), _per_class(run)]
    shown = [part for part in parts if part]
    return join(*shown) if shown else Html("")


def _confusions(run: Run) -> Html:
    lines = read_table(run.folder / "confusion.csv", run.notes)
    made = []
    for split in dict.fromkeys(line["split"] for line in lines):
        part = [line for line in lines if line["split"] == split]
        names = [name for name in part[0] if name not in ("split", "true")]
        try:
            counts = [[int(line[name]) for name in names] for line in part]
        except (TypeError, ValueError):
            continue
        true = [line["true"] for line in part]
        pairs = sorted(
            ((n, true[i], names[j]) for i, row in enumerate(counts) for j, n in enumerate(row)
             if n and i != j),
            key=lambda at: (-at[0], at[1], at[2]),
        )  # fmt: skip
        if len(names) <= MOST_CLASSES:
            right = sum(row[i] for i, row in enumerate(counts) if i < len(row))
            total = sum(map(sum, counts))
            labels = [
                [
                    f"{n} of {sum(row)} images of {t} called {p}"
                    for p, n in zip(names, row, strict=True)
                ]
                for t, row in zip(true, counts, strict=True)
            ]
            made.append(
                heat_map(
                    f"Confusion on {split}",
                    true,
                    names,
                    counts,
                    x_label="predicted",
                    y_label="true",
                    value_label="images",
                    numbers=True,
                    square=True,
                    labels=labels,
                    note=f"{right:,} of {total:,} right, on the diagonal.",
                )  # fmt: skip
            )
        else:
            shown = [[t, p, n] for n, t, p in pairs[:40]]
            heads = ["true", "predicted", Column("images", number=True)]
            made.append(table(heads, shown, caption=f"Most frequent mix-ups on {split}"))
    return grid(*made) if made else Html("")


def _wrong_images(run: Run) -> Html:
    """The pictures that the run kept."""
    file = run.folder / "wrong_images.npz"
    if not file.exists():
        return Html("")
    try:
        import numpy as np

        with np.load(file, allow_pickle=False) as kept:
            found = {key: kept[key] for key in kept.files}
        split, items = str(found["split"]), []
        for i, image in enumerate(found["images"]):
            source = base64.b64encode(png(image)).decode()
            score, true_score = float(found["score"][i]), float(found["true_score"][i])
            said, true = str(found["predicted"][i]), str(found["true"][i])
            sure = f" {percent(score, 0)}" if math.isfinite(score) else ""
            left = f" {percent(true_score, 0)}" if math.isfinite(true_score) else ""
            words = f"{true} taken for {said}"
            items.append(
                element(
                    "li",
                    element("img", src=f"data:image/png;base64,{source}", alt=words, loading="lazy",
                            class_="small" if max(image.shape[:2]) < 40 else None),
                    element("span", element("b", said), sure, title="predicted"),
                    element("span", f"is {true}{left}", class_="quiet"),
                    element("span", _home(str(found["item"][i])), class_="quiet"),
                )
            )  # fmt: skip
    except Exception as error:  # whatever a damaged archive raises
        run.notes.append(f"wrong_images.npz is damaged and was left out: {error}")
        return Html("")
    if not items:
        return Html("")
    return join(
        element("h3", f"Most wrong on {split}"),
        element("p", "Highest loss first: what was predicted and with what probability, what the"
                     " label says and the probability it got.", class_="quiet"),
        element("ul", *items, class_="pictures"),
    )  # fmt: skip


def _per_class(run: Run) -> Html:
    lines = read_table(run.folder / "per_class.csv", run.notes)
    if not lines:
        return Html("")
    names = [name for name in lines[0] if name not in ("split", "class")]
    ranked = sorted(lines, key=lambda line: _float(line.get("f1")) or 0.0)[:MOST_ROWS]
    kept = lines if len(lines) <= MOST_ROWS else ranked
    heads = ["split", "class", *(Column(name.replace("_", " "), number=True) for name in names)]
    cells = [
        [line["split"], line["class"], *(_class_cell(name, line.get(name)) for name in names)]
        for line in kept
    ]
    title = (
        f"Every class ({len(lines)} rows)" if kept is lines else f"The {MOST_ROWS} worst classes"
    )
    return details(title, table(heads, cells))


def _class_cell(name: str, text: str | None) -> Cell:
    value = _float(text)
    if value is None:
        return Cell("–")
    whole = name in ("images", "predicted", "found")
    return Cell(number(int(value)) if whole else percent(value), value)


# ---- tables


def _epochs(run: Run) -> Html:
    rows, best = run.rows, run.summary["best"].get("epoch")
    if not rows:
        return Html("")
    kept = rows
    if len(rows) > MOST_ROWS:
        every = -(-len(rows) // MOST_ROWS)
        kept = [
            r for i, r in enumerate(rows) if i % every == 0 or r["epoch"] == best or r is rows[-1]
        ]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shown = [
        key
        for key in keys
        if key not in ("epoch", "step")
        and not key.endswith("_se")
        and key.split("/")[0] not in ("lr", "lr_scale", "drift", "update_ratio")
    ]
    heads = [Column("epoch", number=True), *(Column(key, number=True) for key in shown)]
    cells = [
        [
            Cell(f"{row['epoch']} best" if row["epoch"] == best else row["epoch"], row["epoch"],
                 mark="best" if row["epoch"] == best else ""),
            *(_row_cell(key, row) for key in shown),
        ]
        for row in kept
    ]  # fmt: skip
    some = "" if kept is rows else f" ({len(kept)} of {len(rows)}; metrics.jsonl has all)"
    return table(heads, cells, caption=f"A row per epoch{some}")


def _row_cell(key: str, row: Mapping[str, Any]) -> Cell:
    value, se = row.get(key), row.get(f"{key}_se")
    sort = float(value) if isinstance(value, int | float) else None
    if value is None:
        return Cell("–")
    if se is not None and not _is_share(key):
        return Cell(plus_minus(value, se), sort)
    return Cell(_value(key, value, se), sort)


def _configuration(run: Run) -> Html:
    if not run.config:
        return Html("")
    choices, folders, _ = read_choices(run.folder)
    made = changes(run.config, choices, folders)
    parts = [element("h3", "Run it again"), _command(run)]
    parts.append(element("h3", "What differs from the defaults"))
    rows = [
        *([change.key, _plain(change.default), _plain(change.value)] for change in made.choices),
        *([change.key, _plain(change.default), _plain(change.value)] for change in made.settings),
    ]
    if rows:
        parts.append(table(["setting", "default", "this run"], rows, sortable=False, tall=True))
    elif choices:
        parts.append(element("p", "Nothing: this is the default run.", class_="quiet"))
    else:
        parts.append(element("p", "Not known: .hydra/ is missing.", class_="quiet"))
    text = "\n".join(f"{key}: {_plain(value)}" for key, value in flat(run.config).items())
    parts.append(details("Every setting, as it ran", code_block(_home(text))))
    return join(*parts)


def _command(run: Run) -> Html:
    """The exact command, and the code it ran."""
    _, folders, cwd = read_choices(run.folder)
    settings = flat(run.config)
    words = ["python", "-m", "lrexp"]
    words += [word for folder in folders for word in ("--config-dir", str(folder))]
    for override in run.overrides:
        key, _, value = override.partition("=")
        if value == "latest" and isinstance(settings.get(key), str):  # another run by now
            override = f"{key}={settings[key]}"
        words.append(override)
    line = " ".join(shlex.quote(word) for word in words)
    target = _section(run, "model").get("target")
    if isinstance(target, str):
        line = f"LREXP_ALLOW_TARGETS={shlex.quote(target.partition('.')[0])} {line}"
    commit, changed = run.environment.get("commit"), run.environment.get("diff_hash")
    code = f"lrexp {run.environment.get('lrexp')}" if run.environment.get("lrexp") else ""
    if commit:
        code += f", commit {commit}"
    if changed:
        code += f", with uncommitted changes (hash {changed})"
    lines = [f"cd {shlex.quote(cwd)}", line] if cwd else [line]
    under = "The same command on the same code, machine type and thread count gives the same bits on CPU."
    ran = f" It ran {code}." if code else ""
    if not run.overrides and not (run.folder / ".hydra" / "overrides.yaml").exists():
        under = (
            "What was typed is not known (.hydra/overrides.yaml is missing); this is the default."
        )
    return join(code_block(_home("\n".join(lines))), element("p", under, ran, class_="under"))


def _environment(run: Run) -> Html:
    found = run.environment
    if not found:
        return Html("")
    packages = found.get("packages")
    prints = found.get("fingerprints")
    pairs: list[tuple[Any, Any]] = [
        ("device", found.get("gpu") or found.get("device")),
        (
            "CPU",
            f"{found.get('cpu')}, {found.get('cpu_count')} cores, {found.get('threads')} threads",
        ),
        ("system", found.get("os")),
        ("Python", found.get("python")),
        ("code", " ".join(str(found[k]) for k in ("lrexp", "commit", "diff_hash") if found.get(k))),
    ]
    if isinstance(packages, dict):
        said = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        pairs.append(("packages", said))
    if isinstance(prints, dict):
        pairs += [(f"{name} fingerprint", element("code", p)) for name, p in prints.items()]
    for key in ("config_id", "plan_hash", "run_id"):
        if run.summary.get(key):
            pairs.append((key.replace("_", " "), element("code", run.summary[key])))
    timings = run.summary["timings"]
    if timings:
        pairs.append(
            (
                "time",
                ", ".join(f"{k.removesuffix('_s')} {_duration(v)}" for k, v in timings.items()),
            )
        )
    sizes = run.summary["data"].get("images")
    if isinstance(sizes, dict):
        pairs.append(("images", ", ".join(f"{number(n)} {name}" for name, n in sizes.items())))
    links = [
        name
        for name in ("config.yaml", "plan.csv", "metrics.jsonl", "summary.json", "predictions.parquet",
                     "lrexp.log")
        if (run.folder / name).exists()
    ]  # fmt: skip
    if links:
        parts = [join(", " if i else "", link(name, name)) for i, name in enumerate(links)]
        pairs.append(("files", join(*parts)))
    return definitions([(name, value) for name, value in pairs if value])


def _log(run: Run) -> Html:
    """The end of lrexp.log, of a run that did not simply finish."""
    if run.status == "finished":
        return Html("")
    try:
        lines = (run.folder / "lrexp.log").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return Html("")
    text = "\n".join(line[:500] for line in lines[-LOG_LINES:])
    return code_block(_home(text)) if text else Html("")


# ---- parts


def _section(run: Run, name: str) -> dict[str, Any]:
    found = run.config.get(name)
    return found if isinstance(found, dict) else {}


def _chosen(run: Run, group: str) -> str:
    return str(_section(run, group).get("name") or "")


def _monitor(run: Run) -> str:
    return str(_section(run, "trainer").get("monitor") or "val/loss")


def _of_epochs(run: Run) -> str:
    done = run.rows[-1]["epoch"] if run.rows else 0
    return f" of {done}" if done > 1 else ""


def _rate_words(run: Run) -> str:
    optimizer, model, data = (_section(run, name) for name in ("optimizer", "model", "data"))
    if not (optimizer and model and data):
        return ""
    return (
        f"{model.get('name')} on {data.get('name')}, {optimizer.get('name')} at"
        f" {number(optimizer.get('lr'))}, {_chosen(run, 'scheduler')}, seed {run.config.get('seed')}"
    )


def _images(run: Run, split: str) -> str:
    sizes = run.summary["data"].get("images")
    count = sizes.get(split) if isinstance(sizes, dict) else None
    return f"{count:,} images" if isinstance(count, int) else ""


def _binomial_se(share: Any, images: Any) -> float | None:
    """√(p(1−p)/n): the standard error of a share of n images."""
    if not isinstance(share, int | float) or not isinstance(images, int) or not images:
        return None
    return math.sqrt(share * (1 - share) / images) if 0 <= share <= 1 else None


def _grouped(run: Run) -> bool:
    """Images of one group are alike: errors that take them for independent are too small."""
    return bool(_section(run, "data").get("group_by"))


def _accuracy_se(run: Run, accuracy: Any) -> float | None:
    sizes = run.summary["data"].get("images")
    images = sizes.get("val") if isinstance(sizes, dict) else None
    return None if _grouped(run) else _binomial_se(accuracy, images)


def _monitor_se(run: Run) -> float | None:
    """The standard error of the monitor at the best epoch, where the files tell."""
    monitor, best = _monitor(run), run.summary["best"]
    if monitor == "val/accuracy":
        return _accuracy_se(run, best.get(monitor))
    if monitor in ("gap/loss", "gap/accuracy", "overfit/loss", "overfit/accuracy"):
        return best.get(f"{monitor}_se")
    if monitor == "val/loss" and not _grouped(run):
        return _val_loss_se(run.folder, best.get(monitor))
    return None


def _val_loss_se(folder: Path, loss: Any) -> float | None:
    """s/√n of the per-image losses −ln p(label) of the best weights; None where the files cannot
    tell, or their mean is not the loss that was recorded."""
    try:
        import numpy as np
        import pyarrow.parquet as pq

        file = pq.ParquetFile(folder / "predictions.parquet")
        counts = file.metadata
        if (
            sum(counts.row_group(i).column(4).num_values for i in range(counts.num_row_groups))
            > MOST_SCORES
        ):
            return None
        found = file.read(["split", "label", "scores"])
        labels = np.asarray(found["label"].to_numpy())
        val = np.asarray(found["split"].to_numpy()) == "val"
        scores = found["scores"].combine_chunks().flatten().to_numpy().reshape(len(labels), -1)
        if labels.ndim != 1 or labels.dtype == object:  # several labels per image
            return None
        right = scores[np.arange(len(labels)), labels][val].astype(np.float64)
        losses = -np.log(np.maximum(right, 1e-45))
    except Exception:  # a damaged or foreign file: the error is not known
        return None
    if (
        len(losses) < 2
        or not isinstance(loss, float)
        or abs(losses.mean() - loss) > 1e-3 * max(1, loss)
    ):
        return None
    return float(losses.std(ddof=1) / math.sqrt(len(losses)))


def _is_share(name: str) -> bool:
    return "accuracy" in name or name.rpartition("/")[2] in (
        "f1_macro",
        "f1",
        "precision",
        "recall",
    )


def _metric(name: str, value: Any, se: float | None) -> str:
    """A metric with its error where that is known: `0.172 ± 0.037`, `95.0 ± 1.2 %`."""
    if _is_share(name):
        if se and isinstance(value, int | float) and math.isfinite(value):
            return f"{100 * value:.1f} ± {100 * se:.1f} %"
        return percent(value)
    return plus_minus(value, se) if se else number(value)


def _value(name: str, value: Any, se: float | None = None) -> str:
    if name.startswith("overfit/accuracy") or name.startswith("gap/accuracy"):
        return _metric(name, value, se).replace(" %", " points")
    if name == "images":
        return number(value)
    return _metric(name, value, se) if _is_share(name) else number(value, 4)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{number(float(seconds), 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _column(
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


def _less(values: Sequence[float | None], errors: Sequence[float | None]) -> list[float | None]:
    return [None if v is None or e is None else v - e for v, e in zip(values, errors, strict=True)]


def _more(values: Sequence[float | None], errors: Sequence[float | None]) -> list[float | None]:
    return [None if v is None or e is None else v + e for v, e in zip(values, errors, strict=True)]


def _epochs_of(rows: Sequence[Mapping[str, Any]]) -> list[float]:
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
    bad = [r["epoch"] for r in rows if not all(_finite(r.get(key)) for key in keys)]
    if bad:
        marks.append(Mark(bad[0], "diverged", "bad"))
    return marks


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _wide(values: Sequence[float]) -> bool:
    """Whether a linear axis would hide most of it."""
    return bool(values) and max(values) > 50 * min(values)


def _groups(run: Run) -> list[str]:
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


def _steps_per_epoch(run: Run, planned: Sequence[Mapping[str, str]]) -> float:
    for row in run.rows:
        if row["epoch"] and isinstance(row.get("step"), int | float):
            return row["step"] / row["epoch"]
    epochs = _section(run, "trainer").get("epochs")
    if planned and isinstance(epochs, int) and epochs:
        return (int(planned[-1]["step"]) + 1) / epochs
    return 0.0


def _float(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _home(text: str) -> str:
    """Without the name of the home folder: reports are passed on."""
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 3 else text
