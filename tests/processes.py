"""The processes that tests start: none outlives its test, and no clock decides about their work."""

from __future__ import annotations

import gc
import multiprocessing.util
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

HUNG_S = 600.0  # a program that takes so long has hung, however busy the machine is
ENDING_S = 30.0  # that a program may take to end when what it waited for is gone
# In the environment of every program that comes from this process, whoever its parent is now.
MARK = "LREXP_STARTED_BY_TESTS"
# Python's own, which end with the process that they serve.
SERVANTS = ("multiprocessing.resource_tracker", "loky.backend.resource_tracker")

_started = [0]  # how many there were, so that a test without any costs nothing
# What was running when it was last looked at.
_known: dict[str, Any] = {"count": 0, "pids": frozenset[int]()}


def watch() -> None:
    """Notice from now on when a process is started; let Ctrl-C reach those that will be."""
    os.environ[MARK] = str(os.getpid())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)  # programs would inherit it
    init = subprocess.Popen.__init__

    def noticed(self: Any, *arguments: Any, **named: Any) -> None:
        _started[0] += 1
        init(self, *arguments, **named)

    def forked() -> None:
        _started[0] += 1

    spawn = multiprocessing.util.spawnv_passfds

    def spawned(*arguments: Any) -> int:  # by multiprocessing: a fork server
        _started[0] += 1
        return spawn(*arguments)

    subprocess.Popen.__init__ = noticed  # type: ignore[method-assign]
    multiprocessing.util.spawnv_passfds = spawned  # type: ignore[assignment]
    os.register_at_fork(after_in_parent=forked)


@contextmanager
def none_left() -> Iterator[None]:
    """Kill what was started within and still runs at the end.

    The fork server of a grid that ran in this process, which would end with it, is ended as well:
    whether executor=auto takes a pool is up to the machine.

    Raises:
        AssertionError: that names them.
    """
    _look()  # what a fixture of many tests has started may go on
    yield
    if _started[0] == _known["count"]:
        return
    until = time.monotonic() + ENDING_S
    left = _new()
    if left:
        gc.collect()  # workers of a loader end with it, and a caught exception's frames may hold it
    while left and time.monotonic() <= until:
        time.sleep(0.05)
        left = _new()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid and server._forkserver_pid not in _known["pids"]:
        with suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)  # it serves nobody now
        server._stop()
    with suppress(RuntimeError):  # torch's, in whatever runs when a worker of its is killed
        time.sleep(0.1 if left else 0)
    _look()
    assert not left, f"still running at the end of the test: {left}"


def may_go_on() -> None:
    """What runs now may outlive the test: it is a fixture of many."""
    _known.update(count=_started[0], pids=frozenset(running()))


def _look() -> None:
    if _started[0] != _known["count"]:
        may_go_on()


def _new() -> dict[int, str]:
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    known = {*_known["pids"], server}
    return {pid: line for pid, line in running().items() if pid not in known}


def running() -> dict[int, str]:
    """Command lines of the processes that come from this one and run, by their id."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), {}
    parents: dict[int, int] = {}
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        with suppress(OSError):
            state, parent = stat_of(pid)
            parents[pid] = parent
            if state == "Z" or pid == os.getpid():
                continue
            ours = parent == os.getpid() or parent in found
            if ours or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = line.decode(errors="replace").strip()[:200]
    return {p: line for p, line in found.items() if not any(s in line for s in SERVANTS)}


def stat_of(pid: int) -> tuple[str, int]:
    """State (a letter) and parent of a process.

    Raises:
        OSError: when there is none.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return fields[0], int(fields[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return stat_of(pid)[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], program: subprocess.Popen[str] | None = None) -> Any:
    """What the condition is when it holds. A program that should bring it about must not end."""
    until = time.monotonic() + HUNG_S
    while not (found := condition()):
        ended = program is not None and program.poll() is not None
        if ended and not (found := condition()):
            assert program is not None
            said = program.stdout.read() if program.stdout else ""
            raise AssertionError(f"the program ended with {program.returncode} before: {said}")
        assert found or time.monotonic() < until, "it never happened"
        if found:
            break
        time.sleep(0.01)
    return found


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)
