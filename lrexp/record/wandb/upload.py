"""Uploads of runs that were recorded without W&B's server, through its own client."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrexp.config.errors import UserError
from lrexp.folder.claim import in_use
from lrexp.record.wandb.allowed import MOST_BYTES, neutral_folder, why_not
from lrexp.record.wandb.client import why_offline
from lrexp.record.wandb.file import (
    artifact_files,
    goes_on,
    is_offline,
    mark_synced,
    synced,
    unsent,
    uploading,
)

QUIET_S = 600  # an upload that marks no run as done for so long is given up


@dataclass(frozen=True)
class Upload:
    """One `.wandb` file that has to be sent."""

    file: Path
    base: Path  # where relative paths in it begin
    problem: str = ""  # why it is not sent; empty when it is
    to: str = ""  # project and server


def unsynced(folder: Path) -> list[Path]:
    """Files of runs that W&B lacks, wholly or in part, oldest first; links are not followed.

    Offline runs without the client's `.synced` mark, and online ones that ended before the server
    had every row.
    """
    found = []
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            file = Path(path, name)
            if not (name.startswith("run-") and name.endswith(".wandb")):
                continue
            if file.is_symlink() or not file.is_file() or file.stat().st_size > MOST_BYTES:
                continue
            if unsent(file).exists() or (is_offline(file) and not synced(file).exists()):
                found.append(file)
    return sorted(found, key=lambda file: file.parent.name.removeprefix("offline-"))


def checked(file: Path, again: bool) -> Upload:
    """Whether a file can be sent as it is."""
    try:
        wanted = list(artifact_files(file))
    except ValueError as error:  # protobuf's, of what is no record
        return Upload(file, Path.cwd(), f"it cannot be read: {error}")
    base = _base(file, [path for path, _ in wanted])
    if foreign := why_not(file, base):
        return Upload(file, base, foreign)
    lost = [path for path, _ in wanted if not (base / path).is_file()]
    twice = "sent once more, rows may be there twice: look at the run on W&B,"
    problem = ""
    if uploading(file).exists() and not again:
        problem = (
            f"its upload was begun and broke off; {twice} delete it there if in doubt, then use"
            " --again"
        )
    elif in_use(file.parent.parent.parent):
        problem = "it is still being written"
    elif not is_offline(file) and goes_on(file) and not again:
        problem = (
            "it is the later part of a continued run and was sent in part;"
            f" {twice} then use --again"
        )
    elif lost:
        problem = f"a file of its artifact is gone: {lost[0]}"
    elif changed := [path for path, size in wanted if (base / path).stat().st_size != size]:
        problem = f"a file of its artifact has changed: {changed[0]}"
    return Upload(file, base, problem)


def _base(file: Path, paths: list[str]) -> Path:
    """The folder that relative paths written down in a file begin at.

    It was the working directory of the run. The run's folder tells it, also after a move: the
    path of the run's own files ends with their place below the run's folder.
    """
    run = file.parent.parent.parent
    for path in map(Path, paths):
        for parent in () if path.is_absolute() else path.parents:
            if parent.name == run.name and (run / path.relative_to(parent)).is_file():
                return run.parents[len(parent.parts) - 1]
    return Path.cwd()


def send(uploads: list[Upload]) -> list[Upload]:
    """Send runs through the client; returns those that it did not send, and why."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    if why := why_offline():
        raise UserError(f"nothing was uploaded: {why}")
    left: list[Upload] = []
    columns = (TextColumn("uploads"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(uploads))
        for base in dict.fromkeys(upload.base for upload in uploads):
            here = [upload for upload in uploads if upload.base == base]
            for upload in here:
                synced(upload.file).unlink(missing_ok=True)
                uploading(upload.file).touch()
            said = _client(here, base, lambda done: progress.update(task, advance=done))
            for upload in here:
                if synced(upload.file).exists():
                    mark_synced(upload.file)
                    uploading(upload.file).unlink(missing_ok=True)
                else:
                    left.append(Upload(upload.file, base, said))
    return left


def _client(uploads: list[Upload], base: Path, advance: Callable[[int], None]) -> str:
    """Run `wandb sync` for files of one working directory; returns its last words."""
    files = [upload.file for upload in uploads]
    # -P: nothing is imported from its working directory
    command = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", *map(str, files)]
    with tempfile.TemporaryFile("w+") as output, neutral_folder(files, base) as (here, environment):
        client = subprocess.Popen(
            command,
            cwd=here,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        done, changed = 0, time.monotonic()
        try:
            while client.poll() is None and time.monotonic() - changed < QUIET_S:
                time.sleep(0.1)
                now = sum(synced(file).exists() for file in files)
                if now != done:
                    advance(now - done)
                    done, changed = now, time.monotonic()
        finally:
            client.terminate()
            client.wait(30)
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    return lines[-1].removeprefix("wandb: ") if lines else "the client did not say why"
