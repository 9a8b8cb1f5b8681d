"""What is tried before runs train: can they be stacked, in what memory, and how fast are they."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.func import vmap

from lrexp.config.schema import Trainer as Settings
from lrexp.grid.stack.model import StackedModel
from lrexp.grid.stack.optimizers import RULES, refused
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.optim.groups import set_trainable
from lrexp.optim.optimizers import averages_weights
from lrexp.train.loop import Trainer
from lrexp.train.step import gradients

WARM_STEPS = 2
TIMED_STEPS = 4  # at least
TRIAL_TOLERANCE = 1e-4  # of a norm, between a step alone and stacked, the network in float64


def probe(trainer: Trainer) -> str | None:
    """Why a member cannot be trained in a stack, in a sentence; None when it can.

    Found by trying: one step of two copies, stacked and each alone, in every mode that the plan
    puts the network into. The trainer is left as it was.
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
    epochs = math.ceil(len(experiment.schedule) / experiment.steps_per_epoch)
    try:
        for epoch in experiment.plan.turns(epochs):
            if reason := _trial(trainer, epoch):
                return reason
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        if "random" in said:
            return (
                "the network draws random numbers in training (dropout, stochastic depth), and"
                " stacked they would not be those of a run of its own"
            )
        return f"the network cannot be stacked: {said}"
    return None


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
    """Trainers like one that has not trained, one for every seed; all begin with its weights."""
    made = []
    for seed in seeds:
        model, optimizer = copy.deepcopy((trainer.experiment.model, trainer.experiment.optimizer))
        own = replace(trainer.experiment, model=model, optimizer=optimizer)
        made.append(Trainer(own, copy.copy(trainer.settings), trainer.batch_size, seed))
    return made


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


def _trial(trainer: Trainer, epoch: int) -> str | None:
    """What differs between a step of two stacked networks and a step of each alone, in an epoch.

    In float64, so that what a network makes of rounding is not taken for a difference.
    """
    experiment, train = trainer.experiment, trainer.experiment.dataset.train
    images, labels = next(train.in_order(trainer.batch_size))
    images = images.double()
    stacked = [copy.deepcopy(experiment.model).double() for _ in range(2)]
    for model in stacked:
        set_trainable(model, experiment.plan, epoch, experiment.beside)
        model.train()
    with torch.no_grad():
        for parameter in stacked[1].parameters():
            parameter.mul_(1.01)  # a second member that is not the first
    alone = copy.deepcopy(stacked)
    both = StackedModel(stacked)
    both.follow_freezing()
    trained = {name: w for name, w in both.weights.items() if w.requires_grad}

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return experiment.loss(logits.float(), labels)

    losses = vmap(loss, in_dims=(0, None))
    _, logits = gradients(both, losses, images, labels, list(trained.values()))
    for k, model in enumerate(alone):
        tensors = {name: w for name, w in model.named_parameters() if name in trained}
        _, own = gradients(model, loss, images, labels, list(tensors.values()))
        buffers = (dict(network.named_buffers()) for network in (stacked[k], model))
        pairs = {
            "logits": (logits[k], own),
            "gradients": (_flat(_gradients(trained), k), _flat(_gradients(tensors))),
            "buffers": map(_flat, buffers),
        }
        for what, (found, expected) in pairs.items():
            near = (found - expected).norm() <= TRIAL_TOLERANCE * expected.norm()
            if not expected.isfinite().all():
                return f"the network's {what} are not finite numbers"
            if not near:  # NaN is not
                return f"the network's {what} are others when it is stacked"
    return None


def _gradients(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: w.grad for name, w in weights.items() if w.grad is not None}


def _flat(tensors: Mapping[str, Tensor], k: int | None = None) -> Tensor:
    """Tensors, or their k-th members, as one vector in order of names."""
    chosen = [tensors[name] if k is None else tensors[name][k] for name in sorted(tensors)]
    return torch.cat([torch.zeros(1), *(t.detach().reshape(-1).double().cpu() for t in chosen)])
