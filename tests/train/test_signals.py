"""No request to stop is lost."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

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
