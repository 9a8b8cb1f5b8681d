"""What is so of a run, by outcomes on a large test set and by other runs; no verdict is asked.

Whatever depends on chance may be true, false, or None: not clear, and counted for neither side.
Over test images a difference is clear beyond 3 paired standard errors, and absent below 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lrexp.judge.noise import WITHIN, judged

ERRORS, POINT = 2.0, 0.01  # by which one configuration is better than another, over seeds
CLEAR, ABSENT = 3.0, 1.0  # standard errors over images
UNDONE = 0.01  # nats and accuracy: a group that can be undone at less cost has learned nothing

Difference = tuple[float, float]  # a mean, and its standard error
Truth = dict[str, bool | None]


@dataclass(frozen=True)
class Outcome:
    """What became of a run, on test images; differences are paired over these.

    Of one that diverged no weights are tested: it counts as answering with the largest class.
    """

    problem: str
    policy: str
    rate: float
    seed: int
    folder: str
    status: str  # finished or diverged
    accuracy: float  # of the best weights
    last_accuracy: float
    rise: Difference  # loss of the last weights above that of the best
    fall: Difference  # accuracy of the last weights below that of the best
    peak: Difference  # highest balanced accuracy in validation above chance and untrained network
    best_learned: tuple[Difference, ...]  # balanced accuracy of the best weights above ...
    last_learned: tuple[Difference, ...]  # ... the largest class, and the untrained network
    above_largest: Difference  # accuracy of the last weights above that of the largest class
    undone: Mapping[str, tuple[float, float]]  # by group: |Δ loss|, |Δ accuracy| without its steps
    random_frozen: bool  # whether there are tensors that nobody has trained
    planted: tuple[str, ...] = ()


def beyond(difference: Difference) -> bool | None:
    """Whether a difference is above zero; None where that is not clear."""
    mean, se = difference
    if math.isnan(mean) or math.isnan(se):
        return None
    if judged(mean, se, CLEAR) != WITHIN and mean > 0:
        return True
    return False if mean <= ABSENT * se else None


def every(found: Iterable[bool | None]) -> bool | None:
    """Whether all are true: false where one is false, else None where one is not clear."""
    known = list(found)
    return False if False in known else None if None in known else True


def negated(value: bool | None) -> bool | None:
    """The opposite; what is not clear stays so."""
    return None if value is None else not value


def better(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether scores are higher than others, paired by seed: by 2 standard errors and a point.

    >>> better([0.9, 0.92, 0.91], [0.8, 0.83, 0.8]), better([0.9, 0.92], [0.895, 0.915])
    (True, False)
    """
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(apart) / len(apart)
    variance = sum((d - mean) ** 2 for d in apart) / (len(apart) - 1)
    return mean > POINT and mean > ERRORS * math.sqrt(variance / len(apart))


@dataclass
class Scores:
    """Test accuracies of a configuration, seed by seed."""

    best: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)


def by_rate(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], dict[float, Scores]]:
    """Scores of all seeds in order, by problem and policy, then by rate."""
    found: dict[tuple[str, str], dict[float, Scores]] = {}
    for one in sorted(outcomes, key=lambda o: (o.rate, o.seed)):
        scores = found.setdefault((one.problem, one.policy), {}).setdefault(one.rate, Scores())
        scores.best.append(one.accuracy)
        scores.last.append(one.last_accuracy)
    return found


