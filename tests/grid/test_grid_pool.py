"""A pool of worker programs: the same bits as single runs, and a killed worker takes one point."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from command_lines import assert_same_run, rows_but_times, run, start, summary_of
from processes import HUNG_S, wait_for

from lrexp.config.errors import ConfigError
from lrexp.grid.points.point import Point
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.pool import Measure, check_gpus, measure_pool, places
from lrexp.grid.pool.workers import Ended
from lrexp.grid.settings import LauncherSettings, read_settings

SMOKE = ["experiment=smoke", "trainer.device=cpu", "logger=none"]
POOL = ["hydra.launcher.executor=pool", "hydra.launcher.workers=2"]


def worker_of(point: Path) -> int:
    """The program that has a point's log open."""
    log = str(point / "lrexp.log")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if any(os.readlink(fd) == log for fd in (entry / "fd").iterdir()):
                return int(entry.name)
        except OSError:
            continue
    return 0


@pytest.mark.slow
def test_points_in_a_pool_have_the_bits_of_single_runs(tmp_path: Path) -> None:
    grid = ["model=mlp", "model.dropout=0.2", "data.augment=basic", "trainer.threads=1"]
    swept = ["optimizer.lr=0.05,0.1", "seed=0,1"]
    returned, said = run(tmp_path, "-m", *SMOKE, *grid, *swept, *POOL, "hydra.sweep.dir=sweep")
    assert returned == 0, said
    assert "sweep  sweep" in said
    returned, said = run(
        tmp_path, *SMOKE, *grid, "optimizer.lr=0.1", "seed=1", "hydra.run.dir=single"
    )
    assert returned == 0, said
    point = tmp_path / "sweep" / "3_optimizer.lr_0.1_seed_1"
    assert_same_run(point, tmp_path / "single")
    assert (summary_of(point)["executor"], summary_of(point)["members"]) == ("pool", 1)
    log = (point / "lrexp.log").read_text()
    assert "data: shared with an earlier run" in log  # read once, by the program itself
    assert "epoch  train loss" in log
    board = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    assert [row["status"]["finished"] for row in board["configurations"]] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("retries", "sent"), [(0, 9), (1, 9), (1, 15)])
def test_a_killed_worker_fails_its_own_point_alone(tmp_path: Path, retries: int, sent: int) -> None:
    grid = ["-m", *SMOKE, "seed=0,1,2", "trainer.epochs=60", f"hydra.launcher.retries={retries}"]
    sweep = start(tmp_path, *grid, *POOL, "hydra.sweep.dir=sweep")
    point = tmp_path / "sweep" / "1_seed_1"
    wait_for((point / "checkpoints" / "last.pt").exists, sweep)
    os.kill(wait_for(lambda: worker_of(point)), sent)
    said = sweep.communicate(timeout=HUNG_S)[0]
    assert sweep.returncode == 1 - retries, said
    statuses = [summary_of(f)["status"] for f in sorted((tmp_path / "sweep").glob("?_seed_?"))]
    assert statuses == ["finished", "finished" if retries else "failed", "finished"]
    killed = f"worker {'killed by signal 9 (SIGKILL)' if sent == 9 else 'stopped from outside'}"
    if retries:
        assert f"retry  point 1: {killed}" in said
        assert (tmp_path / "sweep" / "earlier" / "1_seed_1.1").is_dir()
        ids = [summary_of(f)["run_id"] for f in (point, tmp_path / "sweep/earlier/1_seed_1.1")]
        assert len(set(ids)) == 2
        assert len(rows_but_times(point)) == 60
    else:
        assert summary_of(point)["error"] == f"RuntimeError: {killed}"
        assert f"failed 1_seed_1: RuntimeError: {killed}" in said


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
    # Workers of a killed program save what they run before they end, too.
    alone = executor == "stacked" and sent == signal.SIGKILL
    saved = "running" if alone else "interrupted"
    wait_for(lambda: summary_of(folder / "1_seed_1")["status"] == saved)
    returned, said = run(tmp_path, "-m", "hydra.launcher.resume=stopped", *launcher)
    assert returned == 0, said
    found = sorted(folder.glob("?_seed_?"))
    assert [summary_of(point)["status"] for point in found] == ["finished"] * 3
    assert [len(rows_but_times(point)) for point in found] == [60] * 3


