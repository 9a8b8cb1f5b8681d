"""Points as jobs of an engine: handed out, heard, waited for; a job called twice runs once."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_lines import assert_same_run, rows_of, run, start, summary_of
from grid_points import composing
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import OmegaConf
from processes import HUNG_S, wait_for

from lrexp.config.errors import ConfigError, Terminated, UserError
from lrexp.folder import hold, owner
from lrexp.folder.claim import InUseError, owned
from lrexp.folder.files import write_summary
from lrexp.folder.layout import OWNER
from lrexp.folder.owner import look
from lrexp.grid import jobs as here
from lrexp.grid.engines import job as engine_job
from lrexp.grid.engines import jobs as engine_jobs
from lrexp.grid.engines import submitit_jobs
from lrexp.grid.engines.job import Job, StoppedError, Told, judged
from lrexp.grid.engines.joblib_jobs import Joblib
from lrexp.grid.engines.jobs import Jobs, LostError
from lrexp.grid.engines.jobs import wait_for as wait_for_end
from lrexp.grid.engines.ray_tasks import unfit
from lrexp.grid.engines.submitit_jobs import Resubmitted, Submitit
from lrexp.grid.points import resume
from lrexp.grid.points.point import Point
from lrexp.grid.points.resume import make_ready
from lrexp.grid.pool.in_worker import STOPPED
from lrexp.grid.pool.workers import Event
from lrexp.grid.settings import (
    JoblibSettings,
    LocalJobSettings,
    RaySettings,
    SlurmSettings,
    read_settings,
)
from lrexp.session.points import Points
from lrexp.train.signals import signals_stop

Scripted = Callable[[Job], Any]


COMPLETED = JobReturn([], status=JobStatus.COMPLETED)
FAILED = JobReturn([], status=JobStatus.FAILED)


def failed(job: Job) -> Any:
    """Failed, so that no summary is waited for."""
    return {point.num: FAILED for point in job.points}


class Thing:
    """Equal to itself alone, as a job of submitit."""

    def __init__(self, **attributes: Any):
        vars(self).update(attributes)


class Engine:
    """Jobs that have ended as soon as they are looked at, with what a function says of each."""

    def __init__(self, come_to: Scripted, at_once: int | None = None):
        self.at_once, self.come_to = at_once, come_to
        self.handed: list[list[list[int]]] = []
        self.stopped: list[Any] = []

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        self.handed.append([[point.num for point in job.points] for job in jobs])
        return [Thing(job=job) for job in jobs]

    def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
        yield from ((one, self.come_to(one.job)) for one in known)

    def stop(self, known: Sequence[Any]) -> None:
        self.stopped += known


class Session(SimpleNamespace):
    def __init__(self, folder: Path):
        super().__init__(folder=folder, task=Points(), settings=SlurmSettings(), said=[])

    def say(self, line: str) -> None:
        self.said.append(line)


def point(num: int) -> Point:
    return Point(num, [], {}, str(num), b"")


def events(engine: Any, folder: Path, *nums: int, session: Any = None) -> list[Event]:
    here: Any = session or Session(folder)
    with Jobs(here, engine, folder / "jobs") as running:
        for num in nums:
            running.put(("run", [point(num)]))
        return list(running.events())


def kinds(found: Sequence[Event]) -> dict[int, str]:
    return {event.piece[1][0].num: event.kind for event in found}


def test_jobs_come_to_what_the_engine_says_of_them(tmp_path: Path) -> None:
    came: dict[int, Any] = {
        0: {0: COMPLETED},
        1: LostError("killed"),
        2: ValueError("no such module"),
    }
    (tmp_path / "0").mkdir()
    write_summary(tmp_path / "0", {"status": "finished"})
    engine = Engine(lambda job: came[job.points[0].num])
    found = events(engine, tmp_path, 0, 1, 2)
    assert kinds(found) == {0: "returned", 1: "died", 2: "raised"}
    assert [one.content for one in found if one.kind == "died"] == ["is gone: killed"]
    assert engine.handed == [[[0], [1], [2]]]


def test_a_job_that_was_stopped_from_outside_can_be_tried_again(tmp_path: Path) -> None:
    engine = Engine(lambda job: StoppedError("it was asked to stop"))
    assert kinds(events(engine, tmp_path, 0)) == {0: "died"}


def test_only_of_what_did_not_fail_a_summary_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    monkeypatch.setattr(engine_jobs, "wait_for", lambda folder: waited.append(folder.name))
    came = {0: FAILED, 1: COMPLETED}
    events(Engine(lambda job: {num: came[num] for num in (job.points[0].num,)}), tmp_path, 0, 1)
    assert waited == ["1"]


def test_no_more_jobs_are_handed_out_than_an_engine_takes(tmp_path: Path) -> None:
    engine = Engine(failed, at_once=2)
    events(engine, tmp_path, 0, 1, 2)
    assert engine.handed == [[[0], [1]], [[2]]]


def test_what_a_job_says_comes_before_its_end_and_its_file_goes(tmp_path: Path) -> None:
    def come_to(job: Job) -> Any:
        lines = [["row", 0, 1], ["remove", 0], ["begin", 0], ["over", 0]]
        job.said.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return failed(job)

    found = events(Engine(come_to), tmp_path, 0)
    assert [event.content for event in found] == [
        ["row", 0, 1],
        ["begin", 0],
        ["over", 0],
        {0: FAILED},
    ]
    assert not list((tmp_path / "jobs").iterdir())


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    told, file = Told(tmp_path / "said"), tmp_path / "said"
    assert not list(told.news())
    file.write_text('["say", "a"]\n["say"')
    assert list(told.news()) == [["say", "a"]]
    with file.open("a") as more:
        more.write(', "b"]\n')
    assert list(told.news()) == [["say", "b"]]


def test_a_broken_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "said"
    file.write_bytes(b'["say", "a\n["say", \xff]\n[]\n\0\0\n["say", "b"]\n')
    assert list(Told(file).news()) == [["say", "b"]]


def test_an_engine_that_takes_no_job_ends_the_sweep_and_a_later_refusal_does_not(
    tmp_path: Path,
) -> None:
    def submit(jobs: Sequence[Job]) -> list[Any]:
        if jobs[0].points[0].num == refused:
            raise OSError("Socket timed out")
        return Engine.submit(engine, jobs)

    engine, refused = Engine(failed, at_once=1), 0
    engine.submit = submit  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"slurm takes no jobs: .*Socket timed out"):
        events(engine, tmp_path, 0, 1)
    refused = 1
    assert kinds(events(engine, tmp_path, 0, 1, 2)) == {0: "returned", 1: "raised", 2: "returned"}


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_jobs, "POLL_S", 0.0)
    monkeypatch.setattr(owner, "GONE_S", 0.1)


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_what_another_program_runs_is_waited_for_and_its_result_taken(
    status: str, tmp_path: Path
) -> None:
    held = owned(tmp_path / "0")
    held.__enter__()
    session = Session(tmp_path)

    def come_to(job: Job) -> Any:
        if job.points[0].num == 1:  # meanwhile
            write_summary(tmp_path / "0", {"status": status})
            held.__exit__(None, None, None)
        return failed(job)

    engine = Engine(come_to)
    found = events(engine, tmp_path, 0, 1, session=session)
    done = status == "finished"
    assert engine.handed == ([[[1]]] if done else [[[1]], [[0]]])
    assert kinds(found) == {1: "returned", 0: "died" if done else "returned"}
    assert session.said == ["wait   point 0 may run in another job: waiting for it"]


@pytest.mark.usefixtures("_no_pause")
def test_a_job_that_its_engine_has_lost_is_taken_for_dead_once_nobody_holds_its_point(
    tmp_path: Path,
) -> None:
    held = owned(tmp_path / "0")

    def come_to(job: Job) -> Any:
        if job.points[0].num == 0:
            held.__enter__()
            return LostError("its node does not answer")
        held.__exit__(None, None, None)
        return failed(job)

    session = Session(tmp_path)
    engine = Engine(come_to, at_once=1)
    found = events(engine, tmp_path, 0, 1, session=session)
    assert [(event.piece[1][0].num, event.kind) for event in found] == [
        (1, "returned"),
        (0, "died"),
    ]
    assert found[1].content == "is gone: its node does not answer"
    assert session.said == ["wait   point 0 may run in another job: waiting for it"]


@pytest.mark.usefixtures("_no_pause")
def test_a_job_that_finds_another_at_its_point_leaves_it_to_that(tmp_path: Path) -> None:
    def come_to(job: Job) -> Any:
        write_summary(tmp_path / "0", {"status": "diverged"})

    (tmp_path / "0").mkdir()
    assert kinds(events(Engine(come_to), tmp_path, 0)) == {0: "died"}


def test_jobs_are_stopped_with_the_sweep(tmp_path: Path) -> None:
    class Never(Engine):
        def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
            raise KeyboardInterrupt
            yield

    engine = Never(failed)
    with pytest.raises(KeyboardInterrupt):
        events(engine, tmp_path, 0, 1)
    assert len(engine.stopped) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_jobs_are_handed_out_stops_them(
    tmp_path: Path, number: signal.Signals
) -> None:
    class Slow(Engine):
        def submit(self, jobs: Sequence[Job]) -> list[Any]:
            with submitit_jobs._interrupt_held_back():
                os.kill(os.getpid(), number)
                time.sleep(0.01)
            return super().submit(jobs)

    engine = Slow(failed)
    with pytest.raises((Terminated, KeyboardInterrupt)), signals_stop():
        events(engine, tmp_path, 0, 1)
    assert len(engine.stopped) == 2


def test_a_summary_that_shows_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, shown = [0.0], iter(["missing", "running", "running", "finished"])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(engine_jobs.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(engine_jobs.time, "sleep", sleep)
    monkeypatch.setattr(engine_jobs, "read_summary", lambda folder: {"status": next(shown)})
    wait_for_end(tmp_path)
    assert next(shown, None) is None
    assert 0 < clock[0] < 2
    monkeypatch.setattr(engine_jobs, "read_summary", lambda folder: {"status": "running"})
    wait_for_end(tmp_path)
    assert clock[0] > engine_jobs.SHOWN_S  # and no longer


# --- A job ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_a_job_that_is_called_again_goes_on_and_what_is_done_is_not_run(tmp_path: Path) -> None:
    with composing() as composed:
        points = composed(
            "experiment=smoke", "trainer.device=cpu", "data.leak_check=skip", "seed=0,1"
        )
    for one in points:
        with one.changed() as config:
            config.hydra.sweep.dir = str(tmp_path)
    job = Job(Points().for_job("slurm"), points, tmp_path / "jobs" / "said", [], tmp_path)
    first = tmp_path / points[0].folder
    with owned(first):
        assert job() is None
    assert not (first / "summary.json").exists()
    ended = job()
    assert ended is not None
    assert {num: one.status.name for num, one in ended.items()} == {0: "COMPLETED", 1: "COMPLETED"}
    before = (first / "summary.json").read_text()
    rows = [rows_of(tmp_path / one.folder) for one in points]
    write_summary(  # as a kill after the last epoch leaves it
        tmp_path / points[1].folder, summary_of(tmp_path / points[1].folder) | {"status": "running"}
    )
    again = job()
    assert again is not None
    assert again.keys() == {0, 1}
    assert (first / "summary.json").read_text() == before
    second = summary_of(tmp_path / points[1].folder)
    assert (second["status"], second["resumed"][0]["epoch"]) == ("finished", 2)
    assert [rows_of(tmp_path / one.folder) for one in points] == rows
    assert not (first / OWNER).exists()


def test_no_job_of_a_former_launcher_begins_with_a_point_that_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with composing() as composed:
        (one,) = composed("experiment=smoke", f"hydra.sweep.dir={tmp_path}", "seed=0")
    place, came = tmp_path / one.folder, list[str]()

    def task(config: Any) -> float:
        with pytest.raises(InUseError), owned(place):
            pass
        came.append("ran")
        return 0.5

    context = HydraContext(None, Callbacks(one.config))  # type: ignore[arg-type]
    session = here.Session(context, task)
    assert session.run([one])[0][1].return_value == 0.5
    assert not (place / OWNER).exists()
    monkeypatch.setattr(here, "ORPHANS_S", 0.0)
    monkeypatch.setattr(here, "is_held", lambda folder: False)
    with owned(place):  # by a job that was faster
        returned = session.run([one])[0][1]
    assert "is in use by another lrexp process" in str(returned._return_value)
    assert came == ["ran"]


def test_what_a_job_has_begun_with_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "is_held", lambda folder: False)  # by this program
    with owned(tmp_path / "0"):
        write_summary(tmp_path / "0", {"status": "running"})
        with pytest.raises(InUseError):
            make_ready(tmp_path, [point(0)], lambda num: "missing", print)
        make_ready(tmp_path, [point(0)], lambda num: "missing", print, engine="slurm")
    assert [*tmp_path.rglob("*.json")] == [tmp_path / "0" / "summary.json"]


def test_a_job_that_is_called_again_runs_anew_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on: list[int] = []
    monkeypatch.setattr(resume, "go_on", lambda folder, one, say: going_on.append(one.num) or True)
    composed = pickle.dumps(OmegaConf.create({"run_id": "before"}))
    points = [Point(num, [], {}, str(num), composed) for num in range(4)]
    for one, status in zip(points, ("failed", "running", "interrupted", None), strict=True):
        (tmp_path / one.folder).mkdir()
        if status:
            write_summary(tmp_path / one.folder, {"status": status})
    ran: list[Any] = []
    work: Any = lambda piece: ran.append(piece) or {}  # noqa: E731
    Job(None, points, tmp_path / "said", [], tmp_path)._run(work, ran.append)
    assert going_on == [1, 2]
    assert (tmp_path / "earlier" / "0.1" / "summary.json").exists()
    assert [one.config.run_id == "before" for one in points] == [False, True, True, True]
    assert ran == [("run_stacked", points)]


def test_members_that_a_lost_host_held_are_waited_for_all_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "STALE_S", 0.2)
    monkeypatch.setattr(engine_job, "LOOK_S", 0.01)
    places = [tmp_path / str(num) for num in range(3)]
    for place in places:
        place.mkdir()
        (place / OWNER).write_text(owner.Owner("a", "node7", "b", 12).text())
    watched = judged(places)
    monkeypatch.setattr(hold.time, "sleep", lambda seconds: pytest.fail("it waits once more"))
    for place in places:
        with owned(place, watched):
            assert (place / OWNER).exists()


def stopped() -> None:
    raise StoppedError("it was asked to stop")


def time_is_up() -> None:
    os.kill(os.getpid(), signal.SIGUSR2)


def test_a_stopped_job_leaves_no_result_and_one_whose_time_is_up_asks_for_another() -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: asked.append(number))
    term = signal.signal(signal.SIGTERM, lambda *_: stopped())
    try:
        with pytest.raises(SystemExit) as end:
            Resubmitted(stopped)()  # type: ignore[arg-type]
        assert (end.value.code, asked) == (STOPPED, [])
        with pytest.raises(SystemExit):
            Resubmitted(time_is_up)()  # type: ignore[arg-type]
        assert asked == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
        signal.signal(signal.SIGTERM, term)


# --- SLURM without a cluster --------------------------------------------------------------------


class Queue:
    """Stands for squeue and its clock."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.ids, self.answers, self.now = ["7_0", "7_1"], True, 0.0
        patch.setattr(submitit_jobs.subprocess, "run", self.asked)
        patch.setattr(submitit_jobs.time, "monotonic", lambda: self.now)
        patch.setattr(submitit_jobs.time, "sleep", lambda seconds: None)

    def asked(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "squeue"
        code = 0 if self.answers else 1
        return subprocess.CompletedProcess(command, code, "\n".join(self.ids), "")


def slurm_job(folder: Path, number: str) -> Any:
    place = folder / number
    place.mkdir()
    (place / "log.err").write_text("starting\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    paths = SimpleNamespace(folder=place, result_pickle=place / "result", stderr=place / "log.err")
    return Thing(job_id=number, paths=paths, result=lambda: "result")


def test_a_job_is_lost_only_when_it_left_the_queue_and_no_result_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(monkeypatch)
    slurm = Submitit.__new__(Submitit)
    slurm._local, slurm._gone, slurm._queue, slurm._looked = False, {}, set(), -100.0
    one, other = (slurm_job(tmp_path, number) for number in queue.ids)

    def ended() -> list[tuple[Any, Any]]:
        queue.now += 10
        return list(slurm.ended([one, other], 0))

    assert ended() == []
    queue.answers = False  # the controller is down: nothing is known
    assert ended() == []
    queue.answers, queue.ids = True, ["7_1"]
    assert ended() == []  # its result may show late
    queue.ids = ["7_0", "7_1"]  # it was only being requeued
    assert ended() == []
    queue.ids = []
    assert ended() == []
    one.paths.result_pickle.touch()
    assert ended() == [(one, "result")]
    ((job, lost),) = [pair for pair in ended() if pair[0] is other]
    assert job is other
    assert isinstance(lost, LostError)
    assert "oom_kill" in str(lost)
    assert "log.err" in str(lost)


def test_signals_that_leave_no_time_to_train_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no time to train of timeout_min=1"):
        read_settings(SlurmSettings(timeout_min=1))
    assert read_settings(SlurmSettings(timeout_min=1, signal_delay_s=59)).engine == "slurm"


def test_joblib_has_at_least_one_program() -> None:
    with pytest.raises(ConfigError, match=r"n_jobs=0.* leaves no program"):
        read_settings(JoblibSettings(n_jobs=0))
    assert Joblib(JoblibSettings(n_jobs=-1000))._programs == 1


def test_local_jobs_share_the_cores_and_those_of_slurm_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitit_jobs, "cores", lambda: 8)
    asked: list[Any] = []

    class Executor(SimpleNamespace):
        def __init__(self, *_: Any):
            super().__init__(update_parameters=lambda **_: None, batch=nullcontext)
            self.submit = lambda given: asked.append(given.job.threads)

    both = SimpleNamespace(LocalExecutor=Executor, SlurmExecutor=Executor)
    monkeypatch.setitem(sys.modules, "submitit", both)
    job = Job(None, [], tmp_path / "said", [], tmp_path)
    for settings in (LocalJobSettings(workers=2), LocalJobSettings(), SlurmSettings()):
        Submitit(settings, tmp_path).submit([job])
    assert asked == [4, 1, None]


def test_tasks_that_no_node_of_ray_can_run_are_told_of() -> None:
    nodes = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 2.0, "GPU": 1.0}]
    assert unfit(nodes, RaySettings(num_gpus=1)) == ""
    said = unfit(nodes, RaySettings(num_cpus=4, num_gpus=1))
    assert "num_cpus=4 hydra.launcher.num_gpus=1: they have 8 CPUs and 0; 2 CPUs and 1 GPUs" in said


