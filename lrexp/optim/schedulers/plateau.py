"""The one schedule with state: it follows a metric of the run."""

from __future__ import annotations

import math
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from lrexp.config.schema.training import direction
from lrexp.optim.schedulers.table import unit_optimizer


class Plateau:
    """s falls by `factor` when a metric has not got better for more than `patience` epochs.

    torch's ReduceLROnPlateau on a unit optimizer, moved after every epoch; the rise of a warmup is
    tabulated like any other and multiplied by this s. `state()` is all that later values depend on
    besides the metric.

    It differs from torch's where the best value is negative, as a gap may be: a share of the best
    is one of its size, |best|. torch takes best · (1 − threshold), which lies on the worse side of
    a negative best, so that what is worse would count as better.

    Args:
        monitor: the metric, whose better direction is known.
        factor: of a drop, in (0, 1).
        patience: epochs without getting better that are let pass.
        threshold: what counts as better, as a share of |best| (`rel`) or as a difference (`abs`).
        threshold_mode: rel or abs.
        cooldown: epochs after a drop that are not counted.
        floor: s never falls below it.
        warmup_steps: epochs that end within the first so many steps are not looked at.
    """

    def __init__(
        self,
        *,
        monitor: str,
        factor: float,
        patience: int,
        threshold: float,
        threshold_mode: str,
        cooldown: int,
        floor: float,
        warmup_steps: int,
    ):
        self._monitor, self._warmup_steps = monitor, warmup_steps
        self._share = threshold if threshold_mode == "rel" else None
        self._unit = unit_optimizer()
        self._torch = ReduceLROnPlateau(
            self._unit,
            mode="max" if direction(monitor) == "max" else "min",
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode="abs",
            cooldown=cooldown,
            min_lr=floor,
            eps=0.0,  # torch's default is meant for rates, not for shares of one
        )

    @property
    def s(self) -> float:
        """The multiplier of the coming epoch."""
        return self._unit.param_groups[0]["lr"]

    def see(self, row: dict[str, float]) -> None:
        """Take note of a finished epoch's metrics."""
        if row["step"] > self._warmup_steps:
            if self._share is not None:
                best = abs(self._torch.best)
                self._torch.threshold = self._share * best if math.isfinite(best) else 0.0
            self._torch.step(row[self._monitor])

    def state(self) -> dict[str, Any]:
        """Plain numbers: s, the best value, epochs without a better one, epochs of cooldown."""
        return {
            "s": self.s,
            "best": self._torch.best,
            "bad_epochs": self._torch.num_bad_epochs,
            "cooldown_left": self._torch.cooldown_counter,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of the same settings."""
        self._unit.param_groups[0]["lr"] = state["s"]
        self._torch.best = state["best"]
        self._torch.num_bad_epochs = state["bad_epochs"]
        self._torch.cooldown_counter = state["cooldown_left"]
