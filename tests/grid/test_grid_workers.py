"""Pieces of work in real worker processes, which are killed, stopped and left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grid_pieces
import pytest

from lrexp.config.errors import Terminated
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import Begun, Died, Ended, Event, Said, Workers

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
TWO = (Place(), Place())
QUICK = ("grid_pieces",)


def run(*pieces: Any, places: Iterable[Place] = TWO, start: Any = grid_pieces.start) -> list[Event]:
    with Workers(start, tuple(places), QUICK) as workers:
        for piece in pieces:
            workers.put(piece)
        return list(workers.events())


def ends(events: Iterable[Event]) -> list[Ended | Died]:
    return [event for event in events if isinstance(event, (Ended, Died))]


def results(events: Iterable[Event]) -> list[Any]:
    return [event.result if isinstance(event, Ended) else event for event in ends(events)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def parent_of(pid: int | str) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def children_of(pid: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if parent_of(name) == pid and is_alive(int(name)):
                found.append(int(name))
    return found


def gone(pids: Iterable[int], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def program(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Python code that runs by itself, in a process group of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": HERE} | options
    path = os.pathsep.join([str(ROOT), str(HERE)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def test_every_piece_ends_once_with_its_result() -> None:
    events = run(*(("double", i) for i in range(50)))
    assert sorted(results(events)) == [2 * i for i in range(50)]
    assert {event.piece: event.result for event in ends(events) if isinstance(event, Ended)} == {
        ("double", i): 2 * i for i in range(50)
    }


def test_one_worker_takes_the_pieces_in_order_and_starts_once(tmp_path: Path) -> None:
    pieces = [("talk", i, i + 1) for i in range(5)]
    events = run(*pieces, places=[Place()], start=grid_pieces.counting(tmp_path))
    said = [(event.piece[1], type(event), getattr(event, "message", None)) for event in events]
    assert said == [
        row
        for i in range(5)
        for row in [(i, Begun, None), (i, Said, i), (i, Said, i + 1), (i, Ended, None)]
    ]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_worker_starts_without_a_piece_for_it() -> None:
    with Workers(grid_pieces.start, [Place()] * 5, QUICK) as workers:
        assert list(workers.events()) == []
        for seconds in (0.2, 0.3):
            workers.put(("sleep", seconds))
        (begun, *_) = workers.events()
        assert isinstance(begun, Begun)
        server = parent_of(begun.pid)
        assert len(children_of(server)) == 2
    assert children_of(server) == []


def test_workers_work_at_the_same_time() -> None:
    events = run(("sleep", 1.0), ("sleep", 1.0))
    assert [type(event) for event in events] == [Begun, Begun, Ended, Ended]


def test_a_worker_knows_its_place() -> None:
    places = [Place("cuda:1", 3), Place("cpu")]
    start = grid_pieces.start_with_place
    with Workers(start, places, QUICK) as workers:
        workers.put(None)  # a piece as good as any
        (_, ended) = workers.events()
    assert isinstance(ended, Ended)
    assert ended.result == (None, places[ended.worker]) == (None, places[0])


@pytest.mark.parametrize(
    ("piece", "code", "cause"),
    [
        (("kill", signal.SIGKILL), -9, "killed by signal 9 (SIGKILL)"),
        (("kill", signal.SIGSEGV), -11, "killed by signal 11 (SIGSEGV)"),
        (("leave", 3), 3, "ended with exit code 3"),
        (("leave", 0), 0, "ended with exit code 0"),
    ],
)
def test_a_worker_that_dies_costs_its_piece_only(piece: Any, code: int, cause: str) -> None:
    others = [("double", i) for i in range(6)]
    events = run(*others[:3], piece, *others[3:])
    assert [event for event in events if isinstance(event, Died)] == [
        Died(piece, ends(events)[[e.piece for e in ends(events)].index(piece)].worker, code, cause)
    ]
    assert sorted(e.result for e in ends(events) if isinstance(e, Ended)) == [0, 2, 4, 6, 8, 10]


def test_what_a_killed_worker_had_said_arrives() -> None:
    (begun, one, two, died) = run(("kill", 9, "one", b"2" * 1_000_000))
    assert (type(begun), type(died)) == (Begun, Died)
    assert isinstance(one, Said)
    assert isinstance(two, Said)
    assert (one.message, len(two.message)) == ("one", 1_000_000)


def test_what_a_killed_worker_had_said_is_read_to_the_end(monkeypatch: Any) -> None:
    monkeypatch.setattr("lrexp.grid.pool.workers.READ_BYTES", 100)
    (_, *said, died) = run(("kill", 9, *[b"x" * 10_000] * 10))
    assert isinstance(died, Died)
    assert [event.message for event in said if isinstance(event, Said)] == [b"x" * 10_000] * 10


def test_half_a_message_of_a_killed_worker_blocks_nobody() -> None:
    began = time.monotonic()
    events = run(("leave_in_the_middle_of_a_message",), ("double", 2), ("double", 3))
    assert time.monotonic() - began < 2.5  # a child of the worker holds the line for 3 s
    assert Counter(type(event) for event in ends(events)) == {Died: 1, Ended: 2}


def test_a_worker_killed_while_it_sends_much() -> None:
    events = run(("be_killed_while_sending", 20_000_000, 0.15), ("double", 2))
    said = [event.message for event in events if isinstance(event, Said)]
    assert all(message == bytes(20_000_000) for message in said)
    assert Counter(type(event) for event in ends(events)) == {Died: 1, Ended: 1}


def test_a_killed_piece_can_be_put_again() -> None:
    tries, seen = Counter[Any](), []
    with Workers(grid_pieces.start, TWO, QUICK) as workers:
        workers.put(("kill", 9))
        for event in workers.events():
            if isinstance(event, Died):
                tries[event.piece] += 1
                workers.put(event.piece if tries[event.piece] < 3 else ("double", 21))
            seen.append(event)
    assert tries == {("kill", 9): 3}
    assert results(seen)[-1] == 42


def test_an_idle_worker_that_dies_costs_nothing() -> None:
    with Workers(grid_pieces.start, [Place()], QUICK) as workers:
        for _ in range(20):
            workers.put(("whoami",))
            pid = results(workers.events())[0]
            os.kill(pid, signal.SIGKILL)
            workers.put(("double", 4))  # most often before anybody has noticed
            assert results(workers.events()) == [8]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("plainly", KeyError, "'the key'"),
        ("unpicklable", RuntimeError, "ValueError: has a function"),
        ("two arguments", RuntimeError, "OnlyHereError: a hole in the wall (not readable here: "),
        ("exit", SystemExit, "4"),
        ("bad text", RuntimeError, "MuteError"),
        ("result", RuntimeError, "a result of type function cannot be sent: "),
        ("message", Exception, "<lambda>"),
    ],
)
def test_an_exception_comes_back(how: str, kind: type, text: str) -> None:
    (_, ended, *others) = run(("fail", how), ("whoami",), places=[Place()])
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, kind)
    assert text in str(ended.error)
    assert isinstance(results(others)[0], int), "the worker goes on"
    if how == "plainly":
        assert "in fail\n    raise KeyError" in ended.error.__notes__[0]


def test_a_start_that_fails_is_told_for_every_piece() -> None:
    events = run(1, 2, start=grid_pieces.start_that_fails, places=[Place("cuda:9")])
    assert [str(event.error) for event in events if isinstance(event, Ended)] == [
        "no room on cuda:9"
    ] * 2
    assert len(events) == 2


def test_a_piece_that_cannot_be_pickled_fails_alone() -> None:
    events = run(("double", 1), lambda: None, ("double", 2))
    errors = [str(event.error) for event in ends(events) if getattr(event, "error", None)]
    assert len(errors) == 1
    assert "the piece cannot be pickled" in errors[0]
    assert sorted(r for r in results(events) if r) == [2, 4]


def test_workers_fork_from_what_is_imported_already() -> None:
    (first, second) = run(("sleep", 0.3), ("sleep", 0.3))[:2]
    pids = {first.pid, second.pid} if isinstance(first, Begun) and isinstance(second, Begun) else {}
    assert len(pids) == 2
    done = results(run(*[("is_imported_by",)] * 4))
    assert {importer for importer, _ in done}.isdisjoint({os.getpid(), *(own for _, own in done)})
    assert len({importer for importer, _ in done}) == 1, "one program imported it for all"


def test_a_worker_has_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LREXP_OF_NOW", "yes")
    expected = dict(os.environ)
    assert results(run(("environment",))) == [expected]
    threads = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    assert results(run(("environment",), places=[Place(threads=3)])) == [expected | threads]
    assert dict(os.environ) == expected


def test_the_caller_s_exception_passes_and_leaves_no_worker() -> None:
    pids = []

    def fail_with_two_at_work() -> None:
        with Workers(grid_pieces.start, TWO, QUICK, patience_s=20) as workers:
            for _ in range(3):
                workers.put(("sleep", 60))
            for event in workers.events():
                assert isinstance(event, Begun)
                pids.append(event.pid)
                if len(pids) == 2:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_two_at_work()
    assert not any(is_alive(pid) for pid in pids)


def test_stop_tells_what_the_workers_still_said(tmp_path: Path) -> None:
    file = tmp_path / "saved"
    with Workers(grid_pieces.start, [Place()], QUICK) as workers:
        workers.put(("save_when_stopped", file))
        workers.put(("double", 1))  # never begun
        next(event for event in workers.events() if isinstance(event, Said))
        (said, ended) = workers.stop()
        assert list(workers.events()) == []
        assert workers.stop() == []
    assert isinstance(said, Said)
    assert isinstance(ended, Ended)
    assert (said.message, type(ended.error)) == ("saving", Terminated)
    assert file.read_text() == "Terminated"


def test_a_worker_that_saves_already_is_not_interrupted_again(tmp_path: Path) -> None:
    file = tmp_path / "saved"
    with Workers(grid_pieces.start, [Place()], QUICK) as workers:
        workers.put(("save_when_stopped", file, 30.0, 1))
        said = (event for event in workers.events() if isinstance(event, Said))
        assert next(event for event in said if event.message == "saving")
        (ended,) = workers.stop()
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, Terminated)
    assert file.read_text() == "Terminated"


def test_a_worker_that_does_not_stop_is_killed() -> None:
    with Workers(grid_pieces.start, [Place()], QUICK, patience_s=0.5) as workers:
        workers.put(("ignore_signals",))
        pid = next(event.message for event in workers.events() if isinstance(event, Said))
        began = time.monotonic()
        (died,) = workers.stop()
        assert 0.4 < time.monotonic() - began < 3
    assert isinstance(died, Died)
    assert died.cause == "killed by signal 9 (SIGKILL)"
    assert not is_alive(pid)


def test_the_loss_of_the_fork_server_costs_the_pieces_being_worked_on() -> None:
    with Workers(grid_pieces.start, [Place()], QUICK) as workers:
        workers.put(("ignore_signals",))
        workers.put(("double", 4))
        events = workers.events()
        (begun, _) = (next(events), next(events))
        assert isinstance(begun, Begun)
        os.kill(parent_of(begun.pid), signal.SIGKILL)
        (died, _, ended) = events
        assert isinstance(died, Died)
        assert died.cause == "its fork server was killed"
        assert results([ended]) == [8]
        assert gone([begun.pid], 5)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_piece_ends_once_whoever_is_killed(seed: int) -> None:
    draw = random.Random(seed)
    pieces = [("maybe_be_killed", i, draw.choice([0.0, 0.5])) for i in range(60)]
    seen: list[Event] = []
    with Workers(grid_pieces.start, [Place()] * 3, QUICK) as workers:
        for piece in pieces[:30]:
            workers.put(piece)
        for event in workers.events():
            seen.append(event)
            if isinstance(event, (Ended, Died)) and len(ends(seen)) <= 30:
                workers.put(pieces[29 + len(ends(seen))])
            if isinstance(event, Ended) and draw.random() < 0.1:
                pid = next(e.pid for e in reversed(seen) if isinstance(e, Begun))
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)  # idle or in the middle of the next piece
    assert Counter(event.piece for event in ends(seen)) == Counter(pieces)
    assert all(e.result == e.piece[1] for e in ends(seen) if isinstance(e, Ended))
    assert sum(isinstance(event, Died) for event in ends(seen)) > 5


# Programs of their own: signals, pipes, how they were started.

WORKING = """
import sys, os
from pathlib import Path
import grid_pieces
from lrexp.grid.workers import *
from lrexp.config.errors import Terminated
import signal
def terminate(*_): raise Terminated
signal.signal(signal.SIGTERM, terminate)
folder, patience_s, piece = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
try:
    with Workers(grid_pieces.start, [Place()] * 3, ["grid_pieces"], patience_s) as workers:
        for i in range(2):
            workers.put((piece, folder / str(i)) if piece == "save_when_stopped" else (piece,))
        workers.put(("whoami",))  # and then idle
        try:
            for event in workers.events():
                if isinstance(event, Said) or isinstance(event, Ended):
                    print("pid", getattr(event, "message", None) or event.result, flush=True)
        except (KeyboardInterrupt, Terminated):
            print("stopping", flush=True)
            for event in workers.stop():
                error = getattr(event, "error", None)
                print(type(event).__name__, type(error).__name__, flush=True)
            raise
