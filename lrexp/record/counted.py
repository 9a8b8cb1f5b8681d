"""How far something is that takes a while, before anything trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from lrexp.record.console import terminal

FRAME_S = 0.2  # between two states of a live line
FIRST_S, EVERY_S = 1.0, 5.0  # of lines where no terminal shows a live one


@contextmanager
def counting(
    what: str,
    total: int,
    console: Console | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Callable[[], None]]:
    """Show how many of something are done; yields what is called after each of them.

    A terminal shows one live line, from the start until all are done. Elsewhere it is a line now
    and then, and none where it takes less than a second.

    Args:
        what: is done, such as "composing points".
        total: how many there are.
        console: where to show it; standard output by default.
        clock: seconds.
    """
    console = console or terminal(Console)
    done, due = 0, clock() + (FRAME_S if console.is_terminal else FIRST_S)

    def line() -> str:
        return f"{what}  {done:,} of {total:,}"

    with Live(line(), console=console, auto_refresh=False, transient=True) as live:

        def count() -> None:
            nonlocal done, due
            done += 1
            if clock() < due or done == total:
                return
            if console.is_terminal:
                due = clock() + FRAME_S
                live.update(line(), refresh=True)
            else:
                due = clock() + EVERY_S
                console.print(line(), highlight=False)

        yield count
