"""`task=train`: build, train, evaluate, record."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lrexp.config.errors import CannotGoOnError, Terminated, UserError
from lrexp.config.parts import targets_in
from lrexp.config.schema import Config, direction
from lrexp.config.schema.training import Wandb
from lrexp.folder.claim import link_latest
from lrexp.folder.environment import environment, write_environment
from lrexp.folder.layout import BEST, CHECKPOINTS, LAST, METRICS, PREVIOUS
from lrexp.record.jsonl import JsonlRecorder
from lrexp.record.recorders import Recorders
from lrexp.record.wandb.recorder import WandbRecorder
from lrexp.tasks.concluding import best_tested, write_report
from lrexp.tasks.joining import join
from lrexp.tasks.opening import Launch, known_at_start, run_info, with_normalization, write_plans
from lrexp.tasks.summary import as_people_read_it, blank_summary, failure, results, write
from lrexp.tasks.taking_up import changed_environment, refuse_lost_best, restore_best, take_up
from lrexp.train.signals import answered, signals_stop, whole

if TYPE_CHECKING:
    from lrexp.build.data import Datasets
    from lrexp.record.recorders import RunInfo
    from lrexp.runs.resume import Stopped
    from lrexp.train.feature_store import FeatureStore
    from lrexp.train.loop import Trainer
    from lrexp.train.ranks import Ranks

log = logging.getLogger(__name__)


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
        try:
            join(run.trainer, going_on=launch.stopped is not None)
            with run.recorded(), run.trainer.ranks.together(asked):
                run.trainer.run(run, run.checkpoints)
        finally:
            run.close()
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
        UserError: when the experiment cannot be built, of a point the summary says so; when it
            cannot go on from the state that it was stopped in, of a point a CannotGoOnError.
    """
    from lrexp.train.feature_store import FeatureStore

    started = time.perf_counter()
    features = None if launch.datasets else FeatureStore(launch.folder)
    try:
        trainer = build_trainer(config, launch.datasets, features, launch.ranks)
    except Exception as error:
        if launch.sweep:  # a point keeps its folder, and says why it has no result
            write(launch.folder, blank_summary(resolved, config, launch) | failure(error))
        raise
    resolved = with_normalization(resolved, trainer.experiment.dataset)
    return Training(resolved, config, launch, trainer, started, asked)