except (KeyboardInterrupt, Terminated) as stop:
    print("out", type(stop).__name__)
"""


def working(folder: Path, patience_s: float, piece: str) -> tuple[Any, list[int]]:
    """A program whose three workers have told their process ids: two work, one is idle."""
    started = program(WORKING, folder, patience_s, piece)
    assert started.stdout
    pids = [int(started.stdout.readline().split()[1]) for _ in range(3)]
    assert all(is_alive(pid) for pid in pids)
    return started, pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_lets_its_workers_save_once(number: int, tmp_path: Path) -> None:
    started, pids = working(tmp_path, 10, "save_when_stopped")
    os.killpg(started.pid, number)  # as a terminal does
    out, err = started.communicate(timeout=20)
    name = "KeyboardInterrupt" if number == signal.SIGINT else "Terminated"
    assert out.splitlines()[0] == "stopping"
    assert sorted(out.splitlines()[1:-1]) == ["Ended Terminated"] * 2 + ["Said NoneType"] * 2
    assert out.splitlines()[-1] == f"out {name}"
    assert err == ""
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["Terminated"] * 2
    assert not any(is_alive(pid) for pid in pids)


def test_a_second_interrupt_kills_at_once() -> None:
    started, pids = working(Path(), 60, "ignore_signals")
    assert started.stdout
    os.killpg(started.pid, signal.SIGINT)
    assert started.stdout.readline() == "stopping\n"
    time.sleep(0.3)
    began = time.monotonic()
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=20)
    assert time.monotonic() - began < 3
    assert (out, err) == ("out KeyboardInterrupt\n", "")
    assert not any(is_alive(pid) for pid in pids)


def test_workers_of_a_killed_program_save_and_end(tmp_path: Path) -> None:
    started, pids = working(tmp_path, 10, "save_when_stopped")
    began = time.monotonic()
    started.kill()
    started.communicate(timeout=20)  # nobody keeps the pipes open
    assert gone(pids, 5)
    assert time.monotonic() - began < 5
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["Terminated"] * 2


def test_workers_of_a_killed_program_are_killed_when_they_do_not_end() -> None:
    started, pids = working(Path(), 0.5, "ignore_signals")
    started.kill()
    started.communicate(timeout=20)
    assert gone(pids, 5)


PRINTING = """
import sys, time
import grid_pieces
from lrexp.grid.workers import *
with Workers(grid_pieces.start, [Place()] * 2, ["grid_pieces"]) as workers:
    workers.put(("show", "hello"))
    workers.put(("kill", 9))
    for event in workers.events():
        pass
