"""The training loop, on one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

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
from lrexp.optim.groups import set_momentum, set_rates, set_trainable
from lrexp.optim.optimizers import (
    PlainSteps,
    averages_weights,
    use_averaged_weights,
    use_training_weights,
)
from lrexp.train.average import Average
from lrexp.train.computing import quiet_collector
from lrexp.train.drift import Drift
from lrexp.train.experiment import Experiment
from lrexp.train.feature_store import FeatureStore
from lrexp.train.features import Fed, choose_fed
from lrexp.train.first_numbers import fault_of_evaluation
from lrexp.train.learning import LearningProof
from lrexp.train.loss_scale import loss_scale_of, skipped_row
from lrexp.train.measure import StepStats, evaluate_split, seen_row
from lrexp.train.passes import Passes
from lrexp.train.ranks import ALONE, Ranks, agreed_to_go_on, collect, stop_where_all_do
from lrexp.train.scales import measure_scales, scales_of, set_scales
from lrexp.train.signals import whole
from lrexp.train.state import (
    PUT_OFF_S,
    Epoch,
    FrozenProof,
    load_into,
    save_best,
    save_last,
    saving,
    state_of,
)
from lrexp.train.step import due, update


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
        features: holds what a frozen backbone makes of images; None: it is computed at every step.
        ranks: the processes that train it together.
    """

    state, load_state = state_of, load_into  # see lrexp.train.state
    choose_fed = choose_fed  # see lrexp.train.features

    def __init__(
        self,
        experiment: Experiment,
        settings: Settings,
        batch_size: int,
        seed: int,
        features: FeatureStore | None = None,
        ranks: Ranks = ALONE,
    ):
        self.experiment, self.settings = experiment, settings
        self.batch_size, self.seed = batch_size, seed
        self.features, self.ranks = features, ranks
        self.epoch = self.step = 0
        self.rows: list[Row] = []
        self.recorded = 0  # of them, from the first on, that are surely on disk in the record
        self.track = Track(settings.monitor)
        self.best = self.track.best  # by trainer.monitor so far
        self.saved_s = 0.0  # since the last row, in saving and recording
        self.synced = False  # whether last.pt is to outlive a power loss
        self.puts_off = False  # whether files of little training may wait; see `state._save`
        self.put_off: dict[Path, dict[str, Any]] = {}  # files that are not written yet
        self.write_at = time.perf_counter() + PUT_OFF_S  # from when on they are
        self.current: Epoch | None = None  # that has begun and is not recorded yet
        self.stats = StepStats(experiment.model, experiment.plan)
        self.average = Average(experiment.model, settings.ema) if settings.ema else None
        self.frozen = FrozenProof(experiment, self.average)
        self.fault = ""  # what of the first step was not finite
        self.factors_then: dict[str, float] = {}  # at the last step of a state taken up
        self.loss_scale = loss_scale_of(experiment)
        self._telling: Sequence[Mapping[str, float]] = ()  # of all rows so far but the newest
        self._told = 0  # so many
        self._trains: list[bool] = []  # which rows of the plan do now, once that has been set
        self._drift = Drift(experiment.model, experiment.plan)
        self.cached: Fed | None = None  # what it trains on in place of images
        self.cached_for: frozenset[str] | None = None  # parameters that train then
        steps = len(experiment.schedule), experiment.steps_per_epoch
        self._factors = experiment.plan.factors(*steps)  # g(t) of the groups that have one
        self.learning = LearningProof(self._factors)
        self._passes = Passes(self)

    def run(self, record: TakesRows, checkpoints: Path | None = None) -> None:
        """Train to the end of the schedule, or to what ends it before (`stopped_by`).

        After every epoch `last.pt` and, when it got better, `best.pt` go to the folder
        `checkpoints`, and a row to `record`. With none to train the model is evaluated as it is.
        """
        while agreed_to_go_on(self):
            started = self.current.started if self.current else time.perf_counter()
            seen = self.current.seen if self.current else None  # of an epoch to be evaluated
            if seen is None:
                seen = self.train_epoch(checkpoints) if self.experiment.schedule else {}
            of_now = self.fed.train_eval, self.fed.val
            with self.averaged():
                self.ranks.same_buffers(self.experiment.model)
                train_eval, val = map(self._evaluated, of_now)
            self.end_epoch(seen, train_eval, val, started, record, checkpoints)

    def train_epoch(
        self, checkpoints: Path | None = None, watch: Callable[[Tensor], bool] | None = None
    ) -> Row:
        """One epoch of steps, or what is left of it; returns what was seen on the way.

        `watch` sees the loss () of every step; the epoch ends after the one it says True to.
        """
        experiment, optimizer = self.experiment, self.experiment.optimizer
        started = time.perf_counter()
        self.choose_fed()
        with whole():
            epoch = self._begun()
        ready_s = max(0.0, epoch.started - started)  # features, measured scales; 0 if it goes on
        with quiet_collector() as after_step, self.fed.compiled(experiment):
            self._steps(epoch, checkpoints, watch, after_step)
        with whole():
            collect(self)
            if averages_weights(optimizer):
                use_averaged_weights(optimizer)
                self.begin_draws("recalibration")
                self._passes.recalibrate()
            epoch.seen = seen_row(experiment, self.stats, epoch.running, epoch.began)
            epoch.seen |= skipped_row(self.loss_scale)
            epoch.seen["perf/steps_s"] += ready_s
        return epoch.seen

    def _steps(
        self,
        epoch: Epoch,
        checkpoints: Path | None,
        watch: Callable[[Tensor], bool] | None,
        after_step: Callable[[int], None],
    ) -> None:
        """The steps of an epoch, or what is left of them."""
        experiment, settings = self.experiment, self.settings
        optimizer, passes = self.loss_scale or PlainSteps(experiment.optimizer), self._passes
        weights = passes.begin()
        for group, batches in passes.fed(self.groups()[self.step - epoch.first_step :]):
            with whole():
                stop_where_all_do(self)
                self.set_rates(self.step)
                measured = due(settings.stats_every, self.step - epoch.first_step)
                stats = self.stats if measured else None
                loss, correct = passes.gradients(group, batches)
                update(optimizer, weights, settings.clip_grad_norm, stats)
                if stats and self.loss_scale:
                    stats.drop_if(self.loss_scale.found)
                if self.average:
                    self.average.follow(self.step)
                epoch.running.add(loss, correct, sum(map(len, group)))
                self.step += 1
                if checkpoints is not None and due(settings.checkpoint_every_steps, self.step):
                    save_last(self, checkpoints)
            after_step(self.step)
            if watch is not None and watch(loss):
                break

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
            with self.averaged():
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
                self.learning.end_epoch(self)
                if checkpoints is not None:
                    save_last(self, checkpoints)
                    save_best(self, checkpoints)
            finally:  # also an epoch whose state cannot be kept has taken place
                with saving(self):
                    record.row(row)

    @property
    def fed(self) -> Fed:
        """What it trains and evaluates on now."""
        return self.cached or Fed.on_images(self.experiment.dataset)

    def _begun(self) -> Epoch:
        """The coming epoch, or the one that a state from its middle belongs to."""
        if self.current is None or self.current.seen is not None:
            self.begin_epoch()
            self.current = Epoch(self.step)
        else:
            self._freeze(self.epoch - 1)
            self._into_training_mode()
        return self.current

    def begin_epoch(self) -> None:
        """Freeze and unfreeze for the coming epoch, and put the model into training mode."""
        experiment = self.experiment
        self._freeze(self.epoch)
        if experiment.plan.measured:
            self.begin_draws("measuring")
            if self.ranks.first:
                measure_scales(experiment, self.seed, self.epoch, *self.step_size)
            set_scales(experiment, self.ranks.agreed(scales_of(experiment)))
        self._into_training_mode()
        self.learning.begin_epoch(self)
        self.epoch += 1

    def _into_training_mode(self) -> None:
        self.fed.part(self.experiment.model).train()  # what lies below it is not called
        use_training_weights(self.experiment.optimizer)
        if self.average:
            self.average.begin()

    def _freeze(self, finished: int) -> None:
        """Freeze and unfreeze as the plan says after so many epochs, if that changes anything."""
        experiment = self.experiment
        trains = [row.trains_after(finished) for row in experiment.plan.rows]
        if trains != self._trains:
            set_trainable(experiment.model, experiment.plan, finished, experiment.beside)
            self._trains = trains

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
        drawn, alone = draws.draw(self.seed, purpose, self.epoch), not self.experiment.own_network
        begin_at(drawn, self.experiment.device, torchs_alone=alone)

    def averaged(self) -> AbstractContextManager[None]:
        """In it the network holds the weights to evaluate: their average, if there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def _evaluated(self, split: Split) -> Evaluation:
        stop_where_all_do(self)
        self.begin_draws("evaluation")
        model = self.fed.part(self.experiment.model)
        how = self.settings.eval_batch_size, self.experiment.computing, self.ranks
        return evaluate_split(model, split, *how, self.experiment.metrics)

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
            self._telling = telling(self.rows[self._told :], self._telling)
            self._told = len(self.rows)
            known = (self._telling, {}, self.track.monitor, self.samples["val"], self.guess_loss)
            if kind := stops(asked, Facts(*known)):
                return kind
        patience, since_best = self.settings.patience, self.epoch - self.best.epoch
        lost = patience and self.best.known and since_best >= patience
        return "trainer.patience" if lost else ""
