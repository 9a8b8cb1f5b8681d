"""What the images and labels themselves did: leaks, easier validation, wrong labels."""

from __future__ import annotations

import math
from typing import Any

from lrexp.judge.kinds.facts import INFO, WARNING, Facts, Row, Verdict, finite, found, percent
from lrexp.judge.words import compact, leak_effect_in_words

LEAKED = 0.01  # share of validation that is copied from train, or shares a group with it
MANY = 0.3  # of validation that merely looks like images of train
LEVEL = 0.001  # of a false claim over all epochs: one split serves many runs
FAR_BELOW = 0.08  # accuracy on training images below that on new ones that labels explain
CONFLICTS = 0.01  # share of the images whose copies have different labels


def leak(facts: Facts) -> Verdict | None:
    """Validation images that are in the training set too, as copies or as members of a group.

    Said where exact copies or members of shared groups make 1 % of validation, or where 30 % have
    a near duplicate and accuracy on these is higher beyond 2 errors. Fewer images that merely look
    alike may be just that, and easy.
    """
    counts = (facts.leaks or {}).get("counts") or {}
    twins, images = (counts.get("twins") or {}).get("val", 0), facts.images.get("val", 0)
    if not twins or not images:
        return None
    effect = (facts.leaks or {}).get("effect") or {}
    difference, se = effect.get("difference"), effect.get("difference_se")
    measured = finite(difference) and finite(se) and difference > facts.val.bound() * se
    copies = ((counts.get("exact") or {}).get("val in train") or {}).get("val", 0)
    groups = (counts.get("groups") or {}).get("val in train", 0)
    grouped = (counts.get("grouped") or {}).get("val in train", twins if groups else 0)  # older run
    alike = twins >= MANY * images and measured and not facts.best.get("guessing")
    if max(copies, grouped) < LEAKED * images and not alike:
        return None
    what = "have a copy" if copies >= twins / 2 else "have a copy or look-alike"
    count, where = twins, "in the training set"
    if by_group := grouped >= LEAKED * images and grouped >= copies:
        count, what = grouped, "share a group"
        where = f"with training images ({groups:,} groups stand on both sides)"
    message = f"leak: {count:,} of {images:,} validation images {what} {where}"
    if words := leak_effect_in_words({"leaks": dict(facts.leaks or {})}):
        message = f"{message}; {words}{'' if measured else ', within noise'}"
    advice = "remove the copies, or keep them on one side with data.group_by"
    if by_group:
        advice = "the data's own split stays as it is: without it, data.group_by keeps groups whole"
    advice = f"{advice}; believe the numbers on images without a twin"
    return found(
        "leak",
        WARNING,
        message,
        advice,
        values={
            "twins": twins,
            "copies": copies,
            "groups": groups,
            "grouped": grouped,
            "images": images,
            "effect": dict(effect),
        },
        threshold={"copied": LEAKED, "alike": MANY},
    )


def labels(facts: Facts) -> Verdict | None:
    """Training images do worse than new ones, beyond chance, in some epoch.

    Two things do that: validation images are easier, or labels of training images are wrong. Where
    accuracy on training images lies 8 points or more below, or copies with different labels prove
    that some are wrong, it is called `noisy_labels`, else `easier_validation`.
    """
    conflict = _conflicts(facts)
    row = _most_below(facts)
    if row is None:
        return conflict
    at, accuracy = row["epoch"], -row["gap/accuracy"]
    below = (
        f"in epoch {at} training images did worse than new ones: loss"
        f" {compact(row['train_eval/loss'], 3)} against {compact(row['val/loss'], 3)}, accuracy"
        f" {percent(row['train_eval/accuracy'])} against {percent(row['val/accuracy'])}"
    )
    evidence: dict[str, Any] = {
        "epochs": [at],
        "values": {k: row[k] for k in ("gap/loss", "gap/loss_chance_se", "gap/accuracy")},
        "threshold": {"level": LEVEL, "accuracy": FAR_BELOW},
    }
    if conflict:
        evidence["values"] |= conflict["evidence"]["values"]
        message = f"{conflict['message']}; and {below}"
        return found("noisy_labels", WARNING, message, conflict["advice"], **evidence)
    if accuracy >= FAR_BELOW:
        message = f"noisy training labels or easier validation: {below}"
        advice = (
            "look at training images that the network gets most wrong; if the labels are right,"
            " validation images are easier, and its numbers too good"
        )
        return found("noisy_labels", WARNING, message, advice, **evidence)
    message = f"easier validation or noisy training labels: {below}"
    advice = (
        "if the labels are right, validation is not like training, and its numbers are too good:"
        " if it was split off here, another data.seed splits anew"
    )
    return found("easier_validation", INFO, message, advice, **evidence)


def _conflicts(facts: Facts) -> Verdict | None:
    """Copies with different labels, of at least 1 % of the images: some labels must be wrong."""
    counts = (facts.leaks or {}).get("counts") or {}
    number, images = counts.get("conflicts", 0), sum(facts.images.values())
    if not isinstance(number, int) or not number or number < CONFLICTS * images:
        return None
    message = f"noisy labels: {number:,} images have copies with different labels"
    advice = "mend the labels that lrexp.log and summary.json list under leaks"
    values = {"conflicts": number, "images": images}
    threshold = {"share": CONFLICTS}
    return found("noisy_labels", WARNING, message, advice, values=values, threshold=threshold)


def _most_below(facts: Facts) -> Row | None:
    """The epoch in which training images did worst beside new ones, beyond chance in loss and
    accuracy; None for none."""
    rows = [row for row in facts.rows if row["epoch"] > 0]
    if not rows or facts.val.unjudged:
        return None
    bound = facts.val.bound(LEVEL / len(rows))
    found = [
        row
        for row in rows
        if not row.get("guessing")
        and _below(row, "loss") > bound
        and _below(row, "accuracy") > bound
    ]
    return max(found, key=lambda row: _below(row, "accuracy"), default=None)


def _below(row: Row, metric: str) -> float:
    """So many errors of chance the gap is below 0; minus infinity where that is not known."""
    gap, se = row.get(f"gap/{metric}"), row.get(f"gap/{metric}_chance_se")
    if not finite(gap) or not finite(se) or not se:
        return -math.inf
    return -gap / se
