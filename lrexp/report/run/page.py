"""report.html of one run: what came out, how it learned, how fast each layer, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrexp.folder.files import refuse_foreign, write_atomically
from lrexp.folder.layout import REPORT
from lrexp.judge.words import capital, leak_effect_in_words, learning_in_words
from lrexp.plan.plan import Row
from lrexp.report.html.charts import Bar, bar_chart, drawn
from lrexp.report.html.page import (
    MARK,
    Cell,
    Column,
    Section,
    element,
    join,
    number,
    page,
    table,
    tags,
    without_home,
)
from lrexp.report.run.figures import (
    MOST_LINES,
    groups_in_words,
    groups_of,
    layer_figures,
    learning_figures,
    rate_map,
)
from lrexp.report.run.findings import findings
from lrexp.report.run.mistakes import mistakes
from lrexp.report.run.origin import configuration, environment, log_end
from lrexp.report.run.words import (
    as_rate,
    headline,
    images_of,
    key_figures,
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
    file = folder / REPORT
    refuse_foreign(file, MARK)
    write_atomically(file, run_page(read_run(folder)))
    return file


def run_page(run: Run) -> str:
    """The whole report as HTML."""
    parts = {
        "Verdicts": findings,
        "Learning": learning,
        "Rates and layers": _layers,
        "Plan": plan_of_layers,
        "Results": _results,
        "Mistakes": mistakes,
        "Epochs": _epochs,
        "Configuration": configuration,
        "Environment": environment,
        "Log": log_end,
    }
    sections = [Section(name, _part(run, name, build)) for name, build in parts.items()]
    return page(title_of(run), top_of(run), sections, "run")


def title_of(run: Run) -> str:
    """The run's name and its policy."""
    name = str(run.config.get("name") or run.summary.get("name") or run.folder.name)
    return " · ".join(filter(None, (name, option_of_group(run, "lr_policy"))))


def _part(run: Run, title: str, build: Callable[[Run], Any]) -> Any:
    """A part of the page. What a damaged file makes impossible is left out and noted."""
    try:
        return build(run)
    except Exception as error:  # files may hold anything: no part may cost the others
        run.notes.append(f"{title}: left out, {type(error).__name__}: {error}")
        return Markup()


def top_of(run: Run) -> Markup:
    """What stands above the sections: how it ended, what came out, what to know of it."""

    def part(title: str, build: Callable[[Run], Any]) -> Any:
        return _part(run, title, build)

    error = run.summary.get("error")
    said = part("headline", headline).replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
    above = [
        tags.notes([without_home(str(error))] if error else [], "error"),
        tags.facts(part("figures", key_figures)) if run.rows else "",
        tags.notes(part("remarks", remarks), "warning"),
        tags.notes(part("remarks", _told_before)),
        tags.notes(part("copies", leak_remarks)),
        tags.notes(run.notes, "warning"),
    ]
    over = [tags.badge(run.status), setting_words(run), run.folder.name]
    return tags.head(over, title_of(run), said, above)


def _told_before(run: Run) -> list[str]:
    """Of data, plan and schedule, before the first step."""
    return [f"{capital(without_home(str(line)).rstrip('.'))}." for line in run.summary["remarks"]]


def leak_remarks(run: Run) -> list[str]:
    """What images with a twin in the training set do to val accuracy."""
    twins = leak_effect_in_words(run.summary)
    return [f"Copies across splits: {twins}"] if twins else []


def learning(run: Run) -> Markup:
    """Loss, gap, accuracy and overfitting over the epochs."""
    if not run.rows:
        return tags.notes(["No epoch was finished: there is nothing to draw."])
    figures = learning_figures(run)
    return tags.grid([tags.notes([] if "loss" in figures else [NO_LOSS]),
                      *map(drawn, figures.values())])  # fmt: skip


def _layers(run: Run) -> Markup:
    """Rates, sizes of steps and drift by parameter group."""
    figures = layer_figures(run)
    if "rates" in figures and len(groups_of(run)) > MOST_LINES and run.rows:
        figures["rates"] = rate_map(run)
    lead = groups_in_words(run) if figures else ""
    words = element("p", lead, "lead") if lead else ""
    return join(words, tags.grid(list(map(drawn, figures.values()))))


