"""Asking servers without waiting for them, and libraries that fetch without their own words."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator


def within(seconds: float, *questions: Callable[[], object]) -> list[Exception | None]:
    """Ask all at once; what each raised, None for those that went well.

    The limit holds for everything, looking up names included, which no timeout of a socket covers.
    """
    late = TimeoutError(f"no answer in {seconds:g} s")
    answers: list[Exception | None] = [late] * len(questions)

    def ask(i: int) -> None:
        try:
            questions[i]()
            answers[i] = None
        except Exception as error:
            answers[i] = error

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(len(questions))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(answers)


@contextlib.contextmanager
def quiet(wait_s: float | None = None) -> Iterator[None]:
    """Without what libraries print, warn of and log; no wait for an answer exceeds `wait_s`."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "timm")]
    levels, before = [logger.level for logger in loggers], socket.getdefaulttimeout()
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        socket.setdefaulttimeout(before if wait_s is None else wait_s)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        socket.setdefaulttimeout(before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
