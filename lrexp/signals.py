"""Ctrl-C and SIGTERM as exceptions that stop a run, and none that is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lrexp.errors import Terminated

_heard: list[list[type[BaseException]]] = []  # by those under way, the innermost last


@contextmanager
def signals_stop() -> Iterator[list[type[BaseException]]]:
    """Turn Ctrl-C into `KeyboardInterrupt` and SIGTERM into `Terminated`, and keep a list of them.

    Python drops an exception that a signal happens to raise inside a destructor; whoever looks at
    the list now and then stops all the same. What comes while another of these is open inside is
    in the lists of both.
    """
    asked: list[type[BaseException]] = []
    kinds = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}

    def stop(number: int, _: Any) -> None:
        kind = kinds[signal.Signals(number)]
        for each in _heard:
            each.append(kind)
        raise kind

    try:
        before = {number: signal.signal(number, stop) for number in kinds}
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield asked
        return
    _heard.append(asked)
    try:
        yield asked
    finally:
        _heard.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
