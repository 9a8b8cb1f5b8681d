"""Which layer wants which rate: what multiplying one layer's rate did to the validation loss.

Pure functions over numbers. One comparison is of all runs in which one part's rate was multiplied
with the runs as they were asked for, paired over seeds and over images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrexp.judge.comparison import holm, interval, needs_of, p_value
from lrexp.judge.crossed import Crossed, crossed
from lrexp.judge.exploring import BEYOND, LEVEL, student
from lrexp.plan.multiplied import Part

Word = Literal["helps", "hurts", "within noise", "diverges", "not measured"]


@dataclass(frozen=True)
class Outcome:
    """What runs on shared seeds came to: a row per seed, a column per validation image."""

    losses: np.ndarray  # (S, n); NaN in a seed that diverged
    right: np.ndarray  # (S, n) in [0, 1]; NaN in a seed that diverged

    @property
    def lost(self) -> int:
        """Seeds that diverged."""
        return int(np.isnan(self.losses).any(axis=1).sum())


@dataclass(frozen=True)
class Change:
    """What a factor on one part's rate changed. Losses in nats, accuracies in shares.

    Negative losses and positive accuracies are better. NaN where nothing is known.
    """

    part: int  # its place, 0 nearest to the input
    factor: float  # on the rate; 0: frozen
    seeds: int
    images: int  # clusters where images come in groups
    lost: int  # seeds in which it diverged
    loss: float  # mean over seeds and images of the loss less that without the factor
    loss_se: float  # over seeds and images, see judge.crossed
    low: float  # 95 % interval of this one comparison
    high: float
    accuracy: float
    accuracy_se: float
    p: float  # two-sided, of the loss
    p_adjusted: float  # after Holm, over all parts and factors
    word: Word
    more_seeds: int | None  # that would settle it, were the change seen true
    images_needed: int | None  # in all, where seeds cannot settle it
    smallest: float  # true change that four of five such tests would see, about


@dataclass(frozen=True)
class LayerTest:
    """What a test of layers came to."""

    sentence: str
    policy: str  # that was asked for
    base_lr: float  # optimizer.lr
    parts: tuple[Part, ...]  # from the input to the head
    factors: tuple[float, ...]
    seeds: tuple[int, ...]
    images: int  # of validation
    monitor: str  # chose the epoch of every run
    loss: float  # of the baseline, mean over seeds, and its standard error over seeds
    loss_se: float
    accuracy: float
    accuracy_se: float
    changes: tuple[Change, ...]
    together: Change | None = None  # of all multipliers at once, on fresh seeds
    fresh: tuple[int, ...] = ()  # those seeds
    paste: tuple[str, ...] = ()  # overrides of the policy with the multipliers that help
    remarks: tuple[str, ...] = ()
    cost: tuple[tuple[str, str], ...] = ()
    finished: bool = True

    def of_part(self, part: int) -> list[Change]:
        """Its changes, in the order of the factors."""
        return [one for one in self.changes if one.part == part]


def judge_layers(
    base: Outcome,
    tried: Mapping[tuple[int, float], Outcome | None],
    clusters: np.ndarray | None = None,
    plan: bool = True,
) -> list[Change]:
    """What every factor on every part changed, in the order given.

    *helps* (*hurts*): p of the change of loss after Holm, over all comparisons, is below 0.05 and
    the loss is lower (higher): of tests in which nothing has an effect at most 5 % claim anything.
    *diverges*: it did in a seed, and the baseline in none. Fewer than three seeds claim nothing,
    nor does a baseline that diverged.

    Args:
        base: as it was asked for.
        tried: (part, factor) → the same seeds and images; None where runs have no result.
        clusters: (n,) whatever tells the groups of images apart that are not independent.
        plan: whether to work out what those within noise need, which costs more than all the rest.
    """
    count = len(tried)
    differences = {
        key: _differences(base, one, clusters) for key, one in tried.items() if _known(base, one)
    }
    p = {key: _p(loss) for key, (loss, _) in differences.items()}
    adjusted = dict(zip(p, holm(list(p.values()), count), strict=True))
    found = []
    for key, one in tried.items():
        seeds = len(base.losses)
        blank = _blank(*key, seeds, base.losses.shape[1], 0 if one is None else one.lost)
        if key not in differences:
            diverges = one is not None and one.lost > 0 and not base.lost
            found.append(replace(blank, word="diverges") if diverges else blank)
            continue
        loss, accuracy = differences[key]
        word: Word = "within noise"
        if adjusted[key] < LEVEL:
            word = "helps" if loss.mean < 0 else "hurts"
        asked = plan and word == "within noise" and loss.se > 0
        needs = needs_of(loss, count, level=LEVEL) if asked else None
        low, high = interval(loss) if loss.se else (math.nan, math.nan)
        found.append(
            replace(
                blank,
                images=loss.images,
                loss=loss.mean,
                loss_se=loss.se,
                low=low,
                high=high,
                accuracy=accuracy.mean,
                accuracy_se=accuracy.se,
                p=p[key],
                p_adjusted=adjusted[key],
                word=word,
                more_seeds=needs and needs.seeds,
                images_needed=needs and needs.images,
                smallest=smallest_change(loss, count),
            )
        )
    return found


def difference(base: Outcome, other: Outcome, clusters: np.ndarray | None = None) -> Change:
    """One comparison that was planned alone, such as that of all multipliers together."""
    return replace(judge_layers(base, {(0, 1.0): other}, clusters)[0], part=-1, factor=math.nan)


def smallest_change(loss: Crossed, comparisons: int) -> float:
    """The true change that as many seeds and images tell from zero in four of five tests, about.

    So many standard errors as Student's t, shared by all comparisons as Holm's test begins, and
    0.84 beyond. NaN where nothing can be told.
    """
    if not loss.se or math.isnan(loss.df):
        return math.nan
    return (student(loss.df, comparisons) + BEYOND) * loss.se


def multipliers(changes: Sequence[Change]) -> dict[int, float]:
    """By part the factor that is measured to help, of several the one of the lowest loss."""
    best: dict[int, Change] = {}
    for one in changes:
        known = best.get(one.part)
        if one.word == "helps" and (known is None or one.loss < known.loss):
            best[one.part] = one
    return {part: one.factor for part, one in best.items()}


def wants(changes: Sequence[Change]) -> str:
    """What one part wants, by all factors on it, in a few words."""
    chosen = multipliers(changes)
    hurts = [one for one in changes if one.word in ("hurts", "diverges")]
    slower = [one for one in hurts if 0 < one.factor < 1]
    faster = [one for one in hurts if one.factor > 1]
    said = [factor_words(factor) for factor in chosen.values()]
    if any(one.factor == 0 for one in hurts):
        said.append("not frozen")
    if slower and not any(factor > 1 for factor in chosen.values()):
        said.append("no slower")
    if faster and not any(factor < 1 for factor in chosen.values()):
        said.append("no faster")
    if said:
        return ", ".join(said)
    measured = [one for one in changes if one.word != "not measured"]
    return "cannot tell" if measured else "not measured"


def factor_words(factor: float) -> str:
    """A factor on a rate in words.

    >>> factor_words(0), factor_words(0.25), factor_words(4), factor_words(0.3)
    ('frozen', 'rate × 1/4', 'rate × 4', 'rate × 0.3')
    """
    if factor == 0:
        return "frozen"
    turned = 1 / factor
    whole = 1e-6 < factor < 1 and abs(turned - round(turned)) < 1e-9
    return f"rate × 1/{round(turned)}" if whole else f"rate × {factor:g}"


def sentence(found: LayerTest) -> str:
    """What the test came to, in a few sentences."""
    chosen, changes = multipliers(found.changes), found.changes
    on = f"{len(found.seeds)} seed{'s' * (len(found.seeds) != 1)} and {found.images:,} images"
    measured = [one for one in changes if one.word != "not measured"]
    if not measured:
        return (
            f"Nothing was measured: {_unmeasured(found)}. Without that no layer can be told from"
            " another."
        )
    hurt = _hurting(found)
    if chosen:
        listed = [_helping(found, part, factor) for part, factor in chosen.items()]
        said = f"Measured to help, each by itself: {'; '.join(listed)}."
        return " ".join([said, *_together(found), *hurt])
    if hurt:
        kept = f"No multiplier is measured to help, over {on}: keep lr_policy={found.policy}."
        return " ".join([kept, *hurt, *_unseen(found)])
    none = f"none of the {len(measured)} changes can" if len(measured) > 1 else "the change cannot"
    hidden = f"Noise hides everything: {none} be told from zero over {on}."
    return " ".join([hidden, *_unseen(found)])


def _unmeasured(found: LayerTest) -> str:
    lost = sum(one.lost for one in found.changes)
    if math.isnan(found.loss):
        return "the baseline diverged, so lower optimizer.lr and begin anew"
    return "every changed run diverged" if lost else "no runs of a changed layer have a result"


def _helping(found: LayerTest, part: int, factor: float) -> str:
    one = next(c for c in found.changes if (c.part, c.factor) == (part, factor))
    return f"{found.parts[part].name} {factor_words(factor)} ({change_words(one)})"


def change_words(one: Change) -> str:
    """`val loss −0.051 ± 0.012, accuracy +1.2 ± 0.5 points`."""
    loss = f"val loss {one.loss:+.3f} ± {one.loss_se:.3f}"
    points = f"accuracy {100 * one.accuracy:+.1f} ± {100 * one.accuracy_se:.1f} points"
    return f"{loss}, {points}".replace("-", "−")


def _hurting(found: LayerTest) -> list[str]:
    """Sentences on what hurts, by being frozen and by another rate, the worst first."""
    hurting = [one for one in found.changes if one.word in ("hurts", "diverges")]
    hurting.sort(key=lambda one: -one.loss if math.isfinite(one.loss) else -math.inf)

    def listed(some: Sequence[Change]) -> str:
        words = [
            f"{found.parts[one.part].name}{f' {factor_words(one.factor)}' * (one.factor != 0)}"
            f" ({_seen(one) if math.isfinite(one.loss) else 'diverges'})"
            for one in some[:4]
        ]
        return ", ".join(words) + (f" and {len(some) - 4} more" if len(some) > 4 else "")

    frozen = [one for one in hurting if one.factor == 0]
    moved = [one for one in hurting if one.factor != 0]
    said = [f"Freezing hurts {listed(frozen)}."] * bool(frozen)
    return said + [f"Measured to hurt: {listed(moved)}."] * bool(moved)


def _seen(one: Change) -> str:
    return f"{one.loss:+.3f} ± {one.loss_se:.3f}".replace("-", "−")


def _together(found: LayerTest) -> list[str]:
    one = found.together
    if one is None:
        return []
    if one.word == "not measured":
        return ["Together on fresh seeds they were not measured."]
    on = f"Together, on {one.seeds} fresh seeds: "
    if one.word == "diverges":
        return [f"{on}it diverges; do not use them as they are."]
    judged = {"helps": "they help", "hurts": "they hurt: do not use them together"}
    judged["within noise"] = "within noise, so that the gain is not confirmed"
    return [f"{on}{change_words(one)}: {judged[one.word]}."]


def _unseen(found: LayerTest) -> list[str]:
    """What would not have been seen, and what more seeds would settle."""
    said = []
    sizes = sorted(one.smallest for one in found.changes if math.isfinite(one.smallest))
    if sizes:
        middle = sizes[len(sizes) // 2]
        said.append(f"A change of val loss by less than about {middle:.2g} would mostly go unseen.")
    if len(found.seeds) < 3:
        return [*said, "Fewer than three seeds claim nothing: task.repeats=5 or more."]
    if one := clearest(found.changes):
        name = f"{found.parts[one.part].name} {factor_words(one.factor)}"
        said.append(
            f"Clearest of those within noise is {name} ({_seen(one)}): {settling(found, one)}."
        )
    return said


def settling(found: LayerTest, one: Change) -> str:
    """What would settle a change within noise, were the one seen the true one."""
    if one.more_seeds:
        seeds = f"{one.more_seeds} more seed{'s' * (one.more_seeds != 1)}"
        return f"about {seeds} would tell, were it the true one"
    units = "images" if one.images == found.images else "groups of images"
    if one.images_needed:
        return f"no number of seeds would tell, about {one.images_needed:,} {units} would"
    return f"neither more seeds nor more {units} in reach would tell"


def clearest(changes: Sequence[Change]) -> Change | None:
    """Of those within noise the one that is furthest from zero in standard errors."""
    there = [one for one in changes if one.word == "within noise" and one.loss_se > 0]
    return max(there, key=lambda one: abs(one.loss) / one.loss_se, default=None)


def _known(base: Outcome, one: Outcome | None) -> bool:
    return one is not None and not base.lost and not one.lost


def _blank(part: int, factor: float, seeds: int, images: int, lost: int) -> Change:
    nan = math.nan
    return Change(part, factor, seeds, images, lost, nan, nan, nan, nan, nan, nan, 1.0, 1.0,
                  "not measured", None, None, nan)  # fmt: skip


def _differences(
    base: Outcome, one: Outcome | None, clusters: np.ndarray | None
) -> tuple[Crossed, Crossed]:
    """Of losses and of accuracies."""
    assert one is not None
    return (
        crossed(one.losses - base.losses, clusters),
        crossed(one.right - base.right, clusters),
    )


def _p(loss: Crossed) -> float:
    """1 where no spread was seen: of losses that says nothing but that nothing was changed."""
    return p_value(loss) if loss.se else 1.0
