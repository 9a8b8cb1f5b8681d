"""Holding a folder: a claim file made, renewed and taken over; writes of a late holder refused.

A claim file is made by O_EXCL. One whose owner is gone (see `lrexp.folder.owner`) is replaced as a
whole by a file that only one program at a time can make, and only while it still is the one that
was judged. So it names one owner at any time, and who holds the folder is whom it names.

`refuse_late` looks there before anything that this program writes into the folder takes effect.
What remains is a program that is stopped between that look and the rename after it, for longer than
STALE_S. Such a late rename puts one whole file in the place of another of the same name: a point
still has one summary, and so one row of a leaderboard. A late row goes into a metrics.jsonl that
nobody reads any more, since who goes on in a folder makes that file anew.

The counter is written in its place and through the open descriptor (`pwrite` of a fixed length): it
is whole at any time, and that of a late owner goes into the file that was replaced, never into its
successor, of which no rename could be sure.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lrexp.config.errors import TakenOver
from lrexp.folder.layout import NEXT_OWNER, OWNER
from lrexp.folder.owner import (
    BOOT,
    HOST,
    STALE_S,
    Owner,
    Sight,
    Watched,
    is_foreign,
    lock,
    look,
    owner_in,
)

log = logging.getLogger(__name__)

RENEW_S = 10.0
JOIN_S = 5.0  # a file server that hangs shall not keep a program from ending
AGAIN_S = (0.01, 0.05, 0.2, 0.5)  # between looks at what cannot be read for a moment

# called by the thread that renews, once a folder is lost
on_loss: list[Callable[[], None]] = []
_held: dict[str, Hold] = {}  # by path, with a slash at the end
_turn = threading.Lock()
_renewing: tuple[threading.Thread, threading.Event] | None = None  # who does, and that it ends
_LATE = "it stops without writing anything there"


class HeldError(Exception):
    """Somebody who lives holds a folder: its owner, None where the claim file is not lrexp's."""

    def __init__(self, owner: Owner | None):
        super().__init__(owner)
        self.owner = owner


class Hold:
    """A folder that this program holds, as its claim file says.

    Args:
        folder: absolute.
        owner: this program.
        file: the claim file, open; None: it is for another program to renew.
    """

    def __init__(self, folder: Path, owner: Owner, file: int | None = None):
        self.folder, self.owner, self._file = folder, owner, file
        self.lost = ""  # who has the folder instead

    @property
    def renewed_here(self) -> bool:
        """Whether it is for this process to renew: a fork has the same objects."""
        return self._file is not None and not self.lost and self.owner.pid == os.getpid()

    def renew(self) -> None:
        """Count on, so that others see that this program lives; an OSError where that fails."""
        with _turn:  # nobody closes the file meanwhile
            if self._file is not None:
                self.owner = replace(self.owner, counter=self.owner.counter + 1)
                _write(self._file, self.owner)

    def refuse_late(self) -> None:
        """Raise TakenOver when the folder is no longer held; an OSError as `loss` does."""
        if loss := self.loss():
            raise TakenOver(loss)

    def loss(self) -> str:
        """Why the folder is no longer held, in words; empty while it is.

        Raises:
            OSError: when the claim file cannot be read.
        """
        self.lost = self.lost or self._loss()
        return self.lost

    def _loss(self) -> str:
        file, text = self.folder / OWNER, None
        for again_s in (*AGAIN_S, None):
            text = look(file, lock_too=False).text
            if text and _names(text, self.owner):
                return ""
            if text and (other := owner_in(text)):
                gone_on = f"{self.folder} was taken over by another lrexp process ({other})"
                return f"{gone_on} while this one gave no sign of life; {_LATE}"
            if text is None and not self.folder.is_dir():  # removed, as the write will say
                return ""
            if again_s:
                time.sleep(again_s)
        if text is None:
            removed = f"{OWNER} was removed, by hand or by whoever took the folder over meanwhile"
            return f"{self.folder} is no longer held by this process: {removed}; {_LATE}"
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))

    def release(self) -> bool:
        """Hold it no longer; whether it was still held. What is lost stays refused."""
        assert self._file is not None
        ours = False
        with suppress(OSError):  # the folder may have become unwritable
            ours = not self.loss()
            if ours:
                (self.folder / OWNER).unlink(missing_ok=True)
        with _turn:
            os.close(self._file)
            self._file = None
            if not self.lost and _held.get(_key(self.folder)) is self:
                del _held[_key(self.folder)]
            over = not any(held.renewed_here for held in _held.values())
        if over and _renewing and _renewing[0].is_alive():
            _renewing[1].set()
            _renewing[0].join(JOIN_S)
        return ours


