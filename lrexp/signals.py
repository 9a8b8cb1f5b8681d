"""Ctrl-C and SIGTERM as exceptions that stop a run, and none that is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lrexp.errors import Terminated


@contextmanager
def signals_stop() -> Iterator[list[type[BaseException]]]:
    """Turn Ctrl-C into `KeyboardInterrupt` and SIGTERM into `Terminated`, and keep a list of them.

    Python drops an exception that a signal happens to raise inside a destructor; whoever looks at
    the list now and then stops all the same.
    """
    asked: list[type[BaseException]] = []
    kinds = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}

    def stop(number: int, _: Any) -> None:
        asked.append(kinds[signal.Signals(number)])
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
