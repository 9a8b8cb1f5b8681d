"""How far a grid's composing is, on a terminal and in a pipe."""

from __future__ import annotations

import io

from rich.console import Console

from lrexp.record.counted import counting


def shown(seconds_each: float, total: int, terminal: bool = False) -> str:
    """What is shown where each of so many takes so long."""
    out, now = io.StringIO(), 0.0
    console = Console(file=out, force_terminal=terminal, width=80, highlight=False)
    with counting("composing points", total, console, lambda: now) as count:
        for _ in range(total):
            now += seconds_each
            count()
    return out.getvalue()


def test_a_pipe_gets_a_line_now_and_then_and_none_of_what_is_quick() -> None:
    assert shown(0.1, 9) == ""
    assert shown(0.5, 2) == ""  # done
    assert shown(0.125, 80).splitlines() == [
        "composing points  8 of 80",
        "composing points  48 of 80",
    ]


def test_a_terminal_shows_one_line_from_the_start_and_wipes_it() -> None:
    text = shown(1.0, 3, terminal=True)
    assert text.index("0 of 3") < text.index("1 of 3") < text.index("2 of 3")
    assert text.endswith("\x1b[2K")  # the line is empty


def test_the_line_is_gone_when_something_is_wrong() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, highlight=False)
    try:
        with counting("composing points", 3, console):
            raise ValueError
    except ValueError:
        console.print("wrong")
    assert out.getvalue().rpartition("\x1b[2K")[2].strip() == "wrong"
