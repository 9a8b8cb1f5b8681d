"""Image classification sets of Hugging Face: from the hub, from parquet files, from folders."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.config.schema.data import HUB_NAME
from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL, EncodedImages, Source
from lrexp.data.sources.imagefolder import imagefolder
from lrexp.data.sources.labels import SPLIT_WORDS, checked, class_labels, group_codes, label_sets
from lrexp.data.sources.network import within

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

SECONDS = 4.0  # that the hub may take to answer
LARGE = 2**30  # bytes of parquet files from which on they are mapped from disk, not read
LABEL_COLUMNS = ("label", "labels", "class", "classes", "category", "target", "fine_label")
LOCAL = (
    "local layouts: a folder of train*.parquet, validation*.parquet and test*.parquet, one parquet"
    " file, a folder written by save_to_disk, or FOLDER/train/CLASS/IMAGE"
)


@dataclass(frozen=True)
class _Part:
    """The rows of one split, in one or several files."""

    table: pa.Table
    called: Sequence[str]  # the files, or one name for all
    starts: Sequence[int]  # the first row of each
    folder: str  # what relative image paths start from

    def name(self, row: int) -> str:
        """What messages call a row; rows count from 0 as in `datasets` and pandas."""
        file = bisect.bisect_right(self.starts, row) - 1
        return f"{self.called[file]} row {row - self.starts[file]}"


@dataclass(frozen=True)
class _Cells:
    """One column of all parts, end to end."""

    parts: Sequence[_Part]
    column: str
    starts: Sequence[int]  # the first row of each part

    def at(self, i: int) -> tuple[_Part, int]:
        """The part and row of image i."""
        part = bisect.bisect_right(self.starts, i) - 1
        return self.parts[part], i - self.starts[part]

    def name(self, i: int) -> str:
        """What messages call image i."""
        part, row = self.at(i)
        return part.name(row)

    def encoded(self, i: int) -> bytes | str:
        """The bytes of image i, or the path of its file."""
        part, row = self.at(i)
        cell = part.table.column(self.column)[row].as_py()
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, "")
        if data is not None and not isinstance(data, str):
            return data
        path = data or path
        if not path:
            raise ImageError("has no image")
        return os.path.join(part.folder, path)


def hf(
    path: str,
    subset: str | None,
    revision: str | None,
    train_split: str | None,
    val_split: str | None,
    test_split: str | None,
    image_column: str | None,
    label_column: str | None,
    channels: int,
    group_by: str | None,
    test_only: bool = False,
) -> Source:
    """Any image classification set that Hugging Face's `datasets` can hold.

    Args:
        path: a folder, a parquet file, or a name on the hub such as uoft-cs/cifar10.
        subset: the configuration's name on the hub; a folder inside a local one.
        revision: a commit, tag or branch on the hub.
        train_split: its name in the data; None: guessed.
        val_split: likewise; `none` leaves it out.
        test_split: likewise.
        image_column: the column of images; None: guessed.
        label_column: the column of classes, or of lists of them; None: guessed.
        channels: 1 (grey) or 3 (RGB), which every image is converted to.
        group_by: a column whose equal values belong together.
        test_only: nothing trains on it: it needs no training split, and one class will do.

    Raises:
        UserError: when it cannot be had, or has no such columns or splits.
    """
    local = Path(path).expanduser()
    if local.exists():
        if subset is not None:
            local = _inner(local, subset)
        if _is_imagefolder(local):
            chosen = {"image_column": image_column, "label_column": label_column}
            chosen |= {"group_by": group_by, "train_split": train_split}
            chosen |= {"val_split": val_split, "test_split": test_split}
            for key, value in chosen.items():
                if value is not None:
                    problem = f"does not apply: {local} is a folder of images"
                    raise ConfigError(f"data.{key}", problem, given=value)
            return imagefolder(str(local), channels, test_only)
        place, found = str(local), _from_folder(local)
    else:
        place, found = path, _from_hub(path, subset, revision)
    given = {"train_split": train_split, "val_split": val_split, "test_split": test_split}
    parts = _chosen_splits(place, found, given, test_only)
    features, rows = _features(parts), sum(part.table.num_rows for part in parts.values())
    image = _image_column(place, features, image_column)
    label = _label_column(place, features, label_column, image)
    starts = [0, *itertools.accumulate(p.table.num_rows for p in parts.values())][:-1]
    cells = _Cells(tuple(parts.values()), image, tuple(starts))
    for code, part in parts.items():
        for column in {image, label, group_by} - {None}:
            _check_column(part, column, "group_by" if column == group_by else "label_column", code)
    labels, names = _labels(cells, label, features[label])
    for part in parts.values():
        _check_same_classes(part, next(iter(parts.values())), label)
    codes, groups = None, ()
    if group_by is not None:
        values = _values(cells, group_by)
        if None in values:
            raise UserError(f"{cells.name(values.index(None))} has no {group_by}")
        codes, groups = group_codes(values)
    split = np.repeat(list(parts), [part.table.num_rows for part in parts.values()])
    source = Source(
        EncodedImages(cells.encoded, cells.name, rows, channels, None),
        labels,
        names,
        split.astype(np.int8),
        codes,
        groups,
    )
    return source if test_only else checked(source, place)


# --- Where the tables come from -------------------------------------------------------------


def _inner(folder: Path, subset: str) -> Path:
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if subset not in inside:
        problem = f"{folder} has no such folder inside"
        raise ConfigError("data.subset", problem, did_you_mean(subset, inside), subset)
    return folder / subset


def _is_imagefolder(path: Path) -> bool:
    marks = ("dataset_dict.json", "state.json")
    return (
        path.is_dir()
        and not any((path / mark).exists() for mark in marks)
        and next(path.rglob("*.parquet"), None) is None
    )


def _from_folder(path: Path) -> dict[str, _Part]:
    """Split name → part, of a parquet file, a folder of them or one of `save_to_disk`."""
    if path.is_dir() and next(path.rglob("*.parquet"), None) is None:
        from datasets import load_from_disk

        try:
            return _parts_of(load_from_disk(str(path)), str(path))
        except Exception as error:  # FileNotFoundError, ArrowInvalid, JSON errors and others
            raise UserError(f"{path} cannot be read: {_first_line(error)}") from error
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith("."))
    else:
        files = [path]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, path), []).append(file)
    if "" in by_split and len(by_split) > 1:
        problem = f"{by_split[''][0]}: which split it belongs to is unclear"
        raise UserError(f"{problem}\n  names begin with {', '.join(SPLIT_WORDS)}")
    return {name or "train": _read(several, path) for name, several in by_split.items()}


def _split_of(file: Path, top: Path) -> str:
    """The split that a file's name begins with, or that a folder above it is called."""
    if file == top:
        return "train"
    words = [re.split(r"[-_.]", file.stem)[0], *(p.name for p in file.relative_to(top).parents)]
    return next((word for word in words if word.lower() in SPLIT_WORDS), "")


