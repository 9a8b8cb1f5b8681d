"""What settings of a scheduler must be together, and how long its lengths of time are."""

from __future__ import annotations

import re
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.config.schema import lengths_of
from lrexp.config.schema.scheduler import MultiStep, OneCycle, Scheduler


def check_scheduler(scheduler: Scheduler) -> None:
    """Raise a ConfigError for the first setting that cannot be used."""
    for name, length in lengths_of(scheduler).items():
        key, written = f"scheduler.{name}", getattr(scheduler, name)
        if written is None and length.empty:
            other = f"scheduler.{length.empty}"
            if not duration(other, getattr(scheduler, length.empty))[0]:
                hint = f"give one, such as '1 epoch', or a {other} whose length it takes"
                raise ConfigError(key, f"has no {length.empty} to follow", hint, "null")
        elif not duration(key, written)[0] and length.least:
            raise ConfigError(key, "must be longer than 0", given=written)
    if isinstance(scheduler, MultiStep):
        milestones = scheduler.milestones
        if not milestones or milestones != sorted(set(milestones)):
            hint = "epochs in rising order, each once, such as [8, 12]"
            raise ConfigError("scheduler.milestones", "are no milestones", hint, milestones)
    if isinstance(scheduler, OneCycle):
        momentum = scheduler.momentum
        if momentum is not None and len(momentum) != 2:
            hint = "at both ends and at the peak, such as [0.95, 0.85]; or null"
            raise ConfigError("scheduler.momentum", "must be two numbers", hint, momentum)


def duration(key: str, written: Any) -> tuple[float, str]:
    """A length of time in a setting as (amount, unit), the unit one of share, epochs and steps.

    Raises:
        ConfigError: when it is neither a share in [0, 1) nor `N epochs` nor `N steps`.
    """
    counted = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?)\s*", str(written))
    if counted:
        return float(counted[1]), counted[2].rstrip("s") + "s"
    if type(written) in (int, float) and 0 <= written < 1:
        return float(written), "share"
    hint = "allowed: a share of training in [0, 1), '2 epochs', '100 steps'"
    given = "null" if written is None else written
    raise ConfigError(key, f"is no {'warmup' if key.endswith('warmup') else 'length'}", hint, given)
