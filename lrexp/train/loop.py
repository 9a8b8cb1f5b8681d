"""The training loop, on one page, and what it needs to stop and go on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lrexp.config.errors import UserError
from lrexp.config.schema import MONITORS
from lrexp.config.schema import Trainer as Settings
from lrexp.data import draws
from lrexp.folder.checkpoint import save_checkpoint
from lrexp.folder.layout import BEST, LAST
from lrexp.optim.groups import (
    frozen_state,
    load_state_by_name,
    measured_groups,
    set_momentum,
    set_rates,
    set_trainable,
    state_by_name,
    tensor_hash,
    trained_parameters,
)
from lrexp.optim.optimizers import (
    averages_weights,
    recalibrate_batchnorm,
    use_averaged_weights,
    use_training_weights,
)
from lrexp.plan.plan import read_plan
from lrexp.train.experiment import Experiment
from lrexp.train.measure import (
    Drift,
    Evaluation,
    RunningTrain,
    StepStats,
    evaluate,
    gap,
    logits_of,
    measured_scales,
    paired_difference,
    relative_gradient_norms,
)
from lrexp.train.signals import whole

log = logging.getLogger(__name__)

MEASURED_BATCHES = 5  # what measured policies look at before every epoch
Row = dict[str, float]


class TakesRows(Protocol):
    """Whoever records a run: it receives one row of metrics per epoch."""

    def row(self, row: Row) -> None: ...


@dataclass
class Epoch:
    """The epoch that is being trained: where it began, and what its steps have shown so far."""

    first_step: int
    running: RunningTrain = field(default_factory=RunningTrain)
    started: float = field(default_factory=time.perf_counter)
    seen: Row | None = None  # once its last step is done


@dataclass
class Best:
    """The best so far of one metric: when, how good, and image by image."""

    epoch: int = -1
    value: float = math.nan
    per_image: np.ndarray = field(default_factory=lambda: np.empty(0))


class Trainer:
    """Trains an experiment epoch by epoch.

    `state()` between any two steps holds all that the rest of the run depends on; `load_state()` on
    a freshly built trainer of the same config goes on from there, on CPU to the same bits. A signal
    that is to stop the run is heard between steps, never in one (see `lrexp.train.signals`).

    Args:
        experiment: what to train; its model is changed in place.
        settings: the trainer's part of the config.
        batch_size: images per step.
        seed: moves the order of the images and dropout.
    """

    def __init__(self, experiment: Experiment, settings: Settings, batch_size: int, seed: int):
        self.experiment, self.settings = experiment, settings
        self.batch_size, self.seed = batch_size, seed
        self.epoch = self.step = 0
        self.rows: list[Row] = []
        self.best = Best()  # by trainer.monitor
        self.diverged = False
        self.synced = False  # whether last.pt is to outlive a power loss
        self._current: Epoch | None = None
        self._lowest_loss, self._highest_accuracy = Best(), Best()
        self._drift = Drift(experiment.model, experiment.plan)
        self.stats = StepStats(experiment.model, experiment.plan)
        self._factors = experiment.plan.factors(
            len(experiment.schedule), experiment.steps_per_epoch
        )  # g(t) of the groups that have one
        self._dropout = _default_generator(experiment.device)
        self._frozen_before = self._frozen_hash()

    def run(self, record: TakesRows, checkpoints: Path | None = None) -> None:
        """Train to the end of the schedule, a divergence, or the end of patience.

        After every epoch `last.pt` and, when it got better, `best.pt` go to the folder
        `checkpoints`, and a row to `record`. With no epoch to train the model is evaluated as it
        is.
        """
        data, batch = self.experiment.dataset, self.settings.eval_batch_size
        while self.goes_on:
            started = self._current.started if self._current else time.perf_counter()
            seen = self._current.seen if self._current else None  # of an epoch to be evaluated
            if seen is None:
                seen = self.train_epoch(checkpoints) if self.experiment.schedule else {}
            train_eval, val = (
                logits_of(self.experiment.model, split, batch)
                for split in (data.train_eval, data.val)
            )
            self.end_epoch(seen, train_eval, val, started, record, checkpoints)

    def train_epoch(self, checkpoints: Path | None = None) -> Row:
        """One epoch of steps, or what is left of it; returns what was seen on the way."""
        model, optimizer = self.experiment.model, self.experiment.optimizer
        train, settings = self.experiment.dataset.train, self.settings
        with whole():
            epoch = self._begun()
        first, every = epoch.first_step, settings.checkpoint_every_steps
        order = self.order()[(self.step - first) * self.batch_size :]
        seeds = self._dropout_seeds(-(-len(order) // self.batch_size))
        batches = train.batches(order, self.batch_size, self.epoch) if seeds else ()
        for (images, labels), seed in zip(batches, seeds, strict=True):  # (B, C, H, W), (B,)
            with whole():
                self._dropout.manual_seed(seed)
                self.set_rates(self.step)
                logits = model(images)  # (B, classes)
                loss = self.experiment.loss(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                measured = settings.stats_every and (self.step - first) % settings.stats_every == 0
                before = self.stats.before(trained_parameters(optimizer)) if measured else None
                if settings.clip_grad_norm:
                    torch.nn.utils.clip_grad_norm_(
                        trained_parameters(optimizer), settings.clip_grad_norm
                    )
                optimizer.step()
                if before is not None:
                    self.stats.after(before)
                epoch.running.add(loss, logits, labels)
                self.step += 1
                if checkpoints is not None and every and self.step % every == 0:
                    self.save(checkpoints)
        with whole():
            if averages_weights(optimizer):
                use_averaged_weights(optimizer)
                recalibrate_batchnorm(model, self._recalibration_images())
            epoch.seen = self.seen(epoch.running, epoch.started)
        return epoch.seen

    def begin_epoch(self) -> None:
        """Freeze and unfreeze for the coming epoch, and put the model into training mode."""
        model, optimizer = self.experiment.model, self.experiment.optimizer
        set_trainable(model, self.experiment.plan, finished_epochs=self.epoch)
        self._measure_scales()
        model.train()
        use_training_weights(optimizer)
        self.epoch += 1

    def _begun(self) -> Epoch:
        """The coming epoch, or the one that a state from its middle belongs to."""
        if self._current is None or self._current.seen is not None:
            self.begin_epoch()
            self._current = Epoch(self.step)
        else:
            set_trainable(self.experiment.model, self.experiment.plan, self.epoch - 1)
            self.experiment.model.train()
            use_training_weights(self.experiment.optimizer)
            self.set_rates(max(0, self.step - 1))  # the row has the last ones, if no step is left
        return self._current

    def set_rates(self, step: int) -> None:
        """Give every parameter group its rate, and its momentum where that cycles, for a step."""
        experiment, plateau = self.experiment, self.experiment.plateau
        s = experiment.schedule[step] * (plateau.s if plateau else 1.0)
        g = {group: table[step] for group, table in self._factors.items()}
        set_rates(experiment.optimizer, experiment.base_lr, s, g)
        if experiment.momenta:
            set_momentum(experiment.optimizer, experiment.momenta[step])

    def seen(self, running: RunningTrain, started: float) -> Row:
        """What an epoch's steps showed: loss and accuracy on the way, last rates, sizes of steps.

        Args:
            running: over the epoch's batches.
            started: time.perf_counter() before the first of them.
        """
        train_loss, train_accuracy, images_seen = running.means()  # waits for the device
        elapsed_s = time.perf_counter() - started
        return {
            "train/loss": train_loss,
            "train/accuracy": train_accuracy,
            **{f"lr/{g['name']}": g["lr"] for g in self.experiment.optimizer.param_groups},
            **{f"lr_scale/{name}": scale for name, scale in self._measured().items()},
            **self.stats.medians(),
            "perf/examples_per_s": images_seen / elapsed_s,
        }

    def end_epoch(
        self,
        seen: Row,
        train_eval: Tensor,
        val: Tensor,
        started: float,
        record: TakesRows,
        checkpoints: Path | None,
    ) -> None:
        """Judge an epoch, record its row and keep its state.

        Args:
            seen: by its steps.
            train_eval: (n, classes) logits of that split after it.
            val: likewise.
            started: time.perf_counter() before the first step.
            record: takes the row.
            checkpoints: folder for the state.
        """
        with whole():
            row = self._evaluated(seen, train_eval, val)
            row["perf/epoch_s"] = time.perf_counter() - started
            if self.experiment.plateau:
                self.experiment.plateau.see(row)
            self.rows.append(row)
            self._current = None
            try:
                if checkpoints is not None:
                    self.save(checkpoints)
                    self.save_best(checkpoints)
            finally:  # also an epoch whose state cannot be kept has taken place
                record.row(row)

    def save(self, checkpoints: Path) -> None:
        """Write the state to last.pt.

        Raises:
            OSError: when it cannot be written.
        """
        save_checkpoint(checkpoints / LAST, self.state(), self.synced)

    def save_best(self, checkpoints: Path) -> None:
        """Write the weights to best.pt if they are those of the best epoch so far.

        After last.pt: whoever goes on from there can do it again.
        """
        if self._current is None and self.best.epoch == self.epoch:
            weights = {"model": self.experiment.model.state_dict(), "epoch": self.epoch}
            weights["class_names"] = list(self.experiment.dataset.class_names)
            save_checkpoint(checkpoints / BEST, weights)

    def _measure_scales(self) -> None:
        """Set anew the scale of every group whose plan says that it is measured."""
        experiment, units = self.experiment, self.experiment.plan.measured
        if not units:
            return
        train = experiment.dataset.train
        order = draws.order(self.seed, "measure", train.ids, self.epoch)
        chosen = order[: MEASURED_BATCHES * self.batch_size]
        batches = train.batches(chosen, self.batch_size)
        scales = measured_scales(
            relative_gradient_norms(experiment.model, experiment.loss, batches, units)
        )
        for name, group in measured_groups(experiment.optimizer, experiment.plan).items():
            group["lr_scale"] = scales[experiment.plan.groups[name][0].measured]

    def _measured(self) -> dict[str, float]:
        """The measured lr_scale of groups that have one."""
        groups = measured_groups(self.experiment.optimizer, self.experiment.plan)
        return {name: group["lr_scale"] for name, group in groups.items()}

    def _evaluated(self, seen: Row, train_eval: Tensor, val_logits: Tensor) -> Row:
        """The epoch's full row: evaluation on the weights as they are, the gap, overfitting."""
        data = self.experiment.dataset
        te = evaluate(train_eval, data.train_eval.labels)
        val = evaluate(val_logits, data.val.labels)
        known = (len(data.train), data.val.groups, data.train_eval.groups)
        gap_loss, gap_loss_se = gap(val.losses, te.losses, *known)
        gap_accuracy, gap_accuracy_se = gap(1 - val.correct, 1 - te.correct, *known)
        row: Row = {"epoch": self.epoch, "step": self.step}
        row |= {k: v for k, v in seen.items() if k.startswith("train/")}
        row |= {
            **{f"train_eval/{name}": value for name, value in te.metrics.items()},
            **{f"val/{name}": value for name, value in val.metrics.items()},
            "gap/loss": gap_loss,
            "gap/loss_se": gap_loss_se,
            "gap/accuracy": gap_accuracy,
            "gap/accuracy_se": gap_accuracy_se,
            **self._overfit(val),
        }
        if "train/loss" in seen:
            row["gap/loss_running"] = val.loss - seen["train/loss"]
        row |= self._drift.measure()
        row |= {k: v for k, v in seen.items() if k not in row}
        self._judge(row)
        return row

    def order(self) -> np.ndarray:
        """Positions in the training split as the epoch's steps take them, (n,) int64."""
        order = draws.order(self.seed, "order", self.experiment.dataset.train.ids, self.epoch)
        first = self._current.first_step if self._current else self.step
        left = len(self.experiment.schedule) - first
        steps = min(self.settings.limit_train_batches or left, left)
        return order[: steps * self.batch_size]

    def _recalibration_images(self) -> Iterator[Tensor]:
        """Up to 50 whole batches of training images, each (B, C, H, W)."""
        train, size = self.experiment.dataset.train, self.batch_size
        order = draws.order(self.seed, "recalibrate", train.ids, self.epoch)
        whole = max(len(order) // size * size, min(len(order), size))
        return (images for images, _ in train.batches(order[: min(whole, 50 * size)], size))

    def _dropout_seeds(self, count: int) -> list[int]:
        """What makes dropout a function of (seed, step), for the coming steps."""
        steps = np.arange(self.step, self.step + count)
        return (draws.draw_each(self.seed, "dropout", steps) >> np.uint64(1)).tolist()

    def _overfit(self, val: Evaluation) -> Row:
        """How much worse validation is than at its best so far, over the same images."""
        lowest, highest = self._lowest_loss, self._highest_accuracy
        if lowest.epoch < 0 or val.loss < lowest.value:
            lowest.epoch, lowest.value, lowest.per_image = self.epoch, val.loss, val.losses
        if highest.epoch < 0 or val.accuracy > highest.value:
            highest.epoch, highest.value, highest.per_image = self.epoch, val.accuracy, val.correct
        groups = self.experiment.dataset.val.groups
        loss, loss_se = paired_difference(val.losses, lowest.per_image, groups)
        accuracy, accuracy_se = paired_difference(highest.per_image, val.correct, groups)
        return {
            "overfit/loss": loss,
            "overfit/loss_se": loss_se,
            "overfit/accuracy": accuracy,
            "overfit/accuracy_se": accuracy_se,
        }

    def _judge(self, row: Row) -> None:
        """Update the best epoch, earliest on ties, and notice divergence."""
        losses = [row["val/loss"], row["train_eval/loss"], row.get("train/loss", 0.0)]
        self.diverged = not all(map(math.isfinite, losses))
        value = row.get(self.settings.monitor, math.nan)
        sign = 1 if MONITORS[self.settings.monitor] == "max" else -1
        first = self.best.epoch < 0
        if (
            not self.diverged
            and math.isfinite(value)
            and (first or sign * value > sign * self.best.value)
        ):
            self.best.epoch, self.best.value = self.epoch, value

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch to come, or nothing was evaluated yet."""
        if self._current is not None or not (self.rows or self.epoch):
            return True
        patience, since_best = self.settings.patience, self.epoch - self.best.epoch
        return (
            self.step < len(self.experiment.schedule)
            and not self.diverged
            and not (patience and self.best.epoch >= 0 and since_best >= patience)
        )

    def forget_best(self) -> None:
        """Let the best epoch be one of those to come: the weights of the one so far are lost."""
        self.best.epoch, self.best.value = -1, math.nan

    @property
    def within_epoch(self) -> bool:
        """Whether an epoch has begun that is not recorded yet."""
        return self._current is not None

    @property
    def in_step(self) -> bool:
        """Whether steps are being made, and not evaluations."""
        return self._current is not None and self._current.seen is None

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on but the config and the files it names.

        The starting point that drift is measured from is rebuilt from those. Tensors are the live
        ones: save or copy the state.
        """
        return {
            "model": self.experiment.model.state_dict(),
            "optimizer": state_by_name(self.experiment.optimizer),
            "plan": self.experiment.plan.to_csv(),
            "lr_scale": self._measured(),
            "epoch": self.epoch,
            "step": self.step,
            "diverged": self.diverged,
            "rows": [dict(row) for row in self.rows],
            "best": {
                name: {
                    "epoch": best.epoch,
                    "value": best.value,
                    "per_image": torch.from_numpy(best.per_image),
                }
                for name, best in self._bests().items()
            },
            "frozen_before": self._frozen_before,
            "plateau": self.experiment.plateau and self.experiment.plateau.state(),
            "fingerprints": self._fingerprints(),
            "current": self._current
            and {
                "first_step": self._current.first_step,
                "running": self._current.running.state(),
                "stats": self.stats.state(),
                "elapsed_s": time.perf_counter() - self._current.started,
                "seen": self._current.seen,
            },
        }

    def load_state(
        self,
        state: dict[str, Any],
        allow_plan_change: bool = False,
        allow_data_change: bool = False,
    ) -> None:
        """Take up a state of the same config, on a trainer that has not trained yet.

        Args:
            state: from `state()`.
            allow_plan_change: go on under another plan than the state's; the difference is logged.
                What no longer trains loses its optimizer state, what newly trains starts without.
            allow_data_change: go on with other data, or from other first weights, than the state's.

        Raises:
            UserError: when the state's plan or data differ and that is not allowed, with the
                difference.
        """
        self._check_fingerprints(state["fingerprints"], allow_data_change)
        model, optimizer = self.experiment.model, self.experiment.optimizer
        changes = read_plan(state["plan"]).diff(self.experiment.plan)
        if changes:
            difference = "the plan has changed since this state:\n  " + "\n  ".join(changes)
            if not allow_plan_change:
                raise UserError(f"{difference}\n  allow_plan_change=True continues all the same")
            log.warning(difference)
        model.load_state_dict(state["model"])
        trained = {name for group in optimizer.param_groups for name in group["names"]}
        kept = {n: values for n, values in state["optimizer"].items() if n in trained}
        load_state_by_name(optimizer, kept)
        for name, group in measured_groups(optimizer, self.experiment.plan).items():
            group["lr_scale"] = state["lr_scale"].get(name, group["lr_scale"])
        self.epoch, self.step, self.diverged = state["epoch"], state["step"], state["diverged"]
        self.rows = [dict(row) for row in state["rows"]]
        for name, best in self._bests().items():
            saved = state["best"][name]
            best.epoch, best.value = saved["epoch"], saved["value"]
            best.per_image = saved["per_image"].cpu().numpy().copy()
        self._frozen_before = self._frozen_hash() if changes else state["frozen_before"]
        if self.experiment.plateau and state["plateau"]:
            self.experiment.plateau.load_state(state["plateau"])
        self._current = None
        if current := state["current"]:
            self._current = Epoch(current["first_step"])
            self._current.running.load_state(current["running"])
            self._current.started -= current["elapsed_s"]
            self._current.seen = current["seen"]
            self.stats.load_state(current["stats"])

    def frozen_proof(self) -> dict[str, Any]:
        """Hashes of what never trains, tensors and buffers, before training and now."""
        frozen = frozen_state(self.experiment.model, self.experiment.plan)
        before, after = self._frozen_before, self._frozen_hash()
        return {
            "tensors": len(frozen),
            "before": before,
            "after": after,
            "identical": before == after,
        }

    def _fingerprints(self) -> dict[str, str]:
        """Of the files that the run depends on."""
        found = {"data": self.experiment.dataset.fingerprint}
        weights = self.experiment.weights_fingerprint
        return found | ({"weights": weights} if weights else {})

    def _check_fingerprints(self, then: dict[str, str], allow_change: bool) -> None:
        now = self._fingerprints()
        changed = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        if not changed:
            return
        lines = [f"{name}: {then.get(name)} → {now.get(name)}" for name in changed]
        said = "\n  ".join([f"{' and '.join(changed)} changed since the checkpoint", *lines])
        if not allow_change:
            raise UserError(f"{said}\n  lrexp rerun RUN --resume --changed-data goes on")
        log.warning(said)

    def _frozen_hash(self) -> str:
        return tensor_hash(frozen_state(self.experiment.model, self.experiment.plan))

    def _bests(self) -> dict[str, Best]:
        return {
            "monitor": self.best,
            "val_loss": self._lowest_loss,
            "val_accuracy": self._highest_accuracy,
        }


def _default_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout on a device draws from."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator
