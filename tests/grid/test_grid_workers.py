"""Pieces of work in real worker processes, which are killed, stopped and left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import grid_pieces
import pytest
from processes import HUNG_S, is_alive, may_go_on, wait_for

from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import Event, Workers

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
ONE, TWO = (Place(),), (Place(), Place())
QUICK = ("grid_pieces",)
Program = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with grid_pieces.own_fork_server(QUICK):
        yield


@pytest.fixture
def program() -> Iterator[Program]:
    """A function that starts Python code in a session of its own, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        given = {"cwd": HERE, "env": {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **(given | options),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def run(*pieces: Any, places: Iterable[Place] = TWO, start: Any = grid_pieces.start) -> list[Event]:
    with Workers(start, tuple(places), QUICK) as workers:
        for piece in pieces:
            workers.put(piece)
        return list(workers.events())


def ends(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind != "said"]


def results(events: Iterable[Event]) -> list[Any]:
    return [event.content for event in ends(events)]


def in_session(leader: int) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if os.getsid(pid) == leader and is_alive(pid):
                found.append(pid)
    return found


def wait_until_gone(pids: Iterable[int]) -> None:
    wait_for(lambda: not any(map(is_alive, pids)))


def test_every_piece_ends_once_with_its_result() -> None:
    events = run(*(("double", i) for i in range(50)))
    assert len(events) == 50
    assert {(event.piece, event.content) for event in events} == {
        (("double", i), 2 * i) for i in range(50)
    }


def test_one_worker_takes_the_pieces_in_order_and_starts_once(tmp_path: Path) -> None:
    pieces = [("talk", i, i + 1) for i in range(5)]
    events = run(*pieces, places=ONE, start=grid_pieces.counting(tmp_path))
    assert [(event.piece[1], event.kind, event.content) for event in events] == [
        row
        for i in range(5)
        for row in [(i, "said", i), (i, "said", i + 1), (i, "returned", "talked")]
    ]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_worker_starts_without_a_piece_and_none_is_left(tmp_path: Path) -> None:
    pids = []
    with Workers(grid_pieces.counting(tmp_path), [Place()] * 5, QUICK) as workers:
        assert list(workers.events()) == []
        for _ in range(2):
            workers.put(("wait_long",))
        for event in workers.events():
            pids.append(event.content)
            if len(pids) == 2:
                break
        assert len(list(tmp_path.iterdir())) == 2
    assert not any(map(is_alive, pids))


def test_workers_work_at_the_same_time(tmp_path: Path) -> None:
    events = run(("meet", tmp_path, "a", "b"), ("meet", tmp_path, "b", "a"))
    assert results(events) == ["met", "met"]


def test_a_worker_knows_its_place() -> None:
    places = [Place("1", 3), Place()]
    (event,) = run(None, places=places, start=grid_pieces.start_with_place)  # as good as any piece
    assert event.content == (None, places[0])


@pytest.mark.parametrize(
    ("piece", "cause"),
    [
        (("kill", signal.SIGKILL), "killed by signal 9 (SIGKILL)"),
        (("kill", signal.SIGSEGV), "killed by signal 11 (SIGSEGV)"),
        (("kill", signal.SIGTERM), "stopped from outside"),
        (("leave", 3), "ended with exit code 3"),
        (("leave", 0), "ended with exit code 0"),
    ],
)
def test_a_worker_that_dies_costs_its_piece_only(piece: Any, cause: str) -> None:
    others = [("double", i) for i in range(6)]
    events = run(*others[:3], piece, *others[3:])
    assert [event for event in events if event.kind == "died"] == [Event(piece, "died", cause)]
    assert sorted(e.content for e in events if e.kind == "returned") == [0, 2, 4, 6, 8, 10]


def test_what_a_killed_worker_had_said_arrives() -> None:
    events = run(("kill", 9, "one", b"2" * 1_000_000))
    assert [event.kind for event in events] == ["said", "said", "died"]
    assert (events[0].content, len(events[1].content)) == ("one", 1_000_000)


def test_a_child_of_a_killed_worker_does_not_stand_for_it() -> None:
    said, died, returned = run(("leave_a_child",), ("double", 2), places=ONE)
    try:
        assert is_alive(said.content)
        assert (died.kind, returned.content) == ("died", 4)
    finally:
        os.kill(said.content, signal.SIGKILL)


def test_a_killed_piece_can_be_put_again() -> None:
    tries, seen = Counter[Any](), []
    with Workers(grid_pieces.start, TWO, QUICK) as workers:
        workers.put(("kill", 9))
        for event in workers.events():
            if event.kind == "died":
                tries[event.piece] += 1
                workers.put(event.piece if tries[event.piece] < 3 else ("double", 21))
            seen.append(event)
    assert tries == {("kill", 9): 3}
    assert results(seen)[-1] == 42


def test_an_idle_worker_that_dies_costs_nothing() -> None:
    with Workers(grid_pieces.start, ONE, QUICK) as workers:
        for _ in range(5):
            workers.put(("whoami",))
            (event,) = workers.events()
            os.kill(event.content, signal.SIGKILL)
            wait_for(next(iter(workers._workers)).poll)  # its line has ended
            workers.put(("double", 4))
            assert results(workers.events()) == [8]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("plainly", KeyError, "'the key'"),
        ("unpicklable", RuntimeError, "ValueError: has a function"),
        ("two arguments", RuntimeError, "OnlyHereError: a hole in the wall"),
    ],
)
def test_an_exception_comes_back_and_the_worker_goes_on(how: str, kind: type, text: str) -> None:
    before, raised, after = run(("whoami",), ("fail", how), ("whoami",), places=ONE)
    assert (type(raised.content), str(raised.content)) == (kind, text)
    assert before.content == after.content


def test_a_start_that_fails_is_told_for_every_piece() -> None:
    events = run(1, 2, start=grid_pieces.start_that_fails, places=[Place("9")])
    assert [(e.kind, str(e.content)) for e in events] == [("raised", "no room on 9")] * 2


def test_a_worker_has_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LREXP_OF_NOW", "yes")
    expected = dict(os.environ)
    assert results(run(("environment",))) == [expected]
    threads = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    assert results(run(("environment",), places=[Place(threads=3)])) == [expected | threads]
    assert dict(os.environ) == expected


def test_a_stopped_worker_saves_once(tmp_path: Path) -> None:
    for itself in (False, True):  # with True it saves already when it is asked
        file = tmp_path / f"{itself}"
        with Workers(grid_pieces.start, ONE, QUICK, patience_s=HUNG_S) as workers:
            workers.put(("save_when_stopped", file, itself))
            workers.put(("double", 1))  # never begun
            next(event for event in workers.events() if not itself or event.content == "saving")
            workers.stop()
            assert list(workers.events()) == []
        assert file.read_text() == "Terminated"


def test_a_worker_that_does_not_stop_is_killed() -> None:
    with Workers(grid_pieces.start, ONE, QUICK, patience_s=0.2) as workers:
        workers.put(("ignore_signals",))
        pid = next(workers.events()).content
    assert not is_alive(pid)


def test_the_loss_of_the_fork_server_costs_nothing(tmp_path: Path) -> None:
    with Workers(grid_pieces.start, ONE, QUICK) as workers:
        workers.put(("meet", tmp_path, "worker", "test"))
        workers.put(("kill", 9))
        workers.put(("double", 4))
        wait = workers.events()
        list(workers._assign())
        wait_for((tmp_path / "worker").exists)
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        os.kill(server, signal.SIGKILL)
        wait_until_gone([server])
        (tmp_path / "test").touch()
        met, died, doubled = wait
    assert (met.content, died.kind, doubled.content) == ("met", "died", 8)
    may_go_on()  # the new server is for the tests to come


def test_every_piece_ends_once_whoever_is_killed() -> None:
    draw = random.Random(1)
    pieces = [("maybe_be_killed", i, draw.choice([0.0, 0.5])) for i in range(40)]
    seen: list[Event] = []
    with Workers(grid_pieces.start, [Place()] * 3, QUICK) as workers:
        for piece in pieces[:20]:
            workers.put(piece)
        for event in workers.events():
            seen.append(event)
            if event.kind != "said" and len(ends(seen)) <= 20:
                workers.put(pieces[19 + len(ends(seen))])
    assert Counter(event.piece for event in ends(seen)) == Counter(pieces)
    assert all(e.content == e.piece[1] for e in seen if e.kind == "returned")
    assert any(event.kind == "died" for event in seen)


def test_threads_are_set_and_tensors_are_shared() -> None:
    torch = pytest.importorskip("torch")
    names = set(os.listdir("/dev/shm"))
    tensor = torch.zeros(2)
    start = partial(grid_pieces.start_with_tensor, tensor)
    with Workers(start, [Place(threads=3)], QUICK) as workers:
        for piece in ("threads", 5):
            workers.put(piece)
        assert results(workers.events()) == [(3, 2), None]
        assert tensor[0] == 5
        tensor[1] = 7
        workers.put("read")
        workers.put(-1)
        read, died = workers.events()
    assert (read.content, died.kind, tensor[0]) == (7.0, "died", -1)
    assert {name for name in os.listdir("/dev/shm") if name.startswith("torch")} <= names


# Programs of their own: signals, pipes, how they were started.

WORKING = """
import sys
from pathlib import Path
import grid_pieces
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import Workers
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
                print("pid", event.content, flush=True)
        except (KeyboardInterrupt, Terminated):
            print("stopping", flush=True)
            raise
except (KeyboardInterrupt, Terminated) as stop:
    print("out", type(stop).__name__)
"""


def working(
    program: Program, folder: Path, patience_s: float, piece: str
) -> tuple[subprocess.Popen[str], list[int]]:
    """A program whose three workers have told their process ids: two work, one is idle."""
    started = program(WORKING, folder, patience_s, piece)
    assert started.stdout
    pids = [int(started.stdout.readline().split()[1]) for _ in range(3)]
    assert all(is_alive(pid) for pid in pids)
    return started, pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_lets_its_workers_save_once(
    program: Program, number: int, tmp_path: Path
) -> None:
    started, pids = working(program, tmp_path, HUNG_S, "save_when_stopped")
    os.killpg(started.pid, number)  # as a terminal does
    out, err = started.communicate(timeout=HUNG_S)
    name = "KeyboardInterrupt" if number == signal.SIGINT else "Terminated"
    assert (out, err) == (f"stopping\nout {name}\n", "")
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["Terminated"] * 2
    assert not any(is_alive(pid) for pid in pids)


def test_a_second_interrupt_kills_at_once(program: Program) -> None:
    started, pids = working(program, Path(), 10 * HUNG_S, "ignore_signals")
    assert started.stdout
    os.killpg(started.pid, signal.SIGINT)
    assert started.stdout.readline() == "stopping\n"
    wait_for(lambda: not all(map(is_alive, pids)))  # the idle one: it is stopping
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=HUNG_S)
    assert (out, err) == ("out KeyboardInterrupt\n", "")
    assert not any(is_alive(pid) for pid in pids)


def test_workers_of_a_killed_program_save_and_end(program: Program, tmp_path: Path) -> None:
    started, pids = working(program, tmp_path, HUNG_S, "save_when_stopped")
    started.kill()
    started.communicate(timeout=HUNG_S)  # nobody keeps the pipes open
    wait_until_gone(pids)
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["Terminated"] * 2


def test_workers_of_a_killed_program_are_killed_when_they_do_not_end(program: Program) -> None:
    started, pids = working(program, Path(), 0.2, "ignore_signals")
    started.kill()
    started.communicate(timeout=HUNG_S)
    wait_until_gone(pids)


PRINTING = """
import sys
sys.path.append(sys.argv[1])
import grid_pieces
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import Workers
with Workers(grid_pieces.start, [Place()] * 2, ["grid_pieces", "heavy"]) as workers:
    workers.put(("show", "hello"))
    workers.put(("kill", 9))
    workers.put(("is_imported_by",))
    workers.put(("is_imported_by",))
    found = [event.content for event in workers.events() if event.piece[0] == "is_imported_by"]
print("imported once", len({importer for importer, _ in found}), flush=True)
print("not by a worker", not {one for one, _ in found} & {one for _, one in found}, flush=True)
"""


@pytest.mark.slow
def test_the_server_imports_once_for_all_and_ends_with_the_program(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / "heavy.py").write_text("import atexit; atexit.register(print, 'taken down')")
    started = program(PRINTING, tmp_path)
    out, err = started.communicate(timeout=HUNG_S)  # to the end of its pipes
    assert out.splitlines() == ["hello", "imported once 1", "not by a worker True"]
    assert err == "hello\n"
    wait_for(lambda: not in_session(started.pid))


SEARCHING = """
import os, sys
sys.path.append(sys.argv[1])
import grid_pieces
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import Workers
if __name__ == "__main__":
    with Workers(grid_pieces.start, [Place()], ["grid_pieces"]) as workers:
        workers.put(("is_imported_by",))
        (ended,) = workers.events()
    print(*ended.content, os.getpid())
"""


@pytest.mark.slow
def test_the_server_searches_modules_where_the_program_does(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / "cwd").mkdir()
    for name in ("random", "grid_pieces", "lrexp"):  # must not be taken for ours
        (tmp_path / "cwd" / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "program.py").write_text(SEARCHING)
    code = (
        "import runpy, sys; del sys.path[0]; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = program(code, tmp_path / "program.py", HERE, cwd=tmp_path / "cwd", env=environment)
    out, err = started.communicate(timeout=HUNG_S)
    assert err == ""
    assert len(set(out.split())) == 3  # the server, the worker and the program


ROUND_AND_ROUND = """
import grid_pieces, signal
from lrexp.config.errors import Terminated
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import Workers
from lrexp.train.signals import signals_stop
try:
    with signals_stop():
        print("up", flush=True)
        while True:
            with Workers(grid_pieces.start, [Place()] * 3, ["grid_pieces"], 2.0) as workers:
                for i in range(30):
                    workers.put(("maybe_be_killed", i, 0.2))
                assert sum(event.kind != "said" for event in workers.events()) == 30
except (KeyboardInterrupt, Terminated):
    print("out", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_stopped_at_any_moment_ends_cleanly_and_alone(
    program: Program, number: int
) -> None:
    draw = random.Random(number)
    for _ in range(10):
        started = program(ROUND_AND_ROUND)
        assert started.stdout
        assert started.stdout.readline() == "up\n"
        time.sleep(draw.uniform(0, 0.5))
        os.kill(started.pid, number)
        out, err = started.communicate(timeout=HUNG_S)
        if number != signal.SIGKILL:
            assert (out, err) == ("out\n", "")
        wait_for(lambda leader=started.pid: not in_session(leader))
