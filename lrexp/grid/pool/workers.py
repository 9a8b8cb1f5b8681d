"""Worker processes: pieces of work in, what came of each out, whatever happens to a worker.

Workers are forked from a server that has imported what they need and nothing else: it has no
threads, no CUDA and no W&B, so that forking is safe, and a worker starts in milliseconds.

Each worker has one line (a socket) to this program, and ends when the line does: an idle one at
once, one that works after a SIGTERM that it sends itself. So none outlives a program that is
killed. Workers are in process groups of their own: Ctrl-C reaches this program alone, which then
asks each worker once. This is the session's end of the lines, in_worker.py the other one.

CPU tensors travel as torch sends them, in shared memory whose name is gone at once (torch's
`file_descriptor` strategy, its default on Linux): a killed worker leaves nothing in /dev/shm, and
each shared storage takes one open file in each program that holds it. What many pieces share, such
as a data set, belongs into `start`, which is sent once per worker.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler
from queue import Empty, SimpleQueue
from typing import Any

from lrexp.grid.pool import in_worker
from lrexp.grid.pool.in_worker import (
    LENGTH,
    STOPPING,
    THREADS,
    Place,
    Setting,
    Start,
    in_words,
    work_on_pieces,
)

READ_BYTES = 1 << 20
SERVER_GONE = 255  # what multiprocessing reports when nobody is left who knows the exit code


@dataclass(frozen=True)
class Begun:
    piece: Any
    worker: int  # index of its place
    pid: int


@dataclass(frozen=True)
class Said:
    piece: Any
    worker: int
    message: Any


@dataclass(frozen=True)
class Ended:
    """The work on a piece returned or raised. `error` carries its traceback as a note."""

    piece: Any
    worker: int
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Died:
    """The worker ended while it had the piece, or none could be started for it."""

    piece: Any
    worker: int
    exit_code: int | None  # minus the number of the signal that killed it; None: not known
    cause: str  # the same in words


Event = Begun | Said | Ended | Died


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
        if not places:
            raise ValueError("workers need at least one place")
        self._start, self._places, self._preload = start, tuple(places), tuple(preload)
        self._patience_s = patience_s
        self._waiting: deque[Any] = deque()  # pieces
        self._workers: dict[int, _Worker] = {}  # by place
        self._events: SimpleQueue[Event | BaseException | None] = SimpleQueue()
        self._unfinished = 0  # pieces put whose end `events` has not told
        self._stop_at: float | None = None  # when those still alive are killed, by time.monotonic
        self._bell: list[socket.socket] = []  # rung by writing into the first, heard at the last
        # Only this thread touches workers and lines: a signal, which interrupts the main thread
        # wherever it is, can neither lose a worker nor tear a message.
        self._thread = threading.Thread(target=self._serve, name="workers", daemon=True)
        self._ended = threading.Event()  # Thread.join takes an interrupted wait for the end

    def __enter__(self) -> Workers:
        try:
            self._bell.extend(socket.socketpair())
            self._bell[0].setblocking(False)
            _start_server(self._preload, self._places)
            atexit.register(self.stop)
            self._thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            atexit.unregister(self.stop)
            for end in self._bell:
                end.close()

    def put(self, piece: Any) -> None:
        """Let a worker do `piece`, after those put before. It is pickled when its turn comes."""
        self._unfinished += 1
        self._waiting.append(piece)
        self._wake()

    def events(self) -> Iterator[Event]:
        """What happens, until every piece that was put has one `Ended` or one `Died`.

        Those of one piece come in the order Begun, Said, Ended or Died. A worker that ends in
        `start` gives no Begun.
        """
        while self._unfinished:
            event = self._events.get()
            if event is None:  # stopped
                return
            if isinstance(event, BaseException):
                raise event
            self._unfinished -= isinstance(event, (Ended, Died))
            yield event

    def stop(self) -> list[Event]:
        """End all workers; pieces that no worker has begun are dropped.

        Those that work get a SIGTERM, which raises `Terminated` in them unless the work itself
        handles it. After `patience_s` they are killed; so they are at once when the waiting here is
        interrupted (a second Ctrl-C).

        Returns:
            The events that `events` has not told, among them the ends of what was worked on.
        """
        try:
            if self._stop_at is None:
                self._stop_at = time.monotonic() + self._patience_s
            self._wake()
            self._wait_until_ended()
        except BaseException:
            self._stop_at = 0.0
            self._wake()
            self._wait_until_ended()
            raise
        left: list[Event] = []
        with suppress(Empty):
            while True:
                event = self._events.get_nowait()
                if isinstance(event, Event):
                    left.append(event)
        self._events.put(None)
        return left

    def _wait_until_ended(self) -> None:
        if self._thread.ident is not None:
            self._ended.wait()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it will wake anyway; closed: nobody is there to wake
            for end in self._bell[:1]:
                end.send(b"\0")

    # What follows runs in the thread.

    def _serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # a new fork server would inherit it
        try:
            while self._stop_at is None or self._workers:
                if self._stop_at is None:
                    self._assign()
                else:
                    self._dismiss(self._stop_at)
                self._wait()
        except BaseException as error:  # a fault of this file: the caller must not wait for ever
            self._events.put(error)
            for worker in self._workers.values():
                worker.process.kill()
        finally:
            self._events.put(None)
            self._ended.set()

    def _assign(self) -> None:
        """Give waiting pieces to idle workers, then to new ones."""
        here = [self._workers[place] for place in sorted(self._workers)]
        idle = [worker for worker in here if worker.piece is NOTHING and not worker.lost]
        free = [place for place in range(len(self._places)) if place not in self._workers]
        while self._waiting and (idle or free):
            piece = self._waiting.popleft()
            place = idle[0].place if idle else free[0]
            try:
                data = bytes(ForkingPickler.dumps(piece))
            except Exception as error:
                problem = RuntimeError(f"the piece cannot be pickled: {in_words(error)}")
                self._events.put(Ended(piece, place, error=problem))
                continue
            if not idle:
                free.pop(0)
                try:
                    idle = [self._new_worker(place)]
                except Exception as error:
                    cause = f"no worker could be started: {in_words(error)}"
                    self._events.put(Died(piece, place, None, cause))
                    continue
            idle.pop(0).give(piece, data)

    def _new_worker(self, place: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                setting = Setting(
                    place=self._places[place],
                    start=bytes(ForkingPickler.dumps(self._start)),
                    preload=self._preload,
                    environment=dict(os.environ),
                    main=_main_package(),
                    patience_s=self._patience_s,
                )
                process = _fork(theirs, setting)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._workers[place] = worker = _Worker(place, process, ours)
        return worker

    def _dismiss(self, kill_at: float) -> None:
        """End every line; kill those that are still there at `kill_at`."""
        for worker in self._workers.values():
            worker.hang_up()
            if time.monotonic() >= kill_at:
                worker.process.kill()

    def _wait(self) -> None:
        """Wait until something comes, goes or is asked for, and handle it."""
        timeout = None
        if self._stop_at is not None:
            timeout = max(self._stop_at - time.monotonic(), 0.0) or 1.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell[-1], selectors.EVENT_READ)
            for worker in self._workers.values():
                selector.register(worker.process.sentinel, selectors.EVENT_READ)
                if not worker.lost:
                    writing = selectors.EVENT_WRITE if worker.unsent else 0
                    selector.register(worker.line, selectors.EVENT_READ | writing)
            ready = {key.fileobj: events for key, events in selector.select(timeout)}
        if self._bell[-1] in ready:
            self._bell[-1].recv(4096)
        for worker in list(self._workers.values()):
            events = ready.get(worker.line, 0)
            if events & selectors.EVENT_WRITE:
                worker.write()
            if events & selectors.EVENT_READ:
                self._hear(worker)
            if worker.process.sentinel in ready:
                self._bury(worker)

    def _hear(self, worker: _Worker) -> None:
        """Turn the messages that have come into events."""
        for kind, payload, text in worker.read():
            piece, place = worker.piece, worker.place
            if kind == "begun":
                worker.begun = True
                self._events.put(Begun(piece, place, worker.process.pid or 0))
                continue
            try:
                content = pickle.loads(payload) if payload else RuntimeError(text)
            except Exception as error:
                content = RuntimeError(f"{text} (not readable here: {in_words(error)})")
                kind = "said" if kind == "said" else "raised"
            if kind == "said":
                self._events.put(Said(piece, place, content))
                continue
            begun, worker.begun = worker.begun, False
            worker.piece, worker.proven = NOTHING, True
            if begun or self._stop_at is None:
                ended = {"error": content} if kind == "raised" else {"result": content}
                self._events.put(Ended(piece, place, **ended))

    def _bury(self, worker: _Worker) -> None:
        """A worker is gone: read what it had sent, and say what became of its piece."""
        code = worker.process.exitcode
        while not worker.lost and worker.arrived():
            self._hear(worker)
        cause = _exit_in_words(code or 0)
        if code == SERVER_GONE and not worker.lost and worker.process.pid:
            # It may well be alive, without anybody who would know.
            cause, code = "its fork server was killed", None
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGKILL)
        worker.line.close()
        worker.process.close()
        del self._workers[worker.place]
        if worker.piece is NOTHING:
            return
        if worker.begun or (not worker.proven and self._stop_at is None):
            self._events.put(Died(worker.piece, worker.place, code, cause))
        elif self._stop_at is None:  # it died idle, before it looked at the piece
            self._waiting.appendleft(worker.piece)


NOTHING: Any = object()  # no piece: None is one


class _Worker:
    """A worker as this program sees it: its process, its line and the piece it has."""

    def __init__(self, place: int, process: Any, line: socket.socket):
        self.place, self.process, self.line = place, process, line
        self.piece: Any = NOTHING
        self.begun = False  # with this piece
        self.proven = False  # it has ended a piece
        self.lost = False  # nothing more can come over the line
        self.unsent = memoryview(b"")
        self._unread = bytearray()
        self._hung_up = False

    def give(self, piece: Any, data: bytes) -> None:
        self.piece, self.unsent = piece, memoryview(LENGTH.pack(len(data)) + data)
        self.write()

    def write(self) -> None:
        """Send as much as the line takes now. That the other end is gone, its process tells."""
        try:
            self.unsent = self.unsent[self.line.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = memoryview(b"")

    def hang_up(self) -> None:
        """Ask the worker to end. What it still says can be read."""
        if not self._hung_up:
            self._hung_up, self.unsent = True, memoryview(b"")
            with suppress(OSError):
                self.line.shutdown(socket.SHUT_WR)

    def arrived(self) -> bool:
        """Whether there is something to read, the end of the line included."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.line, selectors.EVENT_READ)
            return bool(selector.select(0))

    def read(self) -> list[tuple[str, bytes, str]]:
        """The messages that are whole by now. Never waits for the rest of one."""
        try:
            data = self.line.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.lost = not data
        self._unread += data
        messages = []
        while len(self._unread) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._unread)[0]
            if len(self._unread) < end:
                break
            messages.append(pickle.loads(self._unread[LENGTH.size : end]))
            del self._unread[:end]
        return messages


