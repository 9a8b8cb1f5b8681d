"""From where to where an axis is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from lrexp.judge.words import is_share


def limits(key: str, values: Sequence[float]) -> tuple[float, float, bool]:
    """From where to where an axis shows values in place, and whether it is logarithmic.

    A loss that spans more than a factor of ten is drawn by its logarithm; what is more than a
    thousand times the best goes to the edge. On a linear axis that is what lies further from the
    middle half of the values than six times its width. Shares are shown whole.
    """
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if is_share(key):
        return low, high, False
    if not key.startswith(("gap/", "overfit/")) and 0 < low < high / 10:
        return low, max(value for value in ordered if value <= 1000 * low), True
    quarter = (len(ordered) - 1) // 4
    first, last = ordered[quarter], ordered[-1 - quarter]
    room = 6 * (last - first)
    if room == 0:
        return low, high, False
    inside = [value for value in ordered if first - room <= value <= last + room]
    return inside[0], inside[-1], False
