"""Tables of Hugging Face by split: from the hub, from parquet files, from folders."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.config.schema.training import HUB_NAME
from lrexp.data.sources.labels import SPLIT_WORDS
from lrexp.data.sources.network import within

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

SECONDS = 4.0  # that the hub may take to answer
LARGE = 2**30  # bytes of parquet files from which on they are mapped from disk, not read
LOCAL = (
    "local layouts: a folder of train*.parquet, validation*.parquet and test*.parquet, one parquet"
    " file, a folder written by save_to_disk, or FOLDER/train/CLASS/IMAGE"
)


@dataclass(frozen=True)
class Part:
    """The rows of one split, in one or several files."""

    table: pa.Table
    called: Sequence[str]  # the files, or one name for all
    starts: Sequence[int]  # the first row of each
    folder: str  # what relative image paths start from

    def name(self, row: int) -> str:
        """What messages call a row; rows count from 0 as in `datasets` and pandas."""
        file = bisect.bisect_right(self.starts, row) - 1
        return f"{self.called[file]} row {row - self.starts[file]}"


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
        and next(path.rglob("*.parquet"), None) is None
    )


def from_folder(path: Path) -> dict[str, Part]:
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


def _read(files: list[Path], top: Path) -> Part:
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
    return Part(table, [str(file) for file in files], starts, str(folder))


def _mapped(files: list[Path]) -> pa.Table:
    from datasets import Dataset

    with _quiet():
        read: Any = Dataset.from_parquet([str(file) for file in files])
    return read.data.table


def _parts_of(loaded: Any, place: str) -> dict[str, Part]:
    """Of a `Dataset` or `DatasetDict`."""
    by_name = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {
        name: Part(dataset.data.table, [f"{place} {name}"], [0], place)
        for name, dataset in by_name.items()
    }


def from_hub(path: str, subset: str | None, revision: str | None) -> dict[str, Part]:
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(":. ")
