"""Points as jobs of an engine: handed out, listened to, collected; a lost job is tried again."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from hydra.core.utils import JobStatus

from lrexp.config.errors import ConfigError, UserError, first_line
from lrexp.config.names import new_run_id
from lrexp.folder.layout import JOBS
from lrexp.folder.owner import Watched
from lrexp.grid.engines.job import Job, StoppedError, Told
from lrexp.grid.executors import Ended, Kind, kinds
from lrexp.grid.jobs import Session
from lrexp.grid.points.point import Point, read_summary
from lrexp.grid.pool.pool import run_packs
from lrexp.grid.pool.workers import Event
from lrexp.grid.settings import LauncherSettings
from lrexp.runs.resume import DONE
from lrexp.runs.sweep import MISSING, RUNNING
from lrexp.train.signals import whole

MOST_FOUND = 20  # times that a piece is handed out anew because another program had it
POLL_S = 1.0  # between two looks at jobs
CONNECT_S = 10.0  # that another machine may take to answer
SAVED_S = 30.0  # that jobs which are stopped may take to save their state
SHOWN_S = 90.0  # that a file system may take to show what another machine wrote
PACKAGES = {"joblib": "joblib", "submitit_local": "submitit", "slurm": "submitit", "ray": "ray"}
EXTRAS = {"submitit_local": "slurm"}  # where an engine has none of its own name


class LostError(Exception):
    """A job has ended without a result: its program was killed, or its machine has gone."""


class Engine(Protocol):
    """Runs jobs in other programs."""

    at_once: int | None  # jobs that it is given at a time; None: all, it has a queue of its own

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Hand out jobs; what each is known by. A UserError says why none can be."""
        ...

    def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
        """Those that have ended by now or within so long: each with its result, an exception of
        the job's own, or `LostError`."""
        ...

    def stop(self, known: Sequence[Any]) -> None:
        """Stop those that have not ended, and whatever the engine keeps running."""
        ...


def check_engine(settings: LauncherSettings) -> None:
    """Raise a ConfigError for an engine that is not to be had here."""
    if settings.engine is None:
        return
    package = PACKAGES[settings.engine]
    extra = EXTRAS.get(settings.engine, settings.engine)
    if find_spec(package) is None:
        hint = f"pip install 'lrexp[{extra}]'"
        raise ConfigError("hydra/launcher", f"needs {package}, which is not installed", hint)
    if settings.engine == "slurm" and shutil.which("sbatch") is None:
        hint = "start the sweep on a node that submits jobs; submitit_local runs them here"
        raise ConfigError("hydra/launcher", "needs SLURM: there is no sbatch here", hint)
    if settings.engine == "ray":
        _check_address(getattr(settings, "address", None) or os.environ.get("RAY_ADDRESS") or "")


