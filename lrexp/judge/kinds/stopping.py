"""What ends a run before its schedule does."""

from __future__ import annotations

from collections.abc import Collection

from lrexp.judge.kinds.endings import guess
from lrexp.judge.kinds.facts import Facts

IN_A_ROW = 2  # epochs worth no more than a guess: after one it may find its way back


def stops(kinds: Collection[str], facts: Facts) -> str:
    """The kind of verdict that ends a run after its last epoch so far; empty for none.

    A run that diverged ends whatever is asked for: nothing comes of steps that are no numbers. One
    that collapsed ends where that is asked for, once two epochs in a row are worth no more than a
    guess.

    Args:
        kinds: trainer.stop_on.
        facts: of the run; rows, val and guess_loss are read.
    """
    if facts.diverged:
        return "diverged"
    if "collapsed" not in kinds or len(facts.rows) <= IN_A_ROW:
        return ""
    if not all(row.get("guessing") for row in facts.rows[-IN_A_ROW:]):
        return ""
    said = guess(facts)
    return "collapsed" if said and said["kind"] == "collapsed" else ""


def stopped_in_words(stopped_by: str, monitor: str) -> str:
    """Why training ended before its schedule, for terminal, report and whoever goes on."""
    if stopped_by == "trainer.patience":
        return f"no better {monitor} for trainer.patience epochs"
    return f"it {stopped_by}, which trainer.stop_on names"