def _read(files: list[Path], top: Path) -> _Part:
    """Parquet files as one table, in memory or, when they are large, mapped from a copy on disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables, sizes = [], []
    large = sum(file.stat().st_size for file in files) > LARGE
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                sizes.append(opened.metadata.num_rows)
                tables += [] if large else [opened.read()]
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read as parquet: {_first_line(error)}") from error
    try:
        table = _mapped(files) if large else pa.concat_tables(tables)
    except Exception as error:  # schemas that differ, a full disk
        raise UserError(f"{files[0].parent}: {_first_line(error)}") from error
    starts = [0, *itertools.accumulate(sizes)][:-1]
    folder = top if top.is_dir() else top.parent
    return _Part(table, [str(file) for file in files], starts, str(folder))


def _mapped(files: list[Path]) -> pa.Table:
    from datasets import Dataset

    with _quiet():
        read: Any = Dataset.from_parquet([str(file) for file in files])
    return read.data.table


def _parts_of(loaded: Any, place: str) -> dict[str, _Part]:
    """Of a `Dataset` or `DatasetDict`."""
    by_name = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {
        name: _Part(dataset.data.table, [f"{place} {name}"], [0], place)
        for name, dataset in by_name.items()
    }


def _from_hub(path: str, subset: str | None, revision: str | None) -> dict[str, _Part]:
    """Downloaded, or from the cache of an earlier download when the hub does not answer."""
    if not re.fullmatch(HUB_NAME, path):
        raise ConfigError("data.path", f"there is no {Path(path).expanduser()}", LOCAL, path)
    from datasets import config, load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> None:
        HfApi(endpoint=config.HF_ENDPOINT).dataset_info(path, revision=revision, timeout=SECONDS)

    offline: bool = config.HF_HUB_OFFLINE
    with _quiet():
        answer = OSError("HF_HUB_OFFLINE is set") if offline else within(SECONDS, ask)[0]
    cached = Path(config.HF_DATASETS_CACHE) / path.replace("/", "___")
    if answer is not None and not cached.exists():
        if isinstance(answer, HfHubHTTPError):
            problem = f"the Hugging Face hub does not give it: {_first_line(answer)}"
        else:
            problem = "no such file or folder, and the Hugging Face hub did not answer"
            problem += f" ({_first_line(answer)})"
        raise ConfigError("data.path", problem, LOCAL, path)
    log.info("data: %s from the Hugging Face %s", path, "hub" if answer is None else "cache")
    try:
        with _quiet(), _offline(answer is not None):
            loaded = load_dataset(path, subset, revision=revision)
    except Exception as error:  # whatever is wrong with the files of others
        problem = f"cannot be loaded from the Hugging Face hub: {_first_line(error)}"
        raise ConfigError("data.path", problem, LOCAL, path) from error
    return _parts_of(loaded, path)


@contextlib.contextmanager
def _offline(yes: bool) -> Iterator[None]:
    """The libraries look into their cache only."""
    from datasets import config
    from huggingface_hub import constants

    modules: list[Any] = [config, constants]
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module, value in zip(modules, before, strict=True):
        module.HF_HUB_OFFLINE = value or yes
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither progress bars nor log lines of the libraries."""
    import datasets

    names = ("datasets", "huggingface_hub")
    levels = [logging.getLogger(name).level for name in names]
    bars = datasets.are_progress_bars_disabled()
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


