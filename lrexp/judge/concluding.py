"""From what configurations scored to what may be said of them: sentence, rows and remarks."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lrexp.config.errors import UserError, few
from lrexp.judge.comparison import Compared, Images, Scores, compare, smallest_margin
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.judge.contenders import Contender
from lrexp.judge.ranking import spread
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

    Balanced it is 1 / K of the K classes that the images have; otherwise the share of training
    images that have the largest class (of several labels: the labels that more than half have).

    Raises:
        UserError: when no summary says it.
    """
    if metric == BALANCED:
        return 1 / len(np.unique(tried.labels))
    try:
        return float(tried.classes["majority"]["accuracy"]["train"])
    except (KeyError, TypeError, ValueError) as error:
        said = "no summary says how large the training set's largest class is"
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
    remarks: Sequence[str] = (),
    before: Sequence[str] = (),
    cost: Sequence[tuple[str, str]] = (),
    finished: bool = True,
) -> Conclusion:
    """What a comparison of configurations with a baseline came to, on the seeds that all have.

    Args:
        tried: their runs.
        contenders: the baseline among them.
        baseline: its name.
        metric: of METRICS.
        margin: below it a difference does not matter.
        level: of the whole comparison.
        compared: what was decided elsewhere, with whatever seeds; None: it is compared here.
        remarks: of whoever asks, after ours.
        before: words in front of the overrides of the line to paste.
        cost: as `Conclusion` has it.
        finished: whether the comparison has ended.

    Raises:
        UserError: when they have no seed in common.
    """
    names = [one.name for one in contenders]
    seeds = tried.seeds(names)
    if not seeds:
        raise UserError(f"{tried.folder}: there is no seed that all of {few(names)} have a run of")
    scores, images = scores_of(tried, names, metric, seeds)
    if compared is None:
        compared = compare(scores, baseline, images, margin, level)
    of_name = {one.name: one for one in compared}
    weights = np.ones(len(tried.images)) if images.weights is None else images.weights
    rows = []
    for one in contenders:
        mine, tries = scores[one.name], [tried.tries[one.name][seed] for seed in seeds]
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
                took_s=sum(took) / len(took) if took else math.nan,
                ladder=one.ladder,
                per_seed=per_seed,
            )
        )
    rows.sort(key=lambda row: (bool(row.ended), -row.score.mean))
    least = smallest_margin(compared)
    better = [row.name for row in rows if row.compared and row.compared.word == "better"]
    chosen = next(one for one in contenders if one.name == (better or [baseline])[0])
    said = Conclusion(
        sentence="",
        remarks=(),
        rows=tuple(rows),
        metric=metric,
        split=tried.split,
        monitor=tried.monitor,
        margin=margin,
        smallest_margin=least,
        seeds=seeds,
        images=len(tried.images),
        paste=shlex.join(["lrexp", *before, *chosen.asked]),
        cost=tuple(cost),
        finished=finished,
    )
    more = [*_remarks(said, tried, contenders), *remarks]
    return replace(said, sentence=sentence(said), remarks=tuple(more))


def sentence(found: Conclusion) -> str:
    """What may be quoted: of every configuration how it compares with the baseline."""
    base = next((row for row in found.rows if row.baseline), None)
    rows = [row for row in found.rows if row.compared]
    if base is None or not rows:
        return "Nothing has been compared yet."
    on = f"on {found.images:,} {found.split} images and {len(found.seeds)} seeds"
    begins = f"Exploratory, {on}:" if found.split == "val" else f"{on[:1].upper()}{on[1:]}:"
    parts = [
        _said(row, base.name if i else _named(base), found, first=not i)
        for i, row in enumerate(rows)
    ]
    return f"{begins} {'; '.join(parts)}."


def _said(row: Row, base: str, found: Conclusion, first: bool) -> str:
    """What came out of one comparison; the first one says what points are of."""
    assert row.compared is not None
    one, points = row.compared, "points"
    if first:
        points = f"points of {found.metric.replace('_', ' ')}"
    low, high = (100 * end for end in one.interval)
    mean = 100 * one.difference.mean
    match one.word:
        case "better":
            by = f"{mean:.1f} {points} [{low:.1f}, {high:.1f}]"
            return f"{_named(row)} is better than {base} by {by}"
        case "worse":
            by = f"{-mean:.1f} {points} [{-high:.1f}, {-low:.1f}]"
            return f"{_named(row)} is worse than {base} by {by}"
    measured = f"{mean:+.1f} {points} [{low:+.1f}, {high:+.1f}]"
    if one.word == "no difference" and found.margin is not None:
        most = f"no difference larger than {100 * found.margin:.3g} points"
        return f"{_named(row)} shows {most} to {base}, {measured}"
    return f"{_named(row)} against {base} is undecided, {measured}{_needs(one)}"


