"""report.html of one run: what came out, how it learned, how fast each layer, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.folder.files import write_atomically
from lrexp.folder.layout import REPORT
from lrexp.judge.words import is_share
from lrexp.plan.plan import Row
from lrexp.report.html.charts import Bar, bar_chart, drawn
from lrexp.report.html.page import (
    Cell,
    Column,
    Html,
    Section,
    badge,
    details,
    element,
    escaped,
    facts,
    grid,
    head,
    join,
    notes,
    number,
    page,
    plus_minus,
    table,
    without_home,
)
from lrexp.report.run.figures import (
    MOST_LINES,
    groups_in_words,
    groups_of,
    layer_figures,
    layers_of,
    learning_figures,
    rate_map,
)
from lrexp.report.run.mistakes import mistakes
from lrexp.report.run.origin import configuration, environment, log_end
from lrexp.report.run.words import (
    as_rate,
    headline,
    is_finite,
    key_figures,
    leak_remarks,
    metric_text,
    monitor_of,
    option_of_group,
    remarks,
    setting_words,
    settings_of,
)
from lrexp.runs.run import Run, read_run

MOST_ROWS = 300  # epochs in the table
MOST_TENSORS = 600
NO_LOSS = "No loss was a finite number in any epoch: there is no curve to draw."
# columns of the table of epochs that fit on paper
PRINTED = {
    "train/loss", "train_eval/loss", "val/loss", "gap/loss", "overfit/loss", "train_eval/accuracy",
    "val/accuracy",
}  # fmt: skip


def write_run_report(folder: Path) -> Path:
    """Write report.html of a run folder from its files alone; what is missing is left out.

    Returns:
        The file.

    Raises:
        OSError: when it cannot be written.
    """
    run = read_run(folder)
    file = folder / REPORT
    write_atomically(file, run_page(run))
    return file


def run_page(run: Run) -> str:
    """The whole report as HTML."""
    name = str(run.config.get("name") or run.summary.get("name") or run.folder.name)
    policy = option_of_group(run, "lr_policy")
    title = f"{name} · {policy}" if policy else name
    sections = [
        _section(run, title, build)
        for title, build in (
            ("Learning", _learning),
            ("Rates and layers", _layers),
            ("Plan", _plan),
            ("Results", _results),
            ("Mistakes", mistakes),
            ("Epochs", _epochs),
            ("Configuration", configuration),
            ("Environment", environment),
            ("Log", log_end),
        )
    ]
    over = [badge(run.status), setting_words(run), run.folder.name]
    error = run.summary.get("error")
    top = head(
        [part for part in over if part],
        title,
        _section(run, "headline", _headline).body,
        notes([without_home(str(error))] if error else [], "error"),
        _section(run, "figures", _facts).body,
        _section(run, "remarks", lambda run: notes(remarks(run), "warning")).body,
        _section(run, "copies", lambda run: notes(leak_remarks(run))).body,
        notes(run.notes, "warning"),
    )
    return page(title, top, sections, "run")


def _section(run: Run, title: str, build: Callable[[Run], Html]) -> Section:
    """One part of the page. What a damaged file makes impossible is left out and noted."""
    try:
        return Section(title, build(run))
    except Exception as error:  # files may hold anything: no part may cost the others
        run.notes.append(f"{title}: left out, {type(error).__name__}: {error}")
        return Section(title, Html(""))


def _headline(run: Run) -> Html:
    kept = headline(run).replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")  # on one line
    return escaped(kept)


def _facts(run: Run) -> Html:
    return facts(key_figures(run)) if run.rows else Html("")


def _learning(run: Run) -> Html:
    """Loss, gap, accuracy and overfitting over the epochs."""
    if not run.rows:
        return notes(["No epoch was finished: there is nothing to draw."])
    figures = learning_figures(run)
    missing = None if "loss" in figures else notes([NO_LOSS])
    return grid(missing, *map(drawn, figures.values()))


def _layers(run: Run) -> Html:
    """Rates, sizes of steps and drift by parameter group."""
    figures, groups = layer_figures(run), groups_of(run)
    if "rates" in figures and len(groups) > MOST_LINES and run.rows:
        figures["rates"] = rate_map(run)
    if not figures:
        return Html("")
    layers = layers_of(run)
    lead = groups_in_words({group: layers.get(group, []) for group in groups})
    words = element("p", lead, class_="lead") if lead else None
    return join(words, grid(*map(drawn, figures.values())))


def _plan_words(run: Run) -> str:
    base = settings_of(run, "optimizer").get("lr")
    proof = run.summary.get("frozen_proof") or {}
    frozen = proof.get("tensors")
    same = (
        f" {frozen} frozen tensors and buffers are bit-identical before and after training."
        if frozen and proof.get("identical")
        else ""
    )
    rate = f"Base rate {as_rate(base)}; a layer's rate is base × scale, before schedule and g(t)."
    return rate + same


def _plan(run: Run) -> Html:
    plan, base = run.plan.rows, settings_of(run, "optimizer").get("lr")
    if not plan or not isinstance(base, int | float):
        return Html("")
    layers: dict[tuple[int, str], list[Row]] = {}
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
            Cell("×".join(map(str, row.shape)) or "1", row.size),
            Cell(row.layer_name, row.layer),
            row.group,
            f"{row.source}{', head' if row.head else ''}",
            Cell("–" if row.frozen else "measured" if row.measured else number(row.lr_scale, 4),
                 0.0 if row.frozen else row.lr_scale),
            Cell("–" if row.frozen else as_rate(base * row.lr_scale),
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
        element("p", _plan_words(run), class_="lead"),
        bar_chart(
            "Rate by layer, from the input to the head", bars, log=log,
            note="Bar lengths are logarithmic." if log else "",
        ),
        details(f"All {len(plan)} tensors{more}", table(heading, cells, tall=True)),
    )  # fmt: skip


def _bar(name: str, rows: Sequence[Row], base: float) -> Bar:
    size = f"{sum(row.size for row in rows):,} parameters"
    trained = [row for row in rows if not row.frozen]
    if not trained:
        return Bar(name, None, "frozen", size, hatched=True)
    rates = sorted({base * row.lr_scale for row in trained})
    spans = sorted({_span(row) for row in trained})
    when = "" if spans == ["always"] else f" · trains {', '.join(spans)}"
    part = f" · {sum(r.size for r in trained):,} of them train" if len(trained) < len(rows) else ""
    if any(row.measured for row in trained):
        return Bar(name, rates[-1], f"{as_rate(rates[-1])} at most", f"{size}{when} · measured")
    text = as_rate(rates[-1]) if len(rates) == 1 else f"{as_rate(rates[0])} … {as_rate(rates[-1])}"
    return Bar(name, rates[-1], text, f"{size}{when}{part}")


def _span(row: Row) -> str:
    """When a parameter trains, in epochs counted from 1."""
    first, last = row.trainable_from + 1, row.trainable_until
    if row.frozen:
        return "never"
    if last is None:
        return "always" if first == 1 else f"from epoch {first}"
    return f"in epoch {first}" if first == last else f"epochs {first} to {last}"


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
        [
            metric.replace("_", " "),
            *(Cell(metric_text(metric, part.get(metric))) for _, part in columns),
        ]
        for metric in metrics
    ]
    return table(heads, cells, sortable=False, tall=True)


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
    printed = {*PRINTED, monitor_of(run)}
    heads = [
        Column("epoch", number=True),
        *(Column(key, number=True, screen_only=key not in printed) for key in shown),
    ]
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
    if se is not None and not is_share(key) and is_finite(value):
        return Cell(plus_minus(value, se), sort)
    return Cell(metric_text(key, value, se), sort)
