"""Schedules: step → multiplier s(t) of every rate, tabulated once from torch's own schedulers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, StepLR


def constant(steps: int, steps_per_epoch: int) -> list[float]:
    """s(t) = 1."""
    return [1.0] * steps


def step(steps: int, steps_per_epoch: int, *, step_size: int, gamma: float) -> list[float]:
    """s(t) = gamma^⌊epoch / step_size⌋, epochs counted from 0: torch's StepLR, moved per epoch.

    Args:
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.
        step_size: epochs between two drops.
        gamma: factor of a drop.
    """
    epochs = math.ceil(steps / steps_per_epoch)
    per_epoch = _tabulate(lambda unit: StepLR(unit, step_size, gamma), epochs)
    return [per_epoch[t // steps_per_epoch] for t in range(steps)]


def cosine(steps: int, steps_per_epoch: int, *, floor: float) -> list[float]:
    """s(t) = floor + (1 − floor)·(1 + cos(π t / steps)) / 2: torch's CosineAnnealingLR, per step.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.

    Args:
        steps: length of the table; the floor would be reached at t = steps.
        steps_per_epoch: unused, the rate moves every step.
        floor: where it ends, as a share of the start.
    """
    return _tabulate(lambda unit: CosineAnnealingLR(unit, steps, eta_min=floor), steps)


SCHEDULES: dict[str, Callable[..., list[float]]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
}


def with_warmup(
    schedule: Callable[[int, int], list[float]], warmup_steps: int, steps: int, steps_per_epoch: int
) -> list[float]:
    """A linear rise, then the schedule over the remaining steps.

    s(t) = (t + 1) / (W + 1) for t < W = warmup_steps (torch's LinearLR), then schedule(t − W).
    Per-epoch schedules count their epochs from the end of the warmup.

    Args:
        schedule: (steps, steps_per_epoch) → table.
        warmup_steps: W, at most `steps`.
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        (steps,) multipliers.
    """
    if not warmup_steps:
        return schedule(steps, steps_per_epoch)
    start = 1 / (warmup_steps + 1)
    rise = _tabulate(lambda unit: LinearLR(unit, start, 1.0, warmup_steps), warmup_steps)
    remaining = steps - warmup_steps
    return rise + (schedule(remaining, steps_per_epoch) if remaining else [])


def _tabulate(make: Callable[[Optimizer], LRScheduler], length: int) -> list[float]:
    """The rates a torch scheduler gives an optimizer of rate 1, one per step."""
    unit = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    with warnings.catch_warnings():
        # The unit optimizer never steps, which torch warns about.
        warnings.filterwarnings("ignore", "Detected call of", UserWarning)
        scheduler = make(unit)
        table = []
        for _ in range(length):
            table.append(float(unit.param_groups[0]["lr"]))
            scheduler.step()
    return table
