"""What is tried before runs train: can they be stacked, in what memory, and how fast are they."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from lrexp.config.schema import Trainer as Settings
from lrexp.grid.stack.model import without_slow_warnings
from lrexp.grid.stack.optimizers import RULES, refused
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.grid.stack.trial import tried
from lrexp.optim.optimizers import averages_weights
from lrexp.train.loop import Trainer

WARM_STEPS = 2
TIMED_STEPS = 4  # at least


def probe(trainer: Trainer) -> str | None:
    """Why a member cannot be trained in a stack, in a sentence; None when it can.

    What its settings do not say is found by trying, see `tried`. The trainer is left as it was.
    """
    experiment = trainer.experiment
    if reason := refused_setting(trainer.settings):
        return reason
    if experiment.plan.measured:
        return "the policy measures its rates in the run, member by member"
    if averages_weights(experiment.optimizer):
        return f"{type(experiment.optimizer).__name__} averages weights beside those it trains"
    if reason := refused(experiment.optimizer):
        return reason
    if 0.0 in experiment.momenta:
        return "momentum passes through 0, where torch leaves its buffers out of a step"
    if experiment.device.type not in ("cpu", "cuda"):
        return f"members are stacked on cpu and cuda, not on {experiment.device.type}"
    if len({p.dtype for p in experiment.model.parameters()}) > 1:
        return "the network's parameters are of several number types"
    return tried(trainer)


def refused_setting(settings: Settings) -> str | None:
    """Why the trainer's settings are none for a member of a stack; see `Meaning.stack`.

    A setting whose field does not say how it goes with others is refused, whatever its value: the
    common step would train as if it were not there.
    """
    for f in fields(settings):
        said = f.metadata.get("stack")
        if said is None:
            return f"trainer.{f.name} does not say what it means to runs that train together"
        alone = said not in ("shared", "member", "ignored")
        if alone and getattr(settings, f.name) != f.metadata.get("neutral"):
            return said
    return None


def member_bytes(trainer: Trainer) -> int:
    """About the memory a member takes on a stack: weights, their state, a step's activations.

    What a step of the network alone keeps for its backward, counted, and as much again for what
    comes and goes; for the weights themselves two gradients and the tensors of the optimizer.
    """
    experiment, train = trainer.experiment, trainer.experiment.dataset.train
    model = copy.deepcopy(experiment.model).train()
    images, labels = next(train.in_order(trainer.batch_size))
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = experiment.loss(model(images), labels)
    del loss
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    copies = 3 + len(RULES[type(experiment.optimizer)].state)
    return images.nbytes + 2 * sum(kept.values()) + copies * weights


def clones(trainer: Trainer, seeds: Sequence[int]) -> list[Trainer]:
    """Trainers like one that has not trained, one for every seed; all begin with its weights.

    None compiles its network, which would take longer than what is timed. What it would cache of a
    frozen backbone is computed, for them and for whoever shares it.
    """
    trainer.choose_fed()
    made = []
    for seed in seeds:
        model, optimizer = copy.deepcopy((trainer.experiment.model, trainer.experiment.optimizer))
        computing = replace(trainer.experiment.computing, compile="none")
        changes = {"model": model, "optimizer": optimizer, "computing": computing}
        own, settings = replace(trainer.experiment, **changes), copy.copy(trainer.settings)
        made.append(Trainer(own, settings, trainer.batch_size, seed, trainer.features))
    return made


@without_slow_warnings()
def steps_per_s(trainers: Sequence[Trainer], at_least_s: float) -> float:
    """Member-steps per second of one run by itself, or of several that train together.

    The better of two timings: what disturbs one makes it slower.

    Args:
        trainers: used up by it.
        at_least_s: what the timed steps of each timing take.
    """

    def timed(steps: int) -> float:
        """Seconds per step."""
        for trainer in trainers:
            trainer.epoch = trainer.step = 0
            trainer.settings.limit_train_batches = steps
        started = time.perf_counter()
        together.train_epoch()
        return (time.perf_counter() - started) / trainers[0].step

    together = StackedTrainer(trainers) if len(trainers) > 1 else trainers[0]
    step_s, best = timed(WARM_STEPS), math.inf
    for _ in range(2):
        step_s = timed(max(TIMED_STEPS, round(at_least_s / min(step_s, best))))
        best = min(best, step_s)
    return len(trainers) / best