def hold(folder: Path, watched: Watched | None = None) -> Hold:
    """Hold a folder from now on: at once, unless somebody may live who holds it.

    Then it takes until that is known, STALE_S at most, and a warning says what is waited for.

    Args:
        folder: which is there.
        watched: what is known of its owner already.

    Raises:
        HeldError: when somebody does hold it.
        OSError: when it cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    me, looks = Owner(secrets.token_hex(8), HOST, BOOT, os.getpid()), 0
    watched = watched or Watched()
    while (file := _made(folder / OWNER, me)) is None:
        sight, alive = watched.judged(folder / OWNER)
        if sight.text is not None and is_foreign(sight.text):
            raise HeldError(None)
        if alive and sight.owner:
            raise HeldError(sight.owner)
        if alive is False and sight.text is not None:
            file = _made_instead(folder, me, sight, watched)
            if file is not None:
                break
        looks += 1
        if looks == 2:  # not for what is there in a moment
            _say_waits(folder, sight)
        time.sleep(RENEW_S / 50)
    with suppress(OSError):  # of one who died taking over; one who lives would be too late
        (folder / NEXT_OWNER).unlink()
    held = Hold(folder, me, file)
    with _turn:
        _held[_key(folder)] = held
        _renew_from_now_on()
    return held


def heed(owners: Mapping[str, Owner]) -> None:
    """Write in folders of another program, whose work this one does, only while that holds them.

    Args:
        owners: what `owners` said there.
    """
    for key, owner in owners.items():
        if key not in _held:
            _held[key] = Hold(Path(key), owner)


def owners() -> dict[str, Owner]:
    """The folders that this program holds, by path, for `heed`."""
    return {key: held.owner for key, held in list(_held.items())}


def is_held(folder: Path) -> bool:
    """Whether this program holds a folder, or does work of one that does."""
    return _key(folder) in _held


def refuse_late(file: Path) -> None:
    """Raise TakenOver when a file lies in a folder of this program that is another's by now.

    Or when it is that folder itself.

    It takes a small read for every folder around the file that this program holds, else nothing.

    Raises:
        OSError: when the claim file cannot be read.
    """
    if not _held:
        return
    path = _key(file)
    for key, held in list(_held.items()):
        if path.startswith(key):
            held.refuse_late()


def _key(folder: Path) -> str:
    return os.path.join(os.path.abspath(folder), "")


def _names(text: str, owner: Owner) -> bool:
    found = owner_in(text)
    return found is not None and found.id == owner.id


def _made(file: Path, owner: Owner) -> int | None:
    """A claim file, made, locked and written, open; None where there is a file already."""
    try:
        made = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        return None
    try:
        while lock(made, fcntl.LOCK_EX) is False:  # somebody looks
            time.sleep(0.001)
        _write(made, owner)
    except BaseException:
        os.close(made)
        file.unlink(missing_ok=True)
        raise
    return made


def _write(file: int, owner: Owner) -> None:
    os.pwrite(file, owner.text().encode(), 0)
    os.close(os.dup(file))  # any closing sends it to a file server; fsync would wait for a disk


def _made_instead(folder: Path, me: Owner, judged: Sight, watched: Watched) -> int | None:
    """A claim file in the place of one whose owner is gone; None where another was faster."""
    file, fresh = folder / OWNER, folder / NEXT_OWNER
    if (made := _made(fresh, me)) is None:
        sight, alive = watched.judged(fresh)
        if alive is False and sight.text is not None:  # it died while it took over
            fresh.unlink(missing_ok=True)
        return None
    ours = False
    try:
        if look(file, lock_too=False).text == judged.text:
            with suppress(FileNotFoundError):
                fresh.replace(file)
            ours = _names(look(file, lock_too=False).text or "", me)
    finally:
        if not ours:
            fresh.unlink(missing_ok=True)
            os.close(made)
    return made if ours else None


def _say_waits(folder: Path, sight: Sight) -> None:
    heard = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(sight.written or time.time()))
    log.warning(
        "%s is held by another lrexp process (%s), last heard of %s; it is taken over when that"
        " gives no sign of life for %.0f s",
        *(folder, sight.owner or "unknown", heard, STALE_S),
    )


def _renew_from_now_on() -> None:
    """See to it that a thread of this process renews: a fork has none."""
    global _renewing
    if _renewing is None or _renewing[1].is_set() or not _renewing[0].is_alive():
        over = threading.Event()
        thread = threading.Thread(target=_renew, args=(over,), name="lrexp-owner", daemon=True)
        _renewing = thread, over
        thread.start()


def _renew(over: threading.Event) -> None:
    """Renew all that this program holds, until it holds nothing."""
    while not over.wait(RENEW_S):
        for held in [held for held in list(_held.values()) if held.renewed_here]:
            try:
                held.refuse_late()
                held.renew()
            except TakenOver:
                for tell in list(on_loss):
                    tell()
            except OSError as error:
                log.info("%s could not be renewed: %s", held.folder / OWNER, error)
