"""Where our schedules differ from timm's, as the YAML files and docs/schedules.md say."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lrexp.build.schedule import Steps, build_schedule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm.scheduler")


def theirs(make: Callable[[Any], Any], epochs: int) -> list[float]:
    """The rate in every epoch, as timm's own training script steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    return rates


def test_timms_multistep_drops_one_epoch_earlier(compose: Callable[..., Any]) -> None:
    config = compose("scheduler=multistep", "scheduler.milestones=[7,11]")
    ours = build_schedule(config.scheduler, Steps(1, 15))
    assert ours == pytest.approx(
        theirs(lambda o: timm.MultiStepLRScheduler(o, decay_t=[8, 12], decay_rate=0.1), 15)
    )


def test_our_warmup_is_timms_warmup_prefix(compose: Callable[..., Any]) -> None:
    config = compose("scheduler=cosine", "scheduler.warmup='3 epochs'")
    ours = build_schedule(config.scheduler, Steps(1, 13))

    def made(prefix: bool) -> list[float]:
        left = {"t_initial": 10, "warmup_t": 3, "warmup_lr_init": 0.1, "warmup_prefix": prefix}
        return theirs(lambda o: timm.CosineLRScheduler(o, **left), 13)

    assert ours[3:] == pytest.approx(made(True)[3:])
    assert ours[3] == 1.0
    assert made(False)[3] < 0.8  # the first part of the cosine lies under the warmup
