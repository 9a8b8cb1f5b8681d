"""Points in worker programs: several at a time, and one that is killed takes no other with it."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import OmegaConf, flag_override

from lrexp.config.errors import ConfigError, Terminated, out_of_memory
from lrexp.config.names import new_run_id, point_name
from lrexp.config.schema import meaning_of
from lrexp.folder.layout import SUMMARY
from lrexp.grid.executors import Ended, Session, run_pack, warning_on
from lrexp.grid.isolation import undisturbed
from lrexp.grid.jobs import Jobs
from lrexp.grid.points.point import Point, make_point, read_summary
from lrexp.grid.points.resume import set_aside
from lrexp.grid.pool import workers
from lrexp.grid.pool.in_worker import Place, Say, Work
from lrexp.grid.pool.workers import Workers
from lrexp.grid.settings import LauncherSettings
from lrexp.grid.stack.packing import halves

if TYPE_CHECKING:
    from lrexp.grid.live import PointRecorder
    from lrexp.record.recorders import RunInfo

log = logging.getLogger(__name__)

# What workers import before they start. None of it starts a thread or uses a GPU.
PRELOAD = (
    "lrexp.tasks.train",
    "lrexp.build.experiment",
    "lrexp.train.loop",
    "lrexp.grid.stack.trainer",
    "torch._dynamo",
)
DONE = ("finished", "diverged", "failed")
MEASURED_S = 0.3  # that workers train at a time while their speed is measured


def pool(points: Sequence[Point], session: Session) -> Ended:
    """Each by itself, several at a time in worker programs, on the CPU to the same bits.

    On GPUs `hydra.launcher.jobs_per_gpu` workers on each; on the CPU one per core, or
    `hydra.launcher.workers`, which share the cores.
    """
    where = places(session.settings, points)
    longest_first = sorted(points, key=lambda point: -point.work)
    with opened(session, points, where[: len(points)]) as running:
        yield from run_packs([[point] for point in longest_first], running, session)


def places(settings: LauncherSettings, points: Sequence[Point]) -> list[Place]:
    """Where workers run: on which GPU, or None for the CPU, and with how many threads."""
    import torch

    check_gpus(settings, points)
    devices = {str(point.settings.get("trainer.device")) for point in points}
    if torch.cuda.is_available() and devices <= {"auto", "cuda"}:
        gpus = settings.gpus or range(torch.cuda.device_count())
        threads = max(1, cores() // (len(gpus) * settings.jobs_per_gpu))
        return [Place(str(gpu), threads) for _ in range(settings.jobs_per_gpu) for gpu in gpus]
    named = torch.cuda.is_available() and devices != {"cpu"}  # a GPU of the user's own choice
    count = settings.jobs_per_gpu if named else settings.workers or cores()
    return [Place(None, max(1, cores() // count))] * count


def check_gpus(settings: LauncherSettings, points: Sequence[Point]) -> None:
    """Raise ConfigError for GPUs that the pool cannot use."""
    if settings.gpus is None:
        return
    import torch

    key, given = "hydra.launcher.gpus", settings.gpus
    device = next((str(p.settings.get("trainer.device")) for p in points), "auto")
    if device not in ("auto", "cuda"):
        raise ConfigError(
            key, f"does not go with trainer.device={device}", "trainer.device=cuda", given
        )
    there = torch.cuda.device_count()
    if max(given) >= there:
        hint = f"those that are there: {list(range(there))}" if there else "leave it out"
        raise ConfigError(key, "names a GPU that is not on this machine", hint, given)


def cores() -> int:
    """CPU cores that this program may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def opened(session: Session, points: Sequence[Point], where: Sequence[Place]) -> Iterator[Workers]:
    """Workers that run points of a session. Data that lie in memory are read here, for all."""
    import torch

    devices = {str(point.settings.get("trainer.device")) for point in points}
    if devices == {"cpu"} or not torch.cuda.is_available():
        distinct = {
            repr([kv for kv in p.settings.items() if meaning_of(kv[0]).reads]): p for p in points
        }
        for point in distinct.values():
            with warning_on(session.view, point.num):
                session.task.load_data(point.config)
    start = partial(start_worker, session.task.for_worker())
    with Workers(start, where, PRELOAD) as running:
        yield running


