"""The run, sweep or folder that a word on a command line means."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lrexp.config.errors import UserError


def named_path(name: str) -> Path:
    """The path that is meant; `latest` is the newest run or sweep, unless there is such a path."""
    path = Path(name)
    with suppress(RuntimeError):  # nobody has that home folder: then nothing is there
        path = path.expanduser()
    newest = name == "latest" and not os.path.exists(path)
    return Path("outputs", "latest") if newest else path


def named_folder(name: str) -> Path:
    """The folder that is meant, absolute.

    Raises:
        UserError: when there is none.
    """
    path = named_path(name)
    if not os.path.isdir(path):
        raise UserError(f"there is no folder {name}\n  give that of a run or a sweep, or `latest`")
    return path.resolve()
