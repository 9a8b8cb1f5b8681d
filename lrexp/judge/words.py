"""What the numbers of a run say: verdicts, and sentences that terminal and report share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrexp.config.schema import GROUPS, MONITORS

NOT_FINITE = "the loss is no longer a finite number"
HELPS = "a lower optimizer.lr or a scheduler.warmup usually helps"


def verdicts(frozen_random: Sequence[str], diverged_in: int | None) -> list[dict[str, Any]]:
    """What summary.json lists as verdicts: kind, severity, message, evidence, advice.

    Args:
        frozen_random: tensors that never train and were never loaded from weights.
        diverged_in: the epoch after which a loss was no finite number, if there is one.
    """
    random = {
        "kind": "frozen_random",
        "severity": "warning",
        "message": "frozen tensors were never loaded from weights: random features",
        "evidence": {"tensors": frozen_random},
        "advice": "load a pretrained network with model.weights, or train everything",
    }
    diverged = {
        "kind": "diverged",
        "severity": "error",
        "message": NOT_FINITE,
        "evidence": {"epoch": diverged_in},
        "advice": "lower optimizer.lr or set scheduler.warmup",
    }
    return [random] * bool(frozen_random) + [diverged] * (diverged_in is not None)


def brief(line: str) -> str:
    """An opening line for the terminal: of leaks the counts, not the first few images."""
    counts, cut, _ = line.partition("; ")
    return f"{counts} (summary.json lists them)" if cut and line.startswith("leaks ") else line


def capital(words: str) -> str:
    """As a sentence begins."""
    return words[:1].upper() + words[1:]


def best_is(monitor: str) -> str:
    """Of a metric: `lowest` or `highest`."""
    return "highest" if MONITORS.get(monitor) == "max" else "lowest"


def diverged_in_words(epoch: Any) -> str:
    """When, and what to do about it."""
    return f"diverged in epoch {epoch}: {NOT_FINITE}; {HELPS}"


def leak_effect_in_words(summary: dict[str, Any]) -> str:
    """Accuracy with and without a twin in the training set; empty when nothing has one."""
    found = (summary["leaks"] or {}).get("effect")
    if not found or found["difference"] is None:
        return ""
    se = found["difference_se"]
    error = "" if se is None else f" ± {100 * se:.1f}"
    return (
        f"val accuracy {100 * found['accuracy_with_twin']:.1f}% on {found['n_with_twin']:,} images"
        f" with a twin in train, {100 * found['accuracy_without_twin']:.1f}% on the other"
        f" {found['n_without_twin']:,} ({100 * found['difference']:+.1f}{error} points)"
    )


def gap_in_words(row: dict[str, float]) -> str:
    """What gap/loss says, in a sentence for someone who never met it."""
    gap, se = row["gap/loss"], row["gap/loss_se"]
    measured = f"{compact(gap, 3)} ± {compact(se, 3)}:"
    if not math.isfinite(gap):
        return f"{measured} cannot be judged, a loss is not a finite number"
    if math.isnan(se):
        return f"{measured} how much of it is noise is not known, the images are all of one group"
    if abs(gap) <= 2 * se:
        return f"{measured} training and new images have the same loss, within the noise"
    if gap < 0:
        return f"{measured} new images do better than training images: the splits differ"
    return (
        f"{measured} the loss is higher on new images than on training images:"
        " overfitting, or splits that differ"
    )


def overfit_in_words(best: dict[str, float], last: dict[str, float]) -> str:
    """Whether validation got worse after its best epoch, by more than noise; empty if not."""
    loss, se = last["overfit/loss"], last["overfit/loss_se"]
    accuracy, accuracy_se = last["overfit/accuracy"], last["overfit/accuracy_se"]
    if not math.isfinite(loss) or not loss > 2 * se:  # an unknown error shows nothing
        return ""
    if accuracy > 2 * accuracy_se:
        word, sign = "overfits", f"accuracy fell by {100 * accuracy:.1f} points as well"
    else:
        word, sign = "grows overconfident", "accuracy holds"
    rise = f"{compact(loss, 3)} ± {compact(se, 3)}"
    on_train = last["train_eval/loss"] - best["train_eval/loss"]
    if not on_train < loss / 2:  # no overfitting: what was learned is lost on both sides
        return (
            f"by epoch {last['epoch']} it got worse on training images too: val loss is {rise}"
            f" above its best, train-eval loss {compact(on_train, 3)} above that of epoch"
            f" {best['epoch']}; {HELPS}"
        )
    return f"by epoch {last['epoch']} it {word}: val loss is {rise} above its best, {sign}"


def compact(value: float, digits: int) -> str:
    """Fixed point, or powers of ten where that would burst the column.

    >>> compact(0.12345, 3), compact(123456.0, 3)
    ('0.123', '1.2e+05')
    """
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"


def in_short(chosen: Mapping[str, str | None]) -> str:
    """Overrides as people say them: `layerwise_decay decay=0.5 lr=0.1`.

    An option goes by its name alone, a setting by the last part of its key where no other ends so.

    >>> in_short({"lr_policy": "layerwise_decay", "lr_policy.decay": "0.5", "optimizer.lr": "0.1"})
    'layerwise_decay decay=0.5 lr=0.1'
    """
    ends = [key.rpartition(".")[2] for key in chosen]
    words = []
    for key, value in chosen.items():
        if value is None:
            continue
        end = key.rpartition(".")[2]
        name = end if ends.count(end) == 1 else key
        words.append(value if key in GROUPS else f"{name}={value_in_short(value)}")
    return " ".join(words)


def value_in_short(text: str) -> str:
    """`1e+06` for `1000000.0`: a number with a point in fewer characters, where it stays the same.

    Whole numbers and everything else stay as they were typed.

    >>> value_in_short("1000000.0"), value_in_short("1000000"), value_in_short("val/loss")
    ('1e+06', '1000000', 'val/loss')
    """
    try:
        value = float(text)
    except ValueError:
        return text
    short = f"{value:g}"
    same = "." in text and math.isfinite(value) and float(short) == value
    return short if same and len(short) < len(text) else text


def is_share(name: str) -> bool:
    """Whether a metric lies between 0 and 1 and is read in percent."""
    shares = ("f1_macro", "f1", "precision", "recall")
    return "accuracy" in name or name.rpartition("/")[2] in shares
