"""Points that were stopped go on from their last epoch, and come to what they would have anyway."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_lines import rows_but_times, summary_of
from grid_pieces import own_fork_server
from grid_run import Ran, running

from lrexp.config.errors import Terminated
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.grid.pool import pool
from lrexp.optim.groups import tensor_hash
from lrexp.tasks.train import Training

pytestmark = pytest.mark.usefixtures("one_thread")

OF_THE_MOMENT = ("run_id", "timings", "resumed", "executor", "members")
DRAWING = ("model=mlp", "model.dropout=0.2", "data.augment=basic", "trainer.epochs=3", "seed=0,1")
MEMBERS = ("trainer.epochs=3", "optimizer.lr=0.02,0.05,0.1", "scheduler=cosine")
Run = Any  # of grid_run.running


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with running(tmp_path, lambda: capsys.readouterr().out) as function:
        yield function


def came_of(folder: Path) -> dict[str, Any]:
    """All that a run says of itself but when and by whom it was trained, to the bit."""
    checkpoints = {
        name: load_checkpoint(folder / "checkpoints" / name) for name in ("last.pt", "best.pt")
    }
    summary = {k: v for k, v in summary_of(folder).items() if k not in OF_THE_MOMENT}
    for moment in ("best", "last"):
        summary[moment] = {k: v for k, v in summary[moment].items() if not k.startswith("perf/")}
    return {
        "rows": rows_but_times(folder),
        "summary": summary,
        "weights": {name: tensor_hash(state["model"]) for name, state in checkpoints.items()},
        "predictions": (folder / "predictions.parquet").read_bytes(),
        "plan": (folder / "plan.csv").read_bytes(),
    }


def killed_at_every_epoch(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, executor: str, *grid: str
) -> tuple[Ran, list[Path]]:
    """A whole sweep, and what a kill would have left of it before and after each of its rows."""
    row, left = Training.row, list[Path]()

    def keep(training: Training) -> None:
        left.append(folder / f"left{len(left)}")
        shutil.copytree(training.checkpoints.parents[1], left[-1])

    def recorded(training: Training, row_: Any) -> None:
        keep(training)  # the state is saved before
        row(training, row_)
        keep(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "row", recorded)
        whole = run(executor, *grid)
    return whole, left


def ids(folder: Path) -> dict[str, str]:
    return {f.parent.name: summary_of(f.parent)["run_id"] for f in folder.glob("*/summary.json")}


def test_a_sweep_that_is_killed_at_any_epoch_comes_to_the_same_bits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = killed_at_every_epoch(run, tmp_path, monkeypatch, "serial", *DRAWING)
    assert len(left) == 2 * 2 * 3
    for i, folder in enumerate(left):
        stopped, (epoch, recorded) = i // 6, divmod(i % 6, 2)
        before = ids(folder)
        ran = run.go_on("serial", folder, *DRAWING)
        for num in range(2):
            assert came_of(ran.of(num)) == came_of(whole.of(num)), (folder, num)
        (part,) = ran.summary(stopped)["resumed"]
        assert part["epoch"] == epoch + 1
        assert before.items() <= ids(folder).items()
        assert not (folder / "earlier").exists()
        assert recorded or "resume from epoch" in ran.log(stopped)
