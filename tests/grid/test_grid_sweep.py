"""Whole sweeps: points equal single runs, a stopped sweep is finished, nobody disturbs another."""

from __future__ import annotations

import io
import json
import random
import re
import signal
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from command_lines import assert_same_run, main_in, run, start
from processes import HUNG_S, wait_for

from lrexp.record.wandb.file import epochs, runs_below

SMOKE = ["experiment=smoke", "trainer.device=cpu"]
GRID = ["model=mlp", "model.dropout=0.2", "data.augment=basic", "optimizer.lr=0.05,0.1"]
SERIAL = "hydra.launcher.executor=serial"


def summaries(sweep: Path) -> dict[str, dict[str, Any]]:
    files = sweep.glob("*/summary.json")
    return {file.parent.name: json.loads(file.read_text()) for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted sweep of 4 points, after a fifth that left a mess behind, and its output."""
    import lrexp.build.experiment

    base, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    original = lrexp.build.experiment.build

    def build(config: Any, datasets: Any = None, *ranks: Any) -> Any:
        experiment = original(config, datasets)
        if config.seed == 1:
            leave_a_mess()
            raise MemoryError("no room")
        return experiment

    arguments = ["-m", *SMOKE, "seed=1,0,2", *GRID, "hydra.sweep.dir=sweep", SERIAL]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(lrexp.build.experiment, "build", build)
        returned = main_in(base, *arguments)
    assert returned == 1, said.getvalue()
    return base / "sweep", said.getvalue()


def leave_a_mess() -> None:
    import torch

    torch.manual_seed(5)
    torch.set_num_threads(3)
    random.seed(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("error")


def test_a_point_equals_the_single_run_bit_for_bit(whole: tuple[Path, str], tmp_path: Path) -> None:
    single = [a.replace("0.05,0.1", "0.1") for a in GRID]
    assert main_in(tmp_path, *SMOKE, "seed=2", *single, "hydra.run.dir=single") == 0
    found = (whole[0] / "5_seed_2_optimizer.lr_0.1", tmp_path / "single")
    assert_same_run(*found)
    facts, expected = (json.loads((f / "environment.json").read_text()) for f in found)
    assert facts == expected  # threads and flags of torch too


def test_a_failed_point_stops_no_other(whole: tuple[Path, str]) -> None:
    sweep, said = whole
    found = summaries(sweep)
    assert [found[name]["status"] for name in sorted(found)] == ["failed"] * 2 + ["finished"] * 4
    assert "Traceback" not in said
    assert said.count("MemoryError: no room") == 4  # as it happened, and in the list at the end
    assert "2 of 6 points have no result" in said
    board = json.loads((sweep / "leaderboard.json").read_text())
    assert [row["status"]["failed"] for row in board["configurations"]] == [1, 1]


def test_piped_output_has_a_line_per_point(whole: tuple[Path, str]) -> None:
    lines = [line for line in whole[1].splitlines() if re.match(r"\d/6  ", line)]
    assert len(lines) == 6
    assert "epoch  train loss" not in whole[1]
    assert "seed=0 lr=0.05" in lines[2]


def test_a_points_own_lines_are_in_its_log(whole: tuple[Path, str]) -> None:
    log = (whole[0] / "3_seed_0_optimizer.lr_0.1" / "lrexp.log").read_text()
    assert "epoch  train loss" in log
    assert "data: shared with an earlier run" in log
    assert "gap " in log


@pytest.mark.slow
def test_what_failed_alone_is_run_again(whole: tuple[Path, str], tmp_path: Path) -> None:
    sweep, _ = whole
    before = {name: found["run_id"] for name, found in summaries(sweep).items()}
    arguments = ["-m", f"hydra.launcher.resume={sweep}", "hydra.launcher.only=failed"]
    returned, said = run(tmp_path, *arguments)
    assert returned == 0, said
    assert "4 points are done, 2 to run" in said
    after = summaries(sweep)
    assert {found["status"] for found in after.values()} == {"finished"}
    assert sum(before[name] == found["run_id"] for name, found in after.items()) == 4
    assert sorted(p.name for p in (sweep / "earlier").iterdir()) == [
        "0_seed_1_optimizer.lr_0.05.1",
        "1_seed_1_optimizer.lr_0.1.1",
    ]


@pytest.mark.slow
def test_what_has_a_result_is_composed_again_only_where_files_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrexp.config.compose import CheckedLoader

    composed, original = list[list[str]](), CheckedLoader.load_sweep_config

    def load_sweep_config(self: CheckedLoader, master: Any, overrides: list[str]) -> Any:
        composed.append(overrides)
        return original(self, master, overrides)

    monkeypatch.setattr(CheckedLoader, "load_sweep_config", load_sweep_config)
    own = tmp_path / "own" / "optimizer" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [sgd, _self_]\nmomentum: 0.5\n")
    grid = [*SMOKE, "optimizer=mine", "seed=0,1,2", "trainer.epochs=0", SERIAL]
    words = ["--config-dir", "own", "-m", *grid, "hydra.sweep.dir=sweep"]
    assert main_in(tmp_path, *words) == 0
    assert len(composed) == 3
    before = (tmp_path / "sweep" / "points.json").read_text()
    (tmp_path / "sweep" / "1_seed_1" / "summary.json").unlink()
    composed.clear()
    again = ["-m", "hydra.launcher.resume=sweep"]
    assert main_in(tmp_path, *again) == 0
    assert [one[-2] for one in composed] == ["seed=1"]
    assert "2 points are done, 1 to run" in capsys.readouterr().out
    assert (tmp_path / "sweep" / "points.json").read_text() == before
    assert {found["status"] for found in summaries(tmp_path / "sweep").values()} == {"finished"}
    composed.clear()
    more = [word.replace("seed=0,1,2", "seed=0,1,2,3") for word in grid]
    changed = "hydra.launcher.allow_changed_grid=true"
    assert main_in(tmp_path, "--config-dir", "own", "-m", *more, *again[1:], changed) == 0
    assert len(composed) == 4  # each is compared with the new one
    own.write_text("defaults: [sgd, _self_]\nmomentum: 0.6\n")
    assert main_in(tmp_path, *again) == 2
    assert "optimizer.momentum was 0.5 and is 0.6" in capsys.readouterr().err


@pytest.mark.slow
def test_another_grid_is_refused_unless_allowed(whole: tuple[Path, str], tmp_path: Path) -> None:
    sweep, _ = whole
    grid = ["-m", *SMOKE, "seed=1,0,2", *GRID, f"hydra.launcher.resume={sweep}"]
    returned, said = run(tmp_path, *grid, "model.widths=[8]")
    assert returned == 2, said
    assert "is not the one this sweep was started with" in said
    assert "model.widths was [128, 64] and is [8]: seed=1 lr=0.05; seed=1 lr=0.1" in said
    wider = [a.replace("0.05,0.1", "0.05,0.1,0.2") for a in grid]
    returned, said = run(tmp_path, *wider)
    assert returned == 2, said
    assert "new: seed=1 lr=0.2; seed=0 lr=0.2; seed=2 lr=0.2" in said
    returned, said = run(tmp_path, *wider, "hydra.launcher.allow_changed_grid=true")
    assert returned == 0, said
    nums = {p.parent.name.split("_")[0] for p in sweep.glob("*/summary.json")}
    assert nums == set("012345678")
    board = json.loads((sweep / "leaderboard.json").read_text())
    assert [len(row["points"]) for row in board["configurations"]] == [3, 3, 3]


LONG = ["-m", *SMOKE, "data.leak_check=skip", SERIAL, "seed=0,1,2", "trainer.epochs=120"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep of which others are stopped, run through."""
    base = tmp_path_factory.mktemp("uninterrupted")
    assert main_in(base, *LONG, "hydra.sweep.dir=sweep") == 0
    return base / "sweep"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_is_finished_as_if_it_never_stopped(
    sent: int, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(tmp_path, *LONG, "hydra.sweep.dir=stopped")
    stopped = tmp_path / "stopped"
    wait_for((stopped / "1_seed_1" / "checkpoints" / "last.pt").exists, first)
    if sent == signal.SIGKILL:
        first.send_signal(signal.SIGSTOP)
        assert main_in(tmp_path, "-m", "hydra.launcher.resume=stopped") == 2
        assert "in use by another lrexp process" in capsys.readouterr().err
    first.send_signal(sent)
    said = first.communicate(timeout=HUNG_S)[0]
    codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    assert first.returncode == codes[signal.Signals(sent)], said
    statuses = [found["status"] for _, found in sorted(summaries(stopped).items())]
    killed = sent == signal.SIGKILL
    assert statuses == ["finished", "running" if killed else "interrupted"]
    if not killed:
        assert "lrexp -m hydra.launcher.resume=stopped" in said
        assert "Traceback" not in said
    before = {name: found["run_id"] for name, found in summaries(stopped).items()}
    assert main_in(tmp_path, "-m", "hydra.launcher.resume=stopped") == 0
    counts = "resume 1 points are done, 1 goes on from its last epoch, 1 to run"
    assert counts in capsys.readouterr().out
    after = summaries(stopped)
    assert before.items() <= {name: found["run_id"] for name, found in after.items()}.items()
    (part,) = after["1_seed_1"]["resumed"]
    assert 1 <= part["epoch"] < 120
    assert not (stopped / "earlier").exists()
    for name in ("0_seed_0", "1_seed_1", "2_seed_2"):
        assert_same_run(stopped / name, uninterrupted / name)
    boards = [folder / "leaderboard.csv" for folder in (stopped, uninterrupted)]
    assert boards[0].read_text() == boards[1].read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "points"), [("serial", 100), ("stacked", 60)])
