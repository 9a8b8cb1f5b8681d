"""Image files listed in a CSV."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lrexp.config.errors import ConfigError, UserError, did_you_mean, first_line, nearest
from lrexp.data.source import EncodedImages, Source
from lrexp.data.sources.csv_text import columns_of, read_rows, split_column
from lrexp.data.sources.elsewhere import elsewhere
from lrexp.data.sources.labels import (
    SPLIT_WORDS,
    checked,
    class_labels,
    label_sets,
    refuse_amounts,
    refuse_boxes,
    refuse_masks,
)

log = logging.getLogger(__name__)


def csv_table(
    path: str,
    images: str | None,
    multi_label: bool,
    channels: int,
    group_by: str | None,
    columns: Mapping[str, str],
    encoding: str | None,
    test_only: bool = False,
) -> Source:
    """A CSV with columns path and label, optionally split, and any that data.group_by names.

    Columns of other usual names (filename, class) are recognised where one alone comes into
    question, and semicolons or tabs between columns; the notes say so.

    Classes are the distinct labels, in rising order. An empty label cell is a missing label, or,
    with `multi_label`, an image that has none.

    Args:
        path: the file.
        images: the folder that image paths start from; None: the file's own.
        multi_label: a label cell holds any number of labels, separated by |.
        channels: 1 (grey) or 3 (RGB), which every image is converted to.
        group_by: a column.
        columns: what path, label and split are called in the file, where not so.
        encoding: of the file; None: UTF-8, or UTF-16 where its bytes show it.
        test_only: nothing trains on it: one class will do.

    Raises:
        UserError: when the file or a column is not there, or a cell cannot be used.
    """
    file = Path(path).expanduser()
    try:
        read = read_rows(file, encoding)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "a CSV file with columns path and label, optionally split"
        raise ConfigError("data.path", f"there is no file {file}", hint, path) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    header, rows, lines, how = read
    if test_only:  # the settings are of the file trained on; this one may be called otherwise
        columns = {ours: name for ours, name in columns.items() if name in header}
    called = columns_of(file, read, columns)
    of_path, of_label, of_split = called["path"], called["label"], called.get("split")
    if group_by is not None and group_by not in header:
        raise ConfigError(
            "data.group_by", f"{file} has no such column", did_you_mean(group_by, header), group_by
        )

    def wrong(i: int, column: str, problem: str) -> UserError:
        return UserError(f"{file} line {lines[i]}: {column} {rows[i][column]!r} {problem}")

    for i, row in enumerate(rows):
        if not row[of_path]:
            raise wrong(i, of_path, "names no image")
        if group_by is not None and not row[group_by]:
            raise wrong(i, group_by, "names no group")
        if of_split and row[of_split].lower() not in SPLIT_WORDS:
            match = nearest(row[of_split], SPLIT_WORDS)
            hint = f"did you mean {match}? " if match else ""
            raise wrong(i, of_split, f"is no split\n  {hint}allowed: {', '.join(SPLIT_WORDS)}")
    if multi_label:
        sets = [[p for part in row[of_label].split("|") if (p := part.strip())] for row in rows]
        labels, names = label_sets(sets)
        odd = [name for name in names if ";" in name or "," in name]
        if odd and max(map(len, sets)) < 2:
            hint = "looks like some: they are separated by |"
            log.warning("%s: no image has several labels, and %r %s", file, odd[0], hint)
    else:
        labels, names = class_labels([row[of_label] or None for row in rows])
        if any("|" in name for name in names):
            log.warning("%s: labels contain |; data.multi_label=true reads them as several", file)
    refuse_amounts(names, f"{file}: column {of_label}")
    refuse_masks(names, f"{file}: column {of_label}")
    refuse_boxes(header, [row[of_path] for row in rows], str(file))
    codes, groups = (None, ()) if group_by is None else class_labels([r[group_by] for r in rows])
    codes_of = (SPLIT_WORDS[row[of_split].lower()] for row in rows) if of_split else ()
    split = np.fromiter(codes_of, np.int8) if of_split else None
    notes = [f"{file}: read {', '.join(how)}"] if how else []
    if not of_split and (other := split_column(read, [of_path, of_label, group_by or ""])):
        notes.append(
            f"{file}: column {other} seems to hold splits; data.columns.split={other} says so"
        )
    folder = file.parent if images is None else Path(images).expanduser()
    paths = [str(folder / row[of_path]) for row in rows]
    named = [f"{file} line {n} ({row[of_path]})" for n, row in zip(lines, rows, strict=True)]
    missing = functools.partial(elsewhere, str(folder), paths)
    encoded = EncodedImages(paths.__getitem__, named.__getitem__, channels, None, missing)
    source = Source(encoded, labels, names, split, codes, groups, notes=tuple(notes))
    return source if test_only else checked(source, str(file))