# --- Jobs of submitit on this machine -----------------------------------------------------------

GRID = (
    *("-m", "experiment=smoke", "trainer.device=cpu", "trainer.threads=1", "data.leak_check=skip"),
    *("trainer.limit_train_batches=null", "trainer.epochs=60", "optimizer.lr=0.1,0.03"),
    *("hydra.sweep.dir=sweep", "hydra.launcher.workers=2"),
)


@pytest.mark.slow
def test_local_jobs_that_are_killed_or_stopped_go_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    sweep, whole = tmp_path / "sweep", tmp_path / "whole"
    whole.mkdir()
    assert run(whole, *GRID, "hydra.launcher.executor=serial")[0] == 0

    def begun() -> bool:
        files = list(sweep.glob("[0-9]_*/metrics.jsonl"))
        return len(files) == 2 and all(file.read_text().count("\n") > 2 for file in files)

    program = start(tmp_path, *GRID, "hydra/launcher=submitit_local")
    wait_for(begun, program)
    first, second = sorted(sweep.glob("[0-9]_*"))
    at = look(first / OWNER).owner
    assert at is not None
    os.kill(at.pid, signal.SIGKILL)
    wait_for(lambda: (new := look(first / OWNER).owner) and new.pid != at.pid, program)
    program.send_signal(signal.SIGINT)
    said = program.communicate(timeout=HUNG_S)[0]
    assert program.returncode == 130, said
    assert "retry  point 0" in said
    code, said = run(tmp_path, "-m", "hydra.launcher.resume=sweep")
    assert code == 0, said
    for one in (first, second):
        assert summary_of(one)["executor"] == "submitit_local"
        assert_same_run(one, whole / "sweep" / one.name)