def _start_server(preload: tuple[str, ...], places: tuple[Place, ...]) -> None:
    """Start the fork server if none runs; it imports while this program goes on.

    It gets the module search path of this program, not the folder it is started in. Ctrl-C and
    SIGTERM do not reach it: it ends when nobody is left who could ask it for a worker.
    """
    threads = {place.threads for place in places}
    modules = [in_worker.__name__, *preload, "lrexp.grid.pool.fork_server"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    resource_tracker.ensure_running()  # it unblocks signals, so it comes first
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    given = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    if len(threads) == 1 and (count := threads.pop()):
        given |= dict.fromkeys(THREADS, str(count))  # read when libraries are loaded
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with _environment(given):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _fork(line: socket.socket, setting: Setting) -> Any:
    """A new worker. When the fork server has ended, another one is started for it.

    It may have ended while it imported: the new one imports nothing, so that the worker does and
    tells what is wrong.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=work_on_pieces, args=(line, setting))
    for pause_s in (0.1, 1.0, None):
        try:
            process.start()
            break
        except (EOFError, ConnectionError):
            if pause_s is None:
                raise
            context.set_forkserver_preload([in_worker.__name__])
            time.sleep(pause_s)  # until its end is known
    return process


@contextmanager
def _environment(given: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _main_package() -> str | None:
    """The module behind `__main__` when it is a package's: multiprocessing leaves those out."""
    name = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    return name if name.endswith(".__main__") else None


def _exit_in_words(code: int) -> str:
    """`ended with exit code 3`, `killed by signal 9 (SIGKILL)`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
