"""The files of a run folder that are not written row by row."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lrexp.config.errors import TakenOver, UserError
from lrexp.config.redact import redacted
from lrexp.folder.hold import refuse_late
from lrexp.folder.layout import SUMMARY


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON that every parser reads: non-finite numbers are "NaN", "Infinity" and "-Infinity"."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent, ensure_ascii=False)


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's content as a whole: a reader sees the old text or the new one.

    Secrets of the environment that the text holds are left out.

    Raises:
        TakenOver: another program holds a folder around it that this one did.
        OSError: when it cannot be written; what was there before is there still.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(redacted(text), encoding="utf-8")
        refuse_late(file)
        fresh.replace(file)
    except (OSError, TakenOver):
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of another as a whole; nothing is left of it on an error.

    Raises as `write_atomically` does.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as opened:
            yield opened
        refuse_late(file)
        fresh.replace(file)
    except BaseException:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def refuse_foreign(file: Path, mark: str) -> None:
    """Raise a UserError for a file that is there without the mark of those that lrexp writes."""
    try:
        ours = mark.encode() in file.read_bytes()
    except FileNotFoundError:
        ours = not os.path.lexists(file)
    except OSError:
        ours = False
    if not ours:
        raise UserError(f"{file} was not written by lrexp; nothing was changed\n  move it away")


def guarded_cell(cell: Any) -> Any:
    """A cell of a CSV file, of which no spreadsheet makes a formula; numbers stay numbers."""
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", " ")  # which begins another line there, and is not quoted
    if not re.match(r"'*[=+\-@\t]", cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def plain_cell(cell: str) -> str:
    """The text that `guarded_cell` made a cell of."""
    return cell[1:] if re.match(r"'+[=+\-@\t]", cell) else cell


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    """Lines as CSV, none of whose cells is a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(guarded_cell, line) for line in lines)
    return text.getvalue()


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """summary.json of a run folder, replaced as a whole."""
    write_atomically(folder / SUMMARY, strict_json(summary, indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
