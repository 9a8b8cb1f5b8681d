"""which.html: what a comparison came to, and the files beside it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrexp.folder.files import refuse_foreign, write_atomically
from lrexp.folder.layout import COMPARISON, COMPARISON_TABLES, WHICH
from lrexp.judge.comparison import Compared
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.judge.words import is_share
from lrexp.report.comparison.figures import (
    forest_figure,
    ladder_figures,
    ladder_lead,
    seed_rows,
)
from lrexp.report.comparison.files import (
    CSV_MARK,
    JSON_MARK,
    TEXT_MARK,
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_tex,
)
from lrexp.report.comparison.words import (
    GONE,
    baseline_of,
    cut,
    decimals,
    detail_words,
    difference_words,
    is_deciding,
    margin_words,
    metric_words,
    names_of,
    needs_words,
    p_words,
    rate_words,
    reading,
    score_words,
    sentences,
    signed,
    verdict_words,
)
from lrexp.report.html.charts import drawn
from lrexp.report.html.page import (
    MARK,
    Cell,
    Column,
    Section,
    duration,
    element,
    is_finite,
    join,
    link,
    number,
    page,
    plus_minus,
    table_of,
    tags,
    without_home,
)

LONG_NAME = 36  # letters that a cell keeps on one line
SEEDS_LEAD = "Every seed is a dot, the bar their mean. What stands at the very edge lies beyond it."


def write_conclusion(folder: Path, conclusion: Conclusion) -> Path:
    """Write which.html, comparison.json and the table as CSV, Markdown and LaTeX into a folder.

    Each file is replaced as a whole.

    Returns:
        The page.

    Raises:
        UserError: when one of them is there that lrexp did not write; then none is written.
        OSError: when they cannot be written.
    """
    table_csv, table_markdown, table_tex = (folder / name for name in COMPARISON_TABLES)
    made = {
        folder / COMPARISON: (JSON_MARK, comparison_json(conclusion)),
        table_csv: (CSV_MARK, comparison_csv(conclusion)),
        table_markdown: (TEXT_MARK, comparison_markdown(conclusion)),
        table_tex: (TEXT_MARK, comparison_tex(conclusion)),
        folder / WHICH: (MARK, conclusion_page(conclusion)),
    }
    for file, (mark, _) in made.items():
        refuse_foreign(file, mark)
    for file, (_, text) in made.items():
        write_atomically(file, text)
    return folder / WHICH


def conclusion_page(conclusion: Conclusion) -> str:
    """The whole page as HTML."""
    first, rest = _split(conclusion.sentence)
    forest = forest_figure(conclusion)
    going = "This is what is known so far: the comparison has not ended."
    top = tags.head(
        [tags.badge("finished" if conclusion.finished else "unfinished"), *_over(conclusion)],
        _together(first),
        _together(rest),
        [
            _figures(conclusion) if conclusion.rows else "",
            tags.notes([] if conclusion.finished else [going], "warning"),
            tags.notes([_together(line) for line in sentences(conclusion)], "warning"),
            tags.notes([_together(remark) for remark in conclusion.remarks]),
        ],
    )
    ladders = [drawn(chart) for chart in ladder_figures(conclusion)]
    seeds = seed_rows(conclusion)
    sections = [
        Section("Differences", drawn(forest) if forest else Markup()),
        Section("Table", _table(conclusion), reading(conclusion)),
        Section("How to read this", tags.definitions(_meanings(conclusion))),
        Section("Rates", tags.grid(ladders, 270), ladder_lead(conclusion) if ladders else ""),
        Section("Seeds", seeds, SEEDS_LEAD),
        Section("What it cost", tags.definitions(conclusion.cost) if conclusion.cost else Markup()),
        Section("How it was made", _origin(conclusion)),
    ]
    return without_home(page(first, top, sections, "comparison"))


def _split(sentence: str) -> tuple[str, str]:
    """The first sentence, and what follows it."""
    first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", sentence.strip(), maxsplit=1)
    return first, " ".join(rest)


def _together(text: str) -> str:
    """Numbers are not parted from their errors and units."""
    for apart in (" ± ", " %", ", +", ", −"):
        text = text.replace(apart, apart.replace(" ", "\u00a0"))
    return text


def _over(conclusion: Conclusion) -> list[str]:
    """Small print above the title."""
    deciding = "confirmed on the test split" if is_deciding(conclusion) else "exploratory"
    return [deciding if conclusion.split in ("test", "val") else f"on {conclusion.split}"]


def _figures(conclusion: Conclusion) -> Markup:
    share, seeds = is_share(conclusion.metric), conclusion.seeds
    smallest, margin = conclusion.smallest_margin, conclusion.margin
    reach = f"these images allow {margin_words(smallest, share)}" if math.isfinite(smallest) else ""
    named = f"{seeds[0]} … {seeds[-1]}" if len(seeds) > 3 else ", ".join(map(str, seeds))
    items = [
        ("compared by", metric_words(conclusion.metric), f"on {conclusion.split}"),
        ("images", f"{conclusion.images:,}", "the same for all"),
        ("seeds", len(seeds) or GONE, named),
        ("margin", GONE if margin is None else margin_words(margin, share), reach),
        ("rates chosen by", conclusion.monitor, "no test image had a part in it"
         if is_deciding(conclusion) else "on the same images"),
    ]  # fmt: skip
    return tags.facts(items)


def _table(conclusion: Conclusion) -> Markup:
    """Best first; a click on a heading sorts."""
    share, names = is_share(conclusion.metric), names_of(conclusion)
    if not conclusion.rows:
        return Markup()
    rows = list(zip(conclusion.rows, names, strict=True))
    metric = f"{conclusion.split} {metric_words(conclusion.metric)}"
    several = any(row.compared for row, _ in rows)
    columns: list[Any] = [
        (Column("policy"), lambda r: _name_cell(*r)),
        (Column("tries", number=True, hint="configurations tried"), lambda r: r[0].tries),
        (Column("rate", number=True), lambda r: _rate_cell(r[0])),
        (
            Column(metric, number=True, hint="mean ± standard error over seeds"),
            lambda r: Cell(_together(score_words(r[0], share)), r[0].score.mean),
        ),
        several
        and (
            Column("difference", number=True, hint="with its 95 % interval, and p after Holm"),
            lambda r: _difference_cell(r[0], share),
        ),
        several and (Column("verdict"), lambda r: _verdict_cell(r[0], conclusion)),
        any(row.overfits for row, _ in rows)
        and (
            Column("overfit"),
            lambda r: Cell(element("span", r[0].overfits or GONE, "why"), r[0].overfits),
        ),
        (
            Column(
                f"{conclusion.split} loss", number=True, hint="mean ± standard error over seeds"
            ),
            lambda r: _loss_cell(r[0], baseline_of(conclusion)),
        ),
        (
            Column("a run", number=True, hint="mean"),
            lambda r: Cell(duration(r[0].took_s).replace(" ", "\u00a0"), r[0].took_s),
        ),
    ]
    return table_of(columns, rows, caption="configurations, best first", tall=True)


def _name_cell(row: Row, name: str) -> Cell:
    """With its settings beneath, and what became of its seeds."""
    long = max(map(len, (row.name, beneath := detail_words(row)))) > LONG_NAME
    shown = join(row.name, element("small", beneath)) if beneath else row.name
    return Cell(element("span", shown, "why") if long else shown, name, mark=_mark(row))


def _mark(row: Row) -> str:
    return "best" if row.compared is not None and row.compared.word == "better" else ""


def _rate_cell(row: Row) -> Cell:
    """At the edge of what was tried a better one may lie outside."""
    said = {"lower": "lowest", "upper": "highest"}.get(row.edge)
    if said is None or row.rate is None:
        return Cell(rate_words(row.rate), row.rate)
    beneath = element("small", f"the {said} tried")
    return Cell(join(rate_words(row.rate), beneath), row.rate, "try more beyond it", "bad")


def _difference_cell(row: Row, share: bool) -> Cell:
    if row.compared is None:
        return Cell(GONE)
    found, scale = row.compared.difference, 100 if share else 1
    parts = [("seeds", found.seed_variance, found.seeds), ("images", found.image_variance,
             found.images)]  # fmt: skip
    errors = [
        f"{number(scale * math.sqrt(variance / count), 2)} by {name} alone"
        for name, variance, count in parts
        if count and variance >= 0
    ]
    hint = f"standard error {number(scale * found.se, 2)}, {number(found.df, 3)} d.f."
    hint = "; ".join([hint, ", ".join(errors)]) if errors else hint
    hint += f"; {_p_hint(row.compared)}"
    shown = _together(difference_words(row.compared, share))
    if is_finite(row.compared.p_adjusted):
        shown = join(shown, element("small", f"p\u00a0{p_words(row.compared.p_adjusted)}"))
    return Cell(shown, found.mean, hint)


def _p_hint(found: Compared) -> str:
    """Of the single tests: that there is no difference, and that it is beyond the margin."""
    beyond = "" if found.p_margin is None else f", beyond the margin p {p_words(found.p_margin)}"
    return f"before Holm p {p_words(found.p)}{beyond}"


def _verdict_cell(row: Row, conclusion: Conclusion) -> Cell:
    """Its word, and beneath it how far it goes or what would settle it."""
    verdict = verdict_words(row, conclusion)
    word = row.compared.word if row.compared and not row.baseline else verdict
    rest = verdict.removeprefix(word).strip()
    beneath = " ".join(filter(None, (rest, needs_words(row.compared, conclusion))))
    shown = join(word, element("small", beneath)) if beneath else word
    return Cell(shown, verdict, mark=_mark(row))


def _loss_cell(row: Row, baseline: str) -> Cell:
    """With its difference beneath, which has no verdict."""
    said = _together(plus_minus(row.loss.mean, row.loss.se)) if row.loss.n else GONE
    found = row.compared
    if found is None or found.loss is None:
        return Cell(said, row.loss.mean)
    se = found.loss.se
    places = decimals(se, share=False)
    error = f"\u00a0±\u00a0{se:.{places}f}" if math.isfinite(se) else ""
    beneath = element("small", f"{signed(found.loss.mean, places, share=False)}{error}")
    hint = f"difference from {baseline}"
    hint += ", the other way than the score" if found.disagrees else ""
    return Cell(join(said, beneath), row.loss.mean, hint, "bad" if found.disagrees else "")


def _meanings(conclusion: Conclusion) -> list[tuple[str, str]]:
    """What the words on this page mean, of those that stand on it."""
    share = is_share(conclusion.metric)
    words = {row.compared.word for row in conclusion.rows if row.compared is not None}
    compared = sum(row.compared is not None for row in conclusion.rows)
    baseline = baseline_of(conclusion)
    margin = "the margin"
    if conclusion.margin is not None:
        margin = margin_words(conclusion.margin, share)
    holm = f" after Holm's correction for {compared} comparisons" if compared > 1 else ""
    said = {
        "better": f"Its difference from {baseline} is more than seeds and images explain: were"
        f" there none, so large a one would be seen in less than 5 % of comparisons{holm}.",
        "worse": f"{baseline} is better than it, by more than seeds and images explain{holm}.",
        "no difference": f"That it differs by more than {margin}, up or down, is excluded by two"
        " one-sided tests at 5 %. A smaller difference may be there.",
        "undecided": "Neither could be shown. This is not the same as no difference: more seeds, or"
        " more test images, may decide it.",
    }
    found = [(word if word != "no difference" else f"no difference larger than {margin}", text)
             for word, text in said.items() if word in words]  # fmt: skip
    if words:
        found.append(("interval", "The differences that these seeds and images agree with, at 95 %."
                      " Its error is that of seeds and that of images at once."))  # fmt: skip
    found.append(("±", "The standard error of the mean over seeds; the images are the same."))
    if not is_deciding(conclusion):
        found.append(("exploratory", "The images are those that rates were chosen by, which"
                      " flatters whoever had more tries. Confirm it on a test split."))  # fmt: skip
    if math.isfinite(conclusion.smallest_margin):
        smallest = margin_words(conclusion.smallest_margin, share)
        found.append(("smallest margin", f"However many seeds: with {conclusion.images:,} images no"
                      f" margin below about {smallest} can be shown."))  # fmt: skip
    if any(row.ended for row in conclusion.rows):
        found.append(("diverged, collapsed", "Such a seed counts with the score of a guesser, it is"
                      " not left out, and its configuration stands below all others."))  # fmt: skip
    found.append(("compared", "Configurations: each policy with the one rate and settings that its"
                  " tries chose. With another choice it may do better or worse."))  # fmt: skip
    return found


def _origin(conclusion: Conclusion) -> Markup:
    """The line to paste, what every configuration is asked for by, and the files."""
    parts = []
    if conclusion.paste:
        parts += [element("p", "To train what came out:"), tags.code_block(conclusion.paste)]
    named = zip(conclusion.rows, names_of(conclusion), strict=True)
    asked = [
        (cut(name, LONG_NAME), element("code", shlex.join(row.overrides)))
        for row, name in named
        if row.overrides
    ]
    links = [link(name, name) for name in (COMPARISON, *COMPARISON_TABLES)]
    seeds = ", ".join(map(str, conclusion.seeds))
    pairs: Sequence[tuple[str, Any]] = [
        *([("seeds", seeds)] if seeds else []),
        ("files", Markup(" ").join(links)),
    ]
    parts.append(tags.definitions(pairs))
    if asked:
        parts.append(tags.details("What asks for each configuration", tags.definitions(asked)))
    return join(*parts)
