"""What a trained run says of new images, written as a table."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lrexp.config.errors import UserError, few, first_line, nearest, out_of_memory
from lrexp.data.images import ImageError
from lrexp.data.sources.csv_text import columns_of, read_rows
from lrexp.data.sources.folders import PassedOver, files_below, in_utf8
from lrexp.folder.files import guarded_cell, replacing

if TYPE_CHECKING:
    import pyarrow as pa

    from lrexp.data.preprocessing import Preprocessing
    from lrexp.use.trained import Trained

LISTS = (".csv", ".tsv")  # endings of files that list images
TABLES = (".csv", ".parquet")  # endings of what is written
SURE = 0.5  # the score above which one of several labels is said


@dataclass(frozen=True)
class Images:
    """Files of images, none of them opened yet."""

    files: list[str]
    names: list[str]  # what each is called: its path, or the cell of the list that names it
    notes: list[str]  # how they were found, and what was passed over


@dataclass
class Predicted:
    """What was said of some images, in short."""

    out: Path
    images: int = 0
    said: Counter[str] = field(default_factory=Counter)  # class → images of that label
    sample: list[tuple[str, str, float]] = field(default_factory=list)  # name, label, score
    skipped: list[tuple[str, str]] = field(default_factory=list)  # name, why it cannot be read
    converted: Counter[str] = field(default_factory=Counter)  # what to RGB or grey → images


SAMPLE = 12  # images that are kept to be shown


def find_images(words: Sequence[str]) -> Images:
    """The images that a command line means.

    Args:
        words: each a file, a folder, which is searched with all below it, or a CSV with a column
            of paths, which start from its own folder.

    Raises:
        UserError: when one is not there, or there is no image in any.
    """
    files, names, notes = list[str](), list[str](), list[str]()
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            passed = PassedOver(str(path))
            below = list(files_below(path, passed))
            files += below
            names += below
            notes += [f"{word}: {line}" for line in passed.lines()]
        elif not path.is_file():
            beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = "give a file, a folder of images, or a CSV with a column of paths"
            if near := nearest(path.name, beside):
                hint = f"did you mean {path.with_name(near)}?"
            raise UserError(f"there is no {word}\n  {hint}")
        elif path.suffix.lower() in LISTS:
            cells, how = _listed(path)
            files += [str(path.parent / Path(cell).expanduser()) for cell in cells]
            names += cells
            notes += [f"{word}: read {', '.join(how)}"] if how else []
        else:
            files.append(str(path))
            names.append(word)
    if not files:
        raise UserError("\n  ".join([f"no image in {few(words, 4)}", *notes]))
    return Images(files, names, notes)


def _listed(file: Path) -> tuple[list[str], list[str]]:
    """Paths in a CSV as they are written, and what had to be found out to read it."""
    rows = read_rows(file, None)
    try:
        column = columns_of(file, rows, {}, ["path"])["path"]
    except UserError as error:
        columns = ", ".join(rows.header)
        hint = f"call the column of paths `path`; its columns: {columns}"
        raise UserError(f"{first_line(error)}\n  {hint}") from error
    cells = [row[column] for row in rows.cells]
    if "" in cells:
        raise UserError(f"{file} line {rows.lines[cells.index('')]}: {column} names no image")
    return cells, rows.how


def refuse_out(out: Path, overwrite: bool) -> None:
    """Raise a UserError where a table cannot be written, or must not."""
    if out.suffix.lower() not in TABLES:
        raise UserError(f"--out {out}: a name that ends in {' or '.join(TABLES)}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder")
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already\n  --overwrite replaces it, --out names another")
    try:
        TemporaryFile(dir=out.parent).close()  # now, not when everything is computed
    except OSError as error:
        why = error.strerror or first_line(error)
        raise UserError(f"--out {out}: {out.parent} cannot be written to: {why}") from error


def refuse_channels(preprocessing: Preprocessing) -> None:
    """Raise a UserError where no file has what the network sees."""
    if (channels := preprocessing.image_shape[0]) not in (1, 3):
        raise UserError(
            f"the run's images have {channels} channels, and files are read as grey or RGB\n"
            "  in Python lrexp.load(RUN) has its model, which takes tensors of that many"
        )


def predict(
    trained: Trained,
    images: Images,
    out: Path,
    batch: int | None = None,
    seen: Callable[[int], object] = lambda count: None,
) -> Predicted:
    """Write what a run says of images: file, label, score and a score_<class> for every class.

    A score is in [0, 1], as `Trained.scores` has it; `score` is the highest of the image. The label
    is its class; where an image may have several labels, all classes above 0.5, separated by `|`.

    Args:
        trained: the run.
        images: in the order of the table. What cannot be read is left out of it.
        out: ends in .csv or .parquet; replaced as a whole, once everything is done.
        batch: images computed together; None: as the run's evaluations did.
        seen: told how many more images have been looked at.

    Raises:
        UserError: when none of the images can be read, or memory runs out.
    """
    refuse_channels(trained.preprocessing)
    size = batch or trained.config.trainer.eval_batch_size
    done = Predicted(out)
    with replacing(out) as file, _table(file, trained, out.suffix.lower()) as table:
        for part in _batches(trained, images, size, done, seen):
            try:
                scores = trained.scores(trained.transform.of_pixels([one.pixels for one in part]))
                found = scores.cpu().numpy()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                hint = f"--batch {max(1, size // 4)} computes fewer images at a time"
                raise UserError(f"memory ran out with {size} images at a time\n  {hint}") from error
            table.write_table(_rows(trained, [one.name for one in part], found, done))
        if not done.images:
            reasons = [f"{name}: {why}" for name, why in done.skipped]
            said = "\n  ".join(few(reasons, 4, "\n").splitlines())
            raise UserError(f"none of {len(images.files)} images can be read\n  {said}")
    return done


class _Read(NamedTuple):
    name: str
    pixels: np.ndarray  # (C, H, W) uint8


def _batches(
    trained: Trained,
    images: Images,
    size: int,
    done: Predicted,
    seen: Callable[[int], object],
) -> Iterator[list[_Read]]:
    """Images that can be read, so many at a time; the next are decoded meanwhile."""
    part: list[_Read] = []
    for name, found in _decoded(trained, images, size):
        if isinstance(found, ImageError):
            done.skipped.append((name, str(found)))
        else:
            pixels, words = found
            done.converted.update(words)
            part.append(_Read(name, pixels))
        if len(part) == size:
            yield part
            part = []
        seen(1)
    if part:
        yield part


def _decoded(
    trained: Trained, images: Images, ahead: int
) -> Iterator[tuple[str, tuple[np.ndarray, tuple[str, ...]] | ImageError]]:
    """Every image by name, in order: its pixels and what was converted, or why it has none."""

    def read(file: str) -> tuple[np.ndarray, tuple[str, ...]] | ImageError:
        try:
            return trained.preprocessing.pixels(file)
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(max(1, trained.config.data.workers))
    waiting: deque[tuple[str, Any]] = deque()
    try:
        for name, file in zip(images.names, images.files, strict=True):
            waiting.append((name, pool.submit(read, file)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for name, future in waiting:
            yield name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # where somebody stopped


def _table(file: Any, trained: Trained, ending: str) -> AbstractContextManager[Any]:
    """What takes rows, a part of them at a time."""
    from pyarrow.csv import CSVWriter
    from pyarrow.parquet import ParquetWriter

    kind: Any = CSVWriter if ending == ".csv" else ParquetWriter
    return kind(file, _schema(trained.class_names))


def _schema(class_names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    numbers = ("score", *(f"score_{name}" for name in class_names))
    text = [(name, pa.string()) for name in ("file", "label")]
    return pa.schema([*text, *((name, pa.float32()) for name in numbers)])


def _rows(trained: Trained, names: list[str], scores: np.ndarray, done: Predicted) -> pa.Table:
    """A part of the table: scores (B, classes) of images; what it says is counted."""
    import pyarrow as pa

    classes, best = trained.class_names, scores.max(1)
    if trained.multi_label:
        sets = [[classes[i] for i in np.flatnonzero(row)] for row in scores > SURE]
        labels = ["|".join(several) for several in sets]
        done.said.update(name for several in sets for name in several or ["none"])
    else:
        labels = [classes[i] for i in scores.argmax(1)]
        done.said.update(labels)
    room = SAMPLE - len(done.sample)
    done.sample += list(zip(names, labels, best.tolist(), strict=True))[:room]
    done.images += len(names)
    guarded = guarded_cell if done.out.suffix.lower() == ".csv" else str
    text = [[guarded(in_utf8(cell)) for cell in column] for column in (names, labels)]
    columns = [*(pa.array(column, pa.string()) for column in text), pa.array(best)]
    columns += [pa.array(column) for column in np.ascontiguousarray(scores.T)]
    return pa.Table.from_arrays(columns, schema=_schema(classes))
