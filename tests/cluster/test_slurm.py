"""Points as jobs of a real SLURM (`tests/cluster/slurm.sh start`): kills, time limits, resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import run, start, summary_of
from engine_sweeps import GRID, POINT, assert_same, begun, in_one_program, pid_at, points
from processes import HUNG_S, is_alive, wait_for
from wandb_log import read_run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no sbatch"),
]

SLURM = "hydra/launcher=slurm"


def queue() -> list[str]:
    return slurm("squeue", "--noheader", "--array", "--format=%i %T").splitlines()


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    assert not queue()
    yield
    if left := [line.split()[0] for line in queue()]:
        slurm("scancel", *left)
        wait_for(lambda: not queue())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_one_program(tmp_path_factory.mktemp("undisturbed"))


def test_a_grid_is_an_array_of_jobs_to_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    code, said = run(tmp_path, *GRID, SLURM, "hydra.launcher.mem_gb=0.5")
    assert code == 0, said
    sweep = tmp_path / "sweep"
    assert_same(sweep, undisturbed)
    assert {summary_of(point)["executor"] for point in points(sweep)} == {"slurm"}
    arrays = [file.parent.name.split("_") for file in sweep.glob("jobs/*/*/*_submitted.pkl")]
    assert len({array for array, _ in arrays}) == 1
    assert sorted(task for _, task in arrays) == ["0", "1"]
    (script,) = sweep.glob("jobs/*/*/*_submission.sh")
    assert "#SBATCH --mem=512MB" in script.read_text()
    assert SLURM in json.loads((sweep / "points.json").read_text())["command"]
    assert (sweep / "report.html").exists()


def test_jobs_that_others_kill_go_on_to_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, SLURM)
    wait_for(begun(sweep, 3), program)
    first, second = points(sweep)
    os.kill(pid_at(second), signal.SIGKILL)
    running = [line.split()[0] for line in queue()]
    slurm("scancel", next(one for one in running if one.endswith("_0")))
    said = program.communicate(timeout=HUNG_S)[0]
    assert program.returncode == 0, said
    assert said.count("retry  point") == 2
    assert "jobs/" in next(line for line in said.splitlines() if line.startswith("retry"))
    assert_same(sweep, undisturbed)
    for point in (first, second):
        assert summary_of(point)["resumed"][0]["epoch"] >= 2


def test_a_job_whose_time_is_up_goes_on_in_another(tmp_path: Path) -> None:
    grid = [word.replace("epochs=120", "epochs=600") for word in GRID]
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15")
    code, said = run(tmp_path, *grid, SLURM, *limits)
    assert code == 0, said
    other = tmp_path / "other"
    other.mkdir()
    assert run(other, *grid, "hydra.launcher.executor=serial")[0] == 0
    assert_same(tmp_path / "sweep", other / "sweep")
    for point in points(tmp_path / "sweep"):
        assert summary_of(point)["resumed"]
    assert "retry" not in said


def test_what_a_killed_launcher_left_running_is_waited_for(
    tmp_path: Path, undisturbed: Path
) -> None:
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, SLURM)
    wait_for(begun(sweep, 3), program)
    program.kill()
    program.communicate(timeout=HUNG_S)
    before = {point.name: summary_of(point)["run_id"] for point in points(sweep)}
    resume, processes = "hydra.launcher.resume=sweep", [pid_at(point) for point in points(sweep)]
    for one in processes:  # so that they do not end meanwhile
        os.kill(one, signal.SIGSTOP)
    try:
        code, said = run(tmp_path, "-m", resume, "hydra/launcher=lrexp")
        assert code != 0
        assert "being run by other programs" in said
        again = start(tmp_path, "-m", resume, SLURM, "hydra.launcher.retries=0")
        assert again.stdout
        waits = next((line for line in again.stdout if line.startswith("wait")), "")
    finally:
        for one in processes:
            os.kill(one, signal.SIGCONT)
    said = again.communicate(timeout=HUNG_S)[0]
    assert again.returncode == 0, said
    assert waits.startswith("wait   points 0, 1")
    assert_same(sweep, undisturbed)
    for point in points(sweep):
        assert summary_of(point)["run_id"] == before[point.name]
        assert "resumed" not in summary_of(point)
    assert len(list(sweep.glob("jobs/*/*/*_submitted.pkl"))) == 2
    assert not (sweep / "earlier").exists()


def test_jobs_of_a_stopped_launcher_save_their_state(tmp_path: Path, undisturbed: Path) -> None:
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, SLURM)
    wait_for(begun(sweep, 3), program)
    processes = [pid_at(point) for point in points(sweep)]
    program.send_signal(signal.SIGINT)
    said = program.communicate(timeout=HUNG_S)[0]
    assert program.returncode == 130, said
    assert not queue()
    assert not any(is_alive(one) for one in processes)
    assert {summary_of(point)["status"] for point in points(sweep)} == {"interrupted"}
    code, said = run(tmp_path, "-m", "hydra.launcher.resume=sweep")
    assert code == 0, said
    assert "2 go on from their last epoch" in said
    assert_same(sweep, undisturbed)


def test_members_train_together_in_one_job(tmp_path: Path) -> None:
    code, said = run(tmp_path, *GRID, SLURM, "hydra.launcher.members=2", "trainer.epochs=4")
    assert code == 0, said
    assert [summary_of(p)["members"] for p in points(tmp_path / "sweep")] == [2, 2]
    assert len(list((tmp_path / "sweep").glob("jobs/*/*/*_submitted.pkl"))) == 1


def test_what_sbatch_refuses_is_said_and_can_be_gone_on_with(tmp_path: Path) -> None:
    few = (*GRID, "trainer.epochs=2")
    code, said = run(tmp_path, *few, SLURM, "hydra.launcher.partition=nowhere")
    assert code == 1
    assert "error: no jobs could be submitted" in said
    assert "invalid partition specified: nowhere" in said
    code, said = run(
        tmp_path, "-m", "hydra.launcher.resume=sweep", "hydra.launcher.partition=debug"
    )
    assert code == 0, said


def test_a_job_that_dies_at_once_names_its_log(tmp_path: Path) -> None:
    code, said = run(
        tmp_path, *GRID, SLURM, "hydra.launcher.setup=['echo no such module >&2','exit 3']"
    )
    assert code == 1
    assert "no such module" in said
    assert "_log.err" in said


def test_which_runs_through_slurm_as_one_group(tmp_path: Path) -> None:
    few = [word for word in POINT if "epochs" not in word]
    wandb = ("trainer.epochs=2", "logger=wandb", "logger.group=study")
    words = ("--policies", "uniform,layerwise_decay", "--budget", "20")
    code, said = run(tmp_path, "which", *few, *wandb, SLURM, *words)
    assert code == 0, said
    (folder,) = tmp_path.glob("outputs/smoke/*-*")
    points = [file.parent for file in folder.glob("*/*/summary.json")]
    assert {point.parent.name for point in points} == {"explored", "confirmed"}
    assert {summary_of(point)["executor"] for point in points} == {"slurm"}
    assert {read_run(point).run["run_group"] for point in points} == {"study"}


def test_confirm_trains_where_it_is_told(tmp_path: Path) -> None:
    few = (
        "trainer.epochs=2",
        "seed=0,1,2",
        "optimizer.lr=0.1",
        "lr_policy=uniform,layerwise_decay",
    )
    code, said = run(tmp_path, *GRID, *few, "hydra.launcher.executor=serial")
    assert code == 0, said
    code, said = run(
        tmp_path, "confirm", "sweep", "--seeds", "3", SLURM, "hydra.launcher.partition=debug"
    )
    assert code == 0, said
    points = list(tmp_path.glob("sweep-confirm/[0-9]*"))
    assert len(points) == 6
    assert {summary_of(point)["executor"] for point in points} == {"slurm"}
