"""Small sweeps that engines run, and what they must be: the same as in one program, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from command_lines import assert_same_run, run, summary_of

from lrexp.folder.layout import OWNER
from lrexp.folder.owner import look

POINT = (
    *("experiment=smoke", "trainer.device=cpu", "trainer.threads=1", "data.leak_check=skip"),
    *("trainer.limit_train_batches=null", "trainer.epochs=120"),  # some 10 s
)
GRID = ("-m", *POINT, "optimizer.lr=0.1,0.03", "hydra.sweep.dir=sweep")


def in_one_program(folder: Path) -> Path:
    """The same sweep, which nothing disturbs."""
    code, said = run(folder, *GRID, "hydra.launcher.executor=serial")
    assert code == 0, said
    return folder / "sweep"


def points(sweep: Path) -> list[Path]:
    return sorted(sweep.glob("[0-9]_*"))


def assert_same(sweep: Path, other: Path) -> None:
    assert [point.name for point in points(sweep)] == [point.name for point in points(other)]
    for one, another in zip(points(sweep), points(other), strict=True):
        assert summary_of(one)["status"] == "finished"
        assert_same_run(one, another)
    boards = [(each / "leaderboard.csv").read_text() for each in (sweep, other)]
    assert boards[0] == boards[1]


def rows(point: Path, count: int) -> Callable[[], bool]:
    file = point / "metrics.jsonl"
    return lambda: file.exists() and file.read_text().count("\n") >= count


def begun(folder: Path, count: int) -> Callable[[], bool]:
    return lambda: len(points(folder)) == 2 and all(rows(p, count)() for p in points(folder))


def pid_at(point: Path) -> int:
    """The process that runs a point."""
    owner = look(point / OWNER).owner
    assert owner is not None
    return owner.pid
