"""Training at rising rates, and a network as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lrexp.config.errors import UserError
from lrexp.data.generators import begun_at
from lrexp.judge.range_test import Ramp
from lrexp.optim.groups import set_trainable
from lrexp.plan.plan import Plan, Row, ramp
from lrexp.train.loop import Trainer
from lrexp.train.scales import measure_scales


class TrainsEpochs(Protocol):
    """Whoever trains members together, epoch by epoch: see `lrexp.grid.stack`."""

    def train_epoch(self, watch: Callable[[Tensor], bool]) -> object: ...


def ramp_plan(
    plan: Plan, rising: Callable[[Row], bool], low: float, high: float, steps: int
) -> Plan:
    """The first phase of a plan, held for as long as it takes, with a rate that rises.

    What trains at the start trains throughout, all else never. The rates of the rows that rise are
    base × scale × low … high; the others hold at base × scale. The policy's own factors over time
    are off, and a scale that is measured stays as it is first measured.

    Args:
        plan: of a run.
        rising: of a row, whether its rate rises.
        low: factor on the base rate at the first step.
        high: at the last.
        steps: of the ramp.
    """
    mixed = {
        group
        for group, rows in plan.groups.items()
        if len({rising(row) for row in rows}) > 1 and rows[0].trains_after(0)
    }

    def treated(row: Row) -> Row:
        if row.frozen or not row.trains_after(0):
            return replace(row, **_NEVER, trainable_from=0, trainable_until=0)
        up = rising(row)
        group = f"{row.group}_held" if row.group in mixed and not up else row.group
        g = ramp(low, high, steps) if up else ""
        return replace(
            row, group=group, g=g, trainable_until=None, schedule_restart=None, trainable_from=0
        )

    return Plan(tuple(map(treated, plan.rows)))


_NEVER: dict[str, Any] = {"lr_scale": 0.0, "weight_decay": 0.0, "g": "", "measured": ""}


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Afterwards weights, buffers, gradients, modes and what trains are as before, to the bit.

    The tensors stay the same objects, so that an optimizer over them goes on knowing them.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    gradients = {name: (p.grad, p.requires_grad) for name, p in model.named_parameters()}
    modes = [(m, m.training, m.__dict__.get("train")) for m in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(kept[name])
        for name, parameter in model.named_parameters():
            parameter.grad, wanted = gradients[name]
            parameter.requires_grad_(wanted)
        for module, training, own in modes:
            module.__dict__.pop("train", None)
            if own is not None:
                module.__dict__["train"] = own
            module.training = training


def climb(
    trainers: Sequence[Trainer], ramps: Sequence[Ramp], together: TrainsEpochs | None = None
) -> None:
    """Train along the plan of every trainer, and note the loss of each step with its ramp.

    It ends with the last ramp's end. Networks and the generators are then as they were before; the
    optimizers, which are the ramp's own, are not.

    Args:
        trainers: that have not trained; of experiments with `ramp_plan`.
        ramps: of each.
        together: trains all of them; None: one after the other.

    Raises:
        UserError: when something was not finite before the first step.
    """
    with ExitStack() as stack:
        stack.enter_context(begun_at(0, trainers[0].experiment.device))
        for trainer in trainers:
            stack.enter_context(restored(trainer.experiment.model))
            _measure_once(trainer)
        if together is not None:
            _train(trainers, ramps, together)
        else:
            for trainer, own in zip(trainers, ramps, strict=True):
                _train([trainer], [own], trainer)


def _measure_once(trainer: Trainer) -> None:
    """Scales that the plan says are measured, as before the first epoch, and no more after that."""
    experiment = trainer.experiment
    if not experiment.plan.measured:
        return
    set_trainable(experiment.model, experiment.plan, 0, experiment.beside)
    trainer.begin_draws("measuring")
    measure_scales(experiment, trainer.seed, 0, *trainer.step_size)
    rows = tuple(replace(row, measured="") for row in experiment.plan.rows)
    trainer.experiment = replace(experiment, plan=Plan(rows))


def _train(trainers: Sequence[Trainer], ramps: Sequence[Ramp], who: TrainsEpochs | Trainer) -> None:
    def watch(losses: Tensor) -> bool:
        for own, loss in zip(ramps, losses.reshape(-1).tolist(), strict=True):
            own.see(loss)
        return all(own.over for own in ramps)

    while not all(own.over for own in ramps):
        who.train_epoch(watch=watch)
        if fault := next((trainer.fault for trainer in trainers if trainer.fault), ""):
            raise UserError(fault)
