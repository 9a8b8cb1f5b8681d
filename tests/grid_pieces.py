"""Work for worker processes to do, quick to import: what a piece names is what happens."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lrexp.config.errors import Terminated
from lrexp.grid.pool.in_worker import LENGTH, Place, Say, Work

IMPORTED_BY = os.getpid()


def start(place: Place) -> Work:
    """A piece is the name of a function here and its arguments; `place` is passed to none."""

    def work(piece: tuple[Any, ...], say: Say) -> Any:
        return globals()[piece[0]](say, *piece[1:])

    return work


def start_with_place(place: Place) -> Work:
    return lambda piece, say: (piece, place)


def start_that_counts(folder: Path, place: Place) -> Work:
    (folder / f"start_{os.getpid()}").touch(exist_ok=False)
    return start(place)


def start_that_fails(place: Place) -> Work:
    raise OSError(f"no room on {place.device}")


def counting(folder: Path) -> Callable[[Place], Work]:
    return partial(start_that_counts, folder)


def whoami(say: Say) -> int:
    return os.getpid()


def double(say: Say, number: int) -> int:
    return 2 * number


def sleep(say: Say, seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def talk(say: Say, *messages: Any) -> str:
    for message in messages:
        say(message)
    return "talked"


def kill(say: Say, number: int, *messages: Any) -> None:
    """Say the messages, then be killed."""
    talk(say, *messages)
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(say: Say, code: int) -> None:
    os._exit(code)


def leave_in_the_middle_of_a_message(say: Any) -> None:
    """Send half a message and be killed, while a child keeps the line open for 3 seconds."""
    say.__self__._line.sendall(LENGTH.pack(1000) + b"half")
    if not os.fork():
        for stream in (0, 1, 2):
            os.close(stream)
        time.sleep(3)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def be_killed_while_sending(say: Say, size: int, after_s: float) -> None:
    threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    while True:
        say(bytes(size))


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
    if how == "exit":
        sys.exit(4)
    if how == "bad text":

        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise MuteError
    if how == "result":
        return lambda: None
    if how == "message":
        say(lambda: None)
    raise AssertionError(how)


def save_when_stopped(say: Say, file: Path, seconds: float = 30.0, signals: int = 0) -> str:
    """Wait; when interrupted, take a while to write what it was. `signals` come from itself."""
    kinds = []
    try:
        say(os.getpid())
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
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


def torch_threads(say: Say) -> tuple[int, int]:
    """What torch says, and how many threads came into being by a large sum."""
    import torch

    before = len(os.listdir("/proc/self/task"))
    torch.ones(2_000_000).add(1).sum()
    return torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before


def start_with_tensor(tensor: Any, place: Place) -> Work:
    def work(piece: Any, say: Say) -> Any:
        if piece == "read":
            return float(tensor[1])
        if piece == "make":
            import torch

            return torch.full((1000,), 3.0)
        tensor[0] = float(piece)
        if piece == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return work
