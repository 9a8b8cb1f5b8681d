"""What a run got wrong: confusion matrices, pictures, classes."""

from __future__ import annotations

import base64
import io
import math
from typing import Any
from zipfile import ZipFile

from markupsafe import Markup

from lrexp.folder.layout import CONFUSION, PER_CLASS, WRONG_IMAGES
from lrexp.report.figure import HeatMap
from lrexp.report.html.charts import heat_map
from lrexp.report.html.page import (
    Cell,
    Column,
    element,
    join,
    number,
    percent,
    table,
    tags,
    without_home,
)
from lrexp.report.run.words import as_number
from lrexp.runs.reading import plain_file
from lrexp.runs.run import Run, is_sweep, read_table

MOST_PICTURES = 24
MOST_BYTES = 2**24  # of the pictures, unpacked
MOST_CLASSES = 60  # of a confusion matrix that is drawn
SPOKEN_CLASSES = 25  # up to so many every cell has a sentence of its own
MOST_ROWS = 300  # classes
MOST_PAIRS = 40  # mix-ups of more classes than are drawn


def mistakes(run: Run) -> Markup:
    """Tables and pictures, as far as the run kept them."""
    drawn = {split: heat_map(one) for split, one in confusion_figures(run).items()}
    made = [
        drawn.get(split) or _mix_ups(split, *found) for split, found in _confusions(run).items()
    ]
    return join(tags.grid(made), _wrong_images(run), _per_class(run))


def _mix_ups(split: str, names: list[str], true: list[str], counts: list[list[int]]) -> Markup:
    """The most frequent ones, of more classes than can be drawn."""
    pairs = sorted(
        (-n, true[i], names[j])
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if n and i != j
    )
    shown = [[t, p, -n] for n, t, p in pairs[:MOST_PAIRS]]
    heads = ["true", "predicted", Column("images", number=True)]
    return table(heads, shown, caption=f"Most frequent mix-ups on {split}")


def _wrong_images(run: Run) -> Markup:
    """The pictures that the run kept."""
    file = run.folder / WRONG_IMAGES
    if not file.exists():
        if is_sweep(run.folder.parent) and (run.folder / CONFUSION).exists():
            words = (
                "Points of a grid keep no pictures; the same command alone keeps the most wrong."
            )
            return element("p", words, "under")
        return Markup()
    try:
        import numpy as np

        plain_file(file, MOST_BYTES)
        with ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError("it holds more than pictures of that size")
        with np.load(file, allow_pickle=False) as kept:
            found = {key: kept[key] for key in kept.files}
        items = [
            {
                "source": f"data:image/png;base64,{base64.b64encode(png(image)).decode()}",
                "small": max(image.shape[:2]) < 40,
                "said": str(found["predicted"][i]),
                "sure": _probability(found["score"][i]),
                "true": str(found["true"][i]),
                "left": _probability(found["true_score"][i]),
                "item": without_home(str(found["item"][i])),
            }
            for i, image in enumerate(found["images"][:MOST_PICTURES])
        ]
        return tags.pictures(str(found["split"]), items) if items else Markup()
    except Exception as error:  # whatever a damaged archive raises
        run.notes.append(f"wrong_images.npz is damaged and was left out: {error}")
        return Markup()


def png(image: Any) -> bytes:
    """A PNG file of a (H, W, 1 or 3) uint8 array, grey or RGB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _probability(score: Any) -> str:
    said = percent(float(score), 0).replace(" ", "\u00a0")  # on one line
    return f" ({said})" if math.isfinite(score) else ""


def _per_class(run: Run) -> Markup:
    lines = read_table(run.folder / PER_CLASS, run.notes)
    if not lines:
        return Markup()
    names = [name for name in lines[0] if name not in ("split", "class")]
    title, kept = f"Every class ({len(lines)} rows)", lines
    if len(lines) > MOST_ROWS:
        title = f"The {MOST_ROWS} worst classes"
        kept = sorted(lines, key=lambda line: as_number(line.get("f1")) or 0.0)[:MOST_ROWS]
    heads = ["split", "class", *(Column(name.replace("_", " "), number=True) for name in names)]
    cells = [
        [line["split"], line["class"], *(_class_cell(name, line.get(name)) for name in names)]
        for line in kept
    ]
    return tags.details(title, table(heads, cells))


def _class_cell(name: str, text: str | None) -> Cell:
    value = as_number(text)
    whole = name in ("images", "predicted", "found")
    return Cell(number(value) if whole else percent(value), value)


def confusion_figures(run: Run) -> dict[str, HeatMap]:
    """Confusion matrices by split, of so many classes as can be drawn."""
    return {
        split: _confusion(split, *found)
        for split, found in _confusions(run).items()
        if len(found[0]) <= MOST_CLASSES
    }


def _confusions(run: Run) -> dict[str, tuple[list[str], list[str], list[list[int]]]]:
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


def _confusion(split: str, names: list[str], true: list[str], counts: list[list[int]]) -> HeatMap:
    right = sum(row[i] for i, row in enumerate(counts) if i < len(row))
    labels = [
        [f"{n} of {sum(row)} images of {t} called {p}" for p, n in zip(names, row, strict=True)]
        for t, row in zip(true, counts, strict=True)
    ]
    return HeatMap(
        f"Confusion on {split}", true, names, counts,
        x_label="predicted", y_label="true", value_label="images", numbers=True, square=True,
        labels=labels if len(names) <= SPOKEN_CLASSES else (),
        note=f"{right:,} of {sum(map(sum, counts)):,} right, on the diagonal.",
    )  # fmt: skip
