"""A test of layers as files: complete in JSON, its changes as CSV."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrexp import __version__
from lrexp.folder.files import csv_text, strict_json
from lrexp.folder.layout import LAYER_TEST
from lrexp.judge.layer_test import Change, LayerTest, factor_words
from lrexp.report.comparison.files import read_as

SCHEMA = "lrexp layer test 1"  # grows when a field changes its name or meaning
JSON_MARK = f'"schema": "{SCHEMA[:-1]}'  # in every file: what has it may be written anew
CSV_MARK = "layer,first,last,parameters,"


def layers_json(found: LayerTest) -> str:
    """Every number of a test, by the names of its fields; accuracies and p are shares."""
    head = {"schema": SCHEMA, "lrexp": __version__}
    return strict_json(head | asdict(found), indent=1) + "\n"


def read_layer_test(folder: Path) -> LayerTest:
    """The test of a folder's layer_test.json.

    Raises:
        UserError: when the file is none that this version reads.
        OSError: when there is none.
    """
    return read_as(LayerTest, folder / LAYER_TEST, SCHEMA, _refuse_foreign)


def _refuse_foreign(test: LayerTest) -> None:
    """Raise ValueError for changes of a part, or by a factor, that the test has not."""
    if any(not 0 <= one.part < len(test.parts) for one in test.changes):
        raise ValueError("a change is of no part")
    if any(one.factor not in test.factors for one in test.changes):
        raise ValueError("a change is by no factor")


def layers_csv(found: LayerTest) -> str:
    """A row per layer and factor, from the input to the head; what is not known is empty."""
    rows = [_cells(found, one) for one in found.changes]
    return csv_text([CSV_HEADS, *([_cell(value) for value in row] for row in rows)])


CSV_HEADS = (
    *("layer", "first", "last", "parameters", "lowest_rate", "highest_rate", "factor", "means"),
    *("seeds", "images", "diverged", "val_loss_change", "val_loss_change_se", "low95", "high95"),
    *("val_accuracy_change_share", "val_accuracy_change_se", "p", "p_holm", "verdict"),
    *("more_seeds_needed", "images_needed", "smallest_change_seen"),
)


def _cells(found: LayerTest, one: Change) -> list[Any]:
    part = found.parts[one.part]
    rates = [found.base_lr * scale for scale in (part.low, part.high)]
    return [
        *(part.name, part.first, part.last, part.parameters, *rates),
        *(one.factor, factor_words(one.factor), one.seeds, one.images, one.lost),
        *(one.loss, one.loss_se, one.low, one.high, one.accuracy, one.accuracy_se),
        *(one.p, one.p_adjusted, one.word, one.more_seeds, one.images_needed, one.smallest),
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else value
