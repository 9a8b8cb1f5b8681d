"""report.html of a test of layers, and the files beside it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrexp.folder.files import refuse_foreign, write_atomically
from lrexp.folder.layout import LAYER_POLICY, LAYER_TABLE, LAYER_TEST, REPORT
from lrexp.judge.layer_test import Change, LayerTest, factor_words
from lrexp.report.html.charts import drawn
from lrexp.report.html.page import (
    MARK,
    Cell,
    Column,
    Section,
    element,
    join,
    page,
    percent,
    plus_minus,
    table_of,
    tags,
    without_home,
)
from lrexp.report.layer_test.figures import layers_figure
from lrexp.report.layer_test.files import CSV_MARK, JSON_MARK, layers_csv, layers_json
from lrexp.report.layer_test.words import (
    accuracy_words,
    caveats,
    loss_words,
    needs_words,
    p_words,
    rate_words,
    reading,
    verdict_words,
    wants_of,
)


def write_layer_test(folder: Path, found: LayerTest) -> Path:
    """Write report.html, layer_test.json and layer_test.csv into a folder.

    Returns:
        The page.

    Raises:
        UserError: when one of them is there that lrexp did not write; then none is written.
        OSError: when they cannot be written.
    """
    made = {
        folder / LAYER_TEST: (JSON_MARK, layers_json(found)),
        folder / LAYER_TABLE: (CSV_MARK, layers_csv(found)),
        folder / REPORT: (MARK, layers_page(found)),
    }
    for file, (mark, _) in made.items():
        refuse_foreign(file, mark)
    for file, (_, text) in made.items():
        write_atomically(file, text)
    return folder / REPORT


def layers_page(found: LayerTest) -> str:
    """The whole page as HTML."""
    first, *rest = re.split(r"(?<=[.!?:])\s+(?=[A-Z])", found.sentence, maxsplit=1)
    top = tags.head(
        [tags.badge("finished"), "which layer wants which rate"],
        first,
        " ".join(rest),
        [_facts(found), tags.notes(list(found.remarks), "warning")],
    )
    figure = layers_figure(found)
    sections = [
        Section("What each layer wants", _layers(found)),
        Section("Changes", drawn(figure) if figure else Markup()),
        Section("Table", _table(found), reading(found)),
        Section("To paste", _paste(found)),
        Section("How to read this", tags.definitions(_meanings(found))),
        Section("What it cost", tags.definitions(found.cost) if found.cost else Markup()),
    ]
    return without_home(page("Which layer wants which rate", top, sections, "test's"))


def _facts(found: LayerTest) -> Markup:
    seeds = found.seeds
    named = f"{seeds[0]} … {seeds[-1]}" if len(seeds) > 3 else ", ".join(map(str, seeds))
    items = [
        ("policy", found.policy, f"optimizer.lr {found.base_lr:g}"),
        ("val loss as it is", plus_minus(found.loss, found.loss_se), "± over seeds"),
        ("val accuracy", percent(found.accuracy), f"best epoch by {found.monitor}"),
        ("seeds", len(seeds), named),
        ("images", f"{found.images:,}", "of validation, the same for all"),
    ]
    return tags.facts(items)


def _layers(found: LayerTest) -> Markup:
    places = list(range(len(found.parts)))
    columns: list[Any] = [
        (Column("layer"), lambda i: found.parts[i].name),
        (Column("parameters", number=True), lambda i: found.parts[i].parameters),
        (Column("rate", number=True, hint="at the peak of the schedule"),
         lambda i: Cell(rate_words(found, found.parts[i]), found.parts[i].high)),
        (Column("wants"), lambda i: Cell(wants_of(found, i), mark=_helped(found, i))),
    ]  # fmt: skip
    return table_of(columns, places, caption="layers from the input to the head", tall=True)


def _helped(found: LayerTest, part: int) -> str:
    return "best" if any(one.word == "helps" for one in found.of_part(part)) else ""


def _table(found: LayerTest) -> Markup:
    columns: list[Any] = [
        (Column("layer"), lambda c: Cell(found.parts[c.part].name, c.part)),
        (Column("changed to"), lambda c: Cell(factor_words(c.factor), c.factor)),
        (Column("val loss", number=True, hint="change ± standard error; less is better"),
         lambda c: Cell(loss_words(c), c.loss)),
        (Column("accuracy", number=True, hint="change in points ± standard error"),
         lambda c: Cell(accuracy_words(c), c.accuracy)),
        (Column("p", number=True, hint="after Holm, over all comparisons"),
         lambda c: Cell(p_words(c), c.p_adjusted, f"alone {c.p:.3g}")),
        (Column("verdict"), lambda c: _verdict_cell(found, c)),
    ]  # fmt: skip
    return table_of(columns, found.changes, caption="changes, one layer at a time", tall=True)


def _verdict_cell(found: LayerTest, one: Change) -> Cell:
    word, needs = verdict_words(one), needs_words(found, one)
    mark = {"helps": "best", "diverges": "bad"}.get(one.word, "")
    return Cell(join(word, element("small", needs)) if needs else word, word, mark=mark)


def _paste(found: LayerTest) -> Markup:
    if not found.paste:
        return Markup()
    file = Path(LAYER_POLICY)
    parts = [
        element("p", "The policy with the multipliers that are measured to help, and no others:"),
        tags.code_block(shlex.join(found.paste)),
        element("p", f"It lies in this folder, too, as {file}: --config-dir FOLDER"
                     f" lr_policy={file.stem}"),
        tags.notes(caveats(found)[len(found.remarks) :]),
    ]  # fmt: skip
    return join(*parts)


def _meanings(found: LayerTest) -> list[tuple[str, str]]:
    count = len(found.changes)
    return [
        ("helps, hurts", "The loss is lower, or higher, by more than seeds and images explain. Were"
         f" no layer's rate of any effect, at most 5 % of such tests would claim anything, all"
         f" {count} comparisons together."),
        ("within noise", "Nothing could be shown, which is not the same as no effect."),
        ("diverges", "In a seed in which the policy as it is does not."),
        ("frozen", "requires_grad=False: no gradient, no decay, BatchNorm as in evaluation."),
        ("interval", "The changes that these seeds and images agree with, at 95 %, for one"
         " comparison by itself."),
    ]  # fmt: skip
