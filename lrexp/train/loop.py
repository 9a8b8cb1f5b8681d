"""The training loop, on one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
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
from lrexp.judge.kinds.stopping import stops, telling
from lrexp.judge.noise import Sample
from lrexp.optim.groups import named, set_momentum, set_rates, set_trainable
from lrexp.optim.optimizers import (
    averages_weights,
    recalibrate_batchnorm,
    use_averaged_weights,
    use_training_weights,
)
from lrexp.train.experiment import Experiment
from lrexp.train.first_numbers import fault_of_evaluation, fault_of_step
from lrexp.train.measure import (
    Drift,
    StepStats,
    correct_images,
    evaluate_split,
    seen_row,
)
from lrexp.train.scales import measure_scales
from lrexp.train.signals import whole
from lrexp.train.state import (
    Epoch,
    FrozenProof,
    load_into,
    save_best,
    save_last,
    saving,
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
        batch_size: images per step at most; see `draws.cut`.
        seed: moves the order of the images and dropout.
    """

    state, load_state = state_of, load_into  # see lrexp.train.state

    def __init__(self, experiment: Experiment, settings: Settings, batch_size: int, seed: int):
        self.experiment, self.settings = experiment, settings
        self.batch_size, self.seed = batch_size, seed
        self.epoch = self.step = 0
        self.rows: list[Row] = []
        self.recorded = 0  # of them, from the first on, that are surely on disk in the record
        self.track = Track(settings.monitor)
        self.best = self.track.best  # by trainer.monitor so far
        self.saved_s = 0.0  # since the last row, in saving and recording
        self.synced = False  # whether last.pt is to outlive a power loss
        self.current: Epoch | None = None  # that has begun and is not recorded yet
        self.stats = StepStats(experiment.model, experiment.plan)
        self.frozen = FrozenProof(experiment)
        self.fault = ""  # what of the first step was not finite
        self.factors_then: dict[str, float] = {}  # at the last step of a state taken up
        self._telling: Sequence[Mapping[str, float]] = ()  # of all rows so far but the newest
        self._told = 0  # so many
        self._drift = Drift(experiment.model, experiment.plan)
        steps = len(experiment.schedule), experiment.steps_per_epoch
        self._factors = experiment.plan.factors(*steps)  # g(t) of the groups that have one

    def run(self, record: TakesRows, checkpoints: Path | None = None) -> None:
        """Train to the end of the schedule, or to what ends it before (`stopped_by`).

        After every epoch `last.pt` and, when it got better, `best.pt` go to the folder
        `checkpoints`, and a row to `record`. With none to train the model is evaluated as it is.
        """
        data = self.experiment.dataset
        while self.goes_on:
            started = self.current.started if self.current else time.perf_counter()
            seen = self.current.seen if self.current else None  # of an epoch to be evaluated
            if seen is None:
                seen = self.train_epoch(checkpoints) if self.experiment.schedule else {}
            train_eval, val = (self._evaluated(split) for split in (data.train_eval, data.val))
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
        weights = list(trained.values())
        left, train = self.batches()[self.step - epoch.first_step :], experiment.dataset.train
        seeds = _dropout_seeds(self.seed, self.step, len(left))
        fed = train.batches(left, self.epoch)
        for (images, labels), seed in zip(fed, seeds, strict=True):  # (B, C, H, W), (B,)
            with whole():
                begin_at(seed, experiment.device)
                self.set_rates(self.step)
                measured = due(settings.stats_every, self.step - epoch.first_step)
                stats = self.stats if measured else None
                loss, logits = gradients(model, experiment.loss, images, labels, weights, stats)
                if not self.step:
                    found = {name: p.grad for name, p in trained.items() if p.grad is not None}
                    if fault := fault_of_step(experiment, left[0], images, logits, loss, found):
                        raise UserError(fault)
                update(optimizer, weights, settings.clip_grad_norm, stats)
                epoch.running.add(loss, correct_images(logits, labels), len(labels))
                self.step += 1
                if checkpoints is not None and due(settings.checkpoint_every_steps, self.step):
                    save_last(self, checkpoints)
            if watch is not None and watch(loss):
                break
        with whole():
            if averages_weights(optimizer):
                use_averaged_weights(optimizer)
                self.begin_draws("recalibration")
                drawn = (self.seed, self.epoch, self.batch_size)
                recalibrate_batchnorm(model, _recalibration_images(train, *drawn))
            epoch.seen = seen_row(experiment, self.stats, epoch.running, epoch.began)
        return epoch.seen

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

        `started` is time.perf_counter() before the first step. `perf/epoch_s` is the time since, in
        steps and, with what is judged here, in evaluations (`perf/eval_s`); `perf/save_s` what went
        into saving and recording since the row before.
        """
        with whole():
            if not self.rows:
                known = self.experiment, self.step > 0
                if fault := self.fault or fault_of_evaluation(*known, train_eval, val):
                    raise UserError(fault)
            row = self._judged(seen, train_eval, val)
            within_s = self.current.saved_s if self.current else 0.0
            row["perf/epoch_s"] = time.perf_counter() - started - within_s
            row["perf/eval_s"] = row["perf/epoch_s"] - seen.get("perf/steps_s", 0.0)
            row["perf/save_s"] = self.saved_s + within_s
            if self.experiment.plateau:
                self.experiment.plateau.see(row)
            self.rows.append(row)
            self.current, self.saved_s = None, 0.0
            try:
                if checkpoints is not None:
                    save_last(self, checkpoints)
                    save_best(self, checkpoints)
            finally:  # also an epoch whose state cannot be kept has taken place
                with saving(self):
                    record.row(row)

    def _begun(self) -> Epoch:
        """The coming epoch, or the one that a state from its middle belongs to."""
        if self.current is None or self.current.seen is not None:
            self.begin_epoch()
            self.current = Epoch(self.step)
        else:
            experiment, finished = self.experiment, self.epoch - 1
            set_trainable(experiment.model, experiment.plan, finished, experiment.beside)
            experiment.model.train()
            use_training_weights(experiment.optimizer)
        return self.current

    def begin_epoch(self) -> None:
        """Freeze and unfreeze for the coming epoch, and put the model into training mode."""
        experiment = self.experiment
        set_trainable(experiment.model, experiment.plan, self.epoch, experiment.beside)
        if experiment.plan.measured:
            self.begin_draws("measuring")
            measure_scales(experiment, self.seed, self.epoch, self.batch_size)
        experiment.model.train()
        use_training_weights(experiment.optimizer)
        self.epoch += 1

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

    def _evaluated(self, split: Split) -> Evaluation:
        self.begin_draws("evaluation")
        return evaluate_split(self.experiment.model, split, self.settings.eval_batch_size)

    def _judged(self, seen: Row, train_eval: Evaluation, val: Evaluation) -> Row:
        """The epoch's full row: evaluation on the weights as they are, the gap, overfitting."""
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
        """Positions in the training split that each of the epoch's steps takes, (B,) int64."""
        order = draws.order(self.seed, "order", self.experiment.dataset.train.ids, self.epoch)
        first = self.current.first_step if self.current else self.step
        left = len(self.experiment.schedule) - first
        steps = min(self.settings.limit_train_batches or left, left)
        return draws.cut(order, self.batch_size)[:steps]

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
            self._telling = telling(self.rows[self._told :], self._telling)
            self._told = len(self.rows)
            known = (self._telling, {}, self.track.monitor, self.samples["val"], self.guess_loss)
            if kind := stops(asked, Facts(*known)):
                return kind
        patience, since_best = self.settings.patience, self.epoch - self.best.epoch
        lost = patience and self.best.known and since_best >= patience
        return "trainer.patience" if lost else ""


def _dropout_seeds(seed: int, first_step: int, count: int) -> list[int]:
    """What makes dropout, and all that a network draws, a function of (seed, step)."""
    steps = np.arange(first_step, first_step + count)
    return (draws.draw_each(seed, "dropout", steps) >> np.uint64(1)).tolist()


def _recalibration_images(train: Split, seed: int, epoch: int, size: int) -> Iterator[Tensor]:
    """Up to 50 batches of training images, each (B, C, H, W)."""
    order = draws.order(seed, "recalibrate", train.ids, epoch)
    parts = draws.cut(order, size)[:50]
    several = [part for part in parts if len(part) > 1]  # one image may be no statistics
    return (images for images, _ in train.batches(several or parts))
