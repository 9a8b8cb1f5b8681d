"""report.html of one run: what came out, how it learned, how fast each layer, what is wrong."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.folder.files import write_atomically
from lrexp.report.html.charts import Bar, bar_chart, heat_map
from lrexp.report.html.page import (
    Cell,
    Column,
    Html,
    Section,
    badge,
    code_block,
    definitions,
    details,
    duration,
    element,
    escaped,
    facts,
    grid,
    head,
    join,
    link,
    notes,
    number,
    page,
    percent,
    plus_minus,
    table,
    without_home,
)
from lrexp.report.html.pixels import png
from lrexp.report.run.curves import layer_charts, learning_charts
from lrexp.report.run.defaults import changes, flat
from lrexp.report.run.words import (
    as_number,
    as_rate,
    headline,
    is_finite,
    is_share,
    key_figures,
    leak_remarks,
    metric_text,
    monitor_of,
    option_of_group,
    remarks,
    setting_words,
    settings_of,
)
from lrexp.runs.run import PlanRow, Run, is_sweep, read_choices, read_run, read_table

FILE = "report.html"
MOST_ROWS = 300  # epochs in the table
MOST_TENSORS = 600
MOST_CLASSES = 60  # of a confusion matrix that is drawn; of more, only the most frequent mix-ups
SPOKEN_CLASSES = 25  # up to so many every cell has a sentence of its own
# columns of the table of epochs that fit on paper
PRINTED = {
    "train/loss", "train_eval/loss", "val/loss", "gap/loss", "overfit/loss", "train_eval/accuracy",
    "val/accuracy",
}  # fmt: skip
LOG_LINES = 60


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
    policy = option_of_group(run, "lr_policy")
    title = f"{name} · {policy}" if policy else name
    sections = [
        _section(run, title, build)
        for title, build in (
            ("Learning", learning_charts),
            ("Rates and layers", layer_charts),
            ("Plan", _plan),
            ("Results", _results),
            ("Mistakes", _mistakes),
            ("Epochs", _epochs),
            ("Configuration", _configuration),
            ("Environment", _environment),
            ("Log", _log),
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
    plan, base = run.plan, settings_of(run, "optimizer").get("lr")
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
        return Bar(name, rates[-1], f"{as_rate(rates[-1])} at most", f"{size}{when} · measured")
    text = as_rate(rates[-1]) if len(rates) == 1 else f"{as_rate(rates[0])} … {as_rate(rates[-1])}"
    return Bar(name, rates[-1], text, f"{size}{when}{part}")


def _span(row: PlanRow) -> str:
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
            labels = []
            if len(names) <= SPOKEN_CLASSES:
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
                )
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
        if is_sweep(run.folder.parent) and (run.folder / "confusion.csv").exists():
            words = (
                "Points of a grid keep no pictures; the same command alone keeps the most wrong."
            )
            return element("p", words, class_="under")
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
            sure = f" ({_percent(score)})" if math.isfinite(score) else ""
            left = f" ({_percent(true_score)})" if math.isfinite(true_score) else ""
            words, item = f"{true} taken for {said}", without_home(str(found["item"][i]))
            items.append(
                element(
                    "li",
                    element("img", src=f"data:image/png;base64,{source}", alt=words,
                            class_="small" if max(image.shape[:2]) < 40 else None),
                    element("span", "taken for ", element("b", said), sure),
                    element("span", f"is {true}{left}", class_="quiet"),
                    element("span", item.rpartition("/")[2], class_="quiet", title=item),
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


def _percent(share: float) -> str:
    return percent(share, 0).replace(" ", "\u00a0")  # on one line


def _per_class(run: Run) -> Html:
    lines = read_table(run.folder / "per_class.csv", run.notes)
    if not lines:
        return Html("")
    names = [name for name in lines[0] if name not in ("split", "class")]
    ranked = sorted(lines, key=lambda line: as_number(line.get("f1")) or 0.0)[:MOST_ROWS]
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
    value = as_number(text)
    if value is None:
        return Cell("–")
    whole = name in ("images", "predicted", "found")
    return Cell(number(int(value)) if whole else percent(value), value)


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
    text = "\n".join(
        f"{key}: {'null' if value is None else _plain(value)}"
        for key, value in flat(run.config).items()
    )
    parts.append(details("Every setting, as it ran", code_block(without_home(text))))
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
    target = settings_of(run, "model").get("target")
    if isinstance(target, str):
        line = f"LREXP_ALLOW_TARGETS={shlex.quote(target.partition('.')[0])} {line}"
    commit, changed = run.environment.get("commit"), run.environment.get("diff_hash")
    code = f"lrexp {run.environment.get('lrexp')}" if run.environment.get("lrexp") else ""
    if commit:
        code += f", commit {commit}"
    if changed:
        code += f", with uncommitted changes (hash {changed})"
    lines = [f"cd {shlex.quote(cwd)}", line] if cwd else [line]
    under = "On CPU the same code, machine type and thread count give the same bits."
    ran = f" It ran {code}." if code else ""
    if not run.overrides and not (run.folder / ".hydra" / "overrides.yaml").exists():
        under = (
            "What was typed is not known (.hydra/overrides.yaml is missing); this is the default."
        )
    return join(
        code_block(without_home("\n".join(lines))), element("p", under, ran, class_="under")
    )


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
            f"{found.get('cpu')}, {found.get('cpu_count')} cores, threads: {found.get('threads')}",
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
                ", ".join(f"{k.removesuffix('_s')} {duration(v)}" for k, v in timings.items()),
            )
        )
    sizes = run.summary["data"].get("images")
    if isinstance(sizes, dict):
        pairs.append(("images", ", ".join(f"{number(n)} {name}" for name, n in sizes.items())))
    links = [
        name
        for name in ("config.yaml", "plan.csv", "metrics.jsonl", "summary.json", "lrexp.log")
        if (run.folder / name).exists()
    ]
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
    return code_block(without_home(text)) if text else Html("")


def _plain(value: Any) -> str:
    if value is None or value == "???":  # what Hydra calls a setting without a default
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
