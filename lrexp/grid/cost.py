"""What points would take, from a few real steps and epochs of each kind; nothing is kept."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.check import check
from lrexp.config.compose import without_hydra
from lrexp.config.schema.training import NoLogger
from lrexp.grid.auto import POOL_START_S, looked_at, pool_may_pay, pool_pays, pool_rates
from lrexp.grid.executors import Kind, kinds, look, try_stacking
from lrexp.grid.isolation import undisturbed
from lrexp.grid.jobs import Session
from lrexp.grid.points.point import Point
from lrexp.grid.pool.pool import opened, places
from lrexp.grid.settings import LauncherSettings
from lrexp.tasks.opening import Launch

if TYPE_CHECKING:
    from lrexp.judge.epoch import Row
    from lrexp.train.loop import Trainer

EPOCHS = 2  # of a run that is timed whole, a step each; the first one warms up
SHORT_S = 2.0  # a whole run that took less is timed again: what the first one imports is no measure
KINDS = 12  # that are timed; others are taken to be like the one before
STEP_S = 0.05  # that the timed steps between two changes of what trains take
SECTIONS = ("model.", "data.", "trainer.", "loss.", "optimizer.name")  # evaluation depends on them


@dataclass(frozen=True)
class Cost:
    """What points take, as far as a timed probe tells."""

    points: int
    run_s: float  # one by itself in this program, the mean: training, evaluation, files
    total_s: float  # all of them, as they would be run
    way: str  # how that is: `serial`, `stacked, 16 together`, `a pool of 2 workers`
    images: int = 0  # of the split that decides, test or else val; groups where they come in such


@dataclass(frozen=True)
class _Beside:
    """What a run takes beside its steps."""

    once_s: float  # it is built, tested, concluded
    epoch_s: float  # an epoch is evaluated, judged and recorded


def cost(points: Sequence[Point], session: Session) -> Cost:
    """What it would take to run points that train, each of them counted.

    A run is timed whole, training, evaluation and files, with epochs of one step; then a few steps
    for every change of what trains; both are extrapolated. Where the session's settings leave it
    to `executor=auto`, its own timing chooses. W&B and the program's start are not counted.

    Args:
        points: composed; what may train together is known (see `find_equal`).
        session: whose settings say how they are run. Its view is not used.

    Raises:
        Exception: what keeps the first point from being built.
    """
    task, view = session.task, session.view
    task.view = _Silent()
    try:
        with undisturbed(), tempfile.TemporaryDirectory() as folder:
            return _cost(points, session, Path(folder))
    finally:
        task.view = view


def cost_line(found: Cost, counted: str = "runs") -> str:
    """What points take, in a line.

    >>> cost_line(Cost(16, 1.2, 8.0, "stacked, 8 together"))
    '16 runs take about 8s here and now (stacked, 8 together; one by itself 1.2 s)'
    """
    from lrexp.grid.live import duration

    took = f"{found.run_s:.2g}" if found.run_s < 10 else f"{found.run_s:.0f}"
    whole = f"{found.points} {counted} take about {duration(max(1, found.total_s))} here and now"
    return f"{whole} ({found.way}; one by itself {took} s)"


def _cost(points: Sequence[Point], session: Session, folder: Path) -> Cost:
    settings = session.settings
    if settings.engine:  # what its machines are and how many, nobody knows here
        here = "stacked" if (settings.members or 1) > 1 else "serial"
        alone = LauncherSettings(here, members=settings.members)
        found = _cost(points, replace(session, settings=alone), folder)
        way = (
            f"{found.way}, if it ran here; {settings.engine} runs jobs elsewhere, several at a time"
        )
        return replace(found, way=way)
    executor = settings.executor
    found = _found(points, session) if len(points) > 1 else [Kind(list(points))]
    beside: dict[str, _Beside] = {}
    every, latest = -(-len(found) // KINDS), (0.0, 0.0)
    alone_s = together_s = 0.0
    for i, kind in enumerate(found):
        if i % every == 0:
            latest = _of_kind(kind, session, folder / str(i), beside)
        alone_s += latest[0] * len(kind.points)
        together_s += latest[1] * len(kind.points)
    most = max(_members(kind, executor) for kind in found)
    way = f"stacked, {most} together" if most > 1 else "serial"
    images = _images(session.task.trainer(points[0].config))
    here = Cost(len(points), alone_s / len(points), together_s, way, images)
    where = places(session.settings, points)[: len(points)]
    seconds, count = sum(kind.seconds for kind in found), len(where)
    may = executor == "pool" or (executor == "auto" and pool_may_pay(seconds, len(points), count))
    if len(points) > 1 and may:
        with opened(session, points, where) as workers:
            rate, there = pool_rates(workers, count, found)
        pays = executor == "pool" or pool_pays(seconds, len(points), count, rate, there)
        if there and pays:
            steps_s = min(seconds, together_s)
            total_s = POOL_START_S + steps_s * rate / there + (together_s - steps_s) / count
            return replace(here, total_s=total_s, way=f"a pool of {count} workers")
    return here


def _found(points: Sequence[Point], session: Session) -> list[Kind]:
    """The kinds of the points, looked at as far as the executor that is asked for does."""
    executor, alike = session.settings.executor, kinds(points)
    if executor == "auto":
        return looked_at(alike, session)
    if executor == "stacked":
        return [try_stacking(look(one, session), session) for one in alike]
    found = looked_at(alike, session) if executor == "pool" else [Kind(one) for one in alike]
    return [replace(kind, largest=1, stacked=None) for kind in found]


def _members(kind: Kind, executor: str) -> int:
    """How many points of a kind would train together."""
    return min(kind.largest, len(kind.points)) if executor == "stacked" else kind.together


def _of_kind(
    kind: Kind, session: Session, folder: Path, beside: dict[str, _Beside]
) -> tuple[float, float]:
    """Seconds that a point of a kind takes by itself, and as it would be run.

    `beside` knows what runs of the same model and data take beside their steps; it grows.
    """
    from lrexp.grid.stack.probe import clones, steps_per_s

    first = kind.points[0]
    trainer, seed = session.task.trainer(first.config), int(first.settings["seed"])
    epochs, per_epoch = _epochs(trainer), len(trainer.groups())
    step_s = {
        turn: _step_s(clones(trainer, [seed])[0], turn)
        for turn in (trainer.experiment.plan.turns(epochs) if per_epoch else ())
    }
    settings = [kv for kv in first.settings.items() if kv[0].startswith(SECTIONS)]
    job = json.dumps([settings, sorted(trainer.experiment.plan.measured)], default=str)
    if job not in beside:
        beside[job] = _beside(first, session, folder, step_s.get(0, 0.0))
    known, ends = beside[job], [*list(step_s)[1:], epochs]
    steps_s = per_epoch * sum(
        (end - turn) * taken for (turn, taken), end in zip(step_s.items(), ends, strict=False)
    )
    alone_s = known.once_s + epochs * known.epoch_s + steps_s
    members = _members(kind, session.settings.executor)
    if members == 1 or not per_epoch:
        return alone_s, alone_s
    seeds = [int(point.settings["seed"]) for point in kind.packs(members)[0]]
    stacked_s = 1 / steps_per_s(clones(trainer, seeds), STEP_S)
    epoch_s = _stacked_epoch_s(clones(trainer, seeds), folder) - stacked_s
    together_s = known.once_s + epochs * max(0.0, epoch_s) + steps_s * stacked_s / step_s[0]
    return alone_s, together_s


def _images(trainer: Trainer) -> int:
    data = trainer.experiment.dataset
    split = data.val if data.test is None else data.test
    return len(split) if split.groups is None else len(set(split.groups.tolist()))


def _epochs(trainer: Trainer) -> int:
    """How many there will be, at least the evaluation of a network as it is."""
    return math.ceil(len(trainer.experiment.schedule) / max(1, len(trainer.groups()))) or 1


def _step_s(trainer: Trainer, finished: int) -> float:
    """Seconds of a step after so many finished epochs; uses the trainer up.

    What a policy measures before an epoch is not in it.
    """
    from lrexp.grid.stack.probe import TIMED_STEPS, WARM_STEPS
    from lrexp.train.state import Epoch

    def timed(steps: int) -> float:
        trainer.settings.limit_train_batches = steps * trainer.settings.accumulate
        trainer.epoch, trainer.step = finished, 0
        trainer.begin_epoch()
        trainer.current = Epoch(0)
        started = time.perf_counter()
        trainer.train_epoch()
        return (time.perf_counter() - started) / trainer.step

    step_s = timed(WARM_STEPS)
    return min(timed(max(TIMED_STEPS, round(STEP_S / step_s))) for _ in range(2))


def _beside(point: Point, session: Session, folder: Path, step_s: float) -> _Beside:
    """What a run takes beside steps of `step_s`: one, from start to summary, that is cut short."""
    from lrexp.tasks.train import open_training

    resolved, config = check(without_hydra(point.config))
    config = replace(config, logger=NoLogger("none"))
    while True:
        folder = folder / "whole"
        folder.mkdir(parents=True)
        launch = Launch(
            folder=folder,
            overrides=[],
            title="",
            sweep=folder.name,
            datasets=session.task.datasets,
            terminal=lambda info, steps: _Silent(),
        )
        begun = time.perf_counter()
        run = open_training(resolved, config, launch, [])
        _shorten(run.trainer)
        with run.recorded():
            times = _Times(run)
            run.trainer.run(times, run.checkpoints)
        whole_s = time.perf_counter() - begun
        if whole_s > SHORT_S or folder.parent.name == "whole":
            trained_s = times.at[-1] - times.at[0]
            return _Beside(whole_s - trained_s, max(0.0, times.at[-1] - times.at[-2] - step_s))


def _stacked_epoch_s(trainers: Sequence[Trainer], folder: Path) -> float:
    """Seconds per member of an epoch of one step, evaluated and recorded; uses the trainers up."""
    from lrexp.grid.stack.trainer import StackedTrainer

    for trainer in trainers:
        _shorten(trainer)
    times = _Times(_Silent())
    folders = [folder / f"member{i}" for i in range(len(trainers))]
    for own in folders:
        own.mkdir(parents=True)
    StackedTrainer(trainers).run([times] * len(trainers), folders, [None] * len(trainers))
    return (times.at[-1] - times.at[-1 - len(trainers)]) / len(trainers)


def _shorten(trainer: Trainer) -> None:
    """Leave a few epochs of one step each."""
    one = trainer.settings.accumulate  # batches
    trainer.settings = replace(trainer.settings, limit_train_batches=one, patience=None, stop_on=[])
    few = trainer.experiment.schedule[:EPOCHS]
    trainer.experiment = replace(trainer.experiment, schedule=few)


class _Times:
    """When training began, and when each row was recorded."""

    def __init__(self, record: Any):
        self._record, self.at = record, [time.perf_counter()]

    def row(self, row: Row) -> None:
        """One epoch."""
        self._record.row(row)
        self.at.append(time.perf_counter())


class _Silent:
    """Takes the place of a view or a recorder, and shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None
