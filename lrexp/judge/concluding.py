"""From what configurations scored to what may be said of them: sentence, rows and remarks."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lrexp.config.errors import UserError, few
from lrexp.judge.comparison import Compared, Images, Scores, compare, smallest_margin
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.judge.contenders import Contender
from lrexp.judge.ranking import spread
from lrexp.judge.remarks import remarks_on, sentence
from lrexp.judge.winner import OVERFIT
from lrexp.runs.scores import Tried, Try

ACCURACY, BALANCED = "accuracy", "balanced_accuracy"
METRICS = (ACCURACY, BALANCED)
LEVEL = 0.05


def metric_of(classes: Mapping[str, object], asked: str | None) -> str:
    """What a verdict is on: what was asked for, else accuracy, balanced where classes are uneven.

    Args:
        classes: `data.classes` of a summary.
        asked: of METRICS, or None.

    Raises:
        UserError: when it cannot be measured image by image: with several labels an image is right
            or wrong as a whole.
    """
    majority = classes.get("majority")
    several = isinstance(majority, Mapping) and "labels" in majority
    if asked == BALANCED and several:
        raise UserError(
            f"--metric {BALANCED}: images have several labels here, and count as right where all of"
            f" them are: --metric {ACCURACY}"
        )
    return asked or (BALANCED if classes.get("uneven") is True and not several else ACCURACY)


def scores_of(
    tried: Tried, names: Sequence[str], metric: str, seeds: Sequence[int]
) -> tuple[dict[str, Scores], Images]:
    """What the configurations of these names scored on these seeds, and the images of it.

    A seed that diverged or collapsed has `guess_of` in every column, and no loss.

    Raises:
        UserError: when a guesser's score is needed and not known.
    """
    scores = {}
    for name in names:
        tries = [tried.tries[name][seed] for seed in seeds]
        lost = [one for one in tries if one.lost]
        guess = guess_of(tried, metric) if lost else math.nan
        blank = np.ones(len(tried.images))
        scores[name] = Scores(
            right=np.stack([guess * blank if one.lost else _right(one) for one in tries]),
            losses=np.stack([math.nan * blank if one.lost else _losses(one) for one in tries]),
            guessed=len(lost),
        )
    return scores, Images(_weights(tried.labels) if metric == BALANCED else None, tried.groups)


def guess_of(tried: Tried, metric: str) -> float:
    """The score of one that looks at no image.

    Balanced it is 1 / K of the K classes that the images have; otherwise the share of these images
    that have the class which training has most of (of several labels: exactly those that more than
    half of the training images have).

    Raises:
        UserError: when no summary says it.
    """
    if metric == BALANCED:
        return 1 / len(np.unique(tried.labels))
    try:
        return float(tried.classes["majority"]["accuracy"][tried.split])
    except (KeyError, TypeError, ValueError) as error:
        said = f"no summary says how many {tried.split} images have the largest class of training"
        raise UserError(f"{tried.folder}: {said}, which a diverged run is counted by") from error


def conclude(
    tried: Tried,
    contenders: Sequence[Contender],
    baseline: str,
    metric: str,
    margin: float | None,
    *,
    level: float = LEVEL,
    compared: Sequence[Compared] | None = None,
    seeds: Mapping[str, Sequence[int]] | None = None,
    looks: Sequence[int] = (),
    remarks: Sequence[str] = (),
    before: Sequence[str] = (),
    cost: Sequence[tuple[str, str]] = (),
    finished: bool = True,
) -> Conclusion:
    """What a comparison of configurations with a baseline came to.

    Args:
        tried: their runs.
        contenders: the baseline among them.
        baseline: its name.
        metric: of METRICS.
        margin: below it a difference does not matter.
        level: of the whole comparison.
        compared: what was decided elsewhere, with whatever seeds; None: it is compared here.
        seeds: that each was compared on, the baseline on all of them; None: those that all have.
        looks: numbers of seeds at which it was looked, where these were several.
        remarks: of whoever asks, after ours.
        before: words in front of the overrides of the line to paste.
        cost: as `Conclusion` has it.
        finished: whether the comparison has ended.

    Raises:
        UserError: when they have no seed in common.
    """
    names = [one.name for one in contenders]
    shared = tried.seeds(names)
    if not shared:
        raise UserError(f"{tried.folder}: there is no seed that all of {few(names)} have a run of")
    of_each = dict.fromkeys(names, shared) if seeds is None else seeds
    scores, images = dict[str, Scores](), Images()
    for name in names:
        mine, images = scores_of(tried, [name], metric, of_each[name])
        scores |= mine
    if compared is None:
        compared = compare(scores, baseline, images, margin, level)
    of_name = {one.name: one for one in compared}
    weights = np.ones(len(tried.images)) if images.weights is None else images.weights
    rows = []
    for one in contenders:
        mine = scores[one.name]
        tries = [tried.tries[one.name][seed] for seed in of_each[one.name]]
        per_seed = tuple((mine.right * weights).mean(1).tolist())
        took = [x.took_s for x in tries if math.isfinite(x.took_s)]
        rows.append(
            Row(
                name=one.name,
                settings=one.settings,
                overrides=one.overrides,
                baseline=one.name == baseline,
                tries=one.tries,
                rate=one.rate,
                edge=one.edge,
                score=spread(per_seed),
                loss=spread(tuple(mine.losses.mean(1).tolist())),
                compared=of_name.get(one.name),
                overfits=_overfits(tries),
                ended=_ended(tries),
                took_s=statistics.median(took) if took else math.nan,
                ladder=one.ladder,
                per_seed=per_seed,
            )
        )
    rows.sort(key=lambda row: (bool(row.ended), -row.score.mean))
    least = smallest_margin(compared)
    chosen = _to_run(rows)
    asked = [word for one in contenders if one.name == chosen for word in one.asked]
    said = Conclusion(
        sentence="",
        remarks=(),
        rows=tuple(rows),
        metric=metric,
        split=tried.split,
        monitor=tried.monitor,
        margin=margin,
        smallest_margin=least,
        seeds=tuple(of_each[baseline]),
        images=len(tried.images),
        paste=shlex.join(["lrexp", *before, *asked]) if chosen else "",
        cost=tuple(cost),
        finished=finished,
    )
    guess = guess_of(tried, metric) if any(row.ended for row in rows) else math.nan
    more = [*remarks_on(said, tried, contenders, guess, looks), *remarks]
    return replace(said, sentence=sentence(said), remarks=tuple(more))


def _to_run(rows: Sequence[Row]) -> str:
    """The name of what to run next, of those that lost no seed; empty where everyone has.

    The best of those that are better than the baseline; else the baseline; else the best.
    """
    whole = [row for row in rows if not row.ended]
    better = [row for row in whole if row.compared and row.compared.word == "better"]
    found = [*better, *(row for row in whole if row.baseline), *whole]
    return found[0].name if found else ""


def _overfits(tries: Sequence[Try]) -> str:
    """`no`, or of how many seeds it was found."""
    found = sum(any(kind in OVERFIT for kind in one.kinds) for one in tries)
    return f"{found} of {len(tries)}" if found else "no"


def _ended(tries: Sequence[Try]) -> str:
    counts = Counter(one.lost for one in tries if one.lost)
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))


def _weights(labels: np.ndarray) -> np.ndarray:
    """(n,) with mean 1: every class has the same weight in all, n / (classes · its images)."""
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return (len(labels) / (len(counts) * counts))[place]


def _right(one: Try) -> np.ndarray:
    assert one.right is not None
    return one.right


def _losses(one: Try) -> np.ndarray:
    assert one.losses is not None
    return one.losses
