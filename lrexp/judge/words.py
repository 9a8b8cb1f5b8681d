"""What the numbers of a run say, in sentences that terminal, report and W&B share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lrexp.config.errors import few
from lrexp.config.schema import GROUPS, direction
from lrexp.judge.noise import Sample, judged

NOT_FINITE = "the loss is no longer a finite number"
HELPS = "a lower optimizer.lr or a scheduler.warmup usually helps"


def brief(line: str) -> str:
    """An opening line for the terminal: of leaks the counts, not the first few images."""
    counts, cut, _ = line.partition("; ")
    return f"{counts} (summary.json lists them)" if cut and line.startswith("leaks ") else line


def capital(words: str) -> str:
    """As a sentence begins."""
    return words[:1].upper() + words[1:]


def best_is(monitor: str) -> str:
    """Of a metric: `lowest` or `highest`."""
    return "highest" if direction(monitor) == "max" else "lowest"


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


def learning_in_words(proof: Mapping[str, Any], most: int = 3) -> str:
    """How many tensors moved in every phase that trains them, and which others did not, and why.

    >>> still = "still in epoch 1: the gradient is 0"
    >>> proof = {"tensors": {"a": "moved", "b": "still", "c": "still"}, "not_judged": []}
    >>> learning_in_words(proof | {"reasons": {"b": still, "c": still}})
    '1 of 3 tensors moved in every phase that trains them; b, c still in epoch 1: the gradient is 0'
    """
    words, of = list(proof["tensors"].values()), dict[str, list[str]]()
    for name, reason in proof["reasons"].items():
        of.setdefault(reason, []).append(name)
    said = [f"{words.count('moved')} of {len(words)} tensors moved in every phase that trains them"]
    said = said if words else []
    for reason, names in of.items():
        all_in_all = f" ({len(names)})" if len(names) > most else ""
        said.append(f"{few(names, most)}{all_in_all} {reason}")
    return "; ".join(said + [f"not judged: {reason}" for reason in proof["not_judged"]])


def uneven(summary: Mapping[str, Any]) -> bool:
    """Whether the classes of a run's data differ in size, as its summary.json says."""
    classes = summary["data"].get("classes")
    return isinstance(classes, Mapping) and classes.get("uneven") is True


def gap_in_words(row: Mapping[str, float], samples: Mapping[str, Any]) -> str:
    """What gap/loss says, in a sentence for someone who never met it.

    It is judged against chance: whether a network that treats training and new images alike would
    show as much. The error against this training set is told beside it where it is another.

    Args:
        row: of an epoch.
        samples: `data.samples` of summary.json; empty for a run without.
    """
    gap, se = row["gap/loss"], row["gap/loss_se"]
    chance = row.get("gap/loss_chance_se", se)
    own = "" if not se < 0.9 * chance else f" (against this training set ± {compact(se, 3)})"
    measured = f"{compact(gap, 3)} ± {compact(chance, 3)}{own}:"
    if not math.isfinite(gap):
        return f"{measured} cannot tell, a loss is not a finite number"
    found = [Sample.of_file(samples.get(split)) for split in ("val", "train_eval")]
    both = [sample for sample in found if sample]
    if why := next((sample.unjudged for sample in both if sample.unjudged), ""):
        return f"{measured} cannot tell, {why}"
    bound = max((sample.bound() for sample in both), default=2.0)
    caution = next((f" ({sample.caution})" for sample in both if sample.caution), "")
    match judged(gap, chance, bound):
        case "changed" if gap > 0:
            said = "beyond noise, training images are known better than new ones"
            return f"{measured} {said}, or the splits differ{caution}"
        case "changed":
            said = "beyond noise, new images do better than training images"
            return f"{measured} {said}: the splits differ{caution}"
        case "within noise":
            return f"{measured} within noise: no difference between training and new images shows"
    return f"{measured} cannot tell, its error is not known"


def overfit_in_words(found: Mapping[str, Any]) -> str:
    """What became of validation after its best epoch: loss and accuracy, each with its error.

    Args:
        found: `overfit` of summary.json, see `judge.overfit.Overfit`.
    """
    loss, accuracy = found["loss"], 100 * found["accuracy"]
    rise = f"{compact(loss, 3)} ± {compact(found['loss_se'], 3)}"
    fall = f"{accuracy:.1f} ± {100 * found['accuracy_se']:.1f} points"
    if found["kind"] == "overconfident":
        of_accuracy = f"val accuracy is measured to hold ({fall} below its best)"
    elif accuracy <= 0:
        of_accuracy = "val accuracy is at its best"
    else:
        of_accuracy = f"val accuracy {fall} below its best: {found['accuracy_says']}"
    of_loss = f"val loss is {rise} above that of epoch {found['reference']}"
    if found["kind"] == "deteriorated":
        return (
            f"by epoch {found['epoch']} it got worse on training images too: {of_loss}, train-eval"
            f" loss {compact(found['on_train'], 3)}; {of_accuracy}; {HELPS}"
        )
    if found["kind"]:
        word = "overfits" if found["kind"] == "overfitting" else "grows overconfident"
        return f"by epoch {found['epoch']} it {word}: {of_loss}; {of_accuracy}"
    if loss <= 0:
        return f"val loss was lowest in the last epoch; {of_accuracy}"
    return f"{of_loss}: {found['loss_says']}; {of_accuracy}"


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


def importance_words(found: Mapping[str, Any]) -> str:
    """What told good trials of a search from others, in a sentence.

    >>> importance_words({"trials": 30, "best": 5, "settings": {"lr": 0.8, "wd": 0.2}})
    'mattered: lr 80 %, wd 20 % (PED-ANOVA: what sets the best 5 of 30 trials apart)'
    """
    shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in found["settings"].items())
    how = f"PED-ANOVA: what sets the best {found['best']} of {found['trials']} trials apart"
    return f"mattered: {shares} ({how})"


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


def time_in_words(timings: Mapping[str, Any]) -> str:
    """`steps 3.1 s, evaluations 2.9 s, saving 0.31 s`: what training was spent on.

    Args:
        timings: of a summary; empty for one that does not say it.
    """
    parts = {"steps": "steps_s", "evaluations": "eval_s", "saving": "save_s"}
    known = {name: timings.get(key) for name, key in parts.items()}
    return ", ".join(
        f"{name} {v:.2f} s" if v < 10 else f"{name} {v:,.0f} s"
        for name, v in known.items()
        if isinstance(v, int | float) and math.isfinite(v)
    )
