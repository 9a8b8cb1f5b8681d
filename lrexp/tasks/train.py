"""`task=train`: build, train, evaluate, record."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.errors import OutOfMemoryError, Terminated, UserError, out_of_memory
from lrexp.config.schema import MONITORS, Config
from lrexp.config.schema.run import Wandb
from lrexp.folder.claim import link_latest, resume_command
from lrexp.folder.layout import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    CONFUSION,
    ENVIRONMENT,
    HYDRA,
    LAST,
    METRICS,
    OVERRIDES,
    PER_CLASS,
    PLAN,
    PREDICTIONS,
    PREVIOUS,
    SCHEDULE,
    WRONG_IMAGES,
)
from lrexp.tasks.launch import Launch, blank_summary, failure, write
from lrexp.train.signals import answered, signals_stop, whole

if TYPE_CHECKING:
    from lrexp.build.data import Datasets
    from lrexp.record.recorders import RunInfo
    from lrexp.record.wandb.recorder import WandbRecorder
    from lrexp.runs.resume import Stopped
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

CONFUSION_CLASSES = 1000  # a larger table of true against predicted classes is of no use as a file


def train(resolved: DictConfig, config: Config, launch: Launch) -> float:
    """Train one experiment in its run folder.

    Returns:
        The best value of trainer.monitor; the worst there is when the run diverged.

    Raises:
        UserError: when the experiment cannot be built; nothing has been recorded then.
        Exception: what made the run fail; summary.json has the cause.
    """
    with signals_stop() as asked:
        run = open_training(resolved, config, launch, asked)
        with run.recorded():
            run.trainer.run(run, run.checkpoints)
        return run.value


def open_training(
    resolved: DictConfig, config: Config, launch: Launch, asked: list[type[BaseException]]
) -> Training:
    """Build what a run trains, ready to start.

    Args:
        resolved: the config as it is saved.
        config: the same, checked.
        launch: where it runs.
        asked: of `signals_stop`.

    Raises:
        UserError: when the experiment cannot be built, or cannot go on from the state that it was
            stopped in; of a point the summary says so.
    """
    started = time.perf_counter()
    try:
        trainer = build_trainer(config, launch.datasets)
    except Exception as error:
        if launch.sweep:  # a point keeps its folder, and says why it has no result
            write(launch.folder, blank_summary(resolved, config, launch) | failure(error))
        raise
    resolved = _with_normalization(resolved, trainer.experiment.dataset)
    run = Training(resolved, config, launch, trainer, started, asked)
    if launch.stopped:
        run.take_up(launch.stopped)
    return run


def build_trainer(config: Config, datasets: Datasets | None) -> Trainer:
    """What trains a config.

    Args:
        config: of the run.
        datasets: of the runs before.

    Raises:
        UserError: when the experiment cannot be built.
    """
    from lrexp.build.experiment import build
    from lrexp.train.loop import Trainer

    experiment = build(config, datasets)
    return Trainer(experiment, config.trainer, config.data.batch_size, config.seed)


class _FarEnough(BaseException):
    """The last epoch that was asked for is recorded."""


class Training:
    """One training run: its trainer, its files, its recorders, its summary.

    Its epochs may be trained by whoever has it, alone or together with other runs.
    """

    def __init__(
        self,
        resolved: DictConfig,
        config: Config,
        launch: Launch,
        trainer: Trainer,
        started: float,
        asked: list[type[BaseException]],
    ):
        from lrexp.record.recorders import Recorders

        self._resolved, self._config, self._launch = resolved, config, launch
        self.trainer, self._folder = trainer, launch.folder
        trainer.synced = not launch.sweep  # a stopped point is run anew
        self.checkpoints = launch.folder / CHECKPOINTS
        self._started, self._train_started = started, time.perf_counter()
        self._asked = asked  # signals that want the run to stop
        self._test: dict[str, Any] = {}
        self._summary = blank_summary(resolved, config, launch)
        self._recorders = Recorders()
        self._earlier_s = 0.0  # that earlier attempts trained
        self._opening: list[str] = []  # what it goes on from

    def take_up(self, stopped: Stopped) -> None:
        """Go on where a run in this folder was stopped; from the start if it had saved no state.

        Nothing is written.

        Raises:
            UserError: when there is nothing left to do, every state is damaged, or plan or data are
                others than then.
        """
        from lrexp.folder.checkpoint import load_last

        trainer = self.trainer
        state = load_last(self.checkpoints, trainer.experiment.device)
        if state is None:
            self._opening = ["resume from the start: no state was saved"]
        else:
            try:
                trainer.load_state(state, bool(stopped.changes), stopped.changed_data)
            except UserError:
                raise
            except Exception as error:  # whatever a state of something else leads to
                if out_of_memory(error):
                    raise
                log.info("the state", exc_info=error)
                said = (str(error).splitlines() or [""])[0]
                raise UserError(
                    f"{self.checkpoints}: the state there is not of this run:"
                    f" {type(error).__name__}: {said}\n  start a new run"
                ) from error
            self._opening = [f"resume from epoch {trainer.epoch}, step {trainer.step}"]
            steps = len(trainer.experiment.schedule)
            if trainer.step > steps:
                raise UserError(
                    f"{self._folder} has trained {trainer.step} steps, and these settings end after"
                    f" {steps}\n  give more trainer.epochs, or start a new run"
                )
        if stopped.status in ("finished", "diverged") and not trainer.goes_on:
            raise UserError(
                f"{self._folder} is {stopped.status} after epoch {trainer.epoch}\n"
                "  nothing is left to train; a larger trainer.epochs adds epochs"
            )
        self._opening += [f"change {line}" for line in stopped.changes]
        self._earlier_s = sum(row["perf/epoch_s"] for row in trainer.rows)
        point = {"epoch": trainer.epoch, "step": trainer.step, "changes": stopped.changes}
        self._summary["resumed"] = [*stopped.resumed, point]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Start the records; conclude and close them according to how the training in it ends."""
        try:
            self.start()
            yield
            self.conclude()
        except (KeyboardInterrupt, Terminated):
            with whole():
                self._keep_state()
                self._summarise({"status": "interrupted"})
                answered()  # whoever asked again meanwhile asked for this
            self._close()
            raise
        except _FarEnough:
            self.finish({"status": "interrupted"})
            return
        except Exception as error:
            log.info("the run failed", exc_info=error)
            told = self._in_words(error)
            self.finish(failure(told))
            if told is error:
                raise
            raise told from error
        self.finish({"status": "diverged" if self.trainer.diverged else "finished"})
        with suppress(OSError):  # nobody goes on from there any more
            (self.checkpoints / PREVIOUS).unlink(missing_ok=True)

    @property
    def value(self) -> float:
        """The best of trainer.monitor; the worst there is when the run diverged."""
        if self.trainer.diverged or self.trainer.best.epoch < 0:
            return math.inf if MONITORS[self._config.trainer.monitor] == "min" else -math.inf
        return self.trainer.best.value

    @property
    def executor(self) -> str:
        """What runs it."""
        return self._launch.executor

    def trained_by(self, executor: str, members: int) -> None:
        """Note what trains it, and how many runs train together."""
        self._summary |= {"executor": executor, "members": members}

    def renew(self) -> None:
        """Build the trainer anew, as far as its last recorded epoch."""
        from lrexp.folder.checkpoint import load_checkpoint

        recorded = bool(self.trainer.rows)
        device = self.trainer.experiment.device
        self.trainer = build_trainer(self._config, self._launch.datasets)
        if recorded:
            self.trainer.load_state(load_checkpoint(self.checkpoints / LAST, device))

    def _keep_state(self) -> None:
        """Save the state of a run that is stopped within an epoch. A sweep runs its points anew."""
        if not self.trainer.within_epoch or self._launch.sweep:
            return
        try:
            self.trainer.save(self.checkpoints)
        except OSError as error:
            log.warning("the state within this epoch could not be saved: %s", error)

    def _in_words(self, error: Exception) -> Exception:
        """An error as people should read it: what to do when memory or disk ran out."""
        trainer, config = self.trainer, self._config
        if out_of_memory(error):
            said = (str(error).splitlines() or [type(error).__name__])[0]
            key, size = "trainer.eval_batch_size", config.trainer.eval_batch_size
            where = f"evaluating epoch {trainer.epoch}"
            if trainer.in_step:
                key, size = "data.batch_size", config.data.batch_size
                where = f"step {trainer.step + 1} (epoch {trainer.epoch})"
            hint = f"set {key}={size // 2}" if size > 1 else "take a smaller network or images"
            return OutOfMemoryError(f"out of memory in {where} with {key}={size}: {said}\n  {hint}")
        if isinstance(error, OSError) and str(self.checkpoints) in str(error.filename):
            name = Path(str(error.filename)).name
            kept = (self.checkpoints / LAST).exists()
            saved = f"once that is mended: {resume_command(self._folder)}"
            saved = saved if kept else "no state was saved before"
            return UserError(f"{CHECKPOINTS}/{name}: {error.strerror}\n  {saved}")
        return error

    def _restore_best(self) -> None:
        """Make best.pt what the state says it is; without it the best epoch is one to come."""
        from lrexp.folder.checkpoint import load_checkpoint

        trainer = self.trainer
        for leftover in (*self.checkpoints.glob("*.tmp"), *self._folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)  # of a killed program
        if trainer.best.epoch < 0:
            return
        trainer.save_best(self.checkpoints)
        try:
            found = load_checkpoint(self.checkpoints / BEST)["epoch"]
        except Exception as error:  # whatever a reader makes of bytes that nobody wrote
            log.info(BEST, exc_info=error)
            found = None
        if found != trainer.best.epoch:
            holds = f"of epoch {found}" if found is not None else "damaged or gone"
            log.warning(
                "checkpoints/best.pt is %s, not of epoch %d: the best epoch will be one of those to"
                " come",
                *(holds, trainer.best.epoch),
            )
            trainer.forget_best()

    def start(self) -> None:
        """Write what is known before the first step, and start the recorders."""
        import torch

        from lrexp.folder.environment import environment, write_environment
        from lrexp.folder.files import write_atomically
        from lrexp.models.weights import weights_name
        from lrexp.plan.preview import parameter_counts, planned_rates
        from lrexp.record.console import ConsoleRecorder, opening_lines
        from lrexp.record.jsonl import JsonlRecorder
        from lrexp.record.recorders import RunInfo

        config, launch, trainer, folder = self._config, self._launch, self.trainer, self._folder
        experiment = trainer.experiment
        if launch.stopped:
            self._restore_best()
        plain: Any = OmegaConf.to_container(self._resolved)
        write_atomically(folder / CONFIG, OmegaConf.to_yaml(self._resolved))
        write_atomically(folder / PLAN, experiment.plan.to_csv())
        if experiment.schedule and not launch.sweep:  # for the report's curves step by step
            schedule = planned_rates(
                *(experiment.plan, experiment.base_lr, experiment.schedule),
                experiment.steps_per_epoch,
            )
            write_atomically(folder / SCHEDULE, schedule)
        fingerprints = {"data": experiment.dataset.fingerprint}
        if experiment.weights_fingerprint:
            fingerprints["weights"] = experiment.weights_fingerprint
        facts = environment(experiment.device, torch.get_num_threads(), fingerprints)
        if launch.stopped:
            self._note_environment(facts)
        write_environment(folder, facts)
        leaks = experiment.dataset.leaks
        self._summary |= {
            "verdicts": self._verdicts(),
            "plan_hash": experiment.plan.hash,
            "device": str(experiment.device),
            "parameters": parameter_counts(experiment.plan),
            "leaks": None if leaks is None else leaks.as_dict(),
            "data": {
                "images": experiment.dataset.sizes,
                "left_out": experiment.dataset.left_out,
                "unlabeled": experiment.dataset.unlabeled,
                "converted": experiment.dataset.converted,
            },
        }
        write(folder, self._summary)
        if not launch.sweep:
            link_latest(folder)
        info = RunInfo(
            folder=folder,
            run_id=str(config.run_id),
            title=launch.title or " ".join(_first_overrides(launch)) or config.name,
            sweep=launch.sweep,
            config=plain,
            config_id=self._summary["config_id"],
            steps=len(experiment.schedule),
            monitor=config.trainer.monitor,
            opening=[
                *opening_lines(
                    config.model.name,
                    weights_name(config.model),
                    config.data.name,
                    experiment.plan,
                    experiment.base_lr,
                    experiment.dataset.sizes,
                    _data_lines(experiment.dataset),
                ),
                *self._opening,
            ],
            earlier=list(trainer.rows) if launch.stopped else None,
        )
        self._recorders.add(METRICS, lambda: JsonlRecorder(folder, trainer.rows))
        wandb = self._wandb(config.logger, info)
        where = wandb.where if wandb and not launch.sweep else None  # a sweep says it once
        terminal = launch.terminal or (lambda info, steps: ConsoleRecorder(info, steps, where))
        self._recorders.add("terminal", lambda: terminal(info, lambda: self.trainer.step))
        self._train_started = time.perf_counter()

    def _note_environment(self, facts: dict[str, Any]) -> None:
        """Say and keep what of code, packages, machine and data is not as the run began under."""
        from lrexp.runs.differences import change_lines, environment_changes
        from lrexp.runs.run import json_object, noted

        before = noted(self._folder / ENVIRONMENT, json_object, facts, [])  # damaged: nothing known
        if changes := change_lines(environment_changes(before, facts)):
            self._opening += [f"change {line}" for line in changes]
            self._summary["resumed"][-1]["environment"] = changes

    def row(self, row: dict[str, float]) -> None:
        """Record one epoch; stop after it if that is asked for or a signal's exception was lost."""
        self._recorders.row(row)
        if self._asked:
            raise self._asked[-1]
        if self._launch.until is not None and row["epoch"] >= self._launch.until:
            raise _FarEnough

    def conclude(self) -> None:
        """Once training is over: test on the best weights, and save what they predict."""
        from lrexp.folder.checkpoint import load_checkpoint
        from lrexp.optim.groups import tensor_hash
        from lrexp.record.predictions import write_confusion, write_per_class, write_predictions

        self._summary["frozen_proof"] = self.trainer.frozen_proof()
        self._summary["weights_hash"] = tensor_hash(self.trainer.experiment.model.state_dict())
        best = self.checkpoints / BEST
        if self.trainer.best.epoch < 0:
            return
        experiment = self.trainer.experiment
        experiment.model.load_state_dict(load_checkpoint(best, experiment.device)["model"])
        data = experiment.dataset
        splits = {"val": data.val}
        if data.test is not None:
            splits["test"] = data.test
        splits |= data.eval_sets
        import numpy as np

        from lrexp.train.measure import class_rows, confusion, evaluate, logits_of, worst_classes

        logits = {
            name: logits_of(experiment.model, split, self._config.trainer.eval_batch_size)
            for name, split in splits.items()
        }
        found = {name: evaluate(logits[name], split.labels) for name, split in splits.items()}
        results = {
            name: {**evaluation.metrics, "images": len(evaluation.losses)}
            for name, evaluation in found.items()
        }
        self._test = dict(results.get("test", {}))
        if data.eval_sets:
            self._test["eval_sets"] = {name: results[name] for name in data.eval_sets}
        confusions = {
            name: confusion(logits[name], split.labels)
            for name, split in splits.items()
            if not found[name].multi_label and len(data.class_names) <= CONFUSION_CLASSES
        }
        last = "test" if "test" in splits else "val"
        self._summary["worst_classes"] = [
            {"split": last, **row}
            for row in worst_classes(found[last], data.class_names, confusions.get(last))
        ]
        if data.leaks:
            from lrexp.data.leaks import effect

            has_twin = np.isin(data.val.rows, data.leaks.twins["val"])
            self._summary["leaks"]["effect"] = effect(found["val"].correct, has_twin)
        table = {name: class_rows(one, data.class_names) for name, one in found.items()}
        try:
            file = self._folder / PREDICTIONS
            write_predictions(file, splits, logits, data.class_names)
            write_per_class(self._folder / PER_CLASS, table)
            if confusions:
                write_confusion(self._folder / CONFUSION, confusions, data.class_names)
        except OSError as error:
            log.warning("what the best weights predict could not be written: %s", error)
        if not self._launch.sweep:
            self._keep_wrong_images(last, splits[last], logits[last], found[last])

    def _keep_wrong_images(self, name: str, split: Any, logits: Any, found: Any) -> None:
        """The pixels that the report shows: it is made from files alone."""
        from lrexp.record.wrong_images import write_wrong_images

        names = self.trainer.experiment.dataset.class_names
        file = self._folder / WRONG_IMAGES
        try:
            write_wrong_images(file, name, split, logits, found.losses, found.correct, names)
        except Exception as error:  # an image that cannot be read again is no reason to fail
            log.warning("the most wrong images could not be kept: %s", error)

    def finish(self, outcome: dict[str, Any]) -> None:
        """Write the final summary with the outcome (status, error), then tell the recorders."""
        with whole():
            self._summarise(outcome)
        self._close()

    def _summarise(self, outcome: dict[str, Any]) -> None:
        rows, best_epoch = self.trainer.rows, self.trainer.best.epoch
        best = next((row for row in rows if row["epoch"] == best_epoch), {})
        last = rows[-1] if rows else {}
        now = time.perf_counter()
        self._summary |= outcome | {
            "best": best,
            "last": last,
            "test": self._test,
            "gap": {
                moment: {key: row[f"gap/{key}"] for key in ("loss", "loss_se", "accuracy")}
                for moment, row in (("best", best), ("last", last))
                if row
            },
            "verdicts": self._verdicts(),
            "timings": {
                "startup_s": self._train_started - self._started,
                "train_s": self._earlier_s + now - self._train_started,
                "total_s": self._earlier_s + now - self._started,
            },
        }
        write(self._folder, self._summary)

    def _close(self) -> None:
        """Write the report, and tell the recorders that it is over."""
        if not self._launch.sweep:
            _write_report(self._folder)
        self._recorders.finish(self._summary)

    def _verdicts(self) -> list[dict[str, Any]]:
        plan, verdicts = self.trainer.experiment.plan, []
        if plan.frozen_random:
            verdicts.append(
                {
                    "kind": "frozen_random",
                    "severity": "warning",
                    "message": "frozen tensors were never loaded from weights: random features",
                    "evidence": {"tensors": plan.frozen_random},
                    "advice": "load a pretrained network with model.weights, or train everything",
                }
            )
        if self.trainer.diverged:
            verdicts.append(
                {
                    "kind": "diverged",
                    "severity": "error",
                    "message": "the loss is no longer a finite number",
                    "evidence": {"epoch": self.trainer.epoch},
                    "advice": "lower optimizer.lr or set scheduler.warmup",
                }
            )
        return verdicts

    def _wandb(self, settings: Any, info: RunInfo) -> WandbRecorder | None:
        if not isinstance(settings, Wandb):
            return None

        def start() -> WandbRecorder:
            from lrexp.record.wandb.recorder import WandbRecorder

            return WandbRecorder(settings, self._config.task.name, info)

        return self._recorders.add("W&B", start)


