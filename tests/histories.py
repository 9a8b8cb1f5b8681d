"""Rows of runs that nobody trained, with what is planted in them, for verdicts to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrexp.judge.kinds.facts import Facts
from lrexp.judge.noise import Sample
from lrexp.plan.plan import Plan, Row

GUESS = 2.303  # loss of saying of ten classes that all are as likely
VAL = Sample(300)


def history(
    val: Sequence[float],
    train: Sequence[float] | None = None,
    *,
    right: Sequence[float] | None = None,
    right_train: Sequence[float] | None = None,
    rate: float | Sequence[float] = 0.1,
    ratio: float | Mapping[str, float] = 1e-3,
    drift: float | Mapping[str, float] = 0.5,
    guessing: Sequence[bool] | None = None,
    se: float = 0.01,
) -> list[dict[str, Any]]:
    """A row per epoch, from 1 on.

    Args:
        val: loss by epoch.
        train: of training images; None: that of val.
        right: val accuracy; None: as sure as a loss of GUESS is of a tenth and 0 of all.
        right_train: likewise.
        rate: of the group `all`, by epoch or for ever.
        ratio: update ratio, of `all` or by group.
        drift: at the last epoch, likewise; it grows evenly.
        guessing: by epoch.
        se: standard error of every difference of losses and accuracies.
    """
    train = val if train is None else train
    rows, epochs = list[dict[str, Any]](), len(val)
    rights = [right or [accuracy_of(v) for v in val]]
    rights.append(right_train or [accuracy_of(v) for v in train])
    ratios = ratio if isinstance(ratio, Mapping) else {"all": ratio}
    drifts = drift if isinstance(drift, Mapping) else dict.fromkeys(ratios, drift)
    for i in range(epochs):
        loss, on_train, ok, ok_train = val[i], train[i], rights[0][i], rights[1][i]
        now = rate if isinstance(rate, int | float) else rate[i]
        row = {
            "epoch": i + 1,
            "train/loss": on_train,
            "guessing": float((guessing or [0] * epochs)[i]),
        }
        row |= {"val/loss": loss, "val/accuracy": ok, "val/balanced_accuracy": ok}
        row |= {"train_eval/loss": on_train, "train_eval/accuracy": ok_train}
        row |= {"overfit/loss": loss - min(val[: i + 1]), "overfit/loss_se": se}
        row |= {"overfit/accuracy": max(rights[0][: i + 1]) - ok, "overfit/accuracy_se": se}
        row |= {"gap/loss": loss - on_train, "gap/accuracy": ok_train - ok}
        row |= dict.fromkeys(("gap/loss_chance_se", "gap/accuracy_chance_se"), 2 * se)
        row |= {f"lr/{group}": now for group in ratios}
        row |= {f"update_ratio/{group}": value for group, value in ratios.items()}
        row |= {f"drift/{group}": value * (i + 1) / epochs for group, value in drifts.items()}
        rows.append(row)
    return rows


def accuracy_of(loss: float) -> float:
    """1 at loss 0, a tenth at that of a guess."""
    return max(0.1, 1 - 0.9 * min(loss, GUESS) / GUESS)


def facts(rows: Sequence[Mapping[str, Any]], **more: Any) -> Facts:
    """Of a run with these rows, best where val loss is lowest, that came to its end."""
    best = min(rows, key=lambda row: row["val/loss"], default={})
    known: dict[str, Any] = {"best": best, "monitor": "val/loss", "val": VAL, "ended": True}
    known |= {"guess_loss": GUESS, "images": {"train": 1000, "val": 300}}
    return Facts(rows=rows, **known | more)


def plan(**scales: float) -> Plan:
    """A group of one tensor for every name, with its lr_scale."""
    return Plan(
        tuple(
            Row(f"{name}.weight", (2, 2), i, name, name, False, "fresh", scale, 0.0)
            for i, (name, scale) in enumerate(scales.items())
        )
    )


def falling(start: float, factor: float, epochs: int) -> list[float]:
    """Losses of which each is `factor` times the one before."""
    return [start * factor**i for i in range(epochs)]
