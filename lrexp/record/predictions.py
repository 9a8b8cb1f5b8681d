"""What the best weights say about the images they are tested on: scores, classes, mix-ups."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrexp.data.dataset import Split
from lrexp.folder.files import write_atomically


def write_predictions(
    file: Path,
    splits: dict[str, Split],
    logits: dict[str, Tensor],
    class_names: Sequence[str],
) -> None:
    """Columns id (position in the source), item (its file or row), split, label, scores per class.

    Scores are softmax and a label is a number; where images have several labels, scores are the
    sigmoid of each class and a label is a list of 0 and 1.

    Args:
        file: written whole or not at all.
        splits: by name.
        logits: (n, classes) per split.
        class_names: what labels and scores are of; in the file's metadata as `class_names`, JSON.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    multi_label = next(iter(splits.values())).labels.ndim == 2
    logits = {name: x.float() for name, x in logits.items()}
    scores = [torch.sigmoid(x) if multi_label else torch.softmax(x, 1) for x in logits.values()]
    labels = np.concatenate([split.labels.cpu().numpy() for split in splits.values()])
    table = pa.table(
        {
            "id": np.concatenate([split.ids for split in splits.values()]),
            "item": [split.name(int(i)) for split in splits.values() for i in split.ids],
            "split": [name for name, split in splits.items() for _ in range(len(split))],
            "label": _lists(labels.astype(np.int8)) if multi_label else labels,
            "scores": _lists(torch.cat(scores).cpu().numpy()),
        }
    )
    table = table.replace_schema_metadata({"class_names": json.dumps(list(class_names))})
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, fresh)
        fresh.replace(file)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def _lists(rows: np.ndarray) -> Any:
    """(n, k) numbers as a column of n lists."""
    import pyarrow as pa

    count, width = rows.shape
    ends = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(ends, pa.array(rows.reshape(-1)))


def write_per_class(file: Path, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """A line per split and class; a cell is empty where a number is undefined.

    Args:
        file: CSV, replaced as a whole.
        rows: by split, those of `judge.evaluate.class_rows`.
    """
    heading = ["split", *next(iter(rows.values()))[0]]
    lines = [[split, *row.values()] for split, of_split in rows.items() for row in of_split]
    write_atomically(file, _csv([heading, *lines]))


def write_confusion(
    file: Path, counts: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> None:
    """Counts of images: a line per split and true class, a column per predicted class.

    Args:
        file: CSV, replaced as a whole.
        counts: (classes, classes) by split, true classes as rows.
        class_names: (classes,).
    """
    lines = [
        [split, name, *row]
        for split, of_split in counts.items()
        for name, row in zip(class_names, of_split.tolist(), strict=True)
    ]
    write_atomically(file, _csv([["split", "true", *class_names], *lines]))


def _csv(lines: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
