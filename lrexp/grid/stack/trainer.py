"""Several runs of one network trained together: one forward, one backward, one step for all.

Every member keeps its own `Trainer`, which says its rates, judges its epochs and holds its state;
here is what is done for all of them at once. Members are never mixed: a member that diverges, or
stops early, changes nothing for the others.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from lrexp.config.errors import out_of_memory
from lrexp.data.dataset import Split
from lrexp.grid.stack.model import StackedModel, detach_from_stack, stacked_batches
from lrexp.grid.stack.optimizers import RULES, StackedOptimizer, flavour, refused
from lrexp.optim.groups import set_trainable
from lrexp.optim.optimizers import averages_weights
from lrexp.train.experiment import Experiment
from lrexp.train.loop import Row, TakesRows, Trainer
from lrexp.train.measure import RunningTrain

log = logging.getLogger(__name__)

CHECK_TOLERANCE = 1e-2  # of the norm of a few logits in float32, which differ by rounding alone
TRIAL_TOLERANCE = 1e-4  # of a norm, between a step alone and stacked, the network in float64


class StackedTrainer:
    """Trains K members together, each as its own `Trainer.run` would.

    Args:
        trainers: of the members, built and perhaps resumed at one and the same step; `probe` has
            nothing against any of them.

    Raises:
        ValueError: when they differ in what members must share (see `shared`), or a network makes
            something else of an image when it stands in the stack.
    """

    def __init__(self, trainers: Sequence[Trainer]):
        if len({shared(trainer) for trainer in trainers}) != 1:
            raise ValueError("members of one stack must share model, data, steps and frozen set")
        self._members = list(trainers)
        self._going: list[Trainer] = []  # those on the stack
        if len(trainers) > 1:
            self._check_members()

    def run(
        self,
        records: Sequence[TakesRows],
        checkpoints: Sequence[Path | None],
        failures: list[Exception | None],
    ) -> None:
        """Train every member to its end, as `Trainer.run` does.

        Args:
            records: takes the rows of each member.
            checkpoints: folder for last.pt and best.pt of each member.
            failures: None for each member; becomes what made it fail outside the common steps
                (a full disk). The others go on.

        Raises:
            Exception: what made a common step fail, such as torch.OutOfMemoryError, or that memory
                ran out while one member was judged. Every member that has not failed is then as far
                as its last recorded epoch says, and no further to be used.
        """
        try:
            while going := [
                k
                for k, trainer in enumerate(self._members)
                if trainer.goes_on and failures[k] is None
            ]:
                if len(going) == 1:  # a stack of one would only be slower
                    (k,) = going
                    self._stack([])
                    rest = partial(self._members[k].run, records[k], checkpoints[k])
                    failures[k] = _failure_of(rest)
                    continue
                self._stack([self._members[k] for k in going])
                started = time.perf_counter()
                seen = self.train_epoch()
                train_eval, val = self._evaluate()
                for i, k in enumerate(going):
                    trainer = self._members[k]
                    end = partial(trainer.end_epoch, seen[i], train_eval[i], val[i])
                    failure = _failure_of(partial(end, started, records[k], checkpoints[k]))
                    recorded = trainer.rows and trainer.rows[-1]["epoch"] == trainer.epoch
                    if failure and out_of_memory(failure) and not recorded:
                        raise failure  # fewer members may fit
                    failures[k] = failure
        finally:
            self._stack([])

    @contextmanager
    def stacked(self) -> Iterator[None]:
        """Keep all members on the stack meanwhile, for whoever trains single epochs."""
        self._stack(self._members)
        try:
            yield
        finally:
            self._stack([])

    def _check_members(self) -> None:
        """Stack them and see that every network still says what it said by itself."""
        split = self._members[0].experiment.dataset.train_eval
        images, _ = next(split.batches(np.arange(min(8, len(split))), 8))
        models = [trainer.experiment.model.eval() for trainer in self._members]
        with torch.no_grad():
            alone = [model(images) for model in models]
            self._stack(self._members)
            for own, found in zip(alone, self._model(images), strict=True):
                if (own - found).norm() > CHECK_TOLERANCE * own.norm():
                    self._stack([])
                    raise ValueError("members of one stack must be networks of one function")

    def _stack(self, going: list[Trainer]) -> None:
        """Stack these members, and give those that leave the stack their own memory."""
        if going == self._going:
            return
        for trainer in self._going:
            if trainer not in going:
                experiment = trainer.experiment
                detach_from_stack(experiment.model)
                for values in experiment.optimizer.state.values():
                    values |= {key: v.clone() for key, v in values.items()}
        self._going = going
        if not going:
            return
        first, device = going[0].experiment, going[0].experiment.device
        self._model = StackedModel([trainer.experiment.model for trainer in going])
        self._optimizer = StackedOptimizer(
            [trainer.experiment.optimizer for trainer in going],
            self._model.weights,
            [_uses_momentum(trainer.experiment) for trainer in going],
        )
        self._losses = vmap(first.loss, in_dims=(0, 0))
        self._losses_of_shared = vmap(first.loss, in_dims=(0, None))
        limits = [trainer.settings.clip_grad_norm or math.inf for trainer in going]
        self._clip = (
            None
            if min(limits) == math.inf
            else torch.tensor(limits, dtype=next(first.model.parameters()).dtype, device=device)
        )
        names = going[0].stats.names
        self._stats_order = [  # of each member: where its tensors are among the first one's
            torch.tensor([names.index(name) for name in trainer.stats.names], device=device)
            for trainer in going
        ]

    def train_epoch(self) -> list[Row]:
        """One epoch of steps of those on the stack; returns what each saw on the way."""
        trainers, model, optimizer = self._going, self._model, self._optimizer
        if not trainers[0].experiment.schedule:
            return [{} for _ in trainers]
        for trainer in trainers:
            trainer.begin_epoch()
        model.follow_freezing()
        trained = {name: w for name, w in model.weights.items() if w.requires_grad}
        started = time.perf_counter()
        first, start = trainers[0], trainers[0].step
        splits, orders, feed_of = _feeds(trainers)
        running = _Running(len(trainers), feed_of is None)
        steps = -(-len(orders[0]) // first.batch_size)
        rates = [lambda i, t=trainer: t.set_rates(start + i) for trainer in trainers]
        optimizer.prepare(steps, rates)
        stats_every = first.settings.stats_every
        batches = stacked_batches(splits, orders, first.batch_size, first.epoch)
        for i, (images, labels) in enumerate(batches):  # (F, B, C, H, W), (F, B) of F feeds
            if feed_of is None:  # all see the same images: the first layer is one convolution
                images, labels = images[0], labels[0]
                logits = model(images)  # (K, B, classes)
                losses = self._losses_of_shared(logits, labels)  # (K,)
            else:
                labels = labels.index_select(0, feed_of)
                logits = model(images.index_select(0, feed_of))
                losses = self._losses(logits, labels)
            gradients = _gradients(losses.sum(), trained)
            measured = stats_every and i % stats_every == 0
            before: list[Tensor] = []
            if measured or self._clip is not None:
                norms = _norms(gradients.values()).norm(dim=0)  # (K,)
                if measured:
                    before = [model.weights[name].detach().clone() for name in first.stats.names]
                    for trainer, norm in zip(trainers, norms, strict=True):
                        trainer.stats.add_gradient(norm)
                if self._clip is not None:
                    gradients = _clipped(gradients, norms, self._clip)
            optimizer.step(i, gradients)
            if before:
                now = [model.weights[name].detach() for name in first.stats.names]
                moved = [x - was for x, was in zip(now, before, strict=True)]
                ratios = _norms(moved) / _norms(before)  # (tensors, K)
                for k, trainer in enumerate(trainers):
                    trainer.stats.add_ratios(ratios[self._stats_order[k], k])
            running.add(losses.detach(), logits.detach(), labels)
            for trainer in trainers:
                trainer.step += 1
        optimizer.hand_over()
        return [
            trainer.seen(own, started)
            for trainer, own in zip(trainers, running.of_members(), strict=True)
        ]

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Logits (K, n, classes) of train_eval and of val."""
        first = self._going[0]
        size = max(1, first.settings.eval_batch_size // len(self._going))  # memory of one member
        data = first.experiment.dataset
        return (
            self._model.logits_of(data.train_eval, size),
            self._model.logits_of(data.val, size),
        )


class _Running:
    """Loss and accuracy of several members over the batches of an epoch.

    Batches are kept as references and handed on in blocks, as one large batch each.
    """

    BLOCK = 64

    def __init__(self, members: int, one_feed: bool):
        self._own = [RunningTrain() for _ in range(members)]
        self._one_feed = one_feed  # labels are those of every member
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note one batch: losses (K,), logits (K, B, classes), labels (K, B), or (B,) of all."""
        self._batches.append((losses, logits, labels))
        if len(self._batches) == self.BLOCK:
            self._hand_on()

    def of_members(self) -> list[RunningTrain]:
        """What each member saw."""
        self._hand_on()
        return self._own

    def _hand_on(self) -> None:
        if not self._batches:
            return
        losses, logits, labels = zip(*self._batches, strict=True)
        sizes = torch.tensor([x.shape[1] for x in logits], dtype=torch.float64)
        weights = (sizes / sizes.sum()).to(losses[0].device)
        means = weights @ torch.stack(losses).double()  # (K,)
        together, truth = torch.cat(logits, dim=1), torch.cat(labels, 0 if self._one_feed else 1)
        for k, running in enumerate(self._own):
            running.add(means[k], together[k], truth if self._one_feed else truth[k])
        self._batches.clear()


def shared(trainer: Trainer) -> Hashable:
    """What members of one stack must have in common: those with equal keys may train together.

    Architecture, data and splits, number and size of steps, kind of optimizer, what is frozen when,
    the loss, the device, and how far the run is. Rates, policies, schedules, momentum, weight
    decay, seeds, clipping, the monitor and patience may differ.
    """
    experiment, settings, data = trainer.experiment, trainer.settings, trainer.experiment.dataset
    model, train = experiment.model, data.train
    tensors = (*model.named_parameters(), *model.named_buffers())
    frozen = [
        (r.name, r.trainable_from, r.trainable_until, r.bn_stats, r.frozen_dropout)
        for r in experiment.plan.rows
    ]
    generator = torch.Generator().manual_seed(0)
    labels = train.labels[:1024]
    logits = torch.randn(len(labels), len(data.class_names), generator=generator)
    return (
        repr(model),
        tuple((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors),
        data.fingerprint,
        (*data.mean, *data.std),
        tuple(_digest(split) for split in (train, data.train_eval, data.val)),
        train.augment is None,
        (trainer.batch_size, settings.eval_batch_size, settings.stats_every),
        settings.deterministic,
        (len(experiment.schedule), experiment.steps_per_epoch, settings.limit_train_batches),
        (type(experiment.optimizer).__name__, flavour(experiment.optimizer)),
        tuple(sorted(frozen)),
        float(experiment.loss(logits.to(experiment.device), labels)),
        str(experiment.device),
        (trainer.epoch, trainer.step),
    )


def probe(trainer: Trainer) -> str | None:
    """Why a member cannot be trained in a stack, in a sentence; None when it can.

    Found by trying: one step of two copies, stacked and each alone, in every mode that the plan
    puts the network into. The trainer is left as it was.
    """
    experiment = trainer.experiment
    if trainer.settings.checkpoint_every_steps:
        return "trainer.checkpoint_every_steps saves the state of a single run"
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
    rows = [row for row in experiment.plan.rows if not row.frozen]
    epochs = {0, *(r.trainable_from for r in rows), *(r.trainable_until or 0 for r in rows)}
    last = math.ceil(len(experiment.schedule) / experiment.steps_per_epoch) - 1
    try:
        for epoch in sorted(epoch for epoch in epochs if epoch <= max(0, last)):
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


def member_bytes(trainer: Trainer) -> int:
    """About the memory a member takes on a stack: weights, their state, a step's activations.

    What a step of the network alone keeps for its backward, counted, and as much again for what
    comes and goes; for the weights themselves two gradients and the tensors of the optimizer.
    """
    experiment, train = trainer.experiment, trainer.experiment.dataset.train
    model = copy.deepcopy(experiment.model).train()
    chosen = np.arange(min(trainer.batch_size, len(train)))
    images, labels = next(train.batches(chosen, len(chosen)))
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


def _trial(trainer: Trainer, epoch: int) -> str | None:
    """What differs between a step of two stacked networks and a step of each alone, in an epoch.

    In float64, so that what a network makes of rounding is not taken for a difference.
    """
    experiment, train = trainer.experiment, trainer.experiment.dataset.train
    chosen = np.arange(min(trainer.batch_size, len(train)))
    images, labels = next(train.batches(chosen, len(chosen)))
    images = images.double()
    stacked = [copy.deepcopy(experiment.model).double() for _ in range(2)]
    for model in stacked:
        set_trainable(model, experiment.plan, epoch)
        model.train()
    with torch.no_grad():
        for parameter in stacked[1].parameters():
            parameter.mul_(1.01)  # a second member that is not the first
    alone = copy.deepcopy(stacked)
    both = StackedModel(stacked)
    both.follow_freezing()
    logits = both(images)
    trained = {name: w for name, w in both.weights.items() if w.requires_grad}
    losses = vmap(experiment.loss, in_dims=(0, None))(logits.float(), labels)
    gradients = _gradients(losses.sum(), trained)
    for k, model in enumerate(alone):
        own = model(images)
        tensors = dict(model.named_parameters())
        own_gradients = _gradients(
            experiment.loss(own.float(), labels), {name: tensors[name] for name in trained}
        )
        pairs = [
            ("logits", logits[k], own),
            ("gradients", _flat(gradients, k), _flat(own_gradients)),
            (
                "buffers",
                _flat(dict(stacked[k].named_buffers())),
                _flat(dict(model.named_buffers())),
            ),
        ]
        for what, found, expected in pairs:
            far = (found - expected).norm() <= TRIAL_TOLERANCE * expected.norm()
            if not far:
                return f"the network's {what} are others when it is stacked"
    return None


def _feeds(trainers: Sequence[Trainer]) -> tuple[list[Split], list[np.ndarray], Tensor | None]:
    """Splits and orders of the members' different feeds, and which of them each member takes.

    Members with the same order and the same augmentation share a feed; None where all do.
    """
    train = {trainer: trainer.experiment.dataset.train for trainer in trainers}
    keys = [(trainer.seed, split.augment and split.augment.key) for trainer, split in train.items()]
    distinct = list(dict.fromkeys(keys))
    firsts = [trainers[keys.index(key)] for key in distinct]
    splits, orders = [train[trainer] for trainer in firsts], [trainer.order() for trainer in firsts]
    if len(distinct) == 1:
        return splits, orders, None
    of = torch.tensor([distinct.index(key) for key in keys], device=splits[0].labels.device)
    return splits, orders, of


def _clipped(gradients: Mapping[str, Tensor], norms: Tensor, limits: Tensor) -> dict[str, Tensor]:
    """Each member's gradient scaled down to its own limit, as clip_grad_norm_ does."""
    factors = (limits / (norms + 1e-6)).clamp(max=1.0)  # (K,)
    factors = torch.where(limits.isinf(), 1.0, factors)
    return {
        name: gradient * factors.view(-1, *(1,) * (gradient.ndim - 1))
        for name, gradient in gradients.items()
    }


def _norms(tensors: Iterable[Tensor]) -> Tensor:
    """(tensors, K) Euclidean norms of tensors (K, ...)."""
    return torch.stack([torch.linalg.vector_norm(t.reshape(len(t), -1), dim=1) for t in tensors])


def _gradients(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients by name, without those of weights that the loss does not depend on."""
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {name: g for name, g in zip(weights, found, strict=True) if g is not None}


def _flat(tensors: Mapping[str, Tensor], k: int | None = None) -> Tensor:
    """Tensors, or their k-th members, as one vector in order of names."""
    chosen = [tensors[name] if k is None else tensors[name][k] for name in sorted(tensors)]
    return torch.cat([torch.zeros(1), *(t.detach().reshape(-1).double().cpu() for t in chosen)])


def _uses_momentum(experiment: Experiment) -> bool:
    groups = experiment.optimizer.param_groups
    return bool(experiment.momenta) or any(group.get("momentum") for group in groups)


def _digest(split: Split) -> str:
    return hashlib.blake2b(split.ids.tobytes(), digest_size=8).hexdigest()


def _failure_of(step: Callable[[], None]) -> Exception | None:
    """What a step raised; an interruption goes on its way."""
    try:
        step()
    except Exception as error:
        log.info("a member of a stack failed", exc_info=error)
        return error
    return None
