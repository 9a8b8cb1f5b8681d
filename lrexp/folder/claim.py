"""Run folders: who may write there, what is in the way, what was left behind, the newest one."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lrexp.config.errors import UserError
from lrexp.config.names import new_run_id, shown_path
from lrexp.folder.hold import HeldError, Hold, hold
from lrexp.folder.layout import (
    LEADERBOARD,
    LEADERBOARD_TABLE,
    LOCK,
    METRICS,
    MULTIRUN,
    OF_CLAIM,
    OF_RUN,
    OWNER,
    SUMMARY,
)
from lrexp.folder.owner import FORGOTTEN_S, Owner, Watched, is_foreign, lock, look

ELSEWHERE = "choose another folder with hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER with -m)"
OURS = "held by lrexp\n"  # in a lock: whatever of `names` is beside it came after the claim


class InUseError(UserError):
    """A folder that another program holds."""


class Claim:
    """An exclusive hold on a folder, from its creation to the end of the process.

    A second process gets an error instead of a share in the folder. Between programs of one kernel
    its lock decides (`flock`), so a killed process holds none; its file stays, and says that what
    lies beside it was written by lrexp. Between hosts the claim file does (`lrexp.folder.hold`),
    and a process that was taken for dead gets an error when it goes on writing.
    """

    def __init__(
        self,
        folder: Path,
        resumed: bool = False,
        names: Sequence[str] = OF_RUN,
        watched: Watched | None = None,
    ):
        """Create and lock the folder; this waits while it is not known whether its owner lives.

        Args:
            folder: to hold.
            resumed: it already holds the run or sweep that goes on in it.
            names: of what is going to be written there.
            watched: what is known of its owner already.

        Raises:
            InUseError: when it is in use.
            UserError: when it cannot be written, or already holds a run or files of these names
                that lrexp did not write.
        """
        self.folder, self._names, self._resumed = folder, names, resumed
        self._lock, self._created = -1, list[Path]()
        self._hold: Hold | None = None
        try:
            self._created += [p for p in (folder, *folder.parents) if not p.exists()]  # inner first
            folder.mkdir(parents=True, exist_ok=True)
            self._before = {path.name for path in folder.iterdir()} - {*OF_CLAIM}
            self._lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
            if lock(self._lock, fcntl.LOCK_EX) is False:
                raise BlockingIOError
            if not os.path.samefile(self._lock, folder / LOCK):
                raise BlockingIOError
        except OSError as error:
            if self._lock >= 0:
                os.close(self._lock)
            gone = isinstance(error, FileNotFoundError) and self._lock >= 0  # with its last owner
            if isinstance(error, BlockingIOError) or gone:
                raise _in_use(folder, resumed, _owner_of(folder)) from None
            self._remove_created()
            raise _unwritable(folder, error) from error
        left = os.pread(self._lock, len(OURS) + 1, 0).decode(errors="replace")
        self._was_held = left == OURS  # by a process that was killed
        if left and not self._was_held:
            os.close(self._lock)
            raise UserError(_taken(folder, [LOCK]))
        try:
            self._hold = self._held(resumed, watched)
            self._before.update(os.listdir(folder))  # what came while it waited is another's
        except BaseException:
            if not left:  # nobody has marked it, so it is new
                (folder / LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            self._remove_created()
            raise
        if not resumed:
            self.refuse_taken()
        self.take()

    def _held(self, resumed: bool, watched: Watched | None) -> Hold:
        """The folder, held against other hosts too; a UserError where it is not to be had."""
        try:
            if not resumed and self._holds_run() and look(self.folder / OWNER).alive is None:
                raise UserError(self._run_there())  # whether its owner lives or not: no waiting
            return hold(self.folder, watched)
        except HeldError as error:
            if error.owner is None:
                raise UserError(_taken(self.folder, [OWNER])) from None
            raise _in_use(self.folder, resumed, error.owner) from None
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _holds_run(self) -> bool:
        return bool(self._before & {SUMMARY, MULTIRUN, LEADERBOARD})

    def _run_there(self) -> str:
        return (
            f"{self.folder} already holds a run; nothing was changed\n"
            f"  {ELSEWHERE}, or move that one away"
        )

    def refuse_taken(self) -> None:
        """Give the folder free and raise a UserError when it holds a run, or others' files."""
        self._resumed = False
        try:
            if self._holds_run():
                raise UserError(self._run_there())
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
        """Give the folder free and remove the files that claimed it, unless they are another's."""
        with suppress(OSError):  # the folder may have become unwritable meanwhile
            if self._hold is None or self._hold.release():
                (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def undo(self) -> None:
        """Remove what came into the folder since the claim, for a command that never began.

        From a folder that was there before, only what we may have written; from one that another
        program has taken over, nothing, nor from one that is gone on with: jobs of the sweep that
        was stopped may begin there at any time.
        """
        with suppress(OSError):
            if not self._resumed and self._hold is not None and not self._hold.loss():
                self._remove_since_claim()
        self.release()
        self._remove_created()

    def _remove_since_claim(self) -> None:
        ours = {name.partition("/")[0] for name in self._names}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name in self._before or path.name in OF_CLAIM:
                continue
            if self.folder not in self._created and path.name not in ours:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

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
    """Files that processes which are gone had begun to write, to be renamed to one of these.

    None below the folder where somebody has claimed one of its own: whether the owner lives, who
    claims that one finds out, and tidies there.
    """
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
            if of not in wanted or not process.isdecimal() or _runs(int(process)):
                continue
            if not _is_another_owners(folder, place):
                yield folder / place / file


def _is_another_owners(folder: Path, place: str) -> bool:
    """Whether a place below a folder, or one between the two, has been claimed by itself."""
    while place and not os.path.lexists(folder / place / OWNER):
        place = os.path.dirname(place)
    return bool(place)


def _runs(process: int) -> bool:
    """Whether another process of this number is there."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def _owner_of(folder: Path) -> Owner | None:
    """Who holds a folder whose lock is held, if that can be read."""
    for again_s in (0.02, 0.1, 0.0):  # it may have got the lock this moment
        with suppress(OSError):
            if owner := look(folder / OWNER, lock_too=False).owner:
                return owner
        time.sleep(again_s)
    return None


def _in_use(folder: Path, resumed: bool, owner: Owner | None) -> InUseError:
    who = f"{folder} is in use by another lrexp process" + (f" ({owner})" if owner else "")
    if not resumed:
        return InUseError(f"{who}\n  wait for it, or {ELSEWHERE}")
    what, told = ("sweep", LEADERBOARD_TABLE) if (folder / MULTIRUN).exists() else ("run", METRICS)
    return InUseError(
        f"{who}, which is at this {what} already\n"
        f"  there is nothing to do but to wait; {told} there says how far it is"
    )


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {folder}: {error.strerror}\n  {ELSEWHERE}")


def _taken(folder: Path, names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (
        f"{folder} holds {', '.join(names[:4])}{more}, which this would write over and lrexp did"
        f" not write; nothing was changed\n  {ELSEWHERE}, or move them away"
    )


@contextmanager
def owned(folder: Path, watched: Watched | None = None) -> Iterator[None]:
    """Hold the folder of a point while it is run by another program than its sweep's.

    It is created if need be. What a killed process had begun to write there is removed.

    Raises:
        InUseError: when somebody who lives holds it.
        UserError: when it cannot be written.
        TakenOver: at writing, once another program has taken this one for dead.
    """
    claim = Claim(folder, resumed=True, watched=watched)
    try:
        yield
    finally:
        claim.release()


def in_use(folder: Path) -> bool:
    """Whether a program holds the folder of a run, or that of the grid around it, now.

    Of one on another host this is said for ten minutes after its last sign of life: a reader does
    not wait for the next one. `lrexp.folder.owner.Watched` tells sooner.
    """
    return any(_is_locked(place) or _is_claimed(place) for place in (folder, folder.parent))


def _is_locked(folder: Path) -> bool:
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
    except OSError:
        return False
    try:
        return lock(file, fcntl.LOCK_SH) is False
    except OSError:
        return True
    finally:
        os.close(file)


def _is_claimed(folder: Path) -> bool:
    try:
        sight = look(folder / OWNER)
    except OSError:
        return False
    if sight.text is not None and is_foreign(sight.text):
        return False
    if sight.alive is None:
        return time.time() - sight.written < FORGOTTEN_S
    return sight.alive


def work_in(folder: Path) -> None:
    """Show as long as this process lives that it writes below a folder which another one holds."""
    with suppress(OSError):  # a file system without locks on folders
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)  # and is never closed


def wait_until_left(folder: Path, patience_s: float) -> bool:
    """Wait until no process works in a folder any more; whether that came to be."""
    opened, until = os.open(folder, os.O_RDONLY), time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
            except OSError:
                return True
            else:
                return True
    finally:
        os.close(opened)


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
