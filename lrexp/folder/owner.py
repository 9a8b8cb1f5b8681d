"""Who owns a folder that several hosts may share: a claim file in it, whose owner keeps counting.

The claim file holds strict JSON: `owner` (random), `host` (shown to people), `boot` (of the kernel,
else the host: programs of one kernel are on one host), `pid`, and a `counter` that goes up every
few seconds. It is locked (`flock`) from before anything is in it, and stays open. Of its owner

- whoever is kept out by that lock knows that it lives, and whoever of the same kernel is not, that
  it is gone;
- where the lock says nothing (another host, a file system without locks) it is gone once the
  counter stood still for STALE_S by the reader's own clock. The file's time is another host's.

`lrexp.folder.hold` makes claim files, and takes over those whose owner is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrexp.folder.layout import OWNER

STALE_S = 60.0
FORGOTTEN_S = 600.0  # of silence by the file's own time, which is enough for a reader's word
GONE_S = 3.0  # that a file must be missing which was there: file servers are slow to show one
MOST_BYTES = 1024
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
BEGINS, DIGITS = '{"owner": "', 12  # of the counter, which has blanks on its left
_RECORD = re.compile(
    r'\{"owner": "(\w+)", "host": "([\w.-]*)", "boot": "([\w.-]*)", "pid": (\d{1,10}),'
    rf' "counter": ([ \d]{{{DIGITS - 1}}}\d)\}}\n',
    re.ASCII,
)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name.strip(), flags=re.ASCII)[:64]


def _kernel() -> str:
    """What programs of one kernel have in common, and no others."""
    try:
        return _plain(Path("/proc/sys/kernel/random/boot_id").read_text())
    except OSError:
        return HOST


HOST = _plain(os.uname().nodename)
BOOT = _kernel()


@dataclass(frozen=True)
class Owner:
    """What a claim file says."""

    id: str
    host: str
    boot: str
    pid: int
    counter: int = 0

    def __str__(self) -> str:
        return f"PID {self.pid} on {self.host}"

    def text(self) -> str:
        """The claim file."""
        about = f'"host": "{self.host}", "boot": "{self.boot}", "pid": {self.pid}'
        return f'{BEGINS}{self.id}", {about}, "counter": {self.counter:{DIGITS}}}}\n'


def owner_in(text: str) -> Owner | None:
    """The owner that a claim file names; None for what is not whole.

    >>> owner_in(Owner("a", "node7", "b", 12, 3).text())
    Owner(id='a', host='node7', boot='b', pid=12, counter=3)
    """
    found = _RECORD.fullmatch(text)
    return Owner(found[1], found[2], found[3], int(found[4]), int(found[5])) if found else None


def is_foreign(text: str) -> bool:
    """Whether a file is none of lrexp's, not even the beginning of one."""
    return not (text.startswith(BEGINS) or BEGINS.startswith(text))


def lock(file: int, operation: int) -> bool | None:
    """`flock` without waiting: whether it was had; None where the file system has no locks."""
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


@dataclass(frozen=True)
class Sight:
    """A claim file as it was when somebody looked."""

    text: str | None  # None: there is none; empty: it could not be read at that moment
    locked: bool | None = None  # by its owner; None: not known
    written: float = 0.0  # seconds since the epoch, by another's clock

    @property
    def owner(self) -> Owner | None:
        """Whom it names, if that could be read."""
        return owner_in(self.text or "")

    @property
    def alive(self) -> bool | None:
        """Whether there is an owner who lives, as far as one look tells."""
        if self.text is None or self.locked:
            return self.text is not None
        here = self.owner is not None and self.owner.boot == BOOT
        return False if here and self.locked is False else None


def look(file: Path, lock_too: bool = True) -> Sight:
    """A claim file as it is now.

    Args:
        file: the claim file.
        lock_too: try its lock as well.

    Raises:
        OSError: when it is there and must not be read.
    """
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            return Sight("" if error.errno == errno.ESTALE else None)
        raise
    try:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode):
            return Sight("no file")
        had = lock(opened, fcntl.LOCK_SH) if lock_too else None
        text = os.read(opened, MOST_BYTES).decode("ascii", "replace")
        return Sight(text, None if had is None else not had, about.st_mtime)
    except OSError as error:
        if error.errno == errno.ESTALE:  # it was replaced under our hands
            return Sight("")
        raise
    finally:
        os.close(opened)


class Watched:
    """Which claimed folders have an owner who lives, as far as looking again and again tells.

    A folder costs one look at one file, and no memory where nobody has claimed it.

    Args:
        clock: seconds, of this host.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        # the last look at each, since when it looks like that, whether it has changed before that
        self._seen: dict[Path, tuple[Sight, float, bool]] = {}

    def alive(self, folder: Path) -> bool | None:
        """Whether a folder has an owner who lives; None: that is not known yet, look again.

        What was never seen to change is not known to live, until it is known to be gone: STALE_S
        after the first look. A claim file that has vanished is gone GONE_S later.

        Raises:
            OSError: when there is a claim file that must not be read.
        """
        return self.judged(folder / OWNER)[1]

    def judged(self, file: Path) -> tuple[Sight, bool | None]:
        """A claim file as it is now, and whether its owner lives."""
        now, sight = self._clock(), look(file)
        before, since, moved = self._seen.get(file, (None, now, False))
        if before is None and sight.text is None:
            return sight, False
        if before is None or sight.text != before.text:
            since, moved = now, bool(before and before.text and sight.text)
        self._seen[file] = sight, since, moved
        if sight.alive is None:
            return sight, False if now - since >= STALE_S else True if moved else None
        if sight.text is None and now - since < GONE_S:
            return sight, None
        if sight.text is None:
            del self._seen[file]
        return sight, sight.alive
