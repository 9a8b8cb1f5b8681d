"""Worker processes: pieces of work in, what came of each out, whatever happens to a worker.

Workers are forked from a server that has imported what they need and nothing else: it has no
threads, no CUDA and no W&B, so that forking is safe, and a worker starts in milliseconds.

Each worker has one line (a socket) to this program, and ends when the line does: an idle one at
once, one that works after a SIGTERM that it sends itself. So none outlives a program that is
killed. Workers are in process groups of their own: Ctrl-C reaches this program alone, which then
asks each worker once.

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
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from lrexp.errors import Terminated

STOPPING = {signal.SIGINT, signal.SIGTERM}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LENGTH = struct.Struct("!Q")  # before each message on a line: its size in bytes
READ_BYTES = 1 << 20
SERVER_GONE = 255  # what multiprocessing reports when nobody is left who knows the exit code


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    device: str | None = None  # "cuda:0", "cpu"; None: as configured
    threads: int | None = None  # of torch, OpenMP and BLAS; None: as they are here


Say = Callable[[Any], None]  # a message to this program while a piece is worked on
Work = Callable[[Any, Say], Any]  # (piece, say) → result
Start = Callable[[Place], Work]  # picklable; called once in each worker


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
                problem = RuntimeError(f"the piece cannot be pickled: {_in_words(error)}")
                self._events.put(Ended(piece, place, error=problem))
                continue
            if not idle:
                free.pop(0)
                try:
                    idle = [self._new_worker(place)]
                except Exception as error:
                    cause = f"no worker could be started: {_in_words(error)}"
                    self._events.put(Died(piece, place, None, cause))
                    continue
            idle.pop(0).give(piece, data)

    def _new_worker(self, place: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                setting = _Setting(
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
                content = RuntimeError(f"{text} (not readable here: {_in_words(error)})")
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
    modules = [__name__, *preload, "lrexp.grid.fork_server"]
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


def _fork(line: socket.socket, setting: _Setting) -> Any:
    """A new worker. When the fork server has ended, another one is started for it.

    It may have ended while it imported: the new one imports nothing, so that the worker does and
    tells what is wrong.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_work_in_worker, args=(line, setting))
    for pause_s in (0.1, 1.0, None):
        try:
            process.start()
            break
        except (EOFError, ConnectionError):
            if pause_s is None:
                raise
            context.set_forkserver_preload([__name__])
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


def _in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


# What follows runs in the worker.


@dataclass(frozen=True)
class _Setting:
    """What a worker needs to know when it starts."""

    place: Place
    start: bytes
    preload: tuple[str, ...]
    environment: dict[str, str]
    main: str | None
    patience_s: float


def _work_in_worker(line: socket.socket, setting: _Setting) -> None:
    """Work on the pieces that come over the line until it ends."""
    os.setpgrp()
    line.set_inheritable(False)
    _be_killed_first()
    here = _Here(line, setting.patience_s)
    os.environ.clear()
    os.environ.update(setting.environment)
    _set_threads(setting.place.threads)
    if setting.main:
        _find_in_main(setting.main)

    @cache
    def started() -> Work:
        for name in setting.preload:  # in case the server could not
            import_module(name)
        _set_threads(setting.place.threads)
        return pickle.loads(setting.start)(setting.place)

    while (data := here.next_piece()) is not None:
        message = _outcome(started, data, here)
        sys.stdout.flush()
        sys.stderr.flush()
        here.send(*message)


def _outcome(started: Callable[[], Work], data: bytes, here: _Here) -> tuple[str, bytes, str]:
    """Work on one piece. Returns the message that says what came of it."""
    try:
        try:
            here.begin()
            work = started()
            here.send("begun")
            result = work(pickle.loads(data), here.say)
        finally:
            here.working = False
        try:
            payload = bytes(ForkingPickler.dumps(result))
        except Exception as error:
            problem = f"a result of type {type(result).__name__} cannot be sent"
            raise RuntimeError(f"{problem}: {_in_words(error)}") from error
        return "returned", payload, f"a result of type {type(result).__name__}"
    except BaseException as error:
        with suppress(Exception):
            error.add_note("".join(traceback.format_exception(error)))
        text = _in_words(error)
        try:
            return "raised", bytes(ForkingPickler.dumps(error)), text
        except Exception:
            return "raised", b"", text


