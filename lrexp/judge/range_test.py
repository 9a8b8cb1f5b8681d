"""The learning-rate range test: a loss at every rate of a ramp, and the rates that it suggests.

The idea is L. N. Smith's (Cyclical Learning Rates for Training Neural Networks, 2017): raise the
rate step by step while training, and read off where the loss falls and where it no longer does.
Smoothing and the stop follow S. Gugger's and fastai's practice (`Learner.lr_find`).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

SKIPPED = 0.1  # of a ramp's steps at its start, where the average is of few losses
# Standard errors of the average that the loss must fall by to be said to fall. The lowest of many
# averages is some of them below the others by chance.
FALLS = 4.0
LEAST = 10  # losses that anything is read off
DEFAULT = "minimum/10"  # the most hits in scripts/range_test_table.py


@dataclass
class Ramp:
    """The losses of one seed, step by step; the rate rises by the same factor at every step.

    Args:
        seed: of the run that it would be.
        rates: of all steps, in rising order.
        smoothing: β of the average, in [0, 1).
        stop_factor: the ramp ends where the smoothed loss is above so many times its lowest.
    """

    seed: int
    rates: Sequence[float]
    smoothing: float
    stop_factor: float
    losses: list[float] = field(default_factory=list)  # before the step at that rate
    smoothed: list[float] = field(default_factory=list)
    reason: str = ""  # why it ended before its last step
    _sum: float = 0.0

    def see(self, loss: float) -> bool:
        """Note the loss of the next step; whether the ramp is over.

        The smoothed one is v / (1 − β^t), v = β v + (1 − β) loss: an exponential average without
        the pull to the 0 that it begins at. What comes after the end is not noted.
        """
        if self.over:
            return True
        self.losses.append(loss)
        self._sum = self.smoothing * self._sum + (1 - self.smoothing) * loss
        self.smoothed.append(self._sum / (1 - self.smoothing ** len(self.losses)))
        if not math.isfinite(self.smoothed[-1]):
            self.reason = "the loss was no finite number"
        elif self.smoothed[-1] > self.stop_factor * min(self.smoothed):
            self.reason = f"the loss rose above {self.stop_factor:g} × its lowest"
        return self.over

    @property
    def over(self) -> bool:
        """Whether it has ended, by the stop or at its last step."""
        return bool(self.reason) or len(self.losses) == len(self.rates)

    @property
    def usable(self) -> int:
        """Steps that rates are read off: without the one that ended it."""
        return len(self.losses) - bool(self.reason)

    @property
    def lowest(self) -> int:
        """The step with the lowest smoothed loss among those that are used."""
        first = _first(self.usable)
        return first + int(np.argmin(self.smoothed[first : self.usable]))

    @property
    def falls(self) -> bool:
        """Whether the smoothed loss falls by more than its noise.

        Compared are the mean of the first fifth of the losses and the lowest average. The noise of
        an average of independent losses is their standard deviation times √((1 − β) / (1 + β));
        the deviation is taken from one loss to the next, which the fall itself hardly moves.
        """
        n = self.usable
        if n < LEAST:
            return False
        start = float(np.mean(self.losses[: n // 5]))
        steps = np.diff(self.losses[: self.lowest + 1])
        deviation = float(np.sqrt(np.mean(steps**2) / 2)) if len(steps) else 0.0
        noise = deviation * math.sqrt((1 - self.smoothing) / (1 + self.smoothing))
        return start - self.smoothed[self.lowest] > FALLS * noise

    @property
    def open_end(self) -> bool:
        """Whether the loss is still at its lowest where the ramp ends."""
        return not self.reason and self.lowest >= self.usable - max(1, round(0.02 * self.usable))


def ramp_rates(low: float, high: float, steps: int) -> list[float]:
    """rate(t) = low · (high / low)^(t / (steps − 1)), for t from 0 to steps − 1.

    >>> [round(rate, 3) for rate in ramp_rates(0.001, 10, 5)]
    [0.001, 0.01, 0.1, 1.0, 10.0]
    """
    return [low * (high / low) ** (t / (steps - 1)) for t in range(steps)]


def steepest(log_rates: Sequence[float], losses: Sequence[float]) -> float:
    """The place where the loss falls fastest with log rate, before it is lowest.

    The slope is that of central differences. Smith's and fastai's `steep`.
    """
    slopes = np.gradient(np.asarray(losses, float), np.asarray(log_rates, float))
    end = max(1, int(np.argmin(losses)))
    return log_rates[int(np.argmin(slopes[: end + 1]))]


def minimum_tenth(log_rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate with the lowest loss, a rule of thumb of fastai's course."""
    return log_rates[int(np.argmin(losses))] - math.log(10)


