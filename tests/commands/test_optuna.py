"""A sweeper that chooses points as it goes: the one of Optuna, as it is installed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_lines import SMOKE

from lrexp.__main__ import main

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper.config", reason="needs the Optuna sweeper")

TRIALS = "hydra.sweeper.n_trials=3"
OPTUNA = ["-m", *SMOKE, "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", TRIALS]
GRID = "hydra/sweeper/sampler=grid"


@pytest.mark.filterwarnings("ignore")  # Optuna's own
def test_trials_run_in_one_session_and_are_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rates = "optimizer.lr=choice(0.02,0.05,1e12)"
    assert main([*OPTUNA, GRID, "hydra.sweep.dir=found", "logger=none", rates]) == 0
    said = capfd.readouterr().out
    board = json.loads((tmp_path / "found" / "leaderboard.json").read_text())
    ended = [one["status"]["finished"] for one in board["configurations"]]
    assert ended == [1, 1, 0]
    assert board["configurations"][2]["status"]["diverged"] == 1  # the worst there is
    best = (tmp_path / "found" / "optimization_results.yaml").read_text()
    assert f"best_value: {board['configurations'][0]['val/loss']['mean']}" in best
    assert len(re.findall(r"^auto   ", said, re.MULTILINE)) == 3
    assert main([*OPTUNA, "hydra.sweep.dir=found", rates]) == 2
    assert "found already holds a run" in capfd.readouterr().err
    assert main(["-m", "hydra.launcher.resume=found"]) == 2
    assert "its sweeper may go on by itself, as Optuna does" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("hydra.launcher.resume=.", "is no sweep that can be resumed"),
        ("trainer.monitor=val/accuracy", "looks for the worst value of trainer.monitor="),
        ("cases=policies", "cases: is for a grid"),
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
    assert main([*OPTUNA, argument, "seed=0,1"]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