def test_a_large_grid_runs_in_bounded_memory(tmp_path: Path, executor: str, points: int) -> None:
    code = """
import resource, sys
from lrexp.grid.leaderboard import Leaderboard
ended, peaks = Leaderboard.write_if_due, []
def measured(self):
    ended(self)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
Leaderboard.write_if_due = measured
from lrexp.__main__ import main
code = main(sys.argv[1:])
print("peaks", peaks[20], peaks[-1])
sys.exit(code)
"""
    seeds = f"seed={','.join(map(str, range(points)))}"
    grid = [
        "-m",
        *SMOKE,
        "data.leak_check=skip",
        seeds,
        f"hydra.launcher.executor={executor}",
        "hydra.sweep.dir=sweep",
    ]
    returned, said = run(tmp_path, *grid, code=code)
    assert returned == 0, said
    early, late = map(float, said.splitlines()[-1].split()[1:])
    assert late - early < 20 + points / 4, said.splitlines()[-1]  # MB
    assert len(summaries(tmp_path / "sweep")) == points


@pytest.mark.slow
def test_output_that_nobody_reads_stops_no_sweep(tmp_path: Path) -> None:
    grid = ["-m", *SMOKE, "logger=none", "seed=0,1,2", "hydra.sweep.dir=sweep"]
    sweep = start(tmp_path, *grid)
    assert sweep.stdout
    sweep.stdout.readline()
    sweep.stdout.close()
    assert sweep.wait(timeout=HUNG_S) == 0
    found = summaries(tmp_path / "sweep")
    assert [summary["status"] for summary in found.values()] == ["finished"] * 3


