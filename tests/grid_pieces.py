"""Work for worker processes to do, quick to import: what a piece names is what happens."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from lrexp.config.errors import Terminated
from lrexp.grid.pool.in_worker import Place, Say, Work
from lrexp.train import signals

IMPORTED_BY = os.getpid()
LONG_S = 600.0  # nobody waits for its end


@contextmanager
def own_fork_server(preload: Sequence[str]) -> Iterator[None]:
    """Workers come from a fork server that imports these modules, and ends."""
    from processes import may_go_on

    from lrexp.grid.pool.workers import start_server

    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server._stop()  # of other tests
    start_server(preload, Place())
    may_go_on()
    yield
    server._stop()


def start(place: Place, say: Say) -> Work:
    """A piece is the name of a function here and its arguments; `place` is passed to none."""
    return lambda piece: globals()[piece[0]](say, *piece[1:])


def start_with_place(place: Place, say: Say) -> Work:
    return lambda piece: (piece, place)


def start_that_counts(folder: Path, place: Place, say: Say) -> Work:
    (folder / f"start_{os.getpid()}").touch(exist_ok=False)
    return start(place, say)


def start_that_fails(place: Place, say: Say) -> Work:
    raise OSError(f"no room on {place.device}")


def counting(folder: Path) -> Callable[[Place, Say], Work]:
    return partial(start_that_counts, folder)


def whoami(say: Say) -> int:
    return os.getpid()


def double(say: Say, number: int) -> int:
    return 2 * number


def meet(say: Say, folder: Path, own: str, other: str) -> str:
    """Wait until the other one is here, too."""
    (folder / own).touch()
    for _ in range(12_000):
        if (folder / other).exists():
            return "met"
        time.sleep(0.01)
    return "alone"


def wait_long(say: Say) -> None:
    say(os.getpid())
    time.sleep(LONG_S)


def talk(say: Say, *messages: Any) -> str:
    for message in messages:
        say(message)
    return "talked"


def kill(say: Say, number: int, *messages: Any) -> None:
    """Say the messages, then be killed."""
    talk(say, *messages)
    os.kill(os.getpid(), number)
    time.sleep(LONG_S)


def leave(say: Say, code: int) -> None:
    os._exit(code)


def leave_a_child(say: Say) -> None:
    """Be killed while a child goes on, which says its process id before."""
    if not (child := os.fork()):
        time.sleep(LONG_S)
        os._exit(0)
    say(child)
    os.kill(os.getpid(), signal.SIGKILL)


def maybe_be_killed(say: Say, number: int, chance: float) -> int:
    """Return its number, or be killed at some random moment."""
    import random

    if random.random() < chance:
        after_s = random.uniform(0, 0.01)
        threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            say(b"x" * random.randrange(300_000))
    return number


class OnlyHereError(Exception):
    """An exception that pickles, and cannot be unpickled: it needs two arguments."""

    def __init__(self, what: str, where: str):
        super().__init__(f"{what} in {where}")


def fail(say: Say, how: str) -> Any:
    if how == "plainly":
        raise KeyError("the key")
    if how == "unpicklable":
        error = ValueError("has a function")
        error.hook = lambda: None  # type: ignore[attr-defined]
        raise error
    if how == "two arguments":
        raise OnlyHereError("a hole", "the wall")
    raise AssertionError(how)


def save_when_stopped(say: Say, file: Path, itself: bool = False) -> str:
    """Wait; when interrupted, take a while to write what it was.

    With `itself` the first signal is its own, and another one as close as one could wish.
    """
    kinds = []
    try:
        say(os.getpid())
        if itself:
            signals.ONCE_S = LONG_S
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LONG_S)
        return "not stopped"
    except (Terminated, KeyboardInterrupt) as stop:
        kinds.append(type(stop).__name__)
        say("saving")
        time.sleep(0.3)
        file.write_text(" ".join(kinds))
        raise


def ignore_signals(say: Say) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    say(os.getpid())
    while True:
        time.sleep(60)


def is_imported_by(say: Say) -> tuple[int, int]:
    return IMPORTED_BY, os.getpid()


def environment(say: Say) -> dict[str, str]:
    return dict(os.environ)


def show(say: Say, text: str) -> None:
    print(text)
    print(text, file=sys.stderr)


def start_with_tensor(tensor: Any, place: Place, say: Say) -> Work:
    def work(piece: Any) -> Any:
        import torch

        if piece == "threads":  # what torch says, and how many more come into being by a large sum
            before = len(os.listdir("/proc/self/task"))
            torch.ones(2_000_000).add(1).sum()
            return torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before
        if piece == "read":
            return float(tensor[1])
        tensor[0] = float(piece)
        if piece == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return work