# --- Which splits and columns ---------------------------------------------------------------


def _chosen_splits(
    place: str, found: dict[str, _Part], given: dict[str, str | None], test_only: bool
) -> dict[int, _Part]:
    """Split code → part, in the order train, val, test."""
    taken = {name for name in given.values() if name is not None}
    chosen: dict[int, _Part] = {}
    for code, (key, name) in zip((TRAIN, VAL, TEST), given.items(), strict=True):
        if name == "none":
            continue
        if name is None:
            guesses = [n for n in found if SPLIT_WORDS.get(n.lower()) == code and n not in taken]
            if len(guesses) > 1:
                problem = f"{place} has several such splits: {', '.join(guesses)}"
                raise ConfigError(f"data.{key}", problem, f"choose with data.{key}=NAME")
            if guesses:
                chosen[code] = found[guesses[0]]
        elif name not in found:
            problem = f"{place} has no such split"
            raise ConfigError(f"data.{key}", problem, did_you_mean(name, found), name)
        else:
            chosen[code] = found[name]
    if TRAIN not in chosen and not (test_only and chosen):
        hint = f"its splits: {', '.join(found)}; choose with data.train_split=NAME"
        raise UserError(f"{place} has no training split\n  {hint}")
    names = [name for name in given.values() if name not in (None, "none")]
    if len(set(names)) < len(names):
        raise ConfigError("data.test_split", "a split is named twice", given=names[-1])
    return chosen


def _features(parts: dict[int, _Part]) -> dict[str, Any]:
    """What the columns of the first split hold, in the terms of `datasets`."""
    from datasets import Features

    return dict(Features.from_arrow_schema(next(iter(parts.values())).table.schema))


