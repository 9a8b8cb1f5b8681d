"""Files of a run folder that anybody may have written, read within limits, which are these.

A file is a plain one of a size that a run's has, and lies in its folder, also by links. What it
holds is as deep and as much as a run's, so that reading ends within seconds and a gigabyte.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import yaml

from lrexp.config.errors import UserError
from lrexp.folder.files import plain_cell

MOST_BYTES = 32 * 2**20  # of a text
MOST_DEPTH = 50
MOST_VALUES = 2_000_000  # of a text
MOST_CELLS = 4_000_000  # of a table: two confusion matrices of a thousand classes are two
MOST_TABLE_LINES = 100_000


class NotReadError(ValueError):
    """A file that is left unread, or more than a run's; the text says why."""


def plain_file(file: Path, most: int | None = None) -> None:
    """Refuse what is no file of a folder: a pipe, a device, a link that leads out, a huge one.

    Raises:
        OSError: when there is none.
        ValueError: when it is not to be read.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise NotReadError("it is no file")
    if leads_out(file):
        raise NotReadError("it is a link that leads out of its folder")
    if most is not None and found.st_size > most:
        raise NotReadError(f"it is larger than {most // 2**20} MiB")


def leads_out(path: Path, around: Path | None = None) -> bool:
    """Whether a file or folder lies, links followed, outside of the folder around it.

    That is its own, or what a hidden folder (.hydra) lies in.
    """
    if around is None:
        around = path.parent.parent if path.parent.name.startswith(".") else path.parent
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(around))


def refuse_links(folder: Path, around: Path | None = None, but: str = "") -> None:
    """Raise UserError when what is written in a folder would be written outside of one around.

    Args:
        folder: and what lies below it.
        around: the folder that nothing leads out of, this one by default.
        but: name of a folder in it that is not looked into.
    """
    for at, folders, files in os.walk(folder):
        for path in (Path(at, name) for name in ("", *folders, *files)):
            if path.is_symlink() and leads_out(path, around or folder):
                raise UserError(f"{path} is a link that leads out of the folder")
        if at == str(folder):
            folders[:] = [name for name in folders if name != but]


def text_of(file: Path, errors: str = "strict") -> str:
    """The text of a file, in UTF-8. Raises as `plain_file` does."""
    plain_file(file, MOST_BYTES)
    with file.open("rb") as stream:  # it may have grown since
        return stream.read(MOST_BYTES).decode("utf-8", errors)


def end_of(file: Path, most: int = 64 * 1024) -> str:
    """The end of a text, however long it is. Raises as `plain_file` does."""
    plain_file(file)
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - most))
        return stream.read(most).decode("utf-8", "replace")


def json_of(text: str) -> Any:
    """What a JSON text holds; raises ValueError where it is more than a run's."""
    return tame(json.loads(text))


def yaml_of(text: str) -> Any:
    """What a YAML text holds; raises ValueError or UserError where it is more than a config's."""
    from lrexp.config.saved import bound_yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where there
    try:
        bound_yaml(text)
        return tame(yaml.load(text, Loader=loader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def table_of(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text by heading; raises ValueError where it is more than a run's."""
    lines = text.count("\n") + 1
    columns = text.partition("\n")[0].count(",") + 1
    if lines > MOST_TABLE_LINES or lines * columns > MOST_CELLS:
        raise NotReadError(f"it has {lines} lines of {columns} columns")
    table = csv.DictReader(io.StringIO(text, newline=""))
    table.fieldnames = [plain_cell(name) for name in table.fieldnames or ()]
    return [
        {k: plain_cell(v) if isinstance(v, str) else v for k, v in row.items()} for row in table
    ]


def tame(value: Any) -> Any:
    """The value, its whole numbers beyond any float as infinities; mappings and lists in place.

    Raises:
        ValueError: when it is deeper or larger than what runs write.
    """
    if not isinstance(value, dict | list):
        return _number(value)
    level, seen = [value], 0
    for _ in range(MOST_DEPTH):
        deeper: list[Any] = []
        for section in level:
            pairs = section.items() if isinstance(section, dict) else enumerate(section)
            seen += len(section)
            for key, inner in list(pairs):
                if isinstance(inner, dict | list):
                    deeper.append(inner)
                elif isinstance(inner, int):
                    section[key] = _number(inner)
        if seen > MOST_VALUES:
            raise NotReadError(f"it holds more than {MOST_VALUES} values")
        if not deeper:
            return value
        level = deeper
    raise NotReadError(f"it is nested deeper than {MOST_DEPTH} levels")


def _number(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return float("inf") if value > 0 else float("-inf")
    return value
