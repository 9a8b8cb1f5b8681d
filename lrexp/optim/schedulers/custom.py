"""A schedule of the user's own: a function of the step."""

from __future__ import annotations

import math
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.config.parts import called, number_of, part
from lrexp.optim.schedulers.table import cut_off_at

KEY = "scheduler.target"


def custom(
    steps: int,
    steps_per_epoch: int,
    *,
    name: str,
    target: str,
    args: dict[str, Any],
    floor: float,
) -> list[float]:
    """s(t) = max(floor, target(step=t, total_steps=T, steps_per_epoch=..., args)).

    Args:
        steps: T, length of the table: those after the warmup.
        steps_per_epoch: optimizer steps in an epoch.
        name: what messages call it.
        target: dotted name of a function, called with `args` and what its signature has of the
            three above.
        args: further arguments, by name.
        floor: s never falls below it.

    Raises:
        ConfigError: when it cannot be had, raises, or gives no finite number from 0 up.
    """
    function, table = part(KEY, target), []
    for t in range(steps):
        offered = {"step": t, "total_steps": steps, "steps_per_epoch": steps_per_epoch}
        s = number_of(KEY, target, called(KEY, target, function, offered, args))
        if not (math.isfinite(s) and s >= 0):
            problem = f"gave {s:g} at step {t} of {steps}"
            raise ConfigError(KEY, problem, "it returns a multiple of optimizer.lr", target)
        table.append(s)
    return cut_off_at(floor, table)
