"""Tables of Hugging Face by split: from the hub, from parquet files, from folders."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lrexp.config.errors import ConfigError, UserError, did_you_mean, first_line
from lrexp.config.schema.training import HUB_NAME
from lrexp.data.sources.folders import PassedOver, files_below
from lrexp.data.sources.labels import SPLIT_WORDS
from lrexp.folder.network import quiet, within

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

SECONDS = 4.0  # that the hub may take to answer
LARGE = 2**30  # bytes of parquet files from which on they are mapped from disk, not read
LOCAL = (
    "local layouts: a folder of train*.parquet, validation*.parquet and test*.parquet, one parquet"
    " file, a folder written by save_to_disk, or FOLDER/train/CLASS/IMAGE"
)


class Part(NamedTuple):
    """Rows of one split: those of a file, or all of it."""

    table: pa.Table
    called: str
    folder: str  # what relative image paths start from


def folder_inside(folder: Path, subset: str) -> Path:
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if subset not in inside:
        problem = f"{folder} has no such folder inside"
        raise ConfigError("data.subset", problem, did_you_mean(subset, inside), subset)
    return folder / subset


def is_imagefolder(path: Path) -> bool:
    marks = ("dataset_dict.json", "state.json")
    return (
        path.is_dir()
        and not any((path / mark).exists() for mark in marks)
        and next(_parquet_files(path), None) is None
    )


def _parquet_files(folder: Path) -> Iterator[Path]:
    found = files_below(folder, PassedOver(str(folder)), lambda name: name.endswith(".parquet"))
    return map(Path, found)


def from_folder(path: Path) -> dict[str, list[Part]]:
    """Split name → parts, of a parquet file, a folder of them or one of `save_to_disk`."""
    files = [path]
    if path.is_dir():
        files = sorted(_parquet_files(path))
    if not files:
        from datasets import load_from_disk

        try:
            return parts_of(load_from_disk(str(path)), str(path))
        except Exception as error:  # FileNotFoundError, ArrowInvalid, JSON errors and others
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
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


def _read(files: list[Path], top: Path) -> list[Part]:
    """Parquet files of one schema, in memory or, when large, mapped from a copy on disk."""
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
            raise UserError(f"{file} cannot be read as parquet: {first_line(error)}") from error
    try:
        table = _mapped(files) if large else pa.concat_tables(tables)
    except Exception as error:  # schemas that differ, a full disk
        raise UserError(f"{files[0].parent}: {first_line(error)}") from error
    folder = str(top if top.is_dir() else top.parent)
    starts = itertools.accumulate(sizes, initial=0)
    return [Part(table.slice(start, size), str(file), folder)
            for file, start, size in zip(files, starts, sizes, strict=False)]  # fmt: skip


def _mapped(files: list[Path]) -> pa.Table:
    from datasets import Dataset

    with quiet():
        read: Any = Dataset.from_parquet([str(file) for file in files])
    return read.data.table


def parts_of(loaded: Any, place: str) -> dict[str, list[Part]]:
    """Of a `Dataset` or `DatasetDict`; of rows that were selected or shuffled those, in order."""
    by_name = loaded if isinstance(loaded, dict) else {"train": loaded}
    found = {}
    for name, dataset in by_name.items():
        if not hasattr(dataset, "data"):
            kind, hint = type(dataset).__name__, "load it without streaming=True"
            raise UserError(f"{place} {name} is a {kind}, whose size nobody knows\n  {hint}")
        with quiet():
            rows = dataset if dataset._indices is None else dataset.flatten_indices()
        found[name] = [Part(rows.data.table, f"{place} {name}", place)]
    return found


def from_hub(path: str, subset: str | None, revision: str | None) -> dict[str, list[Part]]:
    """Downloaded, or from the cache of an earlier download when the hub does not answer."""
    if not re.fullmatch(HUB_NAME, path):
        raise ConfigError("data.path", f"there is no {Path(path).expanduser()}", LOCAL, path)
    from datasets import config, load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> None:
        HfApi(endpoint=config.HF_ENDPOINT).dataset_info(path, revision=revision, timeout=SECONDS)

    offline: bool = config.HF_HUB_OFFLINE
    with quiet():
        answer = OSError("HF_HUB_OFFLINE is set") if offline else within(SECONDS, ask)[0]
    cached = Path(config.HF_DATASETS_CACHE) / path.replace("/", "___")
    if answer is not None and not cached.exists():
        problem = "no such file or folder, and the Hugging Face hub did not answer"
        if isinstance(answer, HfHubHTTPError):
            problem = "the Hugging Face hub does not give it"
        raise ConfigError("data.path", f"{problem} ({first_line(answer)})", LOCAL, path)
    log.info("data: %s from the Hugging Face %s", path, "hub" if answer is None else "cache")
    try:
        with quiet(), contextlib.nullcontext() if answer is None else _offline():
            loaded = load_dataset(path, subset, revision=revision)
    except Exception as error:  # whatever is wrong with the files of others
        problem = f"cannot be loaded from the Hugging Face hub: {first_line(error)}"
        raise ConfigError("data.path", problem, LOCAL, path) from error
    return parts_of(loaded, path)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """The libraries look into their cache only."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