@pytest.mark.slow
def test_a_plan_that_cannot_be_made_is_said_and_counts(tmp_path: Path) -> None:
    grid = ["-m", "experiment=smoke", "task=plan", "lr_policy=surgical", "lr_policy.block=0,99"]
    returned, said = run(tmp_path, *grid, "hydra.sweep.dir=sweep")
    assert returned == 1, said
    assert "failed 1_lr_policy.block_99: ConfigError: lr_policy.block=99" in said
    assert "by lowest" not in said


CHOOSER = '''
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Chooser(Sweeper):
    """Takes the better of two rates, then asks for a third beside it."""
    def setup(self, *, hydra_context, task_function, config):
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
    def sweep(self, arguments):
        ask = lambda lr: [*arguments, f"optimizer.lr={lr}"]
        first = self.launcher.launch([ask(0.01), ask(0.1)], initial_job_idx=0)
        best = min((0, 1), key=lambda i: first[i].return_value)
        self.launcher.launch([ask((0.01, 0.1)[best] * 2)], initial_job_idx=2)

ConfigStore.instance().store(
    group="hydra/sweeper", name="chooser", node={"_target_": "hydra_plugins.chooser.Chooser"}
)
'''


@pytest.mark.slow
def test_other_sweepers_choose_points_as_they_go(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "chooser.py").write_text(CHOOSER)  # found from this folder
    arguments = ["-m", *SMOKE, "hydra/sweeper=chooser", "hydra.sweep.dir=sweep"]
    arguments += ["hydra.launcher.executor=stacked"]
    returned, said = run(tmp_path, *arguments)
    assert returned == 0, said
    board = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    assert [row["settings"] for row in board["configurations"]] == [
        {"optimizer.lr": "0.2"},
        {"optimizer.lr": "0.1"},
        {"optimizer.lr": "0.01"},
    ]
    members = {p["members"] for p in summaries(tmp_path / "sweep").values()}
    assert members == {2, 1}  # the first batch together
    returned, said = run(tmp_path, "-m", "cases=policies", "hydra/sweeper=chooser")
    assert returned == 2, said
    assert "this sweeper chooses points as it goes" in said


