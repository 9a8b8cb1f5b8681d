"""Schedules that move once an epoch, and `constant`, which never moves.

Each is (steps, steps_per_epoch, settings) → s(t), a list with a multiplier for every step. They
fall without an end, so `floor` cuts them off: s(t) is never below it.
"""

from __future__ import annotations

from torch.optim.lr_scheduler import ExponentialLR, MultiStepLR, StepLR

from lrexp.optim.schedulers.table import cut_off_at, held_per_epoch, tabulate


def constant(steps: int, steps_per_epoch: int, *, floor: float) -> list[float]:
    """s(t) = 1. Any floor is below that: it is taken so that a grid can set one for all."""
    return [1.0] * steps


def step(
    steps: int, steps_per_epoch: int, *, step_size: int, gamma: float, floor: float
) -> list[float]:
    """s(t) = max(floor, gamma^⌊epoch / step_size⌋), epochs from 0: torch's StepLR, per epoch.

    Args:
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.
        step_size: epochs between two drops.
        gamma: factor of a drop.
        floor: s never falls below it.
    """
    drops = held_per_epoch(
        lambda epochs: tabulate(lambda unit: StepLR(unit, step_size, gamma), epochs),
        steps,
        steps_per_epoch,
    )
    return cut_off_at(floor, drops)


def multistep(
    steps: int, steps_per_epoch: int, *, milestones: list[int], gamma: float, floor: float
) -> list[float]:
    """s(t) = max(floor, gamma^(milestones ≤ epoch)), epochs from 0: torch's MultiStepLR, per epoch.

    Args:
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.
        milestones: finished epochs after which the rate drops; those beyond the end never do.
        gamma: factor of a drop.
        floor: s never falls below it.
    """
    drops = held_per_epoch(
        lambda epochs: tabulate(lambda unit: MultiStepLR(unit, milestones, gamma), epochs),
        steps,
        steps_per_epoch,
    )
    return cut_off_at(floor, drops)


def exponential(steps: int, steps_per_epoch: int, *, gamma: float, floor: float) -> list[float]:
    """s(t) = max(floor, gamma^epoch), epochs from 0: torch's ExponentialLR, per epoch.

    Args:
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.
        gamma: factor per epoch.
        floor: s never falls below it.
    """
    fall = held_per_epoch(
        lambda epochs: tabulate(lambda unit: ExponentialLR(unit, gamma), epochs),
        steps,
        steps_per_epoch,
    )
    return cut_off_at(floor, fall)
