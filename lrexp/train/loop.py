"""The training loop, on one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, reduce
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lrexp.config.errors import UserError
from lrexp.config.schema import Trainer as Settings
from lrexp.data import draws
from lrexp.data.dataset import Split
from lrexp.data.generators import begin_at
from lrexp.judge.chance import guess_losses, guesses
from lrexp.judge.epoch import Row, Track, evaluated
from lrexp.judge.evaluate import Evaluation
from lrexp.judge.kinds.facts import Facts
from lrexp.judge.kinds.stopping import stops
from lrexp.judge.noise import Sample
from lrexp.optim.groups import named, set_momentum, set_rates, set_trainable
from lrexp.optim.optimizers import (
    averages_weights,
    recalibrate_batchnorm,
    use_averaged_weights,
    use_training_weights,
)
from lrexp.train.average import Average
from lrexp.train.experiment import Experiment
from lrexp.train.first_numbers import fault_of_evaluation, fault_of_step
from lrexp.train.measure import (
    Drift,
    StepStats,
    correct_images,
    evaluate_split,
    seen_row,
)
from lrexp.train.ranks import ALONE, Ranks, agreed_to_go_on, collect, stop_where_all_do
from lrexp.train.scales import measure_scales, scales_of, set_scales
from lrexp.train.signals import whole
from lrexp.train.state import (
    Epoch,
    FrozenProof,
    load_into,
    save_best,
    save_last,
    state_of,
)
from lrexp.train.step import due, gradients, update


class TakesRows(Protocol):
    """Whoever records a run: it receives one row of metrics per epoch."""

    def row(self, row: Row) -> None: ...


class Trainer:
    """Trains an experiment epoch by epoch.

    `state()` between any two steps holds all that the rest of the run depends on; `load_state()` on
    a freshly built trainer of the same config goes on from there, on CPU to the same bits. A signal
    that is to stop the run is heard between steps, never in one (see `lrexp.train.signals`).

    Args:
        experiment: what to train; its model is changed in place.
        settings: the trainer's part of the config.
        batch_size: images per batch at most, see `draws.cut`; a step takes trainer.accumulate.
        seed: moves the order of the images and dropout.
        ranks: the processes that train it together.
    """

    state, load_state = state_of, load_into  # see lrexp.train.state

    def __init__(
        self,
        experiment: Experiment,
        settings: Settings,
        batch_size: int,
        seed: int,
        ranks: Ranks = ALONE,
    ):
        self.experiment, self.settings = experiment, settings
        self.batch_size, self.seed, self.ranks = batch_size, seed, ranks
        self.epoch = self.step = 0
        self.rows: list[Row] = []
        self.track = Track(settings.monitor)
        self.best = self.track.best  # by trainer.monitor so far
        self.synced = False  # whether last.pt is to outlive a power loss
        self.current: Epoch | None = None  # that has begun and is not recorded yet
        self.stats = StepStats(experiment.model, experiment.plan)
        self.average = Average(experiment.model, settings.ema) if settings.ema else None
        self.frozen = FrozenProof(experiment, self.average)
        self.fault = ""  # what of the first step was not finite
        self.factors_then: dict[str, float] = {}  # at the last step of a state taken up
        self._drift = Drift(experiment.model, experiment.plan)
        steps = len(experiment.schedule), experiment.steps_per_epoch
        self._factors = experiment.plan.factors(*steps)  # g(t) of the groups that have one

    def run(self, record: TakesRows, checkpoints: Path | None = None) -> None:
        """Train to the end of the schedule, or to what ends it before (`stopped_by`).

        After every epoch `last.pt` and, when it got better, `best.pt` go to the folder
        `checkpoints`, and a row to `record`. With none to train the model is evaluated as it is.
        """
        data = self.experiment.dataset
        while agreed_to_go_on(self):
            started = self.current.started if self.current else time.perf_counter()
            seen = self.current.seen if self.current else None  # of an epoch to be evaluated
            if seen is None:
                seen = self.train_epoch(checkpoints) if self.experiment.schedule else {}
            with self.averaged():
                self.ranks.same_buffers(self.experiment.model)
                train_eval, val = map(self._evaluated, (data.train_eval, data.val))
            self.end_epoch(seen, train_eval, val, started, record, checkpoints)

    def train_epoch(
        self, checkpoints: Path | None = None, watch: Callable[[Tensor], bool] | None = None
    ) -> Row:
        """One epoch of steps, or what is left of it; returns what was seen on the way.

        `watch` sees the loss () of every step; the epoch ends after the one it says True to.
        """
        experiment, settings = self.experiment, self.settings
        model, optimizer = experiment.model, experiment.optimizer
        with whole():
            epoch = self._begun()
        trained = {n: p for n, p in named(optimizer.param_groups) if p.requires_grad}
        weights, train = list(trained.values()), experiment.dataset.train
        self.ranks.begin_phase(experiment)
        left = self.groups()[self.step - epoch.first_step :]
        shares = [[self.ranks.share(batch) for batch in group] for group in left]
        seeds = _dropout_seeds(
            self.seed, self.step, len(left), settings.accumulate, self.ranks.rank
        )
        fed = train.batches([*chain.from_iterable(shares)], self.epoch)
        # of every step its first batch is taken here, and the others while its gradients add up
        for first, group, own, drawn in zip(fed, left, shares, seeds, strict=True):
            with whole():
                stop_where_all_do(self)
                self.set_rates(self.step)
                measured = due(settings.stats_every, self.step - epoch.first_step)
                stats = self.stats if measured else None
                batches = zip(own, chain((first,), fed), drawn, strict=False)
                loss, correct = self._gradients(group, batches, trained, weights, stats)
                update(optimizer, weights, settings.clip_grad_norm, stats)
                if self.average:
                    self.average.follow(self.step)
                epoch.running.add(loss, correct, sum(map(len, group)))
                self.step += 1
                if checkpoints is not None and due(settings.checkpoint_every_steps, self.step):
                    save_last(self, checkpoints)
            if watch is not None and watch(loss):
                break
        with whole():
            collect(self)
            if averages_weights(optimizer):
                use_averaged_weights(optimizer)
                self.begin_draws("recalibration")
                drawn = (self.seed, self.epoch, self.batch_size)
                recalibrate_batchnorm(model, _recalibration_images(train, *drawn))
            epoch.seen = seen_row(experiment, self.stats, epoch.running, epoch.started)
        return epoch.seen

    def _gradients(
        self,
        group: Sequence[np.ndarray],
        batches: Iterable[tuple[np.ndarray, tuple[Tensor, Tensor], int]],
        trained: Mapping[str, Tensor],
        weights: Sequence[Tensor],
        stats: StepStats | None,
    ) -> tuple[Tensor, Tensor]:
        """Leave the gradients of one step with the weights; its loss (), images that are right ().

        Of several ranks each has the same gradients, and its share of loss and images.

        Args:
            group: (B,) positions in the training split of each batch that the step is made of.
            batches: this rank's shares of them, with images (B, C, H, W) and labels (B,), and where
                dropout begins.
            trained: the weights by name.
            weights: what gradients are taken of.
            stats: takes the size of the whole step's gradient.
        """
        experiment, ranks, seen = self.experiment, self.ranks, []
        model, losses = ranks.forward_of(experiment), ranks.losses_of(experiment, group)
        for i, (rows, (images, labels), seed) in enumerate(batches, 1):
            begin_at(seed, experiment.device)
            whole_step = stats if i == len(group) else None
            with ranks.exchanging(i == len(group)):
                one, logits = gradients(
                    model, losses[i - 1], images, labels, weights, whole_step, add=i > 1
                )
            if not self.step:
                found = {name: p.grad for name, p in trained.items() if p.grad is not None}
                fault = fault_of_step(experiment, rows, images, logits, one, found)
                if fault := ranks.fault_of_any(fault, one):
                    raise UserError(fault)
            right = correct_images(logits, labels)
            seen.append((one, right if ranks.counts(group[i - 1]) else 0 * right))
        loss, correct = (reduce(torch.add, each) for each in zip(*seen, strict=True))
        return ranks.share_of(loss), correct

    def end_epoch(
        self,
        seen: Row,
        train_eval: Evaluation,
        val: Evaluation,
        started: float,
        record: TakesRows,
        checkpoints: Path | None,
    ) -> None:
        """Judge an epoch from what its steps and evaluations saw, record its row, keep its state.

        `started` is time.perf_counter() before the first step.
        """
        with whole():
            with self.averaged():
                if not self.rows:
                    known = self.experiment, self.step > 0
                    if fault := self.fault or fault_of_evaluation(*known, train_eval, val):
                        raise UserError(fault)
                row = self._judged(seen, train_eval, val)
            row["perf/epoch_s"] = time.perf_counter() - started
            if self.experiment.plateau:
                self.experiment.plateau.see(row)
            self.rows.append(row)
            self.current = None
            try:
                if checkpoints is not None:
                    save_last(self, checkpoints)
                    save_best(self, checkpoints)
            finally:  # also an epoch whose state cannot be kept has taken place
                record.row(row)

    def _begun(self) -> Epoch:
        """The coming epoch, or the one that a state from its middle belongs to."""
        if self.current is None or self.current.seen is not None:
            self.begin_epoch()
            self.current = Epoch(self.step)
        else:
            experiment, finished = self.experiment, self.epoch - 1
            set_trainable(experiment.model, experiment.plan, finished, experiment.beside)
            self._into_training_mode()
        return self.current

    def begin_epoch(self) -> None:
        """Freeze and unfreeze for the coming epoch, and put the model into training mode."""
        experiment = self.experiment
        set_trainable(experiment.model, experiment.plan, self.epoch, experiment.beside)
        if experiment.plan.measured:
            self.begin_draws("measuring")
            if self.ranks.first:
                measure_scales(experiment, self.seed, self.epoch, *self.step_size)
            set_scales(experiment, self.ranks.agreed(scales_of(experiment)))
        self._into_training_mode()
        self.epoch += 1

    def _into_training_mode(self) -> None:
        self.experiment.model.train()
        use_training_weights(self.experiment.optimizer)
        if self.average:
            self.average.begin()

    def factors(self, step: int) -> dict[str, float]:
        """s(t) · g(t) of every parameter group at a step, without what a plateau adds."""
        s, groups = self.experiment.schedule[step], self.experiment.optimizer.param_groups
        g = {group: table[step] for group, table in self._factors.items()}
        return {group["name"]: s * g.get(group["name"], 1.0) for group in groups}

    def set_rates(self, step: int) -> None:
        """Give every parameter group its rate, and its momentum where that cycles, for a step."""
        experiment, plateau = self.experiment, self.experiment.plateau
        s = experiment.schedule[step] * (plateau.s if plateau else 1.0)
        g = {group: table[step] for group, table in self._factors.items()}
        set_rates(experiment.optimizer, experiment.base_lr, s, g)
        if experiment.momenta:
            set_momentum(experiment.optimizer, experiment.momenta[step])

    def begin_draws(self, purpose: str) -> None:
        """Make what the network draws from now on a function of (seed, purpose, epoch)."""
        begin_at(draws.draw(self.seed, purpose, self.epoch), self.experiment.device)

    def averaged(self) -> AbstractContextManager[None]:
        """In it the network holds the weights to evaluate: their average, if there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def _evaluated(self, split: Split) -> Evaluation:
        stop_where_all_do(self)
        self.begin_draws("evaluation")
        size = self.settings.eval_batch_size
        return evaluate_split(self.experiment.model, split, size, self.ranks)

    def _judged(self, seen: Row, train_eval: Evaluation, val: Evaluation) -> Row:
        """The epoch's full row: evaluation on the weights to evaluate, the gap, overfitting."""
        data = self.experiment.dataset
        row: Row = {"epoch": self.epoch, "step": self.step}
        row |= {k: v for k, v in seen.items() if k.startswith("train/")}
        row |= evaluated(train_eval, val, len(data.train), data.train_eval.groups, data.val.groups)
        row |= self.track.overfit(self.epoch, val, data.val.groups)
        row["guessing"] = float(
            guesses(val, self._guess["val"], data.val.groups)
            and guesses(train_eval, self._guess["train_eval"], data.train_eval.groups)
        )
        if "train/loss" in seen:
            row["gap/loss_running"] = val.loss - seen["train/loss"]
        row |= self._drift.measure()
        row |= {k: v for k, v in seen.items() if k not in row}
        self.track.see(self.epoch, row)
        return row

    def batches(self) -> list[np.ndarray]:
        """Positions in the training split of each of the epoch's batches, (B,) int64."""
        order = draws.order(self.seed, "order", self.experiment.dataset.train.ids, self.epoch)
        first = self.current.first_step if self.current else self.step
        left = (len(self.experiment.schedule) - first) * self.settings.accumulate
        most = min(self.settings.limit_train_batches or left, left)
        return draws.cut(order, self.batch_size)[:most]

    @property
    def step_size(self) -> tuple[int, int]:
        """Images per batch at most, and batches per step."""
        return self.batch_size, self.settings.accumulate

    def groups(self) -> list[list[np.ndarray]]:
        """The same by step: trainer.accumulate batches each, or what is left for the last."""
        batches, each = self.batches(), self.settings.accumulate
        return [batches[i : i + each] for i in range(0, len(batches), each)]

    @property
    def samples(self) -> dict[str, Sample]:
        """What the errors of both evaluations are taken over."""
        return {name: Sample.of(len(one), one.groups) for name, one in self._judged_on.items()}

    @property
    def _judged_on(self) -> dict[str, Split]:
        data = self.experiment.dataset
        return {"train_eval": data.train_eval, "val": data.val}

    @cached_property
    def _guess(self) -> dict[str, np.ndarray]:
        """By split the loss per image of answering with the training set's class shares."""
        data = self.experiment.dataset
        train, classes = data.train.labels.cpu().numpy(), len(data.class_names)
        return {
            name: guess_losses(one.labels.cpu().numpy(), train, classes)
            for name, one in self._judged_on.items()
        }

    @property
    def guess_loss(self) -> float:
        """Val loss of answering every image with the training set's class shares."""
        return float(self._guess["val"].mean())

    @property
    def diverged(self) -> bool:
        """Whether a loss of the last epoch was not a finite number."""
        return self.track.diverged

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch to come, or nothing was evaluated yet."""
        if self.current is not None or not (self.rows or self.epoch):
            return True
        return self.step < len(self.experiment.schedule) and not self.stopped_by

    @property
    def stopped_by(self) -> str:
        """What ends training before its schedule: a kind of verdict, or trainer.patience."""
        if self.diverged:
            return "diverged"
        if self.step >= len(self.experiment.schedule):
            return ""
        if asked := self.settings.stop_on:
            known = (self.rows, {}, self.track.monitor, self.samples["val"], self.guess_loss)
            if kind := stops(asked, Facts(*known)):
                return kind
        patience, since_best = self.settings.patience, self.epoch - self.best.epoch
        lost = patience and self.best.known and since_best >= patience
        return "trainer.patience" if lost else ""


def _dropout_seeds(seed: int, first_step: int, count: int, each: int, rank: int) -> list[list[int]]:
    """What makes dropout, and all that a network draws, a function of (seed, step, micro, rank).

    By step; micro is which of its `each` batches. The first one's of the first rank is of (seed,
    step) alone, and the first rank's others of (seed, step, micro).
    """
    steps = np.arange(first_step, first_step + count)
    counters = [(micro, rank) if rank else (micro,) * (micro > 0) for micro in range(each)]
    drawn = [draws.draw_each(seed, "dropout", steps, *micro) for micro in counters]
    return (np.stack(drawn, axis=1) >> np.uint64(1)).tolist()


def _recalibration_images(train: Split, seed: int, epoch: int, size: int) -> Iterator[Tensor]:
    """Up to 50 batches of training images, each (B, C, H, W)."""
    order = draws.order(seed, "recalibrate", train.ids, epoch)
    parts = draws.cut(order, size)[:50]
    several = [part for part in parts if len(part) > 1]  # one image may be no statistics
    return (images for images, _ in train.batches(several or parts))