@pytest.mark.slow
def test_workers_may_run_points_that_train_together(tmp_path: Path) -> None:
    code = """
import sys
from lrexp.grid import pool
run_packs = pool.run_packs
def paired(packs, running, session):
    points = [point for part in packs for point in part]
    return run_packs([points[:2], points[2:]], running, session)
pool.run_packs = paired
from lrexp.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["-m", *SMOKE, "seed=0,1,2,3", "trainer.epochs=3", *POOL, "hydra.sweep.dir=sweep"]
    returned, said = run(tmp_path, *arguments, code=code)
    assert returned == 0, said
    found = [summary_of(point) for point in sorted((tmp_path / "sweep").glob("?_seed_?"))]
    assert [(s["executor"], s["members"]) for s in found] == [("pool", 2)] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "executor"), [(1e9, "pool"), (0.0, "serial")])
def test_auto_takes_a_pool_only_when_it_measures_faster(
    tmp_path: Path, rate: float, executor: str
) -> None:
    code = f"""
import sys
from lrexp.grid import auto as choice
choice.POOL_START_S = -1000
measure = choice.measure_pool
def measured(*arguments):
    assert measure(*arguments) > 0
    return {rate}
choice.measure_pool = measured
from lrexp.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["-m", *SMOKE, "seed=0,1", "hydra.launcher.workers=2", "hydra.sweep.dir=sweep"]
    returned, said = run(tmp_path, *arguments, code=code)
    assert returned == 0, said
    assert ("taken" if rate else "not taken") in said
    found = [summary_of(point) for point in sorted((tmp_path / "sweep").glob("?_seed_?"))]
    assert [s["executor"] for s in found] == [executor] * 2


@pytest.mark.parametrize(
    ("rates", "measured"),
    [
        ([{1: 0.0, 2: 0.0}, {1: 50.0, 2: 60.0}], 110.0),
        ([{1: 0.0}, {1: 50.0, 2: 0.0}, {1: 40.0, 2: 60.0}], 100.0),  # 50 was all by itself
        ([{1: 0.0, 2: 0.0}, {1: 50.0, 2: 0.0}, {1: 0.0, 2: 60.0}], 0.0),
        ([{1: 0.0, 2: 0.0}, {1: 50.0}], 0.0),  # one failed
    ],
)
def test_only_workers_that_train_at_a_time_measure_a_pool(
    rates: list[dict[int, float]], measured: float
) -> None:
    rounds = iter(rates)
    asked: list[Measure] = []

    class Running:
        put = staticmethod(asked.append)

        @staticmethod
        def events() -> list[Ended]:
            found = [*next(rounds).items()]
            found += found[:1] * (len(asked) == 2 and len(found) < 2)  # one did the work of two
            return [Ended(None, 0, result=result) for result in found]

    running: Any = Running()
    assert measure_pool(running, [], 2) == measured
    assert [m.at is None for m in asked[:4]] == [True, True, False, False]


def test_a_worker_that_is_ready_too_late_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrexp.grid.stack.timing.clones", lambda trainer, seeds: [trainer])
    monkeypatch.setattr(
        "lrexp.grid.stack.timing.serial_steps_per_s", lambda trainer, budget_s: 50.0
    )
    task: Any = SimpleNamespace(view=None, trainer=lambda config: None)
    point = Point(0, [], {"seed": 0}, "0", pickle.dumps(None))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for until_s, rate in ((60.0, 50.0), (-1.0, 0.0)):
        assert Measure([point], time.monotonic() + until_s)(cast("Any", None), task)[1] == rate


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