def _check_address(address: str) -> None:
    """Raise a ConfigError when nobody listens at HOST:PORT, which Ray would try for minutes."""
    named = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    try:
        if named:
            socket.create_connection((named[1], int(named[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        hint = (
            "`ray start --head` begins a cluster; without an address the sweep has one of its own"
        )
        problem = f"is no Ray cluster that answers ({error})"
        raise ConfigError("hydra.launcher.address", problem, hint, address) from error


def engine_of(settings: Any, folder: Path) -> Engine:
    """The engine that settings choose. `folder` takes its own files."""
    if settings.engine == "joblib":
        from lrexp.grid.engines.joblib_jobs import Joblib

        return Joblib(settings)
    if settings.engine == "ray":
        from lrexp.grid.engines.ray_tasks import Ray

        return Ray(settings)
    from lrexp.grid.engines.submitit_jobs import Submitit

    return Submitit(settings, folder)


def on_engine(points: Sequence[Point], session: Session) -> Ended:
    """Each point as a job of its own, or with `hydra.launcher.members` as many as that together."""
    settings, folder = session.settings, session.folder / JOBS
    # whether they can train together is seen where they do: this machine may have no GPU
    alike = (Kind(points, largest=settings.members or 1) for points in kinds(points))
    packs = [pack for kind in alike for pack in kind.packs()]
    with Jobs(session, engine_of(settings, folder), folder) as jobs:
        yield from run_packs(packs, jobs, session)


def wait_for(folder: Path, at_most_s: float = SHOWN_S) -> None:
    """Wait until a file system shows the end of a point that has come to its end elsewhere."""
    until = time.monotonic() + at_most_s
    while time.monotonic() < until:
        if read_summary(folder)["status"] not in (MISSING, RUNNING):
            return
        with suppress(OSError):  # reading a folder has a network's file system look anew
            os.listdir(folder)
        time.sleep(POLL_S / 4)


@dataclass
class _Running:
    piece: Any
    told: Told


class Jobs:
    """Packs in, events out, as `lrexp.grid.pool.workers.Workers` has them; a context manager."""

    def __init__(self, session: Session, engine: Engine, folder: Path):
        self._session, self._engine, self._folder = session, engine, folder
        self._waiting: list[Any] = []
        self._running: dict[Any, _Running] = {}
        # what another job may be at, and how its own was lost; empty where none was
        self._elsewhere: list[tuple[Any, str]] = []
        self._watched, self._waits = Watched(), False
        self._found_held = Counter[int]()  # how often another program had a piece, by first point
        self._handed = False  # whether the engine has taken a job

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop(list(self._running))

    def put(self, piece: Any) -> None:
        """Let a job do `piece`, after those put before, and after whoever else may be at it."""
        if self._is_held(piece):
            self._elsewhere.append((piece, ""))
        else:
            self._waiting.append(piece)

    def events(self) -> Iterator[Event]:
        """What happens, until every piece that was put has come to its end."""
        while self._waiting or self._running or self._elsewhere:
            yield from self._submit()
            for known, result in self._engine.ended(list(self._running), POLL_S):
                job = self._running.pop(known)
                yield from _heard(job)
                job.told.remove()
                if isinstance(result, LostError | StoppedError):  # a lost job may still live
                    self._elsewhere.append((job.piece, f"is gone: {first_line(result)}"))
                elif isinstance(result, BaseException):
                    yield Event(job.piece, "raised", result)
                elif result is None:
                    self._elsewhere.append((job.piece, ""))
                else:
                    for point in job.piece[1]:  # what failed may have left no summary
                        if result[point.num].status == JobStatus.COMPLETED:
                            wait_for(self._session.folder / point.folder)
                    yield Event(job.piece, "returned", result)
            for job in self._running.values():
                yield from _heard(job)
            yield from self._look_elsewhere()

    def _is_held(self, piece: Any) -> bool:
        """Whether another program may be at one of the points; it takes a while to be sure not."""
        places = [self._session.folder / point.folder for point in piece[1]]
        held = [self._watched.alive(place) is not False for place in places]
        return any(held)

    def _look_elsewhere(self) -> Iterator[Event]:
        """Take what other programs have come to the end of; what they have left undone is put."""
        looked = [(*one, self._is_held(one[0])) for one in self._elsewhere]
        self._elsewhere = [(piece, lost) for piece, lost, held in looked if held]
        if self._elsewhere and not self._waits:
            nums = sorted(point.num for piece, _ in self._elsewhere for point in piece[1])
            self._session.say(f"wait   {numbered(nums)} may run in another job: waiting for it")
        self._waits = bool(self._elsewhere)
        for piece, lost in [(piece, lost) for piece, lost, held in looked if not held]:
            places = [self._session.folder / point.folder for point in piece[1]]
            if lost:
                yield Event(piece, "died", lost)
            elif all(read_summary(place)["status"] in DONE for place in places):
                yield Event(piece, "died", "has ended")  # with results
            elif self._found_held[piece[1][0].num] >= MOST_FOUND:
                said = "jobs find its folder in use again and again, and nobody is seen to hold it"
                yield Event(piece, "raised", UserError(said))
            else:
                self._found_held[piece[1][0].num] += 1
                self._waiting.append(piece)

    def _submit(self) -> Iterator[Event]:
        """Hand out what waits, as far as there is room for it.

        Raises:
            UserError: when none is taken, and none was before.
        """
        room = self._engine.at_once
        free = len(self._waiting) if room is None else max(0, room - len(self._running))
        pieces, self._waiting = self._waiting[:free], self._waiting[free:]
        if not pieces:
            return
        said_to = [self._folder / f"{new_run_id()}.jsonl" for _ in pieces]
        jobs = [
            Job(self._task, piece[1], file, self._path, self._session.folder)
            for piece, file in zip(pieces, said_to, strict=True)
        ]
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with whole():  # what has been handed out is known, and so is stopped with the sweep
                known = self._engine.submit(jobs)
                for one, piece, file in zip(known, pieces, said_to, strict=True):
                    self._running[one] = _Running(piece, Told(file))
        except Exception as error:
            name = self._session.settings.engine
            said = UserError(f"{name} takes no jobs: {first_line(error)}")
            refused = error if isinstance(error, UserError) else said
            if not self._handed:
                raise refused from error
            yield from (Event(piece, "raised", refused) for piece in pieces)
            return
        self._handed = True

    @cached_property
    def _task(self) -> Any:
        return self._session.task.for_job(self._session.settings.engine)

    @cached_property
    def _path(self) -> list[str]:
        return [folder or os.getcwd() for folder in sys.path]


def numbered(nums: Sequence[int]) -> str:
    """Points by their numbers.

    >>> numbered([3]), numbered([0, 1]), numbered([0, 1, 2, 5, 7])
    ('point 3', 'points 0, 1', 'points 0, 1, 2 and 2 more')
    """
    first = ", ".join(map(str, nums[: 3 if len(nums) > 4 else 4]))
    more = f" and {len(nums) - 3} more" if len(nums) > 4 else ""
    return f"point{'s' * (len(nums) > 1)} {first}{more}"


def _heard(job: _Running) -> Iterator[Event]:
    for message in job.told.news():
        yield Event(job.piece, "said", message)
