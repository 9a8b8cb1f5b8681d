"""What a run got wrong: confusion matrices, pictures, classes."""

from __future__ import annotations

import base64
import math

from lrexp.folder.layout import CONFUSION, PER_CLASS, WRONG_IMAGES
from lrexp.report.html.charts import heat_map
from lrexp.report.html.page import (
    Cell,
    Column,
    Html,
    details,
    element,
    grid,
    join,
    number,
    percent,
    table,
    without_home,
)
from lrexp.report.html.pixels import png
from lrexp.report.run.figures import MOST_CLASSES, confusion_figures, confusions
from lrexp.report.run.words import as_number
from lrexp.runs.run import Run, is_sweep, read_table

MOST_ROWS = 300  # classes
MOST_PAIRS = 40  # mix-ups of more classes than are drawn


def mistakes(run: Run) -> Html:
    """Tables and pictures, as far as the run kept them."""
    parts = [_confusions(run), _wrong_images(run), _per_class(run)]
    shown = [part for part in parts if part]
    return join(*shown) if shown else Html("")


def _confusions(run: Run) -> Html:
    """Drawn, or of many classes the most frequent mix-ups."""
    drawn = confusion_figures(run)
    made = []
    for split, (names, true, counts) in confusions(run).items():
        if len(names) <= MOST_CLASSES:
            made.append(heat_map(drawn[split]))
            continue
        pairs = sorted(
            (-n, true[i], names[j])
            for i, row in enumerate(counts)
            for j, n in enumerate(row)
            if n and i != j
        )
        shown = [[t, p, -n] for n, t, p in pairs[:MOST_PAIRS]]
        heads = ["true", "predicted", Column("images", number=True)]
        made.append(table(heads, shown, caption=f"Most frequent mix-ups on {split}"))
    return grid(*made) if made else Html("")


def _wrong_images(run: Run) -> Html:
    """The pictures that the run kept."""
    file = run.folder / WRONG_IMAGES
    if not file.exists():
        if is_sweep(run.folder.parent) and (run.folder / CONFUSION).exists():
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
    lines = read_table(run.folder / PER_CLASS, run.notes)
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
