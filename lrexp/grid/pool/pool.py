"""Points in worker programs: several at a time, and one that is killed takes no other with it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from hydra.core.utils import JobReturn, JobStatus

from lrexp.config.errors import ConfigError, out_of_memory
from lrexp.config.schema import meaning_of
from lrexp.folder.files import write_summary
from lrexp.folder.layout import SUMMARY
from lrexp.grid.executors import Ended, aside
from lrexp.grid.jobs import Session, failed_as, halves
from lrexp.grid.points.point import Point, read_summary
from lrexp.grid.points.resume import begin_anew, from_last_epoch, go_on
from lrexp.grid.pool.in_worker import Place, start_points
from lrexp.grid.pool.workers import Event, Workers
from lrexp.grid.settings import LauncherSettings
from lrexp.runs.sweep import ENDED, INTERRUPTED

# What workers import before they start. None of it starts a thread (pyarrow does) or uses a GPU.
PRELOAD = (
    "lrexp.grid.executors",
    "lrexp.grid.live",
    "lrexp.grid.stack.probe",
    "lrexp.tasks.opening",
    "lrexp.build.experiment",
    "lrexp.record.jsonl",
    "lrexp.record.predictions",
    "lrexp.folder.environment",
    "torch._dynamo",
)
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

    device = next((str(p.settings.get("trainer.device")) for p in points), "auto")
    there, problem, hint = torch.cuda.device_count(), "", ""
    if device not in ("auto", "cuda"):
        problem, hint = f"does not go with trainer.device={device}", "trainer.device=cuda"
    elif max(settings.gpus) >= there:
        problem = "names a GPU that is not on this machine"
        hint = f"those that are there: {list(range(there))}" if there else "leave it out"
    if problem:
        raise ConfigError("hydra.launcher.gpus", problem, hint, settings.gpus)


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
            with aside(session.view, point.num):
                session.task.load_data(point.config)
    start = partial(start_points, session.task.for_worker())
    with Workers(start, where, PRELOAD) as running:
        yield running


class Runs(Protocol):
    """What runs packs in other programs."""

    def put(self, piece: Any) -> None:
        """Let `piece` be done, after those put before."""
        ...

    def events(self) -> Iterator[Event]:
        """What happens, until every piece that was put has come to its end."""
        ...


def run_packs(packs: Sequence[list[Point]], running: Runs, session: Session) -> Ended:
    """Run packs in workers; a point whose worker dies or has no memory left is tried again.

    The first goes on from its last state, if it has one; the second begins anew.
    """
    tries: Counter[int] = Counter()
    for points in packs:
        running.put(("run", points))
    for event in running.events():
        if event.kind == "said":
            method, *arguments = event.content
            getattr(session.view, method)(*arguments)
            continue
        points, died = event.piece[1], event.kind == "died"
        if died:
            error = RuntimeError(f"worker {event.content}")
            ended = [_left_behind(point, error, session) for point in points]
        elif event.kind == "raised":
            ended = [failed_as(point, event.content) for point in points]
        else:
            ended = [event.content[point.num] for point in points]
        again = [
            point
            for point, end in zip(points, ended, strict=True)
            if end.status == JobStatus.FAILED
            and (died or out_of_memory(end._return_value))
            and tries[point.num] < session.settings.retries
        ]
        nums = [point.num for point in again]
        tries.update(nums)
        if again:
            why = f"worker {event.content}" if died else "there was not enough memory"
            going_on = 0
            for point in again:
                if not died:
                    begin_anew(session.folder, point)
                elif go_on(session.folder, point, session.say):
                    going_on += 1
                    place = session.folder / point.folder  # a job would run anew what failed
                    as_stopped = {"status": INTERRUPTED, "error": None}
                    write_summary(place, read_summary(place) | as_stopped)
            them = "" if len(nums) == 1 else f"{going_on} of them "
            said = f", {them}{from_last_epoch(going_on)}" if going_on else ""
            named = f"point{'s' * (len(nums) > 1)} {', '.join(map(str, nums))}"
            session.say(f"retry  {named}: {why}{said}")
            for part in halves(again) if len(again) > 1 else [again]:
                running.put(("run", list(part)))
        yield from ((p, end) for p, end in zip(points, ended, strict=True) if p.num not in nums)


def measure_pool(running: Workers, points: list[Point], count: int) -> float:
    """Member-steps per second of so many workers at a time, each training these points.

    0 when it cannot be measured: a worker failed, or they are never ready at a time.
    """
    for ready_s in (0.0, 0.5, 5.0):  # the first time they only get ready
        at = time.monotonic() + ready_s
        for _ in range(count):
            running.put(("steps_per_s", points, at, MEASURED_S))
        rates = [event.content for event in running.events() if event.kind == "returned"]
        if len(rates) < count:
            return 0.0
        if all(rates):
            return sum(rates)
    return 0.0


def _left_behind(point: Point, error: Exception, session: Session) -> JobReturn:
    """The end of a point whose worker died, as its folder has it; a failure is noted there."""
    folder = session.folder / point.folder
    summary = read_summary(folder)
    if summary["status"] in ENDED:
        returned = JobReturn(overrides=point.overrides, status=JobStatus.COMPLETED)
        returned.return_value = None
        return returned
    if (folder / SUMMARY).is_file():
        said = f"{type(error).__name__}: {error}"
        write_summary(folder, summary | {"status": "failed", "error": said})
    return failed_as(point, error)
