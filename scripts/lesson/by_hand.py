"""What torch does with a loop that is written by hand, and what a step costs."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lesson.runs import composed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lrexp.build.experiment import build
from lrexp.train.loop import Trainer
from lrexp.train.step import gradients, update

REPEATS = 9


def two_layers() -> nn.Sequential:
    """A network of the kind that tutorials show."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def rates_of_groups(*groups: dict[str, Any], lr: float) -> list[float]:
    """What torch.optim.SGD makes of parameter groups of which some may have no rate."""
    optimizer = torch.optim.SGD(list(groups), lr=lr, momentum=0.9)
    return [group["lr"] for group in optimizer.param_groups]


def rates_by_epoch(scheduler_first: bool) -> list[float]:
    """The rates that StepLR(2, 0.5) from 0.1 trains four epochs with."""
    model, used = two_layers(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    with warnings.catch_warnings():  # torch says that the order is wrong, and goes on
        warnings.simplefilter("ignore")
        for _ in range(4):
            if scheduler_first:
                scheduler.step()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            cross_entropy(model(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
            optimizer.step()
            if not scheduler_first:
                scheduler.step()
    return used


def moved_without_backward() -> bool:
    """Whether a step of torch's without backward() moves a weight."""
    model = two_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    cross_entropy(model(torch.ones(3, 4)), torch.tensor([0, 1, 0]))
    optimizer.step()
    return any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def missed_step(lesson: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """How far a run's step is from −rate × gradient, computed anew: ‖Δw + lr·g‖ / ‖lr·g‖.

    The lesson trains on one batch, without momentum, under one rate for all.
    """
    config = composed(lesson)
    experiment = build(config)
    experiment.model.load_state_dict(before)
    experiment.model.train()
    train = experiment.dataset.train
    ((images, labels),) = train.batches([np.arange(len(train))], epoch=0)
    named = dict(experiment.model.named_parameters())
    loss = cross_entropy(experiment.model(images), labels)
    grads = torch.autograd.grad(loss, list(named.values()))
    wanted = [-config.optimizer.lr * grad for grad in grads]
    missed = [after[n] - before[n] - w for n, w in zip(named, wanted, strict=True)]
    size = torch.nn.utils.get_total_norm
    return float(size(missed) / size(wanted))


def stepper(lesson: str, *overrides: str) -> Callable[[], None]:
    """A function that makes one training step of a lesson's run."""
    config = composed(lesson, *overrides)
    logging.disable(logging.WARNING)  # that a frozen backbone is random
    experiment = build(config)
    logging.disable(logging.NOTSET)
    trainer = Trainer(experiment, config.trainer, config.data.batch_size, config.seed)
    trainer.begin_epoch()
    trainer.set_rates(0)
    ((images, labels),) = experiment.dataset.train.batches([trainer.batches()[0]])
    groups = experiment.optimizer.param_groups
    weights = [p for group in groups for p in group["params"] if p.requires_grad]

    def step() -> None:
        gradients(experiment.model, experiment.loss, images, labels, weights)
        update(experiment.optimizer, weights)

    return step


def log_ratios(one: Callable[[], None], other: Callable[[], None]) -> np.ndarray:
    """(repeats,) ln of the time of one over that of the other, each forth and back (ABBA)."""
    found = []
    for _ in range(1 + REPEATS):
        spent = [0.0, 0.0]
        for which in (0, 1, 1, 0):
            started = time.perf_counter()
            for _ in range(3):
                (one, other)[which]()
            spent[which] += time.perf_counter() - started
        found.append(float(np.log(spent[0] / spent[1])))
    return np.array(found[1:])  # the first warms up