print("done", time.time(), flush=True)
"""


def test_what_workers_print_appears_and_the_pipe_closes_with_the_program() -> None:
    out, err = program(PRINTING).communicate(timeout=20)
    closed = time.time()
    assert out.splitlines()[0] == "hello"
    assert err == "hello\n"
    assert closed - float(out.split()[-1]) < 1.0


AS_A_PACKAGE = """
import os, sys
from functools import partial
from lrexp.grid.workers import *

print("ran as", __name__)

class Thing:
    def __init__(self, number): self.number = number

def work(piece, say):
    return Thing(piece.number + 1)

def start(place):
    return work

if __name__ == "__main__":
    with Workers(start, [Place()]) as workers:
        workers.put(Thing(1))
        for event in workers.events():
            pass
    print(type(event.result) is Thing, event.result.number)
"""


@pytest.mark.parametrize("how", ["package", "module", "script"])
def test_what_the_main_program_defines_is_found_in_workers(how: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    for name in ("__main__", "named"):
        (tmp_path / "own" / f"{name}.py").write_text(AS_A_PACKAGE)
    given = {"package": ["-m", "own"], "module": ["-m", "own.named"], "script": ["own/named.py"]}
    done = subprocess.run(
        [sys.executable, *given[how]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["ran as __main__", "ran as __mp_main__", "True 2"]


SEARCHING = """
import os, sys
sys.path.append(sys.argv[1])
import grid_pieces
from lrexp.grid.workers import *
if __name__ == "__main__":
    with Workers(grid_pieces.start, [Place()], ["grid_pieces"]) as workers:
        workers.put(("is_imported_by",))
        _, ended = workers.events()
    print(*ended.result, os.getpid())
