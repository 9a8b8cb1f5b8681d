"""Ctrl-C and SIGTERM as exceptions that stop a run, and none that is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lrexp.errors import Terminated

ONCE_S = 1.0  # a signal repeated so soon is the same wish: a wrapper passed it on as well

_inside = 0  # how many `whole` are open
_waiting: list[type[BaseException]] = []  # until the last of them ends


@contextmanager
def signals_stop() -> Iterator[list[type[BaseException]]]:
    """Turn Ctrl-C into `KeyboardInterrupt` and SIGTERM into `Terminated`, and keep a list of them.

    Python drops an exception that a signal happens to raise inside a destructor; whoever looks at
    the list now and then stops all the same.
    """
    asked: list[type[BaseException]] = []
    kinds = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}
    raised_at = -ONCE_S

    def stop(number: int, _: Any) -> None:
        nonlocal raised_at
        asked.append(kinds[signal.Signals(number)])
        if _inside:
            _waiting.append(asked[-1])
        elif time.monotonic() - raised_at >= ONCE_S:
            raised_at = time.monotonic()
            raise asked[-1]

    try:
        before = {number: signal.signal(number, stop) for number in kinds}
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def whole() -> Iterator[None]:
    """What is in it is done as a whole: a signal that arrives meanwhile stops the run after it."""
    global _inside
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside and _waiting:
            stop, _waiting[:] = _waiting[0], []
            raise stop
