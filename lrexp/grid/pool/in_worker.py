"""A worker's end of its line: what the process does with the pieces that come over it."""

from __future__ import annotations

import os
import pickle
import runpy
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lrexp.config.errors import Terminated

STOPPING = {signal.SIGINT, signal.SIGTERM}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LENGTH = struct.Struct("!Q")  # before each message on a line: its size in bytes


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    device: str | None = None  # "cuda:0", "cpu"; None: as configured
    threads: int | None = None  # of torch, OpenMP and BLAS; None: as they are here


Say = Callable[[Any], None]  # a message to the session while a piece is worked on
Work = Callable[[Any, Say], Any]  # (piece, say) → result
Start = Callable[[Place], Work]  # picklable; called once in each worker


@dataclass(frozen=True)
class Setting:
    """What a worker needs to know when it starts."""

    place: Place
    start: bytes
    preload: tuple[str, ...]
    environment: dict[str, str]
    main: str | None
    patience_s: float


def work_on_pieces(line: socket.socket, setting: Setting) -> None:
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
            raise RuntimeError(f"{problem}: {in_words(error)}") from error
        return "returned", payload, f"a result of type {type(result).__name__}"
    except BaseException as error:
        with suppress(Exception):
            error.add_note("".join(traceback.format_exception(error)))
        text = in_words(error)
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


def in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
