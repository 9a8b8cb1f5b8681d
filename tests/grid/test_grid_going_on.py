"""Points that were stopped go on from their last epoch, and come to what they would have anyway."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_lines import rows_but_times, summary_of
from grid_pieces import own_fork_server
from grid_run import Ran, running

from lrexp.config.errors import Terminated
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.folder.files import write_summary
from lrexp.grid.live import GridView
from lrexp.grid.pool import pool
from lrexp.optim.groups import tensor_hash
from lrexp.runs.differences import read_run
from lrexp.tasks.train import Training
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = ("trainer.epochs=3", "optimizer.weight_decay=0.0005")
OF_THE_MOMENT = ("run_id", "timings", "resumed", "executor", "members")
DRAWING = ("model=mlp", "model.dropout=0.2", "data.augment=basic", "seed=0,1")
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


def assert_goes_on(run: Run, executor: str, left: list[Path], whole: Ran, epochs: int) -> None:
    """Every stopped sweep of two points comes to the bits of the whole one, under its ids."""
    assert len(left) == 2 * 2 * epochs
    for i, folder in enumerate(left):
        num, (epoch, _) = i // (2 * epochs), divmod(i % (2 * epochs), 2)
        before = ids(folder)
        ran = run.go_on(executor, folder, *DRAWING, f"trainer.epochs={epochs}")
        for each in range(2):
            assert came_of(ran.of(each)) == came_of(whole.of(each)), (folder, each)
        (part,) = ran.summary(num)["resumed"]
        assert part == {"epoch": epoch + 1, "step": part["step"], "changes": []}
        assert before.items() <= ids(folder).items()
        assert not (folder / "earlier").exists()
        assert f"resume from epoch {epoch + 1}" in ran.log(num)


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_any_epoch_comes_to_the_same_bits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (*DRAWING, "trainer.epochs=2")
    whole, left = killed_at_every_epoch(run, tmp_path, monkeypatch, "serial", *grid)
    assert_goes_on(run, "serial", left, whole, 2)


@pytest.mark.slow
def test_points_go_on_in_a_pool_to_the_same_bits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (*DRAWING, "trainer.epochs=4")
    whole, left = killed_at_every_epoch(run, tmp_path, monkeypatch, "serial", *grid)
    with own_fork_server(pool.PRELOAD):
        assert_goes_on(run, "pool", left, whole, 4)


@pytest.mark.slow
def test_members_of_a_stack_go_on_together_where_they_are_as_far(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = killed_at_every_epoch(run, tmp_path, monkeypatch, "stacked", *MEMBERS)
    assert len(left) == 3 * 2 * 3
    for i, folder in enumerate(left):
        saved = [ran_to(folder / point.folder) for point in whole.points]
        ran = run.go_on("stacked", folder, *MEMBERS)
        for num in range(3):
            one, other = (came_of(r.of(num))["rows"] for r in (ran, whole))
            assert_close(one, other)
            found = ran.summary(num)
            alike = saved.count(saved[num])
            assert (found["status"], found["members"]) == ("finished", alike), (i, num, saved)
            if saved[num]:
                (part,) = found["resumed"]
                assert (part["epoch"], part["stacked"]) == (saved[num], True)
            assert found["executor"] == ("stacked" if alike > 1 else "serial")
            assert read_run(str(ran.of(num))).stacked == (alike > 1 or saved[num] > 0)
        assert (folder / "earlier").exists() != all(saved)


def ran_to(folder: Path) -> int:
    """The epoch of the state in a run folder; 0 without one."""
    file = folder / "checkpoints" / "last.pt"
    return load_checkpoint(file)["epoch"] if file.exists() else 0


def assert_close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            assert value == pytest.approx(other[key], rel=1e-3, abs=1e-5), (key, row["epoch"])


# The first one in its second epoch, as it is no better.
ENDING = ("trainer.epochs=4", "trainer.patience=1", "optimizer.lr=1e-30,0.02,0.05")


def test_a_member_that_has_ended_is_done_while_its_pack_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, shown, left = Training.row, list[str](), tmp_path / "left"
    end = GridView.end

    def recorded(training: Training, row_: Any) -> None:
        row(training, row_)
        if row_["epoch"] == 3 and not left.exists():
            shutil.copytree(training.checkpoints.parents[1], left)
            shown.append("killed")

    def ended(view: GridView, num: int, summary: Any) -> None:
        end(view, num, summary)
        shown.append(f"{num} {summary['status']}")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "row", recorded)
        patch.setattr(GridView, "end", ended)
        ran = run("stacked", *ENDING)
    assert shown == ["0 finished", "killed", "1 finished", "2 finished"]
    board = json.loads((left / "leaderboard.json").read_text())
    assert sum(row["status"]["finished"] for row in board["configurations"]) == 1
    point = ran.points[0].folder
    assert came_of(left / point) == came_of(ran.of(0))
    assert summary_of(left / point)["stopped_by"] == "trainer.patience"
    assert summary_of(left / point)["test"]
    assert (left / point / "lrexp.log").read_text().endswith(f"{point}\n")  # its closing lines
    after = run.go_on("stacked", left, *ENDING)
    assert sorted(after.ended) == [1, 2]
    assert after.summary(0) == ran.summary(0)


@pytest.mark.slow
def test_a_member_that_has_ended_in_a_worker_is_shown_while_its_pack_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_packs, end, row, shown = pool.run_packs, GridView.end, GridView.row, list[str]()

    def together(packs: Any, *arguments: Any) -> Any:
        return run_packs([[point for part in packs for point in part]], *arguments)

    def ended(view: GridView, num: int, summary: Any) -> None:
        end(view, num, summary)
        shown.append(f"{num} {summary['status']}")

    def reached(view: GridView, num: int, row_: Any) -> None:
        row(view, num, row_)
        shown.append(f"{num} epoch {row_['epoch']}")

    monkeypatch.setattr(pool, "run_packs", together)
    monkeypatch.setattr(GridView, "end", ended)
    monkeypatch.setattr(GridView, "row", reached)
    with own_fork_server(pool.PRELOAD):
        run("pool", *ENDING)
    assert shown.index("0 finished") < shown.index("1 epoch 4")
    assert shown.count("0 finished") == 1


def test_a_point_that_is_stopped_within_an_epoch_goes_on_from_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("serial", *DRAWING)
    set_rates = Trainer.set_rates

    def stop(trainer: Trainer, step: int) -> None:
        if trainer.seed == 1 and step == 5:
            raise Terminated
        set_rates(trainer, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "set_rates", stop)
        with pytest.raises(Terminated):
            run("serial", *DRAWING)
    ran = run.go_on("serial", tmp_path / "sweep1", *DRAWING)
    for num in range(2):
        assert came_of(ran.of(num)) == came_of(whole.of(num))
    (part,) = ran.summary(1)["resumed"]
    assert part["step"] == 5


@pytest.fixture
def stopped(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Ran, Path]:
    """A whole sweep of a point, and what a kill after its second epoch left of it."""
    whole, left = killed_at_every_epoch(run, tmp_path, monkeypatch, "serial", *ONE)
    return whole, left[3]


def damage_all(point: Path) -> None:
    for name in ("last.pt", "previous.pt"):
        (point / "checkpoints" / name).write_bytes(b"x")


def damage_last(point: Path) -> None:
    (point / "checkpoints" / "last.pt").write_bytes(b"x")


def lose_states(point: Path) -> None:
    shutil.rmtree(point / "checkpoints")


def lose_rows(point: Path) -> None:
    (point / "metrics.jsonl").write_text("")


def lose_best(point: Path) -> None:
    file = point / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    for best in state["best"].values():
        best["epoch"] = 1
    save_checkpoint(file, state)
    assert load_checkpoint(point / "checkpoints" / "best.pt")["epoch"] == 2


def change_setting(point: Path) -> None:
    config = (point / "config.yaml").read_text()
    assert "weight_decay: 0.0005" in config
    (point / "config.yaml").write_text(config.replace("decay: 0.0005", "decay: 0.001"))


def fail(point: Path) -> None:
    write_summary(point, summary_of(point) | {"status": "failed", "error": "it failed"})


def nothing(point: Path) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (damage_all, "last.pt is damaged"),
        (lose_states, ""),
        (lose_rows, "metrics.jsonl lacks"),
        (lose_best, "best.pt is of epoch 2, not of epoch 1"),
        (change_setting, "has other settings: optimizer.weight_decay: 0.001 → 0.0005"),
        (fail, ""),
        (nothing, ""),  # and restart=true
    ],
)
def test_what_cannot_go_on_runs_anew_and_what_was_there_is_kept(
    stopped: tuple[Ran, Path], run: Run, happens: Callable[[Path], None], said: str
) -> None:
    whole, folder = stopped
    point = folder / whole.points[0].folder
    happens(point)
    before = summary_of(point)["run_id"]
    ran = run.go_on("serial", folder, *ONE, restart=happens is nothing)
    assert came_of(ran.of(0)) == came_of(whole.of(0))
    (kept,) = (folder / "earlier").iterdir()
    assert summary_of(kept)["run_id"] == before != ran.summary(0)["run_id"]
    assert "resumed" not in ran.summary(0)
    assert (f"{said}" in ran.said and "the point runs anew" in ran.said) == bool(said)


def test_a_damaged_state_is_passed_over_for_the_one_before(
    stopped: tuple[Ran, Path], run: Run
) -> None:
    whole, folder = stopped
    damage_last(folder / whole.points[0].folder)
    ran = run.go_on("serial", folder, *ONE)
    assert came_of(ran.of(0)) == came_of(whole.of(0))
