"""Tables of multipliers: run a torch scheduler on a unit optimizer, hold per epoch, floor, warm up.

A table has one entry per optimizer step. Its values are multiples of the base rate, so it knows no
rate and no parameter group.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler


def unit_optimizer() -> Optimizer:
    """An optimizer of rate 1 that never steps; its momentum is NaN until a scheduler sets it."""
    return torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=math.nan)


def tabulate(
    make: Callable[[Optimizer], LRScheduler], steps: int, read: str = "lr", every: int = 1
) -> list[float]:
    """What a torch scheduler gives a unit optimizer.

    Args:
        make: unit optimizer → scheduler.
        steps: length of the table; no scheduler is made for 0.
        read: `lr` or `momentum`.
        every: steps between two moves of the scheduler.

    Returns:
        (steps,) values, the first before any move.
    """
    if not steps:
        return []
    unit = unit_optimizer()
    with warnings.catch_warnings():
        # The unit optimizer never steps, which torch warns about.
        warnings.filterwarnings("ignore", "Detected call of", UserWarning)
        scheduler = make(unit)
        table: list[float] = []
        for t in range(steps):
            if t and t % every == 0:
                scheduler.step()
            table.append(float(unit.param_groups[0][read]))
    return table


def ending_at(floor: float, table: list[float]) -> list[float]:
    """A fall from 1 to 0 as one from 1 to `floor`: floor + (1 − floor)·s(t)."""
    return [floor + (1 - floor) * s for s in table]


def cut_off_at(floor: float, table: list[float]) -> list[float]:
    """max(floor, s(t)): for schedules that have no end of their own."""
    return [max(floor, s) for s in table]


def with_warmup(
    schedule: Callable[[int, int], list[float]], warmup_steps: int, steps: int, steps_per_epoch: int
) -> list[float]:
    """A linear rise to where the schedule starts, then the schedule over the remaining steps.

    s(t) = schedule(0) · (t + 1) / (W + 1) for t < W = warmup_steps (torch's LinearLR), then
    schedule(t − W). Per-epoch schedules count their epochs from the end of the warmup. The rise
    comes from near 0 whatever the schedule's floor.

    Args:
        schedule: (steps, steps_per_epoch) → table.
        warmup_steps: W, less than `steps` unless both are 0.
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        (steps,) multipliers.
    """
    main = schedule(steps - warmup_steps, steps_per_epoch)
    start = 1 / (warmup_steps + 1)
    rise = tabulate(lambda unit: LinearLR(unit, start, 1.0, warmup_steps), warmup_steps)
    return [main[0] * s for s in rise] + main