def run_packs(packs: Sequence[list[Point]], running: Workers, session: Session) -> Ended:
    """Run packs in workers; a point whose worker dies or has no memory left is tried again."""
    by_num = {point.num: point for points in packs for point in points}
    tries: Counter[int] = Counter()

    def again(points: Sequence[Point], why: str) -> list[Point]:
        """Those of the points that may be tried again; they are waiting now."""
        retried = [p for p in points if tries[p.num] < session.settings.retries]
        if retried:
            tries.update(p.num for p in retried)
            nums = ", ".join(str(p.num) for p in retried)
            session.say(f"retry  point{'s' * (len(retried) > 1)} {nums}: {why}")
            for part in halves(retried) if len(retried) > 1 else (retried,):
                for point in part:
                    _make_afresh(point, session)
                running.put(Run(list(part)))
        return retried

    for points in packs:
        running.put(Run(points))
    for event in running.events():
        if isinstance(event, workers.Said):
            _show(event.message, by_num, session)
        elif isinstance(event, workers.Ended) and not _was_stopped(event.error):
            ended = event.result or [(p.num, failed(p, event.error)) for p in event.piece.points]
            short = [n for n, returned in ended if _is_out_of_memory(returned)]
            waiting = again([by_num[n] for n in short], "there was not enough memory")
            yield from ((by_num[n], returned) for n, returned in ended if by_num[n] not in waiting)
        elif isinstance(event, workers.Died | workers.Ended):
            cause = event.cause if isinstance(event, workers.Died) else "stopped from outside"
            error = RuntimeError(f"worker {cause}")
            found = {p.num: read_summary(session.folder / p.folder) for p in event.piece.points}
            lost = [p for p in event.piece.points if found[p.num]["status"] not in DONE]
            waiting = again(lost, str(error))
            for point in event.piece.points:
                if point in lost and point not in waiting:
                    _record_failure(point, found[point.num], error, session)
                if point not in waiting:
                    yield point, failed(point, error) if point in lost else _done(point)


@dataclass(frozen=True)
class Run:
    """A piece of work: points that train together, or one by itself."""

    points: list[Point]

    def __call__(self, jobs: Jobs, task: Any) -> list[tuple[int, JobReturn]]:
        with undisturbed():
            ended = run_pack(self.points, jobs)
        for _, returned in ended:
            returned.cfg = returned.hydra_cfg = None
            if returned.status == JobStatus.FAILED:
                returned.return_value = _portable(returned._return_value)
        return [(point.num, returned) for point, returned in ended]


@dataclass(frozen=True)
class Measure:
    """A piece of work: train a few steps of points at a certain moment, and time them."""

    points: list[Point]
    at: float | None  # time.monotonic() to begin at; None: only get ready
    budget_s: float = MEASURED_S

    def __call__(self, jobs: Jobs, task: Any) -> tuple[int, float]:
        """This worker, and its member-steps per second; 0 when it got ready too late."""
        from lrexp.grid.stack.timing import clones, serial_steps_per_s, stacked_steps_per_s

        with undisturbed(), warning_on(task.view, self.points[0].num):
            seeds = [int(point.settings["seed"]) for point in self.points]
            trainers = clones(task.trainer(self.points[0].config), seeds)
            if self.at is None or time.monotonic() > self.at:
                return os.getpid(), 0.0
            time.sleep(max(0.0, self.at - time.monotonic()))
            if len(trainers) == 1:
                return os.getpid(), serial_steps_per_s(trainers[0], self.budget_s)
            return os.getpid(), stacked_steps_per_s(trainers, self.budget_s)


