"""Points in programs of joblib's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from command_lines import run, start, summary_of
from engine_sweeps import GRID, assert_same, begun, pid_at, points
from processes import HUNG_S, is_alive, wait_for

pytestmark = pytest.mark.slow
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def test_a_killed_program_costs_no_point(tmp_path: Path) -> None:
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, *JOBLIB)
    wait_for(begun(sweep, 3), program)
    os.kill(pid_at(points(sweep)[0]), signal.SIGKILL)
    said = program.communicate(timeout=HUNG_S)[0]
    assert program.returncode == 0, said
    assert "retry  point" in said
    other = tmp_path / "other"
    other.mkdir()
    assert run(other, *GRID, "hydra.launcher.executor=serial")[0] == 0
    assert_same(sweep, other / "sweep")
    assert {summary_of(point)["executor"] for point in points(sweep)} == {"joblib"}


def test_ctrl_c_saves_what_runs_and_leaves_no_program(tmp_path: Path) -> None:
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, *JOBLIB)
    wait_for(begun(sweep, 2), program)
    programs = [pid_at(point) for point in points(sweep)]
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=HUNG_S)
    assert program.returncode == 143
    assert {summary_of(point)["status"] for point in points(sweep)} == {"interrupted"}
    assert not [*sweep.glob("[0-9]*/.lock"), *sweep.glob("[0-9]*/.owner")]
    wait_for(lambda: not any(map(is_alive, programs)))
    code, said = run(tmp_path, "-m", "hydra.launcher.resume=sweep")
    assert code == 0, said
    assert "2 go on" in said
    assert {summary_of(point)["executor"] for point in points(sweep)} == {"joblib"}
