"""A pool of worker programs: the same bits as single runs, and a killed worker takes one point."""

from __future__ import annotations

import importlib.util
import json
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from command_lines import assert_same_run, rows_but_times, start, summary_of
from command_lines import run as command
from grid_pieces import own_fork_server
from grid_run import Dying, Ran, running
from processes import HUNG_S, wait_for

from lrexp.config.errors import ConfigError, Terminated
from lrexp.grid import auto
from lrexp.grid.points.point import Point
from lrexp.grid.pool import pool
from lrexp.grid.pool.in_worker import Place, PointsHere
from lrexp.grid.pool.pool import check_gpus, places
from lrexp.grid.pool.workers import Event
from lrexp.grid.settings import LauncherSettings, read_settings

SMOKE = ["experiment=smoke", "trainer.device=cpu", "logger=none"]
TWO = {"workers": 2}


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with own_fork_server(pool.PRELOAD):
        yield


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    with running(tmp_path, lambda: capsys.readouterr().out) as function:
        yield function


def test_there_is_all_that_workers_import_before_they_start() -> None:
    """The server passes over what it cannot import."""
    for module in pool.PRELOAD:
        assert importlib.util.find_spec(module), module


def statuses(folder: Path) -> list[str]:
    return [summary_of(point)["status"] for point in sorted(folder.glob("?_seed_?"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ran, Ran]]:
    """One grid in a pool, where the worker of a point is killed, and one after the other."""
    folder = tmp_path_factory.mktemp("swept")
    grid = ["model=mlp", "model.dropout=0.2", "data.augment=basic", "trainer.threads=1"]
    grid += ["seed=0,1,2"]
    with running(folder, str) as run:
        task = Dying(signal.SIGKILL, folder / "was_killed")
        yield run("pool", *grid, settings=TWO, task=task), run("serial", *grid)


def test_points_in_a_pool_have_the_bits_of_single_runs(swept: tuple[Ran, Ran]) -> None:
    pool, alone = swept
    for num in range(3):
        assert_same_run(pool.of(num), alone.of(num))
    assert (pool.summary(2)["executor"], pool.summary(2)["members"]) == ("pool", 1)
    assert "data: shared with an earlier run" in pool.log(2)  # read once, by the program itself
    assert "epoch  train loss" in pool.log(2)
    board = json.loads((pool.folder / "leaderboard.json").read_text())
    assert [row["status"]["finished"] for row in board["configurations"]] == [3]


def test_a_point_whose_worker_was_killed_goes_on_in_another(swept: tuple[Ran, Ran]) -> None:
    pool, _ = swept
    assert statuses(pool.folder) == ["finished"] * 3
    assert not (pool.folder / "earlier").exists()
    found = pool.summary(1)
    assert [(at["epoch"], at["changes"]) for at in found["resumed"]] == [(1, [])]
    assert found["run_id"] == pool.points[1].config.run_id
    assert found["error"] is None
    assert "resume from epoch 1" in pool.log(1)


@pytest.mark.slow
def test_a_point_whose_worker_was_killed_before_any_state_is_run_anew(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    task = Dying(signal.SIGKILL, tmp_path / "was_killed", saved=False)
    pool = run("pool", "seed=0,1,2", settings=TWO, task=task)
    assert statuses(pool.folder) == ["finished"] * 3
    (earlier,) = (pool.folder / "earlier").glob("*")
    assert earlier.name == "1_seed_1.1"
    assert summary_of(earlier)["run_id"] != pool.summary(1)["run_id"]
    killed = "RuntimeError: worker killed by signal 9 (SIGKILL)"
    assert summary_of(earlier)["error"] == killed
    assert [row["epoch"] for row in pool.rows(1)] == [1, 2]
    assert "resumed" not in pool.summary(1)


@pytest.mark.slow
@pytest.mark.parametrize(("retries", "sent"), [(0, 9), (1, 15)])
def test_a_killed_worker_fails_its_own_point_alone(
    run: Callable[..., Ran], tmp_path: Path, retries: int, sent: int
) -> None:
    task = Dying(sent, tmp_path / "was_killed")
    ran = run("pool", "seed=0,1,2", settings=TWO | {"retries": retries}, task=task)
    assert statuses(ran.folder) == ["finished", "finished" if retries else "failed", "finished"]
    killed = f"worker {'killed by signal 9 (SIGKILL)' if sent == 9 else 'stopped from outside'}"
    if retries:
        assert f"retry  point 1: {killed}, goes on from its last epoch" in ran.said
    else:
        assert ran.summary(1)["error"] == f"RuntimeError: {killed}"
        assert f"failed  RuntimeError: {killed}" in ran.said


def test_a_stopped_pool_saves_what_runs_before_the_sweep_ends(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = set()

    def row(self: Any, num: int, row: Any) -> None:
        begun.add(num)
        if len(begun) == 2:
            raise Terminated

    monkeypatch.setattr("lrexp.grid.live.GridView.row", row)
    with pytest.raises(Terminated):
        run("pool", "seed=0,1,2", "trainer.epochs=10000", settings=TWO)
    assert statuses(tmp_path / "sweep0") == ["interrupted"] * 2
    board = json.loads((tmp_path / "sweep0" / "leaderboard.json").read_text())
    (row_,) = board["configurations"]
    assert row_["status"]["interrupted"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["pool", "stacked"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_saves_what_runs_and_is_finished_later(
    tmp_path: Path, executor: str, sent: signal.Signals
) -> None:
    launcher = [f"hydra.launcher.executor={executor}", "hydra.launcher.workers=2"]
    grid = ["-m", *SMOKE, "seed=0,1,2", "trainer.epochs=60", *launcher]
    sweep = start(tmp_path, *grid, "hydra.sweep.dir=stopped")
    folder = tmp_path / "stopped"
    wait_for((folder / "1_seed_1" / "checkpoints" / "last.pt").exists, sweep)
    sweep.send_signal(sent)
    said = sweep.communicate(timeout=HUNG_S)[0]
    assert sweep.returncode == (143 if sent == signal.SIGTERM else -9), said
    stopped = [at for at in folder.glob("?_seed_?") if (at / "checkpoints" / "last.pt").exists()]
    before = {point.name: summary_of(point)["run_id"] for point in stopped}
    # Workers of a killed program save what they run before they end, too: it waits for them.
    returned, said = command(tmp_path, "-m", "hydra.launcher.resume=stopped", *launcher)
    assert returned == 0, said
    assert "resume 0 points are done, " in said
    assert "from their last epoch" in said or "from its last epoch" in said
    returned, said = command(tmp_path, *grid, "hydra.sweep.dir=whole")
    assert returned == 0, said
    assert statuses(folder) == ["finished"] * 3
    for point in sorted(folder.glob("?_seed_?")):
        summary, whole = summary_of(point), tmp_path / "whole" / point.name
        assert before.get(point.name, summary["run_id"]) == summary["run_id"] or executor != "pool"
        if executor == "pool":
            assert_same_run(point, whole)
            assert summary["test"] == summary_of(whole)["test"]
        else:
            for row, other in zip(rows_but_times(point), rows_but_times(whole), strict=True):
                assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert any("resumed" in summary_of(point) for point in folder.glob("?_seed_?"))


@pytest.mark.slow
def test_workers_may_run_points_that_train_together(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_packs = pool.run_packs

    def paired(packs: Any, workers: Any, session: Any) -> Any:
        points = [point for part in packs for point in part]
        return run_packs([points[:2], points[2:]], workers, session)

    monkeypatch.setattr(pool, "run_packs", paired)
    ran = run("pool", "seed=0,1,2,3", settings=TWO)
    found = [ran.summary(num) for num in range(4)]
    assert [(s["executor"], s["members"]) for s in found] == [("pool", 2)] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "executor"), [(1e9, "pool"), (0.0, "serial")])
def test_auto_takes_a_pool_only_when_it_measures_faster(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, rate: float, executor: str
) -> None:
    measured = []

    def measure(*arguments: Any) -> float:
        measured.append(pool.measure_pool(*arguments))
        return rate

    monkeypatch.setattr(auto, "POOL_START_S", -1000)
    monkeypatch.setattr(auto, "measure_pool", measure)
    ran = run("auto", "seed=0,1", settings=TWO)
    assert measured[0] > 0
    assert ("not taken" in ran.said) == (not rate)
    assert [ran.summary(num)["executor"] for num in range(2)] == [executor] * 2


@pytest.mark.parametrize(
    ("rates", "measured"),
    [
        ([[0.0, 0.0], [50.0, 60.0]], 110.0),
        ([[0.0, 0.0], [50.0, 0.0], [40.0, 60.0]], 100.0),  # 50 was all by itself
        ([[0.0, 0.0], [50.0, 0.0], [0.0, 60.0]], 0.0),
        ([[0.0, 0.0], [50.0]], 0.0),  # one failed
    ],
)
def test_only_workers_that_train_at_a_time_measure_a_pool(
    rates: list[list[float]], measured: float
) -> None:
    rounds, asked = iter(rates), []

    class Running:
        put = staticmethod(asked.append)

        @staticmethod
        def events() -> list[Event]:
            return [Event(None, "returned", rate) for rate in next(rounds)]

    assert pool.measure_pool(cast("Any", Running()), [], 2) == measured
    assert len(asked) == 2 * len(rates)


@pytest.mark.slow
def test_a_worker_that_is_ready_too_late_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.grid.stack.probe.clones", lambda trainer, seeds: [trainer])
    monkeypatch.setattr("lrexp.grid.stack.probe.steps_per_s", lambda trainers, budget_s: 50.0)
    task: Any = SimpleNamespace(view=None, trainer=lambda config: None)
    here = PointsHere(task)
    point = Point(0, [], {"seed": 0}, "0", pickle.dumps(None))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for until_s, rate in ((600.0, 50.0), (-1.0, 0.0)):
        assert here.steps_per_s([point], time.monotonic() + until_s, 0.3) == rate


def test_cores_are_shared_by_the_workers_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.grid.pool.pool.cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert places(LauncherSettings(), []) == [Place(None, 1)] * 8
    assert places(LauncherSettings(workers=3), []) == [Place(None, 2)] * 3
    assert places(LauncherSettings(workers=20), []) == [Place(None, 1)] * 20


def test_every_gpu_has_as_many_workers_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.grid.pool.pool.cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    points = [Point(0, [], {"trainer.device": "auto"}, "p", b"")]
    assert places(LauncherSettings(), points) == [Place("0", 4), Place("1", 4)]
    chosen = LauncherSettings(gpus=[1], jobs_per_gpu=2)
    assert places(chosen, points) == [Place("1", 4)] * 2
    points[0].settings["trainer.device"] = "cpu"
    assert places(LauncherSettings(), points) == [Place(None, 1)] * 8
    points[0].settings["trainer.device"] = "cuda:1"  # the user's own choice stays
    assert places(LauncherSettings(jobs_per_gpu=2), points) == [Place(None, 4)] * 2


@pytest.mark.parametrize(
    ("device", "gpus", "said"),
    [
        ("auto", [0, 2], "names a GPU that is not on this machine"),
        ("cuda:1", [0], "does not go with trainer.device=cuda:1"),
        ("cpu", [0], "does not go with trainer.device=cpu"),
    ],
)
def test_gpus_that_cannot_be_used_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: list[int], said: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    points = [Point(0, [], {"trainer.device": device}, "p", b"")]
    with pytest.raises(ConfigError, match=said):
        check_gpus(LauncherSettings(gpus=gpus), points)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("executor", "stack"),
        ("members", 0),
        ("members", 1000),
        ("workers", 0),
        ("retries", -1),
        ("jobs_per_gpu", 0),
        ("gpus", []),
        ("gpus", [1, 1]),
        ("only", "failed"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"hydra.launcher.{setting}"):
        read_settings(LauncherSettings(**{setting: value}))
