"""Sources: functions that return all images and labels of a data set."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrexp.errors import UserError


@dataclass(frozen=True)
class Source:
    """Every image of a data set, before any split."""

    images: np.ndarray  # (N, C, H, W) uint8
    labels: np.ndarray  # (N,) int64
    class_names: tuple[str, ...]
    in_test: np.ndarray | None = None  # (N,) bool: the data's own test part, if it has one
    white: int = 255  # the largest pixel value, which becomes 1.0

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any pixel, label or order."""
        digest = hashlib.blake2b(digest_size=8)
        for array in (self.images, self.labels):
            digest.update(str((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def digits() -> Source:
    """UCI handwritten digits: 1,797 images of 8×8 in 17 grey levels, from the package itself.

    Alpaydin and Kaynak 1998, doi:10.24432/C50P49, CC BY 4.0.
    """
    with np.load(Path(__file__).parent / "digits.npz") as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    return Source(images[:, None], labels, tuple("0123456789"), white=16)


def mnist(root: str, download: bool) -> Source:
    """MNIST through torchvision: 60,000 training and 10,000 test images of 28×28.

    Args:
        root: the folder that holds (or will hold) MNIST/raw.
        download: fetch it when it is not there.

    Raises:
        UserError: when it is neither there nor can be fetched.
    """
    from torchvision.datasets import MNIST

    folder = Path(root).expanduser()
    files, absent = folder / "MNIST", [p for p in (folder, *folder.parents) if not p.exists()]
    was_there = files.exists()
    try:
        with _short_and_silent():
            parts = [MNIST(str(folder), train=train, download=download) for train in (True, False)]
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError and others
        if not was_there:  # what is there now is the wreck of our download
            shutil.rmtree(files, ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder that others have filled stays
            for created in absent:
                created.rmdir()
        raise UserError(
            f"data=mnist: no MNIST in {folder}, and no download ({_first_line(error)})\n"
            f"  put the four idx files into {folder / 'MNIST' / 'raw'},"
            " or name the folder that holds MNIST/raw with data.root=FOLDER"
        ) from error
    images = np.concatenate([part.data.numpy() for part in parts])[:, None]
    labels = np.concatenate([part.targets.numpy() for part in parts])
    in_test = np.arange(len(labels)) >= len(parts[0])
    return Source(images, labels, tuple("0123456789"), in_test)


@contextlib.contextmanager
def _short_and_silent(seconds: float = 5.0) -> Iterator[None]:
    """A network wait of at most `seconds` per connection, and no progress bars."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(":")
