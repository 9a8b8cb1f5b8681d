"""Where things are: conf/, and run folders with their names, their lock and the newest one."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from contextlib import suppress
from pathlib import Path

from lrexp.config.errors import UserError
from lrexp.config.names import new_run_id, shown_path
from lrexp.folder.layout import LOCK, MULTIRUN, SUMMARY

ELSEWHERE = "choose another folder with hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER with -m)"


class Claim:
    """An exclusive hold on a folder, from its creation to the end of the process.

    A second process gets an error instead of a share in the folder. The lock is the kernel's
    (`flock`), so a killed process leaves none behind.
    """

    def __init__(self, folder: Path, resumed: bool = False):
        """Create and lock the folder.

        Args:
            folder: to hold.
            resumed: it already holds the sweep that goes on in it.

        Raises:
            UserError: when it cannot be written, is in use, or already holds a run.
        """
        self.folder = folder
        self._lock, self._created = -1, list[Path]()
        try:
            self._created += [p for p in (folder, *folder.parents) if not p.exists()]  # inner first
            folder.mkdir(parents=True, exist_ok=True)
            self._before = {path.name for path in folder.iterdir()} - {LOCK}
            self._lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samefile(self._lock, folder / LOCK):
                raise BlockingIOError
        except OSError as error:
            if self._lock >= 0:
                os.close(self._lock)
            gone = isinstance(error, FileNotFoundError) and self._lock >= 0  # with its last owner
            if isinstance(error, BlockingIOError) or gone:
                raise UserError(
                    f"{folder} is in use by another lrexp process\n  wait for it, or {ELSEWHERE}"
                ) from None
            self._remove_created()
            raise UserError(f"cannot write to {folder}: {error.strerror}\n  {ELSEWHERE}") from error
        if not resumed and self._before & {SUMMARY, MULTIRUN}:
            self.release()
            raise UserError(
                f"{folder} already holds a run; nothing was changed\n"
                f"  {ELSEWHERE}, or move that one away"
            )

    def release(self) -> None:
        """Give the folder free and remove the lock file."""
        with suppress(OSError):  # the folder may have become unwritable meanwhile
            (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def undo(self) -> None:
        """Remove what came into the folder since the claim, for a command that never began."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name in self._before or path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.release()
        self._remove_created()

    def _remove_created(self) -> None:
        with suppress(OSError):  # not empty: another run lives there
            for folder in self._created:
                folder.rmdir()


def in_use(folder: Path) -> bool:
    """Whether a program holds the folder of a run, or that of the grid around it, now."""
    for place in (folder, folder.parent):
        try:
            lock = os.open(place / LOCK, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
    return False


def link_latest(folder: Path) -> None:
    """Point outputs/latest at a run or sweep folder that lies under outputs/."""
    outputs = next((p for p in folder.parents if p.name == "outputs"), None)
    if outputs is None:
        return
    link, fresh = outputs / "latest", outputs / f".latest-{new_run_id()}"
    try:
        fresh.symlink_to(folder.relative_to(outputs), target_is_directory=True)
        fresh.replace(link)
    except OSError:  # a file system without links: the folder's path was printed
        fresh.unlink(missing_ok=True)


def resume_command(folder: Path) -> str:
    """What a user types to go on with a run that was stopped."""
    return f"lrexp rerun {shlex.quote(shown_path(folder))} --resume"
