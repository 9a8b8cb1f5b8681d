"""Worker processes: pieces of work in, what came of each out, whatever happens to a worker.

Workers are forked from a server that has imported what they need and nothing else: it has no
threads, no CUDA and no W&B, so that forking is safe, and a worker starts in milliseconds. Each has
one line (a `multiprocessing.Pipe`) to this program, whose end says that the worker is gone.

CPU tensors travel as torch sends them, in shared memory whose name is gone at once (torch's
`file_descriptor` strategy, its default on Linux): a killed worker leaves nothing in /dev/shm. What
many pieces share, such as a data set, belongs into `start`, which is sent once per worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any, NamedTuple, cast

from lrexp.grid.pool import in_worker
from lrexp.grid.pool.in_worker import STOPPED, THREADS, Place, Start, work_on_pieces
from lrexp.train.signals import whole

NOTHING: Any = object()  # no piece: None is one


class Event(NamedTuple):
    """What happened to a piece."""

    piece: Any
    kind: str  # said; and in the end one of returned, raised, died
    content: Any  # the message; the result, the exception, what became of the worker in words


@dataclass
class _Worker:
    process: Any
    line: Connection
    place: Place
    piece: Any = NOTHING


class Workers:
    """At most one worker per place, started when a piece waits for it, replaced when it dies.

    Use it as a context manager: when it closes, no worker is left.

    Args:
        start: makes the function that works on pieces, in the worker.
        places: where workers run, one each. The first ones are taken first.
        preload: modules to import before a worker exists. Those may start no thread, use no GPU.
        patience_s: how long a worker may take to end after it was asked to; it is killed then.
    """

    def __init__(
        self,
        start: Start,
        places: Sequence[Place],
        preload: Sequence[str] = (),
        patience_s: float = 10.0,
    ):
        self._start, self._preload, self._patience_s = start, preload, patience_s
        self._free = list(places)
        self._waiting: deque[Any] = deque()  # pieces
        self._workers: dict[Connection, _Worker] = {}

    def __enter__(self) -> Workers:
        start_server(self._preload, self._free[0])  # it imports while this program goes on
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, piece: Any) -> None:
        """Let a worker do `piece`, after those put before."""
        self._waiting.append(piece)

    def events(self) -> Iterator[Event]:
        """What happens, until every piece that was put has come to its end."""
        while self._waiting or any(w.piece is not NOTHING for w in self._workers.values()):
            yield from self._assign()
            for line in wait(list(self._workers)):
                yield from self._hear(self._workers[cast("Connection", line)])

    def stop(self) -> None:
        """End all workers; what they still say is lost.

        Those that work get one SIGTERM, which raises `Terminated` in them. After `patience_s` they
        are killed; so they are at once when the waiting here is interrupted (a second Ctrl-C).
        """
        self._waiting.clear()
        workers = list(self._workers.values())
        self._workers.clear()
        try:
            for worker in workers:
                worker.line.close()
                worker.process.terminate()
            until = time.monotonic() + self._patience_s
            for worker in workers:
                worker.process.join(max(0.0, until - time.monotonic()))
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.join()
                self._free.append(worker.place)

    def _assign(self) -> Iterator[Event]:
        """Give waiting pieces to idle workers, then to new ones."""
        # An idle one says nothing: when there is something to hear, it is that it has gone.
        idle = [w for w in self._workers.values() if w.piece is NOTHING and not w.line.poll()]
        while self._waiting and (idle or self._free):
            piece = self._waiting.popleft()
            try:
                worker = idle.pop(0) if idle else self._new_worker()
            except (OSError, EOFError) as error:
                yield Event(piece, "died", f"could not be started: {error!r}")
                continue
            worker.piece = piece
            with suppress(OSError):  # that it is gone, the end of its line tells
                worker.line.send(piece)

    def _new_worker(self) -> _Worker:
        ends: Any = multiprocessing.Pipe()
        ours, theirs = ends
        place = self._free[0]
        start_server(self._preload, place)  # if the last one was killed
        process = multiprocessing.get_context("forkserver").Process(
            target=work_on_pieces, args=(theirs, place, dict(os.environ), self._patience_s)
        )
        with whole():
            with _without_main():
                process.start()
            self._workers[ours] = worker = _Worker(process, ours, self._free.pop(0))
        theirs.close()
        with suppress(OSError):
            ours.send_bytes(ForkingPickler.dumps(self._start))
        return worker

    def _hear(self, worker: _Worker) -> Iterator[Event]:
        """What a worker says, or that it has gone."""
        piece = worker.piece
        try:
            kind, content = worker.line.recv()
        except (EOFError, OSError):
            kind, content = "died", self._bury(worker)
        if kind != "said":
            worker.piece = NOTHING
        if piece is not NOTHING:
            yield Event(piece, kind, content)

    def _bury(self, worker: _Worker) -> str:
        """Make room for another worker. Returns what became of this one."""
        del self._workers[worker.line]
        worker.line.close()
        worker.process.join(self._patience_s)
        worker.process.kill()
        worker.process.join()
        self._free.insert(0, worker.place)
        return _exit_in_words(worker.process.exitcode)


def start_server(preload: Sequence[str], place: Place) -> None:
    """Start the fork server if none runs.

    It searches modules where this program does, not in the folder it is started in.
    """
    multiprocessing.set_forkserver_preload(["lrexp.grid.pool.fork_server"])
    before, path = dict(os.environ), [folder or os.getcwd() for folder in sys.path]
    modules = " ".join([in_worker.__name__, *preload])
    os.environ.update(PYTHONPATH=os.pathsep.join(path), PYTHONSAFEPATH="1", LREXP_PRELOAD=modules)
    if place.threads:
        os.environ.update(dict.fromkeys(THREADS, str(place.threads)))  # read by what it imports
    try:
        with whole():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Let a worker not run the program's own file: one that asks for a sweep would ask anew."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _exit_in_words(code: int) -> str:
    """`ended with exit code 3`, `killed by signal 9 (SIGKILL)`."""
    if code == STOPPED:
        return "stopped from outside"
    if code >= 0:
        return f"ended with exit code {code}"
    names = {known.value: f" ({known.name})" for known in signal.Signals}
    return f"killed by signal {-code}{names.get(-code, '')}"
