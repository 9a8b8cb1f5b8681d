"""A job: some points of a sweep, run in a program that an engine starts, on whatever machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import Terminated
from lrexp.folder.files import strict_json
from lrexp.grid.pool.in_worker import Place, start_points
from lrexp.train.signals import signals_stop

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

    from lrexp.grid.points.point import Point

TELLS = ("begin", "describe", "row", "say", "warn")  # methods of a view that a job may call


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
    """

    task: Any
    points: Sequence[Point]
    said: Path
    path: Sequence[str]

    def __call__(self) -> dict[int, JobReturn]:
        """What came of each point, by number.

        Raises:
            StoppedError: when SIGTERM ended it.
        """
        sys.path += [folder for folder in self.path if folder not in sys.path]
        self.said.parent.mkdir(parents=True, exist_ok=True)
        with self.said.open("a", encoding="utf-8", buffering=1) as file, _time_is_up() as requeue:

            def say(message: Sequence[Any]) -> None:
                file.write(strict_json(message) + "\n")

            try:
                with signals_stop():
                    return start_points(self.task, Place(), say)(("run", list(self.points)))
            except (Terminated, KeyboardInterrupt):
                requeue()
                raise StoppedError("it was asked to stop") from None

    def checkpoint(self) -> Any:
        """For submitit, when a job's time is up: the same job goes on in another."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _time_is_up() -> Iterator[Callable[[], None]]:
    """Let SIGUSR2, where submitit listens to it, stop the runs as SIGTERM does.

    What is yielded asks submitit for another job, once the runs have saved their state; it does
    nothing when it was another signal.
    """
    before, came = signal.getsignal(signal.SIGUSR2), list[int]()
    if not callable(before):
        yield lambda: None
        return

    def stop(number: int, _: Any) -> None:
        came.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    def requeue() -> None:
        if came:
            before(came[0], None)

    signal.signal(signal.SIGUSR2, stop)
    try:
        yield requeue
    finally:
        signal.signal(signal.SIGUSR2, before)


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
            method, *arguments = json.loads(line)
            if method in TELLS:
                yield [method, *arguments]

    def remove(self) -> None:
        """Remove the file: its job has ended."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
