"""What a comparison came to, as plain values: what the terminal, the page and the files show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lrexp.judge.comparison import Compared
from lrexp.judge.ranking import Spread


@dataclass(frozen=True)
class Rung:
    """One rate of a ladder: what the tries with it came to on validation."""

    rate: float
    worth: Spread  # of the monitor, over seeds
    variant: str = ""  # the policy's own setting
    bad: str = ""  # `2 diverged`; empty where every seed finished


@dataclass(frozen=True)
class Row:
    """One configuration as it was confirmed."""

    name: str  # its policy, mostly
    settings: str  # what was chosen for it, in short: `lr 0.05 decay=0.6`
    overrides: tuple[str, ...]  # that ask for it: `lr_policy=…`, `optimizer.lr=…`
    baseline: bool
    tries: int  # configurations tried before
    rate: float | None
    edge: str  # where the rate lies among those tried: lower, upper, inside, one
    score: Spread  # of the metric on the deciding split, over seeds
    loss: Spread
    compared: Compared | None  # None for the baseline, and where nothing was compared
    overfits: str  # in words
    ended: str  # `1 collapsed`, empty where every seed finished
    took_s: float  # a run, median: the first ones start programs
    ladder: tuple[Rung, ...] = ()
    per_seed: tuple[float, ...] = ()  # scores in the order of `Conclusion.seeds`, a guesser's too


@dataclass(frozen=True)
class Conclusion:
    """What came out of a comparison."""

    sentence: str  # may be quoted
    remarks: tuple[str, ...]  # what belongs beside it: exploratory, not tuned, what was varied
    rows: tuple[Row, ...]  # best first; those with a guessed seed below all that finished
    metric: str  # accuracy, balanced_accuracy, …
    split: str  # test, or val where there is no test split
    monitor: str  # what rates were chosen by
    margin: float | None
    smallest_margin: float  # that these images can show
    seeds: tuple[int, ...]  # that were confirmed on
    images: int
    paste: str  # the line to run next: `lrexp …`
    cost: Sequence[tuple[str, str]] = field(default=())  # runs, single-run equivalents, time
    finished: bool = True  # False while it goes on, or where it was stopped before its end
