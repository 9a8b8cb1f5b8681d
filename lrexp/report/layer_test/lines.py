"""A test of layers in a terminal."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lrexp.config.names import shown_path
from lrexp.folder.layout import LAYER_POLICY
from lrexp.judge.layer_test import LayerTest, clearest, factor_words
from lrexp.report.comparison.words import cut
from lrexp.report.layer_test.words import (
    accuracy_words,
    caveats,
    loss_words,
    p_words,
    rate_words,
    reading,
    verdict_words,
    wants_of,
)

HEADS = ("layer", "lr", "changed to", "val loss", "accuracy", "p", "verdict")
LESS = (1, 5, 4)  # columns left out in turn where there is no room
RIGHT = (1, 3, 4, 5)  # aligned to the right
NAME = 20


def layers_lines(found: LayerTest, folder: Path, width: int = 80) -> list[str]:
    """A table from the input to the head, how to read it, what came of it, and what to paste."""
    lines = table(found, width)
    lines += ["", *_wrapped(reading(found), width)]
    for remark in caveats(found):
        lines += _wrapped(remark, width, "- ")
    cost = ", ".join(f"{what} {value}" for what, value in found.cost)
    lines += ["", *_wrapped(f"cost: {cost}", width)] if cost else []
    lines += ["", *_wrapped(found.sentence, width)]
    open_one = clearest(found.changes)
    if open_one is not None and open_one.more_seeds:
        count = len(found.seeds) + open_one.more_seeds
        where = f"hydra.run.dir={shlex.quote(shown_path(folder))} trainer.resume=auto"
        more = f"more seeds go into the same folder: task.repeats={count} {where}"
        lines += _wrapped(more, width)
    if found.paste:
        words = shlex.join(found.paste)
        where = shlex.quote(shown_path(folder))
        lines += ["", f"  {words}", "", "or, from its file:", ""]
        lines.append(f"  --config-dir {where} lr_policy={Path(LAYER_POLICY).stem}")
    return lines


def table(found: LayerTest, width: int) -> list[str]:
    """A line per layer and factor; a layer is named on its first one."""
    rows: list[list[str]] = [[*HEADS]]
    for place, part in enumerate(found.parts):
        name, rate, wanted = cut(part.name, NAME), rate_words(found, part), wants_of(found, place)
        changes = found.of_part(place)
        if not changes:
            rows.append([name, rate, "", "", "", "", wanted])
        for i, one in enumerate(changes):
            rows.append(
                [
                    "" if i else name,
                    "" if i else rate,
                    factor_words(one.factor),
                    loss_words(one),
                    accuracy_words(one),
                    p_words(one),
                    verdict_words(one),
                ]
            )
    columns = list(range(len(HEADS)))
    wide = [max(len(row[k]) for row in rows) for k in columns]
    for k in LESS:
        if sum(wide[c] for c in columns) + 2 * (len(columns) - 1) > width:
            columns.remove(k)
    return [_line(row, columns, wide) for row in rows]


def _line(row: Sequence[str], columns: Sequence[int], wide: Sequence[int]) -> str:
    cells = [row[k].rjust(wide[k]) if k in RIGHT else row[k].ljust(wide[k]) for k in columns]
    return _plain("  ".join(cells)).rstrip()


def _wrapped(text: str, width: int, mark: str = "") -> list[str]:
    rest = " " * len(mark)
    return textwrap.wrap(_plain(text), max(20, width), initial_indent=mark, subsequent_indent=rest)


def _plain(text: str) -> str:
    """With a minus that a shell or a script takes back."""
    return text.replace("−", "-").replace("–", "-")
