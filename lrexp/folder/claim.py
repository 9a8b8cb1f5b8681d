"""Where things are: conf/, and run folders with their names, their lock and the newest one."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lrexp.config.errors import UserError
from lrexp.config.names import new_run_id, shown_path
from lrexp.folder.layout import (
    LEADERBOARD,
    LEADERBOARD_TABLE,
    LOCK,
    METRICS,
    MULTIRUN,
    OF_RUN,
    SUMMARY,
)

ELSEWHERE = "choose another folder with hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER with -m)"
OURS = "held by lrexp\n"  # in a lock: whatever of `names` is beside it came after the claim


class Claim:
    """An exclusive hold on a folder, from its creation to the end of the process.

    A second process gets an error instead of a share in the folder. The lock is the kernel's
    (`flock`), so a killed process holds none; its file stays, and says that what lies beside it was
    written by lrexp.
    """

    def __init__(self, folder: Path, resumed: bool = False, names: Sequence[str] = OF_RUN):
        """Create and lock the folder.

        Args:
            folder: to hold.
            resumed: it already holds the run or sweep that goes on in it.
            names: of what is going to be written there.

        Raises:
            UserError: when it cannot be written, is in use, or already holds a run or files of
                these names that lrexp did not write.
        """
        self.folder, self._names = folder, names
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
                raise UserError(_in_use(folder, resumed)) from None
            self._remove_created()
            raise UserError(f"cannot write to {folder}: {error.strerror}\n  {ELSEWHERE}") from error
        left = os.pread(self._lock, len(OURS) + 1, 0).decode(errors="replace")
        self._was_held = left == OURS  # by a process that was killed
        if left and not self._was_held:
            os.close(self._lock)
            raise UserError(_taken(folder, [LOCK]))
        if not resumed:
            self.refuse_taken()
        self.take()

    def refuse_taken(self) -> None:
        """Give the folder free and raise a UserError when it holds a run, or others' files."""
        said = ""
        if self._before & {SUMMARY, MULTIRUN, LEADERBOARD}:
            said = (
                f"{self.folder} already holds a run; nothing was changed\n"
                f"  {ELSEWHERE}, or move that one away"
            )
        try:
            if said:
                raise UserError(said)
            if not self._was_held:
                refuse_others(self.folder, self._names)
        except UserError:
            self.release()
            raise

    def take(self) -> None:
        """Mark the folder as lrexp's, and remove what a killed process had begun to write."""
        if not self._was_held:
            with suppress(OSError):  # of a full disk something else will be said
                os.pwrite(self._lock, OURS.encode(), 0)
        for half_written in leftovers(self.folder, self._names):
            half_written.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the folder free and remove the lock file."""
        with suppress(OSError):  # the folder may have become unwritable meanwhile
            (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def undo(self) -> None:
        """Remove what came into the folder since the claim, for a command that never began.

        From a folder that was there before, only what we may have written.
        """
        ours = {name.partition("/")[0] for name in self._names}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name in self._before or path.name == LOCK:
                continue
            if self.folder not in self._created and path.name not in ours:
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


def refuse_others(folder: Path, names: Sequence[str]) -> None:
    """Raise a UserError when a folder holds any of these, and nobody who may write over them."""
    if others := in_the_way(folder, names):
        raise UserError(_taken(folder, others))


def in_the_way(folder: Path, names: Iterable[str]) -> list[str]:
    """Which of these are in a folder, links that lead nowhere too.

    An empty folder is in nobody's way, a file in the place of a folder is.
    """
    found, is_folder = list[str](), dict[str, bool | None]()  # None: it is not there
    for name in names:  # of a thousand points, whose folders are not there: asked once each
        parent = os.path.dirname(name)
        if parent not in is_folder:
            at = folder / parent
            is_folder[parent] = at.is_dir() if os.path.lexists(at) else None
        path = os.path.join(folder, name)
        if is_folder[parent] is False:
            found.append(parent)
        elif (
            is_folder[parent]
            and os.path.lexists(path)
            and (not os.path.isdir(path) or os.listdir(path))
        ):
            found.append(name)
    return list(dict.fromkeys(found))


def leftovers(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Files that processes which are gone had begun to write, to be renamed to one of these."""
    begun: dict[str, set[str]] = {}
    for name in names:
        place, file = os.path.split(name)
        stem, kind = os.path.splitext(file)
        begun.setdefault(place, set()).update((f".{file}", stem if kind == ".pt" else ""))
    for place, wanted in begun.items():
        try:
            there = os.listdir(folder / place)
        except OSError:  # not begun
            continue
        for file in (file for file in there if file.endswith(".tmp")):
            of, _, process = file.removesuffix(".tmp").rpartition(".")
            if of in wanted and process.isdecimal() and not _runs(int(process)):
                yield folder / place / file


def _runs(process: int) -> bool:
    """Whether another process of this number is there."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def _in_use(folder: Path, resumed: bool) -> str:
    if not resumed:
        return f"{folder} is in use by another lrexp process\n  wait for it, or {ELSEWHERE}"
    what, told = ("sweep", LEADERBOARD_TABLE) if (folder / MULTIRUN).exists() else ("run", METRICS)
    return (
        f"{folder} is in use by another lrexp process, which is at this {what} already\n"
        f"  there is nothing to do but to wait; {told} there says how far it is"
    )


def _taken(folder: Path, names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (
        f"{folder} holds {', '.join(names[:4])}{more}, which this would write over and lrexp did"
        f" not write; nothing was changed\n  {ELSEWHERE}, or move them away"
    )


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
    if in_the_way(outputs, ["latest"]) and not (outputs / "latest").is_symlink():
        return  # it is somebody's file
    link, fresh = outputs / "latest", outputs / f".latest-{new_run_id()}"
    try:
        fresh.symlink_to(folder.relative_to(outputs), target_is_directory=True)
        fresh.replace(link)
    except OSError:  # a file system without links: the folder's path was printed
        fresh.unlink(missing_ok=True)


def resume_command(folder: Path) -> str:
    """What a user types to go on with a run that was stopped."""
    return f"lrexp rerun {shlex.quote(shown_path(folder))} --resume"