"""


def test_the_server_searches_modules_where_the_program_does(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    for name in ("random", "grid_pieces", "lrexp"):  # must not be taken for ours
        (tmp_path / "cwd" / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "program.py").write_text(SEARCHING)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", HERE],
        cwd=tmp_path / "cwd",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    importer, worker, parent = done.stdout.split()
    assert len({importer, worker, parent}) == 3


def test_the_server_does_not_take_down_what_it_imported(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import atexit; atexit.register(print, 'taken down')")
    code = f"import sys; sys.path.append({str(tmp_path)!r})" + PRINTING.replace(
        '["grid_pieces"]', '["grid_pieces", "heavy"]'
    )
    out, err = program(code).communicate(timeout=20)
    assert [line.split()[0] for line in out.splitlines()] == ["hello", "done"]
    assert err == "hello\n"


TENSORS = """
import os, sys, time
from functools import partial
import torch
import grid_pieces
from lrexp.grid.workers import *

def results(start, places, *pieces):
    with Workers(start, places, ["torch", "grid_pieces"]) as workers:
        for piece in pieces:
            workers.put(piece)
        return [e.result for e in workers.events() if isinstance(e, Ended)]

began = time.perf_counter()
results(grid_pieces.start, [Place()], ("whoami",))
cold = time.perf_counter() - began
began = time.perf_counter()
results(grid_pieces.start, [Place()], ("whoami",))
print(f"start: the server and a worker {cold:.2f} s, a worker {time.perf_counter() - began:.3f} s")
for threads in (1, 3):
    print("threads", *results(grid_pieces.start, [Place(None, threads)], ("torch_threads",))[0])
