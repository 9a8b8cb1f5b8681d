"""No request to stop is lost."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from lrexp.config.errors import Terminated
from lrexp.train.signals import signals_stop


def test_a_signal_that_a_destructor_swallowed_is_known_to_all_around_it() -> None:
    with signals_stop() as outer:
        with signals_stop() as inner, suppress(Terminated):  # as Python does in a destructor
            os.kill(os.getpid(), signal.SIGTERM)
        with signals_stop() as later:
            pass
    assert outer == inner == [Terminated]
    assert later == []


def test_a_terminal_that_closes_stops_like_sigterm_unless_that_is_ignored() -> None:
    with signals_stop() as asked, pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGHUP)
    assert asked == [Terminated]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with signals_stop() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_is_not_pythons_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`signal.signal` calls it None, and does not take that back."""
    put: list[object] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: put.append(handler))
    with signals_stop():
        pass
    assert put
    assert None not in put
