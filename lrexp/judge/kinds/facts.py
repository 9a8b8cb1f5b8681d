"""What a run's verdicts are judged by: its rows, and what is known of its data and its plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeGuard

from lrexp.judge.noise import Sample
from lrexp.judge.overfit import Overfit, overfitting
from lrexp.plan.plan import Plan

Row = Mapping[str, Any]
Verdict = dict[str, Any]  # kind, severity, message, evidence (epochs, values, threshold), advice

ERROR, WARNING, INFO = "error", "warning", "info"


@dataclass(frozen=True)
class Facts:
    """All that the verdicts on a run depend on. Rows are those of metrics.jsonl."""

    rows: Sequence[Row]  # of trained epochs; of epoch 0 where nothing is trained
    best: Row  # of the best epoch by the monitor; empty when there is none
    monitor: str  # the metric that decides
    val: Sample  # what validation's errors are taken over
    guess_loss: float = math.nan  # val loss of answering with the training set's class shares
    classes: Mapping[str, Any] = field(default_factory=dict)  # see judge.classes.class_facts
    images: Mapping[str, int] = field(default_factory=dict)  # how many by split
    leaks: Mapping[str, Any] | None = None  # as summary.json has it
    plan: Plan = field(default_factory=lambda: Plan(()))
    ended: bool = False  # its training came to its end

    @cached_property
    def overfit(self) -> Overfit | None:
        """Validation at the last epoch against its best."""
        return overfitting(self.rows, self.val)

    @property
    def last(self) -> Row:
        """The row of the last epoch; empty before the first."""
        return self.rows[-1] if self.rows else {}

    @property
    def trained(self) -> bool:
        """Whether at least one epoch of training is recorded."""
        return bool(self.rows) and self.rows[-1]["epoch"] >= 1

    @property
    def diverged(self) -> bool:
        """Whether a loss of the last epoch is no finite number."""
        losses = [self.last.get(key, 0.0) for key in LOSSES]
        return self.trained and not all(map(math.isfinite, losses))

    @property
    def guessing(self) -> bool:
        """Whether the network is worth no more than a guess at its last epoch."""
        return self.trained and bool(self.last.get("guessing"))

    @property
    def drift(self) -> float:
        """How far the group that moved most is from where it began; NaN where that is not known."""
        known = [self.last.get(f"drift/{group}") for group in self.groups("drift")]
        return max((value for value in known if finite(value)), default=math.nan)

    def column(self, key: str) -> list[float]:
        """A value per epoch; NaN where a row has none."""
        return [float(row.get(key, math.nan)) for row in self.rows]

    def groups(self, prefix: str) -> list[str]:
        """Parameter groups of which some row has `prefix/<group>`, in the order they stand."""
        keys = (key for row in self.rows for key in row if key.startswith(f"{prefix}/"))
        return list(dict.fromkeys(key.removeprefix(f"{prefix}/") for key in keys))

    def level(self, group: str) -> list[float]:
        """A group's rate at the end of each epoch as a share of its highest; 0 while frozen.

        What a measured policy did to it is taken out, so that this is the schedule's alone.
        """
        rates = [
            rate / scale if scale else 0.0
            for rate, scale in zip(self.column(f"lr/{group}"), self._scales(group), strict=True)
        ]
        peak = max((rate for rate in rates if math.isfinite(rate)), default=0.0)
        return [rate / peak if peak and math.isfinite(rate) else 0.0 for rate in rates]

    def _scales(self, group: str) -> list[float]:
        """What a measured policy multiplied its rate with in each epoch; 1 without one."""
        return [float(row.get(f"lr_scale/{group}", 1.0)) for row in self.rows]

    @cached_property
    def levels(self) -> list[float]:
        """The rates' height over each epoch as a share of their peak, of the group that is highest.

        A row has the rates of the epoch's last step: the mean with those of the step before the
        epoch stands for the epoch.
        """
        ends = [max(found) for found in zip(*map(self.level, self.groups("lr")), strict=True)]
        before = [ends[0], *ends[:-1]] if ends else []
        return [(a + b) / 2 for a, b in zip(before, ends, strict=True)]


LOSSES = ("val/loss", "train_eval/loss", "train/loss")


def facts_of(
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    monitor: str,
    plan: Plan,
    ended: bool | None = None,
) -> Facts:
    """The facts of a run, while it trains or from its files.

    Args:
        rows: of all epochs so far.
        summary: summary.json as far as it is known: `best`, `data` and `leaks` are read.
        monitor: trainer.monitor.
        plan: of its parameters.
        ended: whether training came to its end; None: as the summary's `status` says.
    """
    best_epoch = (summary.get("best") or {}).get("epoch")
    data = summary.get("data") or {}
    samples, guess = data.get("samples") or {}, data.get("guess_loss")
    images = data.get("images") or {}
    return Facts(
        rows=rows,
        best=next((row for row in rows if row["epoch"] == best_epoch), {}),
        monitor=monitor,
        val=Sample.of_file(samples.get("val")) or Sample(images.get("val") or 0),
        guess_loss=float(guess) if isinstance(guess, int | float) else math.nan,
        classes=data.get("classes") or {},
        images=images,
        leaks=summary.get("leaks"),
        plan=plan,
        ended=summary.get("status") in ("finished", "diverged") if ended is None else ended,
    )


def found(
    kind: str,
    severity: str,
    message: str,
    advice: str,
    *,
    epochs: Iterable[int] = (),
    values: Mapping[str, Any] | None = None,
    threshold: Mapping[str, Any] | None = None,
) -> Verdict:
    """A verdict as summary.json has it.

    Args:
        kind: of `judge.verdicts.KINDS`.
        severity: error, warning or info.
        message: a clause without a full stop.
        advice: likewise; what to change, in keys of the config.
        epochs: those it happened at.
        values: what was measured.
        threshold: what the values were held against.
    """
    evidence = {"epochs": list(epochs), "values": dict(values or {})}
    evidence["threshold"] = dict(threshold or {})
    return {
        "kind": kind,
        "severity": severity,
        "message": message,
        "evidence": evidence,
        "advice": advice,
    }


def percent(share: float) -> str:
    """`97.5%`."""
    return f"{100 * share:.1f}%"


def finite(value: Any) -> TypeGuard[float]:
    """Whether it is a number, and a finite one."""
    return isinstance(value, int | float) and math.isfinite(value)