def _image_column(place: str, features: dict[str, Any], given: str | None) -> str:
    from datasets import Image

    if given is not None:
        return _known("image_column", place, features, given)
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    # Files that others wrote say nothing of images: they hold bytes, alone or beside a path.
    images = images or [name for name, feature in features.items() if _is_bytes(feature)]
    if len(images) != 1:
        which = f"more than one column of images ({', '.join(images)})" if images else "no images"
        hint = f"its columns: {', '.join(features)}; choose with data.image_column=NAME"
        raise UserError(f"{place} has {which}\n  {hint}")
    return images[0]


def _is_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _label_column(place: str, features: dict[str, Any], given: str | None, image: str) -> str:
    from datasets import ClassLabel

    if given is not None:
        return _known("label_column", place, features, given)
    classes = [
        name
        for name, feature in features.items()
        if isinstance(getattr(feature, "feature", feature), ClassLabel)
    ]
    if len(classes) == 1:
        return classes[0]
    named = [name for name in LABEL_COLUMNS if name in (classes or features) and name != image]
    if not named:
        which = f"several columns of classes ({', '.join(classes)})" if classes else "no labels"
        hint = f"its columns: {', '.join(features)}; choose with data.label_column=NAME"
        raise UserError(f"{place} has {which}\n  {hint}")
    return named[0]


def _known(key: str, place: str, features: dict[str, Any], given: str) -> str:
    if given not in features:
        hint = did_you_mean(given, features)
        raise ConfigError(f"data.{key}", f"{place} has no such column", hint, given)
    return given


def _check_column(part: _Part, column: str, key: str, code: int) -> None:
    if column not in part.table.column_names:
        hint = did_you_mean(column, part.table.column_names)
        if code != TRAIN:
            hint += f"\n  data.{'val' if code == VAL else 'test'}_split=none leaves that split out"
        raise ConfigError(f"data.{key}", f"{part.called[0]} has no such column", hint, column)


def _check_same_classes(part: _Part, first: _Part, column: str) -> None:
    """Refuse a split whose class names stand in another order: its numbers mean something else."""
    from datasets import Features

    found = []
    for one in (part, first):
        feature = Features.from_arrow_schema(one.table.schema).get(column)
        found.append(getattr(getattr(feature, "feature", feature), "names", None))
    if found[0] != found[1]:
        names = (f"{', '.join(map(str, f[:5]))}, ..." if f else "not said" for f in found)
        problem = f"classes of {part.called[0]}: {next(names)}; of {first.called[0]}: {next(names)}"
        raise ConfigError("data.label_column", problem, "they must be the same", column)


def _values(cells: _Cells, column: str) -> list[Any]:
    return [v for part in cells.parts for v in part.table.column(column).to_pylist()]


def _labels(cells: _Cells, column: str, feature: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 or (N, classes) float32, and the class names."""
    values = _values(cells, column)
    several = hasattr(feature, "feature")  # a list of what one image has
    inner = feature.feature if several else feature
    names = getattr(inner, "names", None)
    kind = str(getattr(inner, "dtype", inner))
    if names is None and not re.fullmatch(r"u?int\d+|bool|(large_)?string(_view)?", kind):
        problem = f"holds {kind}, which are no classes"
        raise ConfigError("data.label_column", problem, given=column)
    if names is not None:
        _check_range(cells, column, values, len(names))
    if several:
        sets = [[v for v in value or () if v is not None] for value in values]
        labels, found = label_sets(sets, None if names is None else range(len(names)))
    elif names is None:
        missing = [None if type(v) is int and v == -1 else v for v in values]
        return class_labels(missing)
    else:
        return np.array([-1 if v is None else v for v in values], np.int64), tuple(names)
    return labels, found if names is None else tuple(names)


def _check_range(cells: _Cells, column: str, values: list[Any], classes: int) -> None:
    """Refuse labels that no class has. -1 stands for a missing one."""
    for i, value in enumerate(values):
        for label in value or () if isinstance(value, list) else (value,):
            if label is not None and not (0 <= label < classes or (label == -1 and value == -1)):
                problem = f"{column} {label} is no class: there are {classes}, from 0"
                raise UserError(f"{cells.name(i)}: {problem}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(":. ")
