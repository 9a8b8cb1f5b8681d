"""From the bytes of a CSV file to rows by column: its encoding, its delimiter, its columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.data.sources.folders import is_image
from lrexp.data.sources.labels import LABEL_COLUMNS, SPLIT_WORDS

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# What we call a column → what others call it, in small letters.
KNOWN = {
    "path": (
        "path", "filename", "file_name", "filepath", "file_path", "file", "image", "image_path",
        "img_path", "image_file", "image_name", "img", "img_name", "image_id",
    ),
    "label": (*LABEL_COLUMNS, "class_name", "classname", "species", "diagnosis"),
    "split": ("split",),
}  # fmt: skip
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # that a file begins with


class Rows(NamedTuple):
    """A CSV file as text, every cell stripped."""

    header: list[str]
    cells: list[Mapping[str, str]]  # by column
    lines: list[int]  # of each row in the file
    how: list[str]  # what had to be found out to read it, in words


def read_rows(file: Path, encoding: str | None) -> Rows:
    """The rows of a CSV file, whose delimiter is the one that gives its header most columns.

    Args:
        file: to read.
        encoding: of its text; None: UTF-8, or UTF-16 where its bytes show it.

    Raises:
        OSError: when it cannot be opened.
        UserError: when it is no such text, or a row does not fit the header.
    """
    text, found = _decoded(file, encoding)
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    first = text.partition("\n")[0].rstrip("\r")
    said = first.lower().startswith("sep=")  # as spreadsheets write it above the header
    cut = {d: next(csv.reader([first], delimiter=d), []) for d in (usual, *DELIMITERS)}
    delimiter = first[4:5] if said else max(cut, key=lambda d: len(cut[d]))
    how = [f"as {found.upper()}"] if encoding is None and found != "utf-8" else []
    if delimiter != usual:
        how.append(f"with {DELIMITERS.get(delimiter, repr(delimiter))} between columns")
    header, cells, lines = [], [], []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            stripped = [cell.strip() for cell in row]
            if not any(stripped) or (said and reader.line_num == 1):
                continue
            if not header:
                header = stripped
                continue
            if len(row) != len(header):
                problem = f"has {len(row)} cells, the header {len(header)}"
                raise UserError(f"{file} line {reader.line_num}: {problem}")
            cells.append(dict(zip(header, stripped, strict=True)))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{file} cannot be read as {found.upper()} CSV: {error}") from error
    if not cells:
        raise UserError(f"{file} lists no images")
    if len(set(header)) < len(header):
        raise UserError(f"{file} has two columns of one name: {', '.join(header)}")
    return Rows(header, cells, lines, how)


def _decoded(file: Path, encoding: str | None) -> tuple[str, str]:
    """The text of a file, and its encoding."""
    content = file.read_bytes()
    found = encoding or _MARKS.get(content[:2], "utf-8")
    unmarked = encoding is None and found == "utf-8"
    if unmarked and content[:200].count(0) > len(content[:200]) / 3:  # UTF-16 all the same
        found = "utf-16-le" if content[1:200:2].count(0) > content[:200:2].count(0) else "utf-16-be"
    try:
        return content.decode("utf-8-sig" if found == "utf-8" else found), found
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        line, number = content[start:].splitlines()[0], content.count(b"\n", 0, start) + 1
        problem = f"line {number} has the byte 0x{content[error.start]:02x}"
        hint = "data.encoding=NAME says what it is written in"
        if found == "utf-8":
            read = line.decode("cp1252", errors="replace")
            hint = f"data.encoding=cp1252, which older programs of Windows write, makes it: {read}"
        said = f"{file} cannot be read as {found.upper()} CSV: {problem}"
        raise UserError(f"{said}\n  {hint}") from error


def columns_of(
    file: Path, rows: Rows, given: Mapping[str, str], wanted: Sequence[str] = tuple(KNOWN)
) -> dict[str, str]:
    """What the columns path, label and, where there is one, split are called in a file.

    Args:
        file: what messages call it.
        rows: of it; what was recognised is added to their `how`.
        given: some of the names, by ours.
        wanted: which of them to look for.

    Raises:
        UserError: when there is no such column, or several could be meant.
    """
    columns: dict[str, str] = {}
    for ours, known in ((name, KNOWN[name]) for name in wanted):
        free = [name for name in rows.header if name not in given.values()]
        guesses = [name for name in free if name.lower() in known]
        if ours == "path" and len(guesses) > 1:  # rather files than numbers or titles
            guesses = [name for name in guesses if is_image(rows.cells[0][name])] or guesses
        if ours in given:
            columns[ours] = given[ours]
            if given[ours] not in rows.header:
                hint = did_you_mean(given[ours], rows.header)
                raise ConfigError(f"data.columns.{ours}", f"{file} has no such column", hint,
                                  given[ours])  # fmt: skip
        elif ours in free:
            columns[ours] = ours
        elif len(guesses) > 1:
            problem = f"{file} has several columns that may be the {ours}: {', '.join(guesses)}"
            raise UserError(f"{problem}\n  choose with data.columns.{ours}=NAME")
        elif guesses:
            columns[ours] = guesses[0]
            rows.how.append(f"column {guesses[0]} as {ours}")
        elif ours != "split":
            raise UserError(_no_column(file, rows, ours))
    return columns


def _no_column(file: Path, rows: Rows, ours: str) -> str:
    lines = [
        f"{file} has no column {ours}",
        f"its columns: {', '.join(rows.header)}; needed: path, label; optional: split",
        "data.columns={path: NAME, label: NAME} says what they are called",
    ]
    if any(map(is_image, rows.header)):
        lines[2] = "its first line lists an image: write a line path,label above it"
    return "\n  ".join(lines)


def split_column(rows: Rows, taken: Sequence[str]) -> str | None:
    """A column that holds nothing but names of splits, the training one among them."""
    for name in (name for name in rows.header if name not in taken):
        words = {row[name].lower() for row in rows.cells}
        codes = {SPLIT_WORDS.get(word) for word in words}
        if None not in codes and len(codes) > 1 and SPLIT_WORDS["train"] in codes:
            return name
    return None
