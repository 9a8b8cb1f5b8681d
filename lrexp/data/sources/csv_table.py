"""Image files listed in a CSV."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lrexp.config.errors import ConfigError, UserError, did_you_mean, nearest
from lrexp.data.source import EncodedImages, Source
from lrexp.data.sources.labels import SPLIT_WORDS, checked, class_labels, label_sets

log = logging.getLogger(__name__)


def csv_table(
    path: str,
    images: str | None,
    multi_label: bool,
    channels: int,
    group_by: str | None,
    test_only: bool = False,
) -> Source:
    """A CSV with columns path and label, optionally split, and any that data.group_by names.

    Classes are the distinct labels, in rising order. An empty label cell is a missing label, or,
    with `multi_label`, an image that has none.

    Args:
        path: the file; columns are separated by tabs when it ends with .tsv.
        images: the folder that image paths start from; None: the file's own.
        multi_label: a label cell holds any number of labels, separated by |.
        channels: 1 (grey) or 3 (RGB), which every image is converted to.
        group_by: a column.
        test_only: nothing trains on it: one class will do.

    Raises:
        UserError: when the file or a column is not there, or a cell cannot be used.
    """
    file = Path(path).expanduser()
    rows, lines = _read(file, path)
    header = list(rows[0])
    for column in ("path", "label"):
        if column not in header:
            raise UserError(
                f"{file} has no column {column}\n  its columns: {', '.join(header)};"
                " needed: path, label; optional: split"
            )
    if group_by is not None and group_by not in header:
        raise ConfigError(
            "data.group_by", f"{file} has no such column", did_you_mean(group_by, header), group_by
        )

    def wrong(i: int, column: str, problem: str) -> UserError:
        return UserError(f"{file} line {lines[i]}: {column} {rows[i][column]!r} {problem}")

    for i, row in enumerate(rows):
        if not row["path"]:
            raise wrong(i, "path", "names no image")
        if group_by is not None and not row[group_by]:
            raise wrong(i, group_by, "names no group")
        if "split" in header and row["split"].lower() not in SPLIT_WORDS:
            match = nearest(row["split"], SPLIT_WORDS)
            hint = f"did you mean {match}? " if match else ""
            raise wrong(i, "split", f"is no split\n  {hint}allowed: {', '.join(SPLIT_WORDS)}")
    if multi_label:
        sets = [[p for part in row["label"].split("|") if (p := part.strip())] for row in rows]
        labels, names = label_sets(sets)
        odd = [name for name in names if ";" in name or "," in name]
        if odd and max(map(len, sets)) < 2:
            hint = "looks like some: they are separated by |"
            log.warning("%s: no image has several labels, and %r %s", file, odd[0], hint)
    else:
        labels, names = class_labels([row["label"] or None for row in rows])
        if any("|" in name for name in names):
            log.warning("%s: labels contain |; data.multi_label=true reads them as several", file)
    codes, groups = (None, ()) if group_by is None else class_labels([r[group_by] for r in rows])
    codes_of = (SPLIT_WORDS[row["split"].lower()] for row in rows)
    split = np.fromiter(codes_of, np.int8) if "split" in header else None
    folder = file.parent if images is None else Path(images).expanduser()
    paths = [str(folder / row["path"]) for row in rows]
    called = [f"{file} line {n} ({row['path']})" for n, row in zip(lines, rows, strict=True)]
    encoded = EncodedImages(paths.__getitem__, called.__getitem__, channels, None)
    source = Source(encoded, labels, names, split, codes, groups)
    return source if test_only else checked(source, str(file))


def _read(file: Path, given: str) -> tuple[list[Mapping[str, str]], list[int]]:
    """Rows by column, every cell stripped, and their lines in the file."""
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    rows: list[Mapping[str, str]] = []
    lines: list[int] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    problem = f"has {len(cells)} cells, the header {len(header)}"
                    raise UserError(f"{file} line {reader.line_num}: {problem}")
                rows.append(dict(zip(header, map(str.strip, cells), strict=True)))
                lines.append(reader.line_num)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "a CSV file with columns path and label, optionally split"
        raise ConfigError("data.path", f"there is no file {file}", hint, given) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as UTF-8 CSV: {error}") from error
    if not rows:
        raise UserError(f"{file} lists no images")
    if len(set(header)) < len(header):
        raise UserError(f"{file} has two columns of one name: {', '.join(header)}")
    return rows, lines