def _needs(one: Compared) -> str:
    if one.needs is None:
        return ""
    if one.needs.seeds is not None:
        return (
            f": about {one.needs.seeds:,} more seed{'s' * (one.needs.seeds != 1)} would settle it"
        )
    if one.needs.images is not None:
        return f", at least {one.needs.images:,} test images would settle it and seeds would not"
    return ", which nothing in reach would settle"


def _named(row: Row) -> str:
    """With its settings, and how many of its seeds count as guesses."""
    inner = ", ".join(filter(None, (row.settings, row.ended and f"of its seeds {row.ended}")))
    return f"{row.name} ({inner})" if inner else row.name


def _remarks(found: Conclusion, tried: Tried, contenders: Sequence[Contender]) -> list[str]:
    """What belongs beside the sentence."""
    said = []
    if found.split == "val":
        said.append(
            "Exploratory, on validation: there is no test split, and the images compared on are"
            f" those that rates and epochs were chosen by ({found.monitor})."
        )
    if found.metric == BALANCED:
        said.append("Accuracy is balanced: every class counts alike, however few images it has.")
    elif tried.labels.ndim == 2:
        said.append("An image counts as right where every one of its labels is.")
    by = sorted({one.seeds for one in contenders})
    count = f"{by[0]}" if len(by) == 1 else f"{by[0]} to {by[-1]}"
    said.append(
        "Configurations were compared, not policies in general: each policy at the settings that"
        f" were best by {found.monitor} over {count} seed{'s' * (by != [1])}."
    )
    said += _untuned(contenders)
    said.append(_varied(tried, found))
    if tried.groups is not None:
        groups = len(np.unique(tried.groups))
        said.append(
            f"Images come in {groups:,} groups ({tried.settings.get('data.group_by')}), which are"
            " what the error is taken over."
        )
    if any(row.ended for row in found.rows):
        guess = guess_of(tried, found.metric)
        whose = (
            "1 / classes" if found.metric == BALANCED else "the largest class's share of training"
        )
        said.append(
            "A seed that diverged or collapsed counts with what a guess is worth,"
            f" {100 * guess:.1f} % ({whose}); such configurations stand below all others."
        )
    compared = sum(row.compared is not None for row in found.rows)
    if compared > 1:
        said.append(
            f"Verdicts allow for {compared} comparisons (Holm); each interval is for its own."
        )
    if math.isfinite(found.smallest_margin):
        reach = f"{100 * found.smallest_margin:.1f} points"
        short = found.margin is not None and found.margin < found.smallest_margin
        said.append(
            f"With these images no margin below {reach} can be shown, however many seeds"
            + (f": {100 * found.margin:.3g} points are out of reach." if short else ".")
        )
    return said


def _untuned(contenders: Sequence[Contender]) -> list[str]:
    """Who was tried less often than others, or is best at the edge of what was tried."""
    said = []
    if len({one.tries for one in contenders}) > 1:
        counts = ", ".join(f"{one.name} {one.tries}" for one in contenders)
        said.append(f"Not tuned alike: configurations tried of {counts}.")
    alone = [one.name for one in contenders if one.edge == "one"]
    if alone:
        said.append(f"Not tuned: of {few(alone)} one rate was tried.")
    for edge, which in (("lower", "lowest"), ("upper", "highest")):
        at = [one for one in contenders if one.edge == edge and one.rate]
        tell = [f"{one.name} at {one.rate:.4g} (try {_beyond(one):.2g} too)" for one in at]
        if tell:
            said.append(f"Not tuned, best at the {which} rate tried: {', '.join(tell)}.")
    return said


def _beyond(one: Contender) -> float:
    """The rate that is as far from the best as that is from the next, on the other side."""
    assert one.rate is not None
    alike = [rung.rate for rung in one.ladder if rung.variant == one.variant]
    others = [rate for rate in alike if rate != one.rate]
    near = min(others, key=lambda rate: abs(math.log(rate / one.rate)), default=None)
    step = one.rate / near if near else math.sqrt(10) ** (1 if one.edge == "upper" else -1)
    return one.rate * step


def _varied(tried: Tried, found: Conclusion) -> str:
    """What one seed had otherwise than another, and what all had alike."""
    settings = tried.settings
    parts = []
    if tried.fresh is None:
        parts.append("the initial values of whatever no weights were loaded for")
    elif tried.fresh:
        parts.append(f"the initial values of {tried.fresh:,} tensors")
    parts.append("the order of the images")
    if settings.get("data.augment") not in (None, "none"):
        parts.append("their augmentation")
    if settings.get("model.dropout"):
        parts.append("dropout")
    elif "model.library" in settings:
        parts.append("dropout where the network has any")
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    kept = f"data.seed={settings.get('data.seed')}"
    return f"A seed moves {listed}; which images are trained and tested on stays ({kept})."


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
