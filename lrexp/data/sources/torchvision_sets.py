"""Data sets of torchvision."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lrexp.data.source import TEST, TRAIN, Source
from lrexp.errors import UserError


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
    split = np.repeat([TRAIN, TEST], [len(part) for part in parts])
    return Source(images, labels, tuple("0123456789"), split)


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