def _first_overrides(launch: Launch) -> list[str]:
    """Those that the run was started with, if it goes on: its title stays."""
    from lrexp.runs.run import read_overrides

    known = launch.stopped is not None and (launch.folder / HYDRA / OVERRIDES).is_file()
    return read_overrides(launch.folder) if known else launch.overrides


def _with_normalization(resolved: DictConfig, dataset: Any) -> DictConfig:
    """The config with the numbers that `data.normalize` came to, and the choice that led there."""
    given = resolved.data.normalize
    if isinstance(given, DictConfig):
        return resolved
    found = {"mean": dataset.mean, "std": dataset.std, "chosen": given}
    OmegaConf.update(resolved, "data.normalize", found, force_add=True)
    return resolved


def _data_lines(dataset: Any) -> list[str]:
    """What people should know about the images before they train on them."""
    leaks = dataset.leaks.lines() if dataset.leaks else []
    return [*(f"note   {note}" for note in dataset.notes), *(f"leaks  {line}" for line in leaks)]


def _write_report(folder: Path) -> None:
    try:
        from lrexp.report.run.page import write_run_report

        write_run_report(folder)
    except Exception as error:
        log.warning("report.html could not be written: %s", error)
        log.info("the report", exc_info=error)  # the file alone shows the traceback