def truths(outcomes: Sequence[Outcome]) -> list[Truth]:
    """What is so of each, in their order.

    - `too_slow`: a higher rate of the same policy and data is `better`, by the best weights;
      `too_fast`: a lower rate is, by the best or by the last weights.
    - `improvable`: any other rate or policy on the same data is better.
    - `rises`: test loss of the last weights is above that of the best; `falls`: accuracy is below.
    - `overfitting`: it rises, of a network that learned something and still knows it;
      `overconfident`: and accuracy does not fall.
    - `diverged`: a loss was no finite number.
    - `dead`: neither best nor last weights are better than the largest class and than the untrained
      network; `collapsed`: the best are, the last are not; `best_guesses`: the best are not. Where
      an epoch was in validation whose weights were not kept, it is not clear which.
    - `majority`: the last weights are right no more often than the largest class.
    - `undone`: some trained group can be put back to its start and nothing changes;
      `frozen_in_effect`: or a higher rate is better, which are the two ways it says to go.
    - what was planted, and `frozen_random` by the plan.
    - `healthy`: none of too_slow, rises, diverged, dead, collapsed, majority and planted faults.
    """
    rates, found = by_rate(outcomes), []
    for one in outcomes:
        of_rate = rates[one.problem, one.policy]
        own = of_rate[one.rate]
        others = [
            scores
            for (problem, _), known in rates.items()
            if problem == one.problem
            for scores in known.values()
            if scores is not own
        ]
        lower = [of_rate[rate] for rate in of_rate if rate < one.rate]
        higher = [of_rate[rate] for rate in of_rate if rate > one.rate]
        diverged = one.status == "diverged"
        best, last = (every(map(beyond, x)) for x in (one.best_learned, one.last_learned))
        guesses = negated(best)
        unseen = True if beyond(one.peak) is False else None  # else in weights that are gone
        never = every((guesses, unseen))
        truth: Truth = {
            "too_slow": any(better(other.best, own.best) for other in higher),
            "too_fast": any(
                better(other.best, own.best) or better(other.last, own.last) for other in lower
            ),
            "improvable": any(better(other.best, own.best) for other in others),
            "diverged": diverged,
            "rises": False if diverged else beyond(one.rise),
            "falls": False if diverged else beyond(one.fall),
            "dead": False if diverged else every((never, negated(last))),
            "collapsed": False if diverged else every((negated(never), negated(last))),
            "best_guesses": False if diverged else guesses,
            "majority": False if diverged else negated(beyond(one.above_largest)),
            "undone": any(max(cost) < UNDONE for cost in one.undone.values()),
            "frozen_random": one.random_frozen,
            **dict.fromkeys(("noisy_labels", "easier_validation", "leak"), False),
            **dict.fromkeys(one.planted, True),
        }
        faults = ("too_slow", "rises", "diverged", "dead", "collapsed", "majority")
        planted = ("noisy_labels", "easier_validation", "leak")
        truth["frozen_in_effect"] = truth["undone"] or truth["too_slow"]
        truth["healthy"] = every(negated(truth[name]) for name in (*faults, *planted))
        still = (negated(truth["dead"]), negated(truth["collapsed"]))
        truth["overfitting"] = every((truth["rises"], *still))
        truth["overconfident"] = every((truth["overfitting"], negated(truth["falls"])))
        found.append(truth)
    return found


@dataclass(frozen=True)
class Count:
    """How often a kind was said and true."""

    right: int = 0
    wrong: int = 0
    unclear: int = 0  # said, and not clear whether it is so
    missed: int = 0  # so, and not said

    @property
    def precision(self) -> tuple[int, int]:
        """Right ones of those said."""
        return self.right, self.right + self.wrong

    @property
    def recall(self) -> tuple[int, int]:
        """Said ones of those that are so."""
        return self.right, self.right + self.missed


def counted(said: Sequence[bool], true: Sequence[bool | None]) -> Count:
    """How often what is said is so; what is not clear is outside of precision and recall.

    >>> counted([True, True, False, True], [True, False, True, None])
    Count(right=1, wrong=1, unclear=1, missed=1)
    """
    pairs = list(zip(said, true, strict=True))
    kinds = ((True, True), (True, False), (True, None), (False, True))
    return Count(*map(pairs.count, kinds))


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    >>> tuple(round(end, 3) for end in wilson(9, 10))
    (0.596, 0.982)
    """
    if not of:
        return 0.0, 1.0
    z, share = 1.959964, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)