def valley(log_rates: Sequence[float], losses: Sequence[float]) -> float:
    """The middle of the longest falling subsequence of the loss, by its steps.

    Not every step of it need fall: those that rise are passed over. The first of equally long ones
    counts. After fastai's `valley` (ESRI's rule); that goes back half the length from the end.
    """
    falling = longest_falling(losses)
    return log_rates[falling[len(falling) // 2]]


def longest_slope(log_rates: Sequence[float], losses: Sequence[float]) -> float:
    """The middle of the longest stretch over which the loss falls at every single step."""
    rises = [i for i in range(1, len(losses)) if losses[i] >= losses[i - 1]]
    bounds = [0, *rises, len(losses)]
    stretches = [(end - start, -start) for start, end in itertools.pairwise(bounds)]
    length, start = max(stretches)
    return log_rates[-start + (length - 1) // 2]


def longest_falling(values: Sequence[float]) -> list[int]:
    """Places of the longest subsequence in which each value is below the one before it.

    By the longest that ends at each place, in O(n log n): of places where the same number end,
    later ones have no lower value.

    >>> longest_falling([5, 6, 4, 4.5, 3, 7, 2])
    [0, 2, 4, 6]
    """
    ends: list[list[int]] = []  # places where a longest one of so many values ends
    before: list[int] = []
    for i, value in enumerate(values):
        length = bisect_left(ends, -value, key=lambda some: -values[some[-1]])
        fewer = ends[length - 1] if length else []
        first = bisect_right(fewer, value, key=values.__getitem__)  # of those with a higher value
        before.append(fewer[first] if length else -1)
        if length == len(ends):
            ends.append([])
        ends[length].append(i)
    place, found = ends[-1][0], list[int]()
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]


# What each is called, how it is found, and in words. The rate is e to what it finds.
RULES: dict[str, tuple[Callable[[Sequence[float], Sequence[float]], float], str]] = {
    "steepest": (steepest, "where the loss falls fastest"),
    "minimum/10": (minimum_tenth, "a tenth of the rate with the lowest loss"),
    "valley": (valley, "the middle of the longest falling subsequence"),
    "longest slope": (longest_slope, "the middle of the longest unbroken fall"),
}


def suggestions(ramp: Ramp) -> dict[str, float]:
    """Rate by rule; none where the loss does not fall by more than its noise."""
    if not ramp.falls:
        return {}
    used = slice(_first(ramp.usable), ramp.usable)
    logs, losses = [math.log(rate) for rate in ramp.rates[used]], ramp.smoothed[used]
    return {name: math.exp(rule(logs, losses)) for name, (rule, _) in RULES.items()}


def _first(steps: int) -> int:
    """The first step that something is read off."""
    return int(SKIPPED * steps)


@dataclass(frozen=True)
class Suggestion:
    """What a rule suggests: the median over seeds in log rate, the lowest and the highest."""

    rule: str
    rate: float
    low: float
    high: float
    seeds: int  # whose ramps suggest anything

    def as_dict(self) -> dict[str, float | int | str]:
        """As summary.json has it."""
        return vars(self)


def suggested(ramps: Sequence[Ramp]) -> list[Suggestion]:
    """What every rule suggests; empty where the loss falls in no more than half of the ramps."""
    found = [rates for ramp in ramps if (rates := suggestions(ramp))]
    if 2 * len(found) <= len(ramps):
        return []
    made = []
    for name in RULES:
        rates = sorted(rates[name] for rates in found)
        middle = math.exp(float(np.median(np.log(rates))))
        made.append(Suggestion(name, middle, rates[0], rates[-1], len(rates)))
    return made


def default_of(made: Sequence[Suggestion]) -> Suggestion | None:
    """The suggestion that is given when one is asked for."""
    return next((one for one in made if one.rule == DEFAULT), None)