def plan_of_layers(run: Run) -> Markup:
    """Rates by layer, and all tensors."""
    plan, base = run.plan.rows, settings_of(run, "optimizer").get("lr")
    if not plan or not isinstance(base, int | float):
        return Markup()
    lead = f"Base rate {as_rate(base)}; a layer's rate is base × scale, before schedule and g(t)."
    proof = run.summary.get("frozen_proof") or {}
    if proof.get("tensors") and proof.get("identical"):
        frozen = f"{proof['tensors']} frozen tensors and buffers"
        lead = f"{lead} {frozen} are bit-identical before and after training."
    learnt = run.summary.get("learning_proof")
    if learnt and (said := learning_in_words(learnt)):  # without a step there is nothing to say
        lead = f"{lead} {capital(said)}."
    layers: dict[tuple[int, str], list[Row]] = {}
    for row in plan:
        layers.setdefault((row.layer, row.layer_name), []).append(row)
    bars = [_bar(name, rows, base) for (_, name), rows in sorted(layers.items())]
    heading = (
        "tensor", "shape", "layer", "group", "weights", Column("scale", number=True),
        Column("rate", number=True), Column("decay", number=True), "trains",
        Column("g(t)", hint="the policy's own factor over time"),
    )  # fmt: skip
    cells = [
        [
            Cell(element("code", row.name), row.name),
            Cell("×".join(map(str, row.shape)) or "1", row.size),
            Cell(row.layer_name, row.layer),
            row.group,
            f"{row.source}{', head' if row.head else ''}",
            *_rate_cells(row, base),
            Cell(_span(row), float(row.trainable_from), mark="quiet" if row.frozen else ""),
            row.g or "1",
        ]
        for row in plan[:MOST_TENSORS]
    ]
    more = f" (the first {MOST_TENSORS}; plan.csv has all)" if len(plan) > MOST_TENSORS else ""
    return join(
        element("p", lead, "lead"),
        bar_chart("Rate by layer, from the input to the head", bars),
        tags.details(f"All {len(plan)} tensors{more}", table(heading, cells, tall=True)),
    )


def _rate_cells(row: Row, base: float) -> list[Cell]:
    """Scale, rate and weight decay."""
    if row.frozen:
        return [Cell("–", 0.0), Cell("–", 0.0), Cell("–", row.weight_decay)]
    scale, rate = row.lr_scale, base * row.lr_scale
    shown = "measured" if row.measured else number(scale, 4)
    decay = Cell(number(row.weight_decay), row.weight_decay)
    return [Cell(shown, scale), Cell(as_rate(rate), rate), decay]


def _bar(name: str, rows: Sequence[Row], base: float) -> Bar:
    size = f"{sum(row.size for row in rows):,} parameters"
    trained = [row for row in rows if not row.frozen]
    if not trained:
        return Bar(name, None, "frozen", size)
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


def _results(run: Run) -> Markup:
    """Metrics by split at the best epoch, at the last, and on the test sets."""
    best, last, test = run.summary["best"], run.summary["last"], dict(run.summary["test"])
    moments = [(split, best, "best") for split in ("train", "train_eval", "val")]
    if last.get("epoch") != best.get("epoch"):
        moments.append(("val", last, "last"))
    columns = {
        f"{split.replace('_', '-')}, {moment} epoch": {
            key.removeprefix(f"{split}/"): value
            for key, value in row.items()
            if key.startswith(f"{split}/")
        }
        for split, row, moment in moments
    }
    sets = test.pop("eval_sets", {})
    columns |= {"test": test} | {f"test/{name}": found for name, found in sets.items()}
    columns = {name: part for name, part in columns.items() if part}
    metrics = list(dict.fromkeys(key for part in columns.values() for key in part))
    if not metrics:
        return Markup()
    if "images" in metrics:
        metrics.sort(key="images".__eq__)  # last
        for name, part in columns.items():
            part.setdefault("images", images_of(run).get(name.partition(",")[0]))
    heads = ["metric", *(Column(name, number=True) for name in columns)]
    cells = [
        [
            metric.replace("_", " "),
            *(Cell(metric_text(metric, part.get(metric))) for part in columns.values()),
        ]
        for metric in metrics
    ]
    return table(heads, cells, sortable=False, tall=True)


def _epochs(run: Run) -> Markup:
    rows, best = run.rows, run.summary["best"].get("epoch")
    if not rows:
        return Markup()
    every = -(-len(rows) // MOST_ROWS)
    kept = [r for i, r in enumerate(rows) if i % every == 0 or r["epoch"] == best or r is rows[-1]]
    shown = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if key not in ("epoch", "step", "guessing")
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
            Cell(f"{row['epoch']} best", row["epoch"], mark="best")
            if row["epoch"] == best
            else Cell(row["epoch"], row["epoch"]),
            *(
                Cell(metric_text(key, row.get(key), row.get(f"{key}_se")), row.get(key))
                for key in shown
            ),
        ]
        for row in kept
    ]
    fewer = len(kept) < len(rows)
    some = f" ({len(kept)} of {len(rows)}; metrics.jsonl has all)" if fewer else ""
    return table(heads, cells, caption=f"A row per epoch{some}")
