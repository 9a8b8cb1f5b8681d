"""Asking servers without waiting for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def within(seconds: float, *questions: Callable[[], object]) -> list[Exception | None]:
    """Ask all at once; what each raised, None for those that went well.

    The limit holds for everything, looking up names included, which no timeout of a socket covers.
    """
    late = TimeoutError(f"no answer within {seconds:g} s")
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
