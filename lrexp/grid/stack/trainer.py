"""Several runs of one network trained together: one forward, one backward, one step for all.

Every member keeps its own `Trainer`, which says its rates, judges its epochs and holds its state;
here is what is done for all of them at once. Members are never mixed: a member that diverges, or
stops early, changes nothing for the others.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from lrexp.config.errors import out_of_memory
from lrexp.data.dataset import Split
from lrexp.grid.stack.model import StackedModel, stacked_batches, without_slow_warnings
from lrexp.grid.stack.optimizers import StackedOptimizer, flavour
from lrexp.judge.epoch import Row
from lrexp.train.computing import quiet_collector
from lrexp.train.first_numbers import fault_of_step
from lrexp.train.loop import TakesRows, Trainer
from lrexp.train.measure import RunningTrain, correct_images, seen_row
from lrexp.train.step import due, gradients, member_norms, update

log = logging.getLogger(__name__)

CHECK_TOLERANCE = 1e-2  # of the norm of a few logits in float32, which differ by rounding alone


class StackError(ValueError):
    """Members cannot be stacked, in words for people."""


def shared(trainer: Trainer) -> Hashable:
    """What members of one stack must have in common: those with equal keys may train together.

    Architecture, data and splits, number and size of steps, kind of optimizer, what is frozen when,
    the loss, the device, how far the run is, and the trainer's settings that say so on their
    fields. Rates, policies, schedules, momentum, weight decay and seeds may differ.
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
    same = [f.name for f in fields(settings) if f.metadata.get("stack") == "shared"]
    return (
        repr(model),
        tuple((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors),
        data.fingerprint,
        (*data.mean, *data.std),
        tuple(
            hashlib.blake2b(split.ids.tobytes(), digest_size=8).hexdigest()
            for split in (train, data.train_eval, data.val)
        ),
        train.augment is None,
        trainer.batch_size,
        tuple(repr(getattr(settings, name)) for name in same),
        (len(experiment.schedule), experiment.steps_per_epoch),
        (type(experiment.optimizer).__name__, flavour(experiment.optimizer)),
        tuple(sorted(frozen)),
        float(experiment.loss(logits.to(experiment.device), labels)),
        str(experiment.device),
        (trainer.epoch, trainer.step),
        trainer.current and id(trainer),  # in the middle of an epoch it trains alone
    )


class StackedTrainer:
    """Trains K members together, each as its own `Trainer.run` would. Two or more are on the stack.

    Args:
        trainers: of the members, built and perhaps resumed at one and the same step; `probe` has
            nothing against any of them.

    Raises:
        StackError: when they differ in what members must share (see `shared`), or a network makes
            something else of an image when it stands in the stack.
    """

    def __init__(self, trainers: Sequence[Trainer]):
        if len({shared(trainer) for trainer in trainers}) != 1:
            raise StackError("members of one stack must share model, data, steps and frozen set")
        self._members = list(trainers)
        self._going: list[Trainer] = []  # those on the stack
        self._part = ""  # of their networks that is
        if len(trainers) > 1:
            self._check_members()

    @without_slow_warnings()
    def run(
        self,
        records: Sequence[TakesRows],
        checkpoints: Sequence[Path | None],
        failures: list[Exception | None],
        conclude: Callable[[int], object] = lambda k: None,
    ) -> None:
        """Train every member to its end, as `Trainer.run` does.

        Args:
            records: takes the rows of each member.
            checkpoints: folder for last.pt and best.pt of each member.
            failures: None for each member; becomes what made it fail outside the common steps
                (a full disk). The others go on.
            conclude: is given each member's place as soon as it has come to its end or failed, and
                owns its memory; the others go on afterwards.

        Raises:
            Exception: what made a common step fail, such as torch.OutOfMemoryError, or that memory
                ran out while one member was judged. Every member that has not failed is then as far
                as its last recorded epoch says, and no further to be used.
        """
        left = list(range(len(self._members)))  # those that are not concluded
        try:
            while left:
                going = [k for k in left if self._members[k].goes_on and failures[k] is None]
                if over := [k for k in left if k not in going]:
                    self._stack([self._members[k] for k in going] if len(going) > 1 else [])
                    left = going
                    for k in over:
                        conclude(k)
                    continue
                if len(going) == 1:  # a stack of one would only be slower
                    (k,) = going
                    self._stack([])
                    rest = partial(self._members[k].run, records[k], checkpoints[k])
                    failures[k] = failure_of(rest)
                    continue
                started = time.perf_counter()
                self._stack([self._members[k] for k in going])
                seen = self.train_epoch()
                for row in filter(None, seen):  # with what comes before the steps
                    row["perf/steps_s"] = time.perf_counter() - started
                settings, fed = self._going[0].settings, self._going[0].fed
                size = max(1, settings.eval_batch_size // len(going))  # memory of one member
                how = size, self._going[0].experiment.metrics  # which all have in common
                train_eval = self._model.evaluate(fed.train_eval, *how)
                val = self._model.evaluate(fed.val, *how)
                for i, k in enumerate(going):
                    trainer = self._members[k]
                    end = partial(trainer.end_epoch, seen[i], train_eval[i], val[i])
                    ended = time.perf_counter()
                    failure = failure_of(partial(end, started, records[k], checkpoints[k]))
                    started += time.perf_counter() - ended  # no time of the next one
                    recorded = trainer.rows and trainer.rows[-1]["epoch"] == trainer.epoch
                    if failure and out_of_memory(failure) and not recorded:
                        raise failure  # fewer members may fit
                    failures[k] = failure
        finally:
            self._stack([])

    def _check_members(self) -> None:
        """Stack them and see that every network still says what it said by itself."""
        self._stack(self._members)
        split = self._members[0].fed.train_eval
        images, _ = next(split.batches([np.arange(min(8, len(split)))]))
        models = [trainer.fed.part(trainer.experiment.model).eval() for trainer in self._members]
        with torch.no_grad():
            together = self._model(images)
            for model, found in zip(models, together, strict=True):
                own = model(images)
                if (own - found).norm() > CHECK_TOLERANCE * own.norm():
                    self._stack([])
                    raise StackError("members of one stack must be networks of one function")

    def _stack(self, going: list[Trainer]) -> None:
        """Stack these members, and give those that leave the stack their own memory.

        Of networks whose frozen part is cached the rest is stacked, as long as that is so of all
        members and that part is the same.
        """
        for trainer in going:
            trainer.choose_fed()
        if len({(trainer.fed.cut, trainer.fed.key) for trainer in going}) > 1:
            for trainer in going:
                trainer.cached = None
        part = going[0].fed.cut if going else ""
        if going == self._going and part == self._part:
            return
        for trainer in self._going:
            if trainer not in going or part != self._part:
                experiment = trainer.experiment
                stacked = experiment.model.get_submodule(self._part)
                for tensor in (*stacked.parameters(), *stacked.buffers()):
                    tensor.data = tensor.data.clone()
                for values in experiment.optimizer.state.values():
                    values |= {key: v.clone() for key, v in values.items()}
                trainer.learning.last_gradient = None
        self._going, self._part = going, part
        if not going:
            return
        first, device = going[0].experiment, going[0].experiment.device
        parts = [trainer.fed.part(trainer.experiment.model) for trainer in going]
        self._model = StackedModel(parts, part)
        for k, trainer in enumerate(going):
            trainer.learning.last_gradient = partial(self._model.gradient, k)
        self._optimizer = StackedOptimizer(
            [trainer.experiment.optimizer for trainer in going],
            self._model.weights,
            [
                bool(e.momenta) or any(group.get("momentum") for group in e.optimizer.param_groups)
                for e in (trainer.experiment for trainer in going)
            ],
        )
        self._losses = vmap(first.loss, in_dims=(0, 0))
        self._losses_of_shared = vmap(first.loss, in_dims=(0, None))
        limits = [trainer.settings.clip_grad_norm or math.inf for trainer in going]
        dtype = next(first.model.parameters()).dtype
        clip = torch.tensor(limits, dtype=dtype, device=device)
        self._clip = None if min(limits) == math.inf else clip
        self._stats = _Stats(going, self._model.weights)

    def train_epoch(self, watch: Callable[[Tensor], bool] | None = None) -> list[Row]:
        """One epoch of steps of those on the stack; returns what each saw on the way.

        `watch` sees the losses (K,) of every step; the epoch ends after the one it says True to.
        """
        self._stack(self._going)  # another part, where another phase begins
        trainers, model, optimizer = self._going, self._model, self._optimizer
        if not trainers[0].experiment.schedule:
            return [{} for _ in trainers]
        for trainer in trainers:
            trainer.begin_epoch()
        model.follow_freezing()
        trained = [w for w in model.weights.values() if w.requires_grad]
        started = time.perf_counter()
        first, start = trainers[0], trainers[0].step
        splits, parts, feed_of = _feeds(trainers)
        running = RunningTrain()
        rates = [lambda i, t=trainer: t.set_rates(start + i) for trainer in trainers]
        optimizer.prepare(len(parts[0]), rates)
        batches = stacked_batches(splits, parts, first.epoch)
        forward, loss = model.of_own, self._losses
        if feed_of is None:  # all see the same images: the first layer is one convolution
            forward, loss = model, self._losses_of_shared
        with quiet_collector() as after_step:
            for i, (images, labels) in enumerate(batches):  # (F, B, C, H, W), (F, B) of F feeds
                if feed_of is None:
                    images, labels = images[0], labels[0]
                else:
                    images, labels = (x.index_select(0, feed_of) for x in (images, labels))
                stats = self._stats if due(first.settings.stats_every, i) else None
                losses, logits = gradients(forward, loss, images, labels, trained)
                if not first.step:
                    self._look_at_first(parts, feed_of, images, logits, losses)
                update(optimizer, trained, self._clip, stats)
                running.add(losses, correct_images(logits, labels), logits.shape[1])
                for trainer in trainers:
                    trainer.step += 1
                after_step(i)
                if watch is not None and watch(losses):
                    break
        optimizer.hand_over()
        return [
            seen_row(trainer.experiment, trainer.stats, own, started)
            for trainer, own in zip(trainers, running.of_members(), strict=True)
        ]

    def _look_at_first(
        self,
        parts: list[list[np.ndarray]],
        feed_of: Tensor | None,
        images: Tensor,
        logits: Tensor,
        losses: Tensor,
    ) -> None:
        """Note with each member what of its first step is not finite: it ends with its epoch."""
        feeds = [0] * len(self._going) if feed_of is None else feed_of.tolist()
        found = {n: w.grad for n, w in self._model.weights.items() if w.grad is not None}
        finite = [
            losses.isfinite(),
            *(g.isfinite().reshape(len(g), -1).all(1) for g in found.values()),
        ]
        fit = torch.stack(finite).all(0).tolist()  # waits once
        for k, trainer in enumerate(self._going):
            if fit[k]:
                continue
            own = {name: gradient[k] for name, gradient in found.items()}
            seen = images if feed_of is None else images[k]
            step = parts[feeds[k]][0], seen, logits[k], losses[k], own
            trainer.fault = fault_of_step(trainer.experiment, *step)


class _Stats:
    """Sizes of gradients and steps of all members, noted with each.

    A tensor that is not on the stack is frozen for now.
    """

    def __init__(self, trainers: Sequence[Trainer], weights: Mapping[str, Tensor]):
        self._own = [trainer.stats for trainer in trainers]
        device = next(iter(weights.values())).device  # where only biases train, names is empty
        names = [name for name in self._own[0].names if name in weights]
        self._weights = [weights[name] for name in names]
        self._places = [  # of each member: which of its tensors are on the stack, and where
            (
                torch.tensor([n in weights for n in own.names], dtype=torch.bool, device=device),
                torch.tensor([names.index(n) for n in own.names if n in weights], device=device),
            )
            for own in self._own
        ]
        self._still = [own.of_still() for own in self._own] if names else []  # each (tensors,)

    @torch.no_grad()
    def see_gradients(self, weights: Iterable[Tensor]) -> None:
        found = [weight.grad for weight in weights if weight.grad is not None]
        for own, norm in zip(self._own, member_norms(found).norm(dim=0), strict=True):
            own.add_gradient(norm)

    def before(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def after(self, before: list[Tensor]) -> None:
        if not before:
            return
        moved = [now - was for now, was in zip(self._weights, before, strict=True)]
        ratios = member_norms(moved) / member_norms(before)  # (tensors, K)
        for k, own in enumerate(self._own):
            (places, order), noted = self._places[k], self._still[k].clone()
            noted[places] = ratios[order, k]
            own.add_ratios(noted)


def _feeds(
    trainers: Sequence[Trainer],
) -> tuple[list[Split], list[list[np.ndarray]], Tensor | None]:
    """Splits and batches of the members' different feeds, and which of them each member takes.

    Members with the same order and the same augmentation share a feed; None where all do.
    """
    train = {trainer: trainer.fed.train for trainer in trainers}
    keys = [(trainer.seed, split.augment) for trainer, split in train.items()]
    distinct = list(dict.fromkeys(keys))
    firsts = [trainers[keys.index(key)] for key in distinct]
    splits = [train[trainer] for trainer in firsts]
    parts = [trainer.batches() for trainer in firsts]
    if len(distinct) == 1:
        return splits, parts, None
    of = torch.tensor([distinct.index(key) for key in keys], device=splits[0].labels.device)
    return splits, parts, of


def failure_of(step: Callable[[], None]) -> Exception | None:
    """What a step of one member raised; an interruption goes on its way."""
    try:
        step()
    except Exception as error:
        log.info("a member failed", exc_info=error)
        return error
    return None