@pytest.mark.slow
def test_hydras_own_launcher_still_works_and_has_a_board(tmp_path: Path) -> None:
    arguments = ["-m", *SMOKE, "hydra/launcher=basic", "loss=cross_entropy,bce"]
    returned, said = run(tmp_path, *arguments, "hydra.sweep.dir=sweep")
    assert returned == 1, said
    board = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    assert [row["settings"]["loss"] for row in board["configurations"]] == ["cross_entropy", "bce"]
    assert "epoch  train loss" in said


@pytest.mark.slow
def test_a_sweep_of_cases_says_so_in_its_files_and_equal_points_run_once(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "moot:\n  lr_policy: per_layer\n  lr_policy.rules: [[{match: '*', lr: 0.05}]]\n"
        "plain: {lr_policy: uniform}\n"
    )
    grid = ["-m", *SMOKE, "cases=mine.yaml", "optimizer.lr=0.1,0.2", "hydra.sweep.dir=sweep"]
    returned, said = run(tmp_path, *grid)
    assert returned == 0, said
    assert "trains as 0 does: runs once" in said
    sweep = tmp_path / "sweep"
    assert (sweep / "cases.yaml").read_text() == (tmp_path / "mine.yaml").read_text()
    assert "cases=mine.yaml" in (sweep / "multirun.yaml").read_text()
    assert len(summaries(sweep)) == 3
    board = json.loads((sweep / "leaderboard.json").read_text())
    assert [e["runs_as"] for e in board["equal"]] == [0]
    assert len(board["configurations"]) == 3
    (tmp_path / "mine.yaml").unlink()  # what is resumed is the sweep as it was
    returned, said = run(tmp_path, "-m", "hydra.launcher.resume=sweep")
    assert returned == 0, said
    assert "3 points are done, 0 to run" in said


@pytest.mark.slow
def test_the_wandb_run_of_a_killed_point_goes_on(tmp_path: Path) -> None:
    grid = ["-m", *SMOKE, "logger=wandb", SERIAL, "seed=0,1", "trainer.epochs=60"]
    sweep = start(tmp_path, *grid, "hydra.sweep.dir=sweep")
    point = tmp_path / "sweep" / "0_seed_0"
    wait_for((point / "checkpoints" / "previous.pt").exists, sweep)
    sweep.kill()
    sweep.communicate(timeout=HUNG_S)
    run_id = json.loads((point / "summary.json").read_text())["run_id"]
    returned, said = run(tmp_path, "-m", "hydra.launcher.resume=sweep")
    assert returned == 0, said
    assert "0 points are done, 1 goes on from its last epoch, 1 to run" in said
    files = runs_below(point)
    assert len(files) == 2
    assert {file.name for file in files} == {f"run-{run_id}.wandb"}
    assert sorted(epoch for file in files for epoch in epochs(file)) == list(range(1, 61))
