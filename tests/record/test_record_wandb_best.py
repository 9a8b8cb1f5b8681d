"""W&B runs of a grid's best points alone: which those are, and that they are what they would have
been; offline files read back, and a loopback server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_lines import main_in
from test_record_wandb_server import agent_runs, lrexp_with, rows_of
from wandb_log import WandbLog, read_run
from wandb_stub import WandbStub

from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Point
from lrexp.record.wandb.file import has_ended, runs_below
from lrexp.session.best_runs import best_points

GRID = ("-m", "lr_policy=uniform,freeze_backbone", "optimizer.lr=0.1,0.01", "seed=0,1")
QUICK = ("trainer.epochs=1", "data.leak_check=skip", "hydra.sweep.dir=sweep")
OF_A_RUN = ("timings/", "run_id", "environment", "_", "perf/", "plan")  # two runs differ in it


def board_of(tmp_path: Path, losses: dict[tuple[str, str, int], float | None], **more: Any) -> Any:
    """A leaderboard of points by (policy, rate, seed); None diverged."""
    board = Leaderboard(tmp_path)
    for num, ((policy, lr, seed), loss) in enumerate(losses.items()):
        settings = {"lr_policy.name": policy, "seed": seed, "task.name": "train"}
        settings |= {"trainer.monitor": "val/loss", "logger.name": "wandb"}
        settings |= {"logger.points": "best"} | more
        typed = [f"lr_policy={policy}", f"optimizer.lr={lr}", f"seed={seed}"]
        board.points.append(Point(num, typed, settings, str(num), b""))
        ended = {"status": "diverged"} if loss is None else {"status": "finished"}
        board.take(num, ended | {"best": {"epoch": 1, "val/loss": loss or 9.0}})
    return board


def test_the_best_are_every_finished_seed_of_each_policys_first_on_the_leaderboard(
    tmp_path: Path,
) -> None:
    losses = {
        ("uniform", "0.1", 0): 0.5, ("uniform", "0.1", 1): 0.6,
        ("uniform", "0.2", 0): 0.1, ("uniform", "0.2", 1): None,  # the lowest, but one diverged
        ("lp_ft", "0.1", 0): 0.9, ("lp_ft", "0.1", 1): 0.9,
        ("lp_ft", "0.2", 0): 0.7, ("lp_ft", "0.2", 1): 0.8,
        ("surgical", "0.1", 0): 0.3, ("surgical", "0.1", 1): None,  # all there is of it
        ("ulmfit", "0.1", 0): None, ("ulmfit", "0.1", 1): None,
    }  # fmt: skip
    chosen = [point.num for point in best_points(board_of(tmp_path, losses))]
    assert sorted(chosen) == [0, 1, 6, 7, 8]
    two_cases = board_of(tmp_path, losses)
    for point in two_cases.points[4:6]:  # the worse lp_ft, by itself
        point.case = "short"
    assert sorted(point.num for point in best_points(two_cases)) == [0, 1, 4, 5, 6, 7, 8]
    changed = board_of(tmp_path, losses)
    for point in changed.points[6:8]:  # the better lp_ft is asked for no longer
        point.former = True
    assert sorted(point.num for point in best_points(changed)) == [0, 1, 4, 5, 8]
    for other in ({"logger.points": "all"}, {"logger.points": "none"}, {"task.name": "plan"}):
        assert best_points(board_of(tmp_path, losses, **other)) == []


def told(log: WandbLog) -> dict[str, Any]:
    """What W&B was told of a run, but for what two runs of one config differ in."""

    def same(values: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if not k.startswith(OF_A_RUN)}

    rows = list(map(same, log.history))
    config = same(log.config) | {"command": "", "logger": "", "run_id": ""}
    run = {k: v for k, v in log.run.items() if k not in ("run_id", "run_group")}
    summary = {k: v for k, v in same(log.summary).items() if "/perf/" not in k}
    return vars(log) | {"history": rows, "config": config, "run": run, "summary": summary}


@pytest.mark.slow
def test_offline_the_best_have_the_runs_that_they_would_have_had_and_none_twice(
    tmp_path: Path,
) -> None:
    base = ["experiment=smoke", "logger=wandb", *QUICK]
    found: dict[str, dict[str, WandbLog]] = {}
    for points in ("all", "best", "none"):
        folder = tmp_path / points
        folder.mkdir()
        assert main_in(folder, *base, *GRID, f"logger.points={points}", HOME=str(folder)) == 0
        with_run = {file.parents[2].name for file in folder.glob("sweep/*/wandb/*/*.wandb")}
        found[points] = {name: read_run(folder / "sweep" / name) for name in sorted(with_run)}
    assert len(found["all"]) == 8
    assert found["none"] == {}
    board = json.loads((tmp_path / "best" / "sweep" / "leaderboard.json").read_text())
    firsts: dict[str, list[str]] = {}
    for row in board["configurations"]:
        firsts.setdefault(row["settings"]["lr_policy"], row["folders"])
    assert sorted(found["best"]) == sorted(name for some in firsts.values() for name in some)
    for name, log in found["best"].items():
        point = tmp_path / "best" / "sweep" / name
        assert told(log) == told(found["all"][name])
        assert log.history == rows_of(point)
        assert log.run["run_id"] == json.loads((point / "summary.json").read_text())["run_id"]
        assert log.run["run_group"] == "sweep"
        assert log.summary["plan"]["_type"] == "table-file"
        assert log.exit_code == 0
    again = ["-m", "hydra.launcher.resume=sweep"]
    # what was asked for at first may change
    line = [*base, *GRID[1:], "logger.points=best", *again]
    assert main_in(tmp_path / "none", *line, HOME="/nowhere") == 0
    late = {file.parents[2].name for file in tmp_path.glob("none/sweep/*/wandb/*/*.wandb")}
    assert late == found["best"].keys()
    # a sweep that goes on makes no second run, and one that is half there is made whole
    torn, *_ = (tmp_path / "best" / "sweep").glob("*/wandb/*/*.wandb")
    torn.write_bytes(torn.read_bytes()[:9000])
    assert not has_ended(torn)
    assert main_in(tmp_path / "best", *again, HOME="/nowhere") == 0
    files = {name: runs_below(tmp_path / "best" / "sweep" / name) for name in found["best"]}
    assert sum(map(len, files.values())) == 5
    assert all(has_ended(some[-1]) for some in files.values())


@pytest.mark.slow
def test_online_only_the_best_arrive_and_once(tmp_path: Path) -> None:
    with WandbStub() as server:
        line = (*GRID, *QUICK, "logger.points=best")
        said = lrexp_with(server, tmp_path, *line)
        assert "records the best of each policy: 4 runs" in said
        assert len(server.runs) == 4
        said = lrexp_with(server, tmp_path, *line, "hydra.launcher.resume=sweep")
        assert "records the best" not in said
        assert len(server.runs) == 4
        for folder in (tmp_path / "sweep").glob("[0-9]*"):
            run_id = json.loads((folder / "summary.json").read_text())["run_id"]
            if run_id in server.runs:
                assert server.history(run_id) == rows_of(folder)
                assert server.summary(run_id)["status"] == "finished"
                assert server.runs[run_id].facts["groupName"] == "sweep"
        assert server.exit_codes == dict.fromkeys(server.runs, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("points", "runs"), [("best", 2), ("none", 0)])
def test_a_trial_gets_its_value_whichever_points_have_runs(
    tmp_path: Path, points: str, runs: int
) -> None:
    with WandbStub() as server:
        words = ("-m", "seed=0,1", "trainer.epochs=1", f"logger.points={points}")
        (own,) = agent_runs(server, tmp_path, [0.1], *words)
        assert len(server.runs) == 1 + runs
        assert server.summary(own)["best/val/loss"] > 0
        assert server.exit_codes == dict.fromkeys(server.runs, 0)
