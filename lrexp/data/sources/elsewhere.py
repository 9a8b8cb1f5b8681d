"""Where an image that is not where a table says seems to be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrexp.data.sources.folders import is_image

MOST = 200  # folders beside or below that are looked into


def elsewhere(start: str, paths: Sequence[str], i: int) -> str:
    """What would make the path of image i right, or how far it is; empty when the file is there.

    Args:
        start: the folder that paths start from.
        paths: of all images: `start` and what the table says.
        i: which of them.
    """
    path = paths[i]
    if os.path.exists(path):
        return ""
    folder, written = Path(start), path.removeprefix(f"{start}/")
    for hint, wanted in _candidates(folder, written):
        if wanted.is_file():
            return f"{hint}: {wanted}"
        if found := _alike(wanted):
            also = f"{hint}, and " if wanted != Path(path) else ""
            return f"{also}with the ending or the capitals of {found.name} it is there: {found}"
    there = next((p for p in Path(path).parents if p.is_dir()), Path("/"))
    missing = Path(path).relative_to(there).parts[0]
    return f"{there} is there, and has no {missing}; data.images=FOLDER is what paths start from"


def _candidates(folder: Path, written: str) -> Iterator[tuple[str, Path]]:
    """What could be changed, and the path that it comes to."""
    parts = [part for part in re.split(r"[\\/]+", written) if part not in ("", ".")]
    yield "it is there", folder / written
    slashes = ""
    if "\\" in written:
        slashes = "with / in place of \\ "
        yield f"{slashes}it is there", folder.joinpath(*parts)
    for other in (*folder.parents[:3], *_folders_in(folder)):
        yield f"{slashes}it is there with data.images={other}", other.joinpath(*parts)
    for n in range(1, len(parts)):
        yield f"{slashes}it is there without {'/'.join(parts[:n])}", folder.joinpath(*parts[n:])


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())[:MOST]
    except OSError:
        return []


def _alike(wanted: Path) -> Path | None:
    """A file in the same folder that differs in ending or capitals alone."""
    name = wanted.name.lower()
    try:
        with os.scandir(wanted.parent) as entries:
            found = sorted(e.name for e in entries if _same(e.name.lower(), name))
    except OSError:
        return None
    return wanted.parent / found[0] if found else None


def _same(one: str, other: str) -> bool:
    return is_image(one) and os.path.splitext(one)[0] in (other, os.path.splitext(other)[0])