def measure_pool(running: Workers, points: list[Point], count: int) -> float:
    """Member-steps per second of so many workers at a time, each training these points.

    0 when it cannot be measured: a worker failed, or they are never ready at a time.
    """
    for moment in (None, 0.5, 5.0):
        at = None if moment is None else time.monotonic() + moment
        for _ in range(count):
            running.put(Measure(points, at))
        ended = [e for e in running.events() if isinstance(e, workers.Ended | workers.Died)]
        results = [e.result for e in ended if isinstance(e, workers.Ended) and e.result]
        if len(results) < count:
            return 0.0
        rates = {pid: rate for pid, rate in results if rate}
        if len(rates) == count:
            return sum(rates.values())
    return 0.0


def start_worker(task: Any, place: Place) -> Work:
    """What a worker does with its pieces; called in the worker."""
    from hydra import version
    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import setup_globals

    if place.device is not None:  # before anything looks for GPUs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpu = visible.split(",")[int(place.device)] if visible else place.device
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    version.setbase("1.3")
    setup_globals()
    OmegaConf.register_new_resolver("lrexp.point_name", point_name, replace=True)
    from lrexp.build import experiment as build
    from lrexp.grid.stack.allocator import keep_freed_memory

    keep_freed_memory()
    if place.threads:
        build.DEFAULT_THREADS = place.threads

    context: HydraContext | None = None

    def work(piece: Any, say: Say) -> Any:
        nonlocal context
        if context is None:
            callbacks = Callbacks(piece.points[0].config)
            context = HydraContext(None, callbacks)  # type: ignore[arg-type]
        task.view = RemoteView(say)
        jobs = Jobs(context, task, lambda point: say(("begin", point.num)))
        return piece(jobs, task)

    return work


class RemoteView:
    """Stands for the terminal's view in a worker: everything is said to the program that has it."""

    def __init__(self, say: Say):
        self._say = say

    def recorder(self, num: int, info: RunInfo, steps_done: Callable[[], int]) -> PointRecorder:
        """What takes the rows of a point that has begun."""
        from lrexp.grid.live import PointRecorder

        self._say(("describe", num, list(info.opening), info.steps, info.monitor))
        return PointRecorder(info, lambda row: self._say(("row", num, dict(row))))

    def warn(self, num: int, level: str, message: str) -> None:
        """A warning of a point."""
        self._say(("warn", num, level, message))

    def say(self, line: str) -> None:
        """A line about the grid."""
        self._say(("say", line))


def _show(message: tuple[Any, ...], by_num: dict[int, Point], session: Session) -> None:
    kind, *content = message
    if kind == "begin":
        session.jobs.begin(by_num[content[0]])
    else:
        getattr(session.view, kind)(*content)


def failed(point: Point, error: BaseException | None) -> JobReturn:
    """The end of a point that has none of its own."""
    returned = JobReturn(overrides=point.overrides, status=JobStatus.FAILED)
    returned.return_value = error
    return returned


def _done(point: Point) -> JobReturn:
    """The end of a point that was recorded before its worker died."""
    returned = JobReturn(overrides=point.overrides, status=JobStatus.COMPLETED)
    returned.return_value = None
    return returned


def _was_stopped(error: BaseException | None) -> bool:
    return isinstance(error, KeyboardInterrupt | Terminated)


def _is_out_of_memory(returned: JobReturn) -> bool:
    return returned.status == JobStatus.FAILED and out_of_memory(returned._return_value)


def _make_afresh(point: Point, session: Session) -> None:
    """Clear a point's folder, and give it another run_id: it is another run."""
    set_aside(session.folder, point)
    composed = point.config
    with flag_override(composed, ["struct", "readonly"], False):
        composed.run_id = new_run_id()
    point.composed = make_point(point.num, point.overrides, composed, point.case).composed


def _record_failure(
    point: Point, summary: dict[str, Any], error: Exception, session: Session
) -> None:
    """Say in a point's folder that it failed, as its worker no longer can."""
    from lrexp.folder.files import write_summary

    if (session.folder / point.folder / SUMMARY).is_file():
        said = f"{type(error).__name__}: {error}"
        write_summary(session.folder / point.folder, summary | {"status": "failed", "error": said})


def _portable(error: BaseException) -> BaseException:
    """An exception as it can be sent to another program."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
