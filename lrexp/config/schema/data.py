"""Settings of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, location, number, setting


@dataclass
class Data:
    """What every data option has."""

    name: str = setting()
    num_classes: int | None = number(at_least=2)  # the three are None where the data says it
    image_shape: list[int] | None = number(at_least=1, count=3)
    train_size: int | None = number(at_least=2)
    batch_size: int = number(at_least=1)
    seed: int = number(at_least=0, splits=True)
    classes: list[Any] | None = setting()  # labels or names
    limit: int | None = number(at_least=1)
    limit_per_class: int | None = number(at_least=1)
    val_fraction: float = number(above=0, below=1, splits=True)
    test_fraction: float = number(at_least=0, below=1, splits=True)
    group_by: str | None = setting(splits=True)
    normalize: Any = setting()  # auto, dataset, weights, or a Normalization
    mean: list[float] | None = number()
    std: list[float] | None = number(above=0)
    augment: str = choice("none", "basic", "trivial")
    image_size: int | None = number(at_least=1)
    in_memory: bool | None = setting(decides=False)
    workers: int = number(at_least=0, decides=False)
    leak_check: str = choice("warn", "error", "skip")
    on_corrupt: str = choice("error", "drop")
    eval_sets: dict[str, str] = location(only=True)


@dataclass
class TorchvisionSet(Data):
    root: str = location(only=True)
    download: bool = setting(decides=False)


@dataclass
class ImageFiles(Data):
    """What options have whose images are files, or the bytes of files in a table."""

    path: str = location(only=False)
    channels: int = choice(1, 3)


# What may be a name on the hub when it is no path: NAME or OWNER/NAME, and no name of a file.
HUB_NAME = r"(?!.*\.(parquet|csv|tsv|json|arrow|zip|jpe?g|png)$)\w[\w.-]*(/\w[\w.-]*)?"


@dataclass
class HuggingFace(ImageFiles):
    subset: str | None = setting()
    revision: str | None = setting()
    train_split: str | None = setting()
    val_split: str | None = setting()
    test_split: str | None = setting()
    image_column: str | None = setting()
    label_column: str | None = setting()


@dataclass
class CsvTable(ImageFiles):
    images: str | None = location(only=True)
    multi_label: bool = setting()


@dataclass
class Synthetic(Data):
    noise: float = number(at_least=0)