def build_trainer(
    config: Config,
    datasets: Datasets | None,
    features: FeatureStore | None = None,
    ranks: Ranks | None = None,
) -> Trainer:
    """What trains a config, with the data of runs before; a UserError when it cannot be built.

    Features of frozen backbones are shared with those runs, or kept in a store of its own.
    """
    from lrexp.build.experiment import build
    from lrexp.train.loop import Trainer
    from lrexp.train.ranks import ALONE

    ranks = ranks or ALONE
    experiment = build(config, datasets, ranks)
    store = features if datasets is None else datasets.features
    size = config.data.batch_size
    return Trainer(experiment, config.trainer, size, config.seed, features=store, ranks=ranks)


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
        self._resolved, self._config, self._launch = resolved, config, launch
        self.trainer, self._folder = trainer, launch.folder
        trainer.synced = not launch.sweep  # a point may go on from an older state, or begin anew
        trainer.puts_off = bool(launch.sweep)
        self.checkpoints = launch.folder / CHECKPOINTS
        self._started, self._train_started = started, time.perf_counter()
        self._asked = asked  # signals that want the run to stop
        self._summary = blank_summary(resolved, config, launch)
        self._recorders, self._metrics = Recorders(), None
        self._earlier_s = 0.0  # that earlier attempts trained
        self._within_s = 0.0  # of it, in the epoch that goes on
        self._test_s = 0.0
        self._opening: list[str] = []  # what it goes on from
        if stopped := launch.stopped:
            self._opening = self._taken_up(stopped)
            self._earlier_s = _seconds(trainer.rows, "epoch_s") + _seconds(trainer.rows, "save_s")
            if trainer.current:
                self._within_s = time.perf_counter() - trainer.current.started
            self._earlier_s += self._within_s
            point = {"epoch": trainer.epoch, "step": trainer.step, "changes": stopped.changes}
            point |= {"stacked": True} if stopped.stacked else {}  # up to there
            self._summary["resumed"] = [*stopped.resumed, point]

    def _taken_up(self, stopped: Stopped) -> list[str]:
        """Lines on what it goes on from. A point does only where it comes to the same as ever."""
        try:
            opening = take_up(self.trainer, self._config, self._folder, stopped)
            if self._launch.sweep:
                refuse_lost_best(self.trainer, self._folder)
        except UserError as error:
            if self._launch.sweep:
                raise CannotGoOnError(str(error)) from error
            raise
        return opening

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Start the records; conclude and close them according to how the training in it ends."""
        try:
            self.start()
            yield
            self.conclude()
        except (KeyboardInterrupt, Terminated):
            self.finish({"status": "interrupted"}, asked=True)
            raise
        except _FarEnough:
            self.finish({"status": "interrupted"})
            return
        except Exception as error:
            log.info("the run failed", exc_info=error)
            told = as_people_read_it(error, self.trainer, self._config, self._folder)
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
            return math.inf if direction(self._config.trainer.monitor) == "min" else -math.inf
        return self.trainer.best.value

    @property
    def executor(self) -> str:
        """What runs it."""
        return self._launch.executor

    def trained_by(self, executor: str, members: int) -> None:
        """Note what trains it, and how many runs train together."""
        self._summary |= {"executor": executor, "members": members}
        if members > 1:  # a run that is killed shall say so
            write(self._folder, self._summary)

    def renew(self) -> None:
        """Build the trainer anew, as far as its last recorded epoch."""
        from lrexp.folder.checkpoint import load_checkpoint
        from lrexp.train.state import write_put_off

        write_put_off(self.trainer)
        before, device = self.trainer, self.trainer.experiment.device
        self.trainer = build_trainer(self._config, self._launch.datasets, before.features)
        self.trainer.puts_off = before.puts_off
        if before.rows:
            state = load_checkpoint(self.checkpoints / LAST, device)
            self.trainer.load_state(state, recorded=before.rows)
            self.trainer.recorded = before.recorded

    def close(self) -> None:
        """Remove what was kept for this run alone."""
        if self._launch.datasets is None and self.trainer.features is not None:
            self.trainer.features.close()

    def start(self) -> None:
        """Write what is known before the first step, and start the recorders."""
        import torch

        from lrexp.train.state import fingerprints

        launch, trainer, folder = self._launch, self.trainer, self._folder
        experiment = trainer.experiment
        if launch.stopped:
            restore_best(trainer, folder)
        write_plans(self._resolved, experiment, launch, trainer.step)
        prints = fingerprints(experiment)
        parts = targets_in(self._config)
        facts = environment(experiment.device, torch.get_num_threads(), prints, parts)
        if launch.stopped and (changes := changed_environment(folder, facts)):
            self._opening += [f"change {line}" for line in changes]
            self._summary["resumed"][-1]["environment"] = changes
        write_environment(folder, facts)
        self._summary |= known_at_start(trainer, self._config)
        write(folder, self._summary)
        if not launch.sweep:
            link_latest(folder)
        known = (self._resolved, self._config, launch, trainer, self._summary)
        self._start_recorders(run_info(*known, self._opening))
        self._train_started = time.perf_counter()
        if trainer.current:  # its time is none of this start
            trainer.current.started = self._train_started - self._within_s

    def _start_recorders(self, info: RunInfo) -> None:
        from lrexp.record.console import ConsoleRecorder

        launch, add, settings = self._launch, self._recorders.add, self._config.logger
        rows, synced = self.trainer.rows, self.trainer.synced
        self._metrics = add(METRICS, lambda: JsonlRecorder(self._folder, rows, synced))
        self._note_recorded()
        where = None

        def wandb() -> WandbRecorder:
            return WandbRecorder(settings, self._config.task.name, info)

        if isinstance(settings, Wandb) and (settings.points == "all" or not launch.sweep):
            started = add("W&B", wandb)
            if started and not launch.sweep:
                where = started.where  # a sweep says it once
        terminal = launch.terminal or (lambda info, steps: ConsoleRecorder(info, steps, where))
        add("terminal", lambda: terminal(info, lambda: self.trainer.step))

    def row(self, row: dict[str, float]) -> None:
        """Record one epoch; stop after it if that is asked for or a signal's exception was lost."""
        self._recorders.row(row)
        self._note_recorded()
        if self._asked and not self.trainer.ranks.several:  # ranks stop where all do
            raise self._asked[-1]
        if self._launch.until is not None and row["epoch"] >= self._launch.until:
            raise _FarEnough

    def _note_recorded(self) -> None:
        """Tell the trainer which rows its states need not keep."""
        if self._metrics is not None:
            self.trainer.recorded = self._metrics.kept

    def conclude(self) -> None:
        """Once training is over: test on the best weights, and save what they predict."""
        from lrexp.folder.checkpoint import all_weights, load_checkpoint
        from lrexp.optim.groups import tensor_hash
        from lrexp.train.features import logits_of
        from lrexp.train.state import write_put_off

        trainer, experiment = self.trainer, self.trainer.experiment
        write_put_off(trainer)
        self._summary["frozen_proof"] = trainer.frozen.as_dict()
        self._summary["learning_proof"] = trainer.learning.as_dict()
        average = trainer.average.state() if trainer.average else None
        weights = all_weights(experiment.model.state_dict(), average)
        self._summary["weights_hash"] = tensor_hash(weights)
        if trainer.best.known:
            best = load_checkpoint(self.checkpoints / BEST, experiment.device)
            experiment.model.load_state_dict(best["model"])
            settings, logger = self._config.trainer, self._config.logger
            pictures = isinstance(logger, Wandb) and logger.details == "all"
            trainer.begin_draws("test")
            pictures = pictures or not self._launch.sweep
            said, started = partial(logits_of, trainer), time.perf_counter()
            self._summary |= best_tested(experiment, settings, said, self._folder, pictures)
            self._test_s = time.perf_counter() - started

    def finish(self, outcome: dict[str, Any], asked: bool = False) -> None:
        """Write the final summary and the report, then tell the recorders that it is over.

        Args:
            outcome: status and error.
            asked: a signal asked for this end. The state within an epoch is kept.
        """
        with whole():
            self._keep_state(asked and self.trainer.current is not None)
            now = time.perf_counter()
            rows, trainer = self.trainer.rows, self.trainer
            timings = {
                "startup_s": self._train_started - self._started,
                "train_s": self._earlier_s + now - self._train_started,
                # of train_s; what is left is what the end took: hashes and the verdicts
                "steps_s": _seconds(rows, "steps_s"),
                "eval_s": _seconds(rows, "eval_s"),
                "save_s": _seconds(rows, "save_s") + trainer.saved_s,
                "test_s": self._test_s,
                "total_s": self._earlier_s + now - self._started,
            }
            ended = outcome["status"] in ("finished", "diverged")
            found = results(self.trainer, self._summary, ended)
            self._summary |= outcome | found | {"timings": timings}
            write(self._folder, self._summary)
            if asked:
                answered()  # whoever asked again meanwhile asked for this
        if not self._launch.sweep:
            write_report(self._folder)
        self._recorders.finish(self._summary)

    def _keep_state(self, of_now: bool) -> None:
        """Write what was put off, and the state within this epoch if that is wanted."""
        from lrexp.train.state import save_last, write_put_off

        try:
            write_put_off(self.trainer)
            if of_now:
                save_last(self.trainer, self.checkpoints)
        except OSError as error:
            log.warning("the state within this epoch could not be saved: %s", error)


def _seconds(rows: Sequence[dict[str, float]], what: str) -> float:
    """Of all epochs; a row of former versions does not say all."""
    return sum(row.get(f"perf/{what}", 0.0) for row in rows)
