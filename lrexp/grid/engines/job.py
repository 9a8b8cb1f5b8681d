"""A job: some points of a sweep, run in a program that an engine starts, on whatever machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from lrexp.config.errors import Terminated
from lrexp.folder.claim import InUseError, owned
from lrexp.folder.files import strict_json
from lrexp.folder.layout import OF_CLAIM
from lrexp.folder.owner import Watched
from lrexp.grid.points.point import Point, read_summary
from lrexp.grid.points.resume import make_ready
from lrexp.grid.pool.in_worker import Place, Work, set_threads, start_points
from lrexp.runs.reading import json_of
from lrexp.runs.resume import DONE
from lrexp.train.signals import signals_stop

TELLS = ("begin", "describe", "over", "row", "say", "warn")  # methods of a view that a job may call


LOOK_S = 0.2  # between two looks at owners


class StoppedError(Exception):
    """A job was asked to stop from outside, and has saved its state."""


@dataclass(frozen=True)
class Job:
    """What an engine calls. Called again after it was stopped or killed, it goes on.

    Args:
        task: of the session's points; see `lrexp.session.points.Points.for_worker`.
        points: that train together, or one.
        said: a file that takes a line of JSON for everything that people should see: the method of
            the session's view and its arguments.
        path: where Python looks for modules in the session's program.
        folder: the sweep's.
        threads: of torch, OpenMP and BLAS; None: as they are where it runs.
    """

    task: Any
    points: Sequence[Point]
    said: Path
    path: Sequence[str]
    folder: Path
    threads: int | None = None

    def __call__(self) -> dict[int, JobReturn] | None:
        """What came of each point, by number; None where another job that lives runs one of them.

        What has a result already is not run again, what was stopped goes on, and what failed runs
        anew.

        Raises:
            StoppedError: when SIGTERM ended it.
        """
        sys.path += [folder for folder in self.path if folder not in sys.path]
        self.said.parent.mkdir(parents=True, exist_ok=True)
        with self.said.open("a", encoding="utf-8", buffering=1) as file:

            def say(message: Sequence[Any]) -> None:
                file.write(strict_json(message) + "\n")

            try:
                with signals_stop(), ExitStack() as held:
                    set_threads(self.threads)
                    place = Place(threads=self.threads)
                    # a copy: the job itself may be sent to another program once it is stopped
                    work = start_points(copy(self.task), place, say)
                    places = [self.folder / point.folder for point in self.points]
                    watched = judged(places)
                    for place in places:
                        held.enter_context(owned(place, watched))
                    return self._run(work, lambda line: say(("say", line)))
            except InUseError:
                return None
            except (Terminated, KeyboardInterrupt):
                raise StoppedError("it was asked to stop") from None

    def _run(self, work: Work, say: Callable[[str], object]) -> dict[int, JobReturn]:
        """Run what has no result, in folders that nobody else writes to."""
        places = {point.num: self.folder / point.folder for point in self.points}
        status = {num: read_summary(place)["status"] for num, place in places.items()}
        ended = {
            point.num: JobReturn(point.overrides, status=JobStatus.COMPLETED)
            for point in self.points
            if status[point.num] in DONE
        }
        todo = [point for point in self.points if point.num not in ended]
        begun = [
            point
            for point in todo
            if any(path.name not in OF_CLAIM for path in places[point.num].iterdir())
        ]
        make_ready(self.folder, begun, status.__getitem__, say)
        return ended | (work(("run_stacked" if len(todo) > 1 else "run", todo)) if todo else {})


def judged(places: Sequence[Path]) -> Watched:
    """What looking again and again tells of folders' owners: of all at a time, where a lost host
    held them, instead of one after the other. It ends at the first whose owner lives."""
    watched = Watched()
    while None in (alive := [watched.alive(place) for place in places]) and True not in alive:
        time.sleep(LOOK_S)
    return watched


class Told:
    """Reads what a job has said so far, line by line."""

    def __init__(self, file: Path):
        self._file, self._at = file, 0

    def news(self) -> Iterator[list[Any]]:
        """Methods of a view with their arguments, since the last time."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._at)
                read = file.read()
        except OSError:  # it has not begun
            return
        whole = read[: read.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            try:
                method, *arguments = json_of(line.decode())
            except ValueError:  # a program that was killed left part of it
                continue
            if method in TELLS:
                yield [method, *arguments]

    def remove(self) -> None:
        """Remove the file: its job has ended."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
