"""Small files of every kind that data sources read, and how tests open them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lrexp.data.source import Source
from lrexp.data.sources import hf as hub
from lrexp.data.sources.csv_table import csv_table


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def put(folder: Path, *names: str) -> Path:
    """Images of those names below a folder, each of a grey of its own."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(value))
    return folder


def pixel(source: Source, i: int) -> int:
    """The grey of image i."""
    assert not isinstance(source.images, np.ndarray)
    return int(source.read(i)[0][0, 0, 0])


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def table(path: Path, **changes: Any) -> Source:
    settings: dict[str, Any] = dict.fromkeys(("images", "group_by", "encoding"))
    settings |= {"multi_label": False, "channels": 3, "columns": {}}
    return csv_table(str(path), **{**settings, **changes})


def hf(path: str | Path, **changes: Any) -> Source:
    settings: dict[str, Any] = dict.fromkeys(
        ("subset", "revision", "train_split", "val_split", "test_split", "image_column",
         "label_column", "group_by")
    )  # fmt: skip
    return hub.hf(path=str(path), channels=3, **{**settings, **changes})


def parquet(file: Path, features: dict[str, Any] | None = None, **columns: list[Any]) -> Path:
    """A parquet file as `datasets` writes it, images and labels a and b where none are given."""
    columns = {"image": [{"bytes": png(i), "path": None} for i in range(4)], **columns}
    given = {"image": datasets.Image(), **(features or {})}
    columns = columns if len(columns) > 1 else {**columns, "label": [0, 1, 0, 1]}
    if "label" in columns and "label" not in given:
        given["label"] = datasets.ClassLabel(names=["a", "b"])
    rest = pa.table({name: values for name, values in columns.items() if name not in given})
    schema = datasets.Features({**given, **datasets.Features.from_arrow_schema(rest.schema)})
    schema = schema.arrow_schema
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema), file)
    return file


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