class _Here:
    """A worker's end of its line.

    Threads of its own read and write, as a signal may raise an exception in the main thread at any
    time: a message is sent whole or not at all.
    """

    def __init__(self, line: socket.socket, patience_s: float):
        self.working = False
        self._line, self._patience_s, self._ended = line, patience_s, False
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._messages: SimpleQueue[tuple[bytes, threading.Event]] = SimpleQueue()
        self._signals, wakeup = socket.socketpair()
        self._signals.setblocking(False)
        wakeup.setblocking(False)
        self._wakeup = wakeup  # kept open
        for number in STOPPING:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        for loop in (self._read, self._write):
            threading.Thread(target=loop, name=f"worker{loop.__name__}", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # blocked in the server

    def next_piece(self) -> bytes | None:
        """The next piece, pickled; None when there will be no more."""
        return self._pieces.get()

    def begin(self) -> None:
        """From now on signals to stop raise an exception, once, until `working` is false."""
        self.working = True
        self._asked()  # what came while idle is forgotten
        if self._ended:
            raise Terminated

    def say(self, message: Any) -> None:
        """Send `message` to the parent. Returns when it is on its way."""
        text = f"a message of type {type(message).__name__}"
        self.send("said", bytes(ForkingPickler.dumps(message)), text)

    def send(self, kind: str, payload: bytes = b"", text: str = "") -> None:
        sent = threading.Event()
        self._messages.put((pickle.dumps((kind, payload, text)), sent))
        sent.wait()

    def _on_signal(self, number: int, _: object) -> None:
        if self.working:  # an idle worker ends with its line
            self.working = False
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def _asked(self) -> bool:
        """Whether a signal to stop has come since the last time; the handler may be anybody's."""
        try:
            return bool(STOPPING & set(self._signals.recv(4096)))
        except BlockingIOError:
            return False

    def _write(self) -> None:
        while True:
            data, sent = self._messages.get()
            with suppress(OSError):  # nobody is there: `_read` notices
                self._line.sendall(LENGTH.pack(len(data)) + data)
            sent.set()

    def _read(self) -> None:
        while (head := self._receive(LENGTH.size)) is not None:
            if (data := self._receive(LENGTH.unpack(head)[0])) is None:
                break
            self._pieces.put(bytes(data))
        self._ended = True
        self._pieces.put(None)
        main = threading.main_thread().ident
        if self.working and main and not self._asked():  # a second one would hit what saves state
            signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(self._patience_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def _receive(self, size: int) -> bytearray | None:
        """The next `size` bytes, or None when the line ends before."""
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            try:
                count = self._line.recv_into(view[got:])
            except OSError:
                count = 0
            if not count:
                return None
            got += count
        return data


def _be_killed_first() -> None:
    """When memory runs out, Linux shall take a worker, not the program that knows about all."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _set_threads(count: int | None) -> None:
    """Let torch, OpenMP and BLAS use `count` threads, whether they are loaded yet or not."""
    if count is None:
        return
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _find_in_main(name: str) -> None:
    """Let what was pickled as `__main__.X` be found in module `name`, which is run when asked for.

    It runs under the name `__mp_main__`, under which the parent finds its own again.
    """
    main = sys.modules["__main__"]

    def missing(attribute: str) -> Any:
        if not attribute.startswith("__") and vars(main).pop("__getattr__", None):
            found = runpy.run_module(name, run_name="__mp_main__")
            vars(main).update({k: v for k, v in found.items() if not k.startswith("__")})
            if attribute in found:
                return found[attribute]
        raise AttributeError(f"module '__main__' ({name}) has no attribute '{attribute}'")

    vars(main)["__getattr__"] = missing
