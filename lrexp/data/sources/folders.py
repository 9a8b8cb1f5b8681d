"""Files below a folder: links are followed, loops are not, and what is passed over is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from lrexp.config.errors import UserError, few, first_line
from lrexp.data.images import extensions

# Folders that systems and programs leave beside one's own; others of theirs begin with a point.
LEFT_BEHIND = (
    "__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "system volume information",
)  # fmt: skip
# Endings of images that are not read, and what to do with them.
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "convert them to JPEG"),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ai", ".pdf"), "draw them as PNG"),
    **dict.fromkeys((".dcm", ".dicom"), "write their 16-bit grey levels as PNG or TIFF"),
    **dict.fromkeys((".nii", ".nii.gz", ".mha", ".nrrd"), "write their slices as PNG or TIFF"),
    **dict.fromkeys(
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".raw"),
        "develop them to JPEG or PNG",
    ),
    **dict.fromkeys((".exr", ".hdr", ".jxl", ".psd", ".xcf", ".tga", ".ico", ".fits"),
                    "convert them to PNG or TIFF"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".pt"), "write their arrays as PNG or TIFF"),
    **dict.fromkeys((".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"), "unpack them"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".webm", ".mkv"), "write their frames as JPEG or PNG"),
}  # fmt: skip
HIDDEN = "hidden or left by the system"
BROKEN = "links that lead nowhere"
ENDLESS = "pipes or devices"  # opening one waits for whoever writes into it
AGAIN = "folders that are read already, where a link leads back to them"
BESIDE = "images in no folder of a class"
NO_IMAGES = "no images"

Identity = tuple[int, int]  # of a folder, by whatever path it is reached


class PassedOver:
    """What below a folder is not read, and why.

    Args:
        top: the folder, from which paths are named.
    """

    def __init__(self, top: str):
        self._top = top
        self._paths: dict[str, list[str]] = {}  # why → paths

    def add(self, why: str, path: str) -> None:
        """Keep that a file or folder is not read."""
        self._paths.setdefault(why, []).append(path)

    def add_file(self, path: str, readable: str = "") -> None:
        """Keep that of a file that is no image to be read; or, if it is one, for that reason."""
        kind = ending(path)
        if kind in UNREAD:
            self.add(f"{kind}, which is not read ({UNREAD[kind]})", path)
        elif not readable:
            self.add(NO_IMAGES, path)
        elif is_image(path):
            self.add(readable, path)

    def has(self, why: str) -> bool:
        """Whether anything was passed over for that reason."""
        return why in self._paths

    def lines(self) -> list[str]:
        """For every reason how many, the first few, and what to do."""
        return [self._line(why, paths) for why, paths in self._paths.items()]

    def _line(self, why: str, paths: list[str]) -> str:
        if why == NO_IMAGES:
            kinds = Counter(ending(path) or "without an ending" for path in paths)
            why += f" ({few([f'{n:,} {kind}' for kind, n in kinds.most_common()], 4)})"
        named = [os.path.relpath(path, self._top) for path in paths]
        return f"passed over {len(paths):,} as {why}: {few(named, 3)}"


def ending(name: str) -> str:
    """How a name ends, in small letters: `.jpg`, `.nii.gz`."""
    stem, last = os.path.splitext(os.path.basename(name).lower())
    return f"{os.path.splitext(stem)[1]}{last}" if last in (".gz", ".bz2", ".xz") else last


def is_image(name: str) -> bool:
    """Whether a name is that of an image that can be read."""
    return os.path.splitext(name)[1].lower() in extensions()


def folders_in(folder: Path, passed: PassedOver) -> list[str]:
    """Names of the folders inside, linked ones too, in order.

    Raises:
        UserError: when the folder may not be read.
    """
    above = _above(str(folder))
    files, folders = _listed(str(folder), passed)
    for name in files:
        passed.add_file(os.path.join(folder, name), BESIDE)
    return [n for n in folders if _enters(os.path.join(folder, n), above, passed)]


def files_below(
    folder: Path, passed: PassedOver, wanted: Callable[[str], bool] = is_image
) -> Iterator[str]:
    """Files below a folder, those of linked folders too, in order; each folder is entered once.

    Raises:
        UserError: when a folder may not be read.
    """
    yield from _below(str(folder), _above(str(folder)), passed, wanted)


def _below(
    folder: str, entered: set[Identity], passed: PassedOver, wanted: Callable[[str], bool]
) -> Iterator[str]:
    files, folders = _listed(folder, passed)
    for path in (os.path.join(folder, name) for name in files):
        if wanted(path):
            yield path
        else:
            passed.add_file(path)
    for inner in (os.path.join(folder, name) for name in folders):
        if _enters(inner, entered, passed):
            entered.add(_identity(inner))
            yield from _below(inner, entered, passed, wanted)


def _enters(folder: str, entered: set[Identity], passed: PassedOver) -> bool:
    again = _identity(folder) in entered
    if again:
        passed.add(AGAIN, folder)
    return not again


def _listed(folder: str, passed: PassedOver) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders inside, in order."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read: {error.strerror or first_line(error)}"
        ) from error
    for entry in found:
        if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
            passed.add(HIDDEN, entry.path)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            passed.add(BROKEN, entry.path)
        elif not (entry.is_dir() or entry.is_file()):
            passed.add(ENDLESS, entry.path)
        else:
            (folders if entry.is_dir() else files).append(entry.name)
    return files, folders


def _above(folder: str) -> set[Identity]:
    """The folder and all that it lies in, by the path given and by the one its links come to."""
    paths = {Path(os.path.abspath(folder)), Path(os.path.realpath(folder))}
    return {_identity(str(p)) for path in paths for p in (path, *path.parents)}


def _identity(folder: str) -> Identity:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def in_utf8(path: str) -> str:
    r"""A path as tables and JSON can hold it: bytes of it that are no UTF-8 become `\xff`.

    >>> print(in_utf8("ü.png"), in_utf8("\udcfc.png"))
    ü.png \xfc.png
    """
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