names = set(os.listdir("/dev/shm"))
tensor = torch.zeros(2)
start = partial(grid_pieces.start_with_tensor, tensor)
results(start, [Place()], 5)
tensor[1] = 7
print("shared", tensor[0].item(), *results(start, [Place()], "read"))
results(start, [Place()], -1)
print("after a kill", tensor[0].item(), set(os.listdir("/dev/shm")) - names)
made = results(start, [Place()], *["make"] * 20)
files = len(os.listdir("/proc/self/fd"))
print("made", sum(t.sum().item() for t in made))
del made
print("files", files - len(os.listdir("/proc/self/fd")))
"""


def test_threads_are_set_and_tensors_are_shared() -> None:
    out, err = program(TENSORS).communicate(timeout=120)
    print(out)
    assert err == ""
    lines = out.splitlines()
    assert float(lines[0].split()[-2]) < 1.0, lines[0]
    assert lines[1:] == [
        "threads 1 0",
        "threads 3 2",
        "shared 5.0 7.0",
        "after a kill -1.0 set()",
        "made 60000.0",
        "files 20",
    ]


def test_a_preload_that_breaks_is_named_for_every_piece(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    code = f"import sys; sys.path.append({str(tmp_path)!r})" + PRINTING.replace(
        '["grid_pieces"]', '["broken"]'
    ).replace("pass", "print(repr(event.error))")
    out, err = program(code).communicate(timeout=30)
    assert out.splitlines()[:-1] == ["ZeroDivisionError('division by zero')"] * 2
    assert err.count("ZeroDivisionError") == 1, "the server says it too"


ROUND_AND_ROUND = """
import grid_pieces, signal
from lrexp.config.errors import Terminated
from lrexp.grid.workers import *
def terminate(*_): raise Terminated
signal.signal(signal.SIGTERM, terminate)
try:
    print("up", flush=True)
    while True:
        with Workers(grid_pieces.start, [Place()] * 3, ["grid_pieces"], 2.0) as workers:
            for i in range(30):
                workers.put(("maybe_be_killed", i, 0.2))
            assert sum(isinstance(event, (Ended, Died)) for event in workers.events()) == 30
except (KeyboardInterrupt, Terminated):
    print("out", flush=True)
"""


def in_session(leader: int) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if os.getsid(pid) == leader and is_alive(pid):
                found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_stopped_at_any_moment_ends_cleanly_and_alone(number: int) -> None:
    draw = random.Random(number)
    for _ in range(15):
        started = program(ROUND_AND_ROUND)
        assert started.stdout
        assert started.stdout.readline() == "up\n"
        time.sleep(draw.uniform(0, 0.5))
        os.kill(started.pid, number)
        out, err = started.communicate(timeout=10)
        if number != signal.SIGKILL:
            assert (out, err) == ("out\n", "")
        wait_for(lambda leader=started.pid: not in_session(leader), within_s=5)


def test_workers_need_a_place() -> None:
    with pytest.raises(ValueError, match="at least one place"):
        Workers(partial(grid_pieces.start), [])
