"""A search by Optuna, as it is installed: trials are points, and a study that is killed goes on."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command_lines import SMOKE, run, start, summary_of

from lrexp.__main__ import main

optuna: Any = pytest.importorskip("optuna", reason="needs Optuna")
if int(optuna.__version__.partition(".")[0]) < 4:
    pytest.skip("needs Optuna 4", allow_module_level=True)

RATE = "optimizer.lr=tag(log, interval(1e-3, 1))"
DECAY = "optimizer.weight_decay=interval(0, 0.01)"
SEARCH = ["-m", *SMOKE, "hydra/sweeper=optuna", "logger=none", "hydra.launcher.executor=serial"]


def points_of(sweep: Path) -> list[dict[str, Any]]:
    return json.loads((sweep / "points.json").read_text())["points"]


def finished(sweep: Path) -> int:
    summaries = sweep.glob("*/summary.json")
    return sum(json.loads(one.read_text())["status"] == "finished" for one in summaries)


def trials_of(sweep: Path) -> list[Any]:
    study = optuna.load_study(study_name="lrexp", storage=f"sqlite:///{sweep / 'study.db'}")
    return study.get_trials(deepcopy=False)


@pytest.mark.slow
def test_a_killed_study_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    """Killed twice within a batch: no trial is lost, drawn anew or trained twice."""
    asked = [*SEARCH, RATE, DECAY, "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=3"]
    asked += ["hydra.sweeper.sampler.n_startup_trials=3"]
    returned, said = run(tmp_path, *asked, "hydra.sweep.dir=whole")
    assert returned == 0, said
    killed = tmp_path / "killed"
    for ended in (1, 4):
        process = start(tmp_path, *asked, "hydra.sweep.dir=killed")
        while finished(killed) < ended and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = {file: file.stat().st_mtime_ns for file in killed.glob("*/checkpoints/best.pt")}
    kept = {file for file in before if summary_of(file.parent.parent)["status"] == "finished"}
    assert len(finished_numbers(killed)) < 8
    returned, said = run(tmp_path, "-m", "hydra.launcher.resume=killed")
    assert returned == 0, said
    assert re.search(r"^resume study lrexp: 6 trials are there, \d of them to be", said, re.M)
    assert all(file.stat().st_mtime_ns == before[file] for file in kept)
    whole = tmp_path / "whole"
    same = [[(p["num"], p["trial"], p["overrides"]) for p in points_of(s)] for s in (whole, killed)]
    assert same[0] == same[1]
    values = [[trial.value for trial in trials_of(sweep)] for sweep in (whole, killed)]
    assert values[0] == values[1]
    assert [trial.state.name for trial in trials_of(killed)] == ["COMPLETE"] * 8
    board = json.loads((killed / "leaderboard.json").read_text())
    assert (
        board["configurations"]
        == json.loads((whole / "leaderboard.json").read_text())["configurations"]
    )


def finished_numbers(sweep: Path) -> list[int]:
    ended = [p for p in points_of(sweep) if (sweep / p["folder"] / "summary.json").exists()]
    return [p["num"] for p in ended if summary_of(sweep / p["folder"])["status"] == "finished"]


@pytest.mark.slow
def test_trials_are_ranked_points_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = [*SEARCH, "hydra/sweeper/sampler=grid", "hydra.sweep.dir=found"]
    rates = "optimizer.lr=choice(0.02,0.05,1e12)"
    assert main([*grid, rates, "hydra.sweeper.n_trials=2"]) == 0
    assert main([*grid, rates, "hydra.sweeper.n_trials=9"]) == 0
    said = capfd.readouterr().out
    assert "resume study lrexp: 2 trials are there\n" in said
    assert "note   every combination has been tried" in said
    found = tmp_path / "found"
    board = json.loads((found / "leaderboard.json").read_text())
    assert [one["status"]["finished"] for one in board["configurations"]] == [1, 1, 0]
    assert board["configurations"][2]["status"]["diverged"] == 1
    values = {float(trial.params["optimizer.lr"]): trial.value for trial in trials_of(found)}
    assert values[1e12] == math.inf  # the worst there is
    best = board["configurations"][0]
    assert values[float(best["settings"]["optimizer.lr"])] == best["val/loss"]["mean"]
    assert [(p["num"], p["trial"]) for p in points_of(found)] == [(0, 0), (1, 1), (2, 2)]
    assert main([*grid, rates, "optimizer.momentum=0.5"]) == 2
    assert "optimizer.momentum was 0.9 and is 0.5" in capfd.readouterr().err


@pytest.mark.slow
def test_seeds_are_repetitions_and_equal_trials_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [*SEARCH, "optimizer.lr=0.02,0.05", "seed=0,1", "hydra.sweep.dir=found"]
    asked += ["hydra.launcher.executor=stacked", "hydra/sweeper/sampler=random"]
    assert main([*asked, "hydra.sweeper.n_trials=4"]) == 0
    found = tmp_path / "found"
    points = points_of(found)
    assert [p["trial"] for p in points] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({tuple(p["overrides"]) for p in points}) == 4
    assert sum(p["same_as"] is not None for p in points) == 4
    assert "4 lr=0.05 seed=0 trains as 2 does: runs once" in capfd.readouterr().out
    for trial in trials_of(found):
        mine = [p for p in points if p["trial"] == trial.number]
        ran = [points[p["num"] if p["same_as"] is None else p["same_as"]] for p in mine]
        of_seeds = [summary_of(found / p["folder"])["best"]["val/loss"] for p in ran]
        assert trial.value == sum(of_seeds) / 2
    assert {summary_of(run.parent)["executor"] for run in found.glob("*/summary.json")} == {
        "stacked"
    }
    board = json.loads((found / "leaderboard.json").read_text())
    assert [one["val/loss"]["n"] for one in board["configurations"]] == [2, 2]


@pytest.mark.slow
def test_a_failed_trial_is_told_as_one_and_too_many_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # a loss for several labels, of data that have one: known once they are read
    asked = [*SEARCH, "loss=cross_entropy,bce", "hydra/sweeper/sampler=grid"]
    assert main([*asked, "hydra.sweep.dir=all", "hydra.sweeper.n_jobs=1"]) == 1
    states = sorted(trial.state.name for trial in trials_of(tmp_path / "all"))
    assert states == ["COMPLETE", "FAIL"]
    few = [*asked, "hydra.sweep.dir=few", "hydra.sweeper.n_jobs=2"]
    assert main([*few, "hydra.sweeper.max_failure_rate=0.2"]) == 1
    assert "1 of 2 trials failed: more than hydra.sweeper.max_failure" in capfd.readouterr().err


@pytest.mark.slow
def test_two_folders_share_a_study_in_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What another folder's program began and left is taken where it finished."""
    monkeypatch.chdir(tmp_path)
    asked = [*SEARCH, RATE, "hydra.sweeper.storage=shared.journal", "hydra.sweeper.n_jobs=2"]
    assert main([*asked, "hydra.sweep.dir=one", "hydra.sweeper.n_trials=2"]) == 0
    text = (tmp_path / "shared.journal").read_text().splitlines(keepends=True)
    told = [line for line in text if '"state": 1' in line or '"state":1' in line]
    assert len(told) == 2
    (tmp_path / "shared.journal").write_text("".join(x for x in text if x != told[1]))  # killed
    assert main([*asked, "hydra.sweep.dir=two", "hydra.sweeper.n_trials=3"]) == 0
    assert "resume study lrexp: 2 trials are there" in capfd.readouterr().out
    assert [p["trial"] for p in points_of(tmp_path / "two")] == [2]
    backend = optuna.storages.journal.JournalFileBackend("shared.journal")
    study = optuna.load_study(study_name="lrexp", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    ran = [summary_of(tmp_path / "one" / p["folder"]) for p in points_of(tmp_path / "one")]
    assert [trial.value for trial in study.trials[:2]] == [r["best"]["val/loss"] for r in ran]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("hydra.launcher.resume=.", "is no sweep that can be resumed"),
        ("hydra.sweeper.direction=maximize", "looks for the worst value of trainer.monitor="),
        ("cases=policies", "cases: is for a grid"),
        ("hydra.sweeper.sampler.n_startup=3", "did you mean 'n_startup_trials'"),
        ("optimizer.momentum=interval(0,1)", "optimizer.momentum=1.0: must be at least 0"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    argument: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SEARCH, argument, RATE]) == 2
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
