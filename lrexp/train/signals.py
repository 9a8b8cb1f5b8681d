"""Ctrl-C, SIGTERM and SIGHUP as exceptions that stop a run, and none that is lost."""

from __future__ import annotations

import _thread
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lrexp.config.errors import Terminated
from lrexp.folder.hold import on_loss

ONCE_S = 1.0  # a signal repeated so soon is the same wish: a wrapper passed it on as well

_heard: list[list[type[BaseException]]] = []  # by those under way, the innermost last
_inside = 0  # how many `whole` are open
_waiting: list[type[BaseException]] = []  # until the last of them ends
_raised_at = -math.inf  # time.monotonic() of the last one that stopped something


@contextmanager
def signals_stop() -> Iterator[list[type[BaseException]]]:
    """Turn Ctrl-C into `KeyboardInterrupt`, the others into `Terminated`, and keep a list of them.

    SIGHUP, which comes when the terminal closes, stays ignored where it is (`nohup`).

    Python drops an exception that a signal happens to raise inside a destructor; whoever looks at
    the list now and then stops all the same. What comes while another of these is open inside is
    in the lists of both. A folder that another program has taken over stops what is under way too.
    """
    global _raised_at
    asked: list[type[BaseException]] = []
    _raised_at = -math.inf
    kinds: dict[signal.Signals, type[BaseException]] = {
        signal.SIGTERM: Terminated,
        signal.SIGINT: KeyboardInterrupt,
    }
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        kinds[signal.SIGHUP] = Terminated

    def stop(number: int, _: Any) -> None:
        kind = kinds[signal.Signals(number)]
        for each in _heard:
            each.append(kind)
        if time.monotonic() - _raised_at < ONCE_S:
            return
        _waiting.append(kind)
        if not _inside:
            _raise_first()

    try:
        before = {number: signal.signal(number, stop) for number in kinds}
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield asked
        return
    _heard.append(asked)
    on_loss.append(_stop_main)
    try:
        yield asked
    finally:
        on_loss.remove(_stop_main)
        _heard.pop()
        for number, handler in before.items():
            if handler is not None:  # one that is not Python's can be read by nobody
                signal.signal(number, handler)


class whole:  # noqa: N801  read as a statement; a contextmanager costs a microsecond more
    """What is in it is done as a whole: a signal that arrives meanwhile stops the run after it."""

    def __enter__(self) -> None:
        global _inside
        _inside += 1

    def __exit__(self, *_: object) -> None:
        global _inside
        _inside -= 1
        if not _inside and _waiting:
            _raise_first()


def answered() -> None:
    """Forget the signals that wait: what was done meanwhile is what they asked for."""
    _waiting.clear()


def _stop_main() -> None:
    """From another thread, as if SIGTERM had come."""
    _thread.interrupt_main(signal.SIGTERM)


def _raise_first() -> NoReturn:
    global _raised_at
    first, _raised_at = _waiting[0], time.monotonic()
    _waiting.clear()
    raise first
