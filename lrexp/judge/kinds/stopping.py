"""What ends a run before its schedule does."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from lrexp.judge.kinds.endings import guess
from lrexp.judge.kinds.facts import Facts, Row

IN_A_ROW = 2  # epochs worth no more than a guess: after one it may find its way back


def stops(kinds: Collection[str], facts: Facts) -> str:
    """The kind of verdict that ends a run after its last epoch so far; empty for none.

    A run that diverged ends whatever is asked for: nothing comes of steps that are no numbers. One
    that collapsed ends where that is asked for, once two epochs in a row are worth no more than a
    guess.

    Args:
        kinds: trainer.stop_on.
        facts: of the run; rows, val and guess_loss are read. Of the rows those of `telling` do.
    """
    if facts.diverged:
        return "diverged"
    if "collapsed" not in kinds or len(facts.rows) <= IN_A_ROW:
        return ""
    if not all(row.get("guessing") for row in facts.rows[-IN_A_ROW:]):
        return ""
    said = guess(facts)
    return "collapsed" if said and said["kind"] == "collapsed" else ""


def telling(rows: Sequence[Row], before: Sequence[Row] = ()) -> list[Row]:
    """The rows that `stops` depends on: the best that was no guess, and the last.

    Args:
        rows: of the epochs since it was asked last.
        before: what it said then.
    """
    every = [*before, *rows]
    learned = [row for row in every if not row.get("guessing") and math.isfinite(row["val/loss"])]
    best = min(learned, key=lambda row: row["val/loss"], default=None)
    last = every[-IN_A_ROW - 1 :]
    return last if best is None or any(row is best for row in last) else [best, *last]


def stopped_in_words(stopped_by: str, monitor: str) -> str:
    """Why training ended before its schedule, for terminal, report and whoever goes on."""
    if stopped_by == "trainer.patience":
        return f"no better {monitor} for trainer.patience epochs"
    return f"it {stopped_by}, which trainer.stop_on names"
