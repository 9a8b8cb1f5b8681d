"""The leaderboard: configurations over their seeds, best first."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from lrexp.grid.leaderboard import (
    WIDTH,
    Leaderboard,
    leaderboard,
    leaderboard_csv,
    leaderboard_lines,
)
from lrexp.grid.points.point import Point
from lrexp.grid.points.resume import UNDONE


def point(num: int, *overrides: str, monitor: str = "val/loss", **more: Any) -> Point:
    given = ["experiment=smoke", *overrides]
    return Point(num, given, {"trainer.monitor": monitor}, f"{num}_folder", b"", **more)


def summary(loss: float, status: str = "finished", test: float = 0.5) -> dict[str, Any]:
    best = {"epoch": 2, "val/loss": loss, "val/accuracy": 1 - loss, "gap/loss": loss / 10}
    return {"status": status, "best": best, "test": {"loss": 1.0, "accuracy": test}, "error": None}


GRID = [point(i, f"optimizer.lr={lr}", f"seed={s}") for i, (lr, s) in enumerate(
    [("0.1", 0), ("0.1", 1), ("0.2", 0), ("0.2", 1), ("0.3", 0), ("0.3", 1)]
)]  # fmt: skip


def order(board: dict[str, Any]) -> list[str]:
    return [row["settings"]["optimizer.lr"] for row in board["configurations"]]


def test_seeds_are_tries_of_one_configuration() -> None:
    losses = [0.4, 0.5, 0.2, 0.25, 0.3, 0.9]
    board = leaderboard(GRID, {i: summary(loss) for i, loss in enumerate(losses)})
    assert order(board) == ["0.2", "0.1", "0.3"]
    assert board["keys"] == ["optimizer.lr"]  # neither seed nor what no point changes
    row = board["configurations"][1]
    deviation = statistics.stdev([0.4, 0.5])
    margin = 12.706 * deviation / math.sqrt(2)  # Student's t of one degree of freedom
    assert row["val/loss"] == {"n": 2, "mean": 0.45, "std": deviation,
                               "low": pytest.approx(0.45 - margin, abs=1e-4),
                               "high": pytest.approx(0.45 + margin, abs=1e-4)}  # fmt: skip
    assert row["seeds"] == {"seed=0": 0.4, "seed=1": 0.5}
    assert row["gap/loss"]["mean"] == pytest.approx(0.045)
    assert row["points"] == [0, 1]


def test_what_runs_came_to_is_counted_and_shown() -> None:
    found = {i: summary(0.1 * (i + 1)) for i in range(6)}
    for i, kinds in {
        0: ["collapsed"],
        1: ["collapsed", "frozen_random"],
        4: ["overfitting"],
    }.items():
        found[i]["verdicts"] = [{"kind": kind} for kind in kinds]
    board = leaderboard(GRID, found)
    assert [row["verdicts"] for row in board["configurations"]] == [
        {"collapsed": 2, "frozen_random": 1}, {}, {"overfitting": 1}
    ]  # fmt: skip
    lines = leaderboard_lines(board)
    assert [line.endswith(end) for line, end in zip(
        lines[1:], ("2; 2 collapsed", "2", "2; 1 overfit"), strict=True
    )] == [True] * 3  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(board))))
    assert [row["verdicts"] for row in rows] == ["collapsed:2 frozen_random:1", "", "overfitting:1"]


def test_a_grid_that_came_to_nothing_has_no_winner_but_advice() -> None:
    found = {i: summary(9.0, "diverged") for i in range(6)}
    found[1] = summary(2.3) | {"verdicts": [{"kind": "collapsed"}]}
    board = leaderboard(GRID, found)
    assert board["no_winner"].startswith("5 diverged, 1 collapsed; what may help: lower")
    assert leaderboard_lines(board)[-1] == f"no winner: {board['no_winner']}"
    good = leaderboard(GRID, found | {0: summary(0.3)})
    assert good["no_winner"] is None
    assert "no winner" not in "".join(leaderboard_lines(good))


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_configuration_with_a_bad_seed_is_below_all_that_finished(status: str) -> None:
    losses = [0.4, 0.5, 0.01, 0.01, 0.3, 0.9]
    found = {i: summary(loss) for i, loss in enumerate(losses)}
    found[3] = summary(0.01, status)
    board = leaderboard(GRID, found)
    assert order(board) == ["0.1", "0.3", "0.2"]
    last = board["configurations"][2]
    assert last["val/loss"]["n"] == 1, "what did not finish is counted, never averaged"
    assert (last["status"]["finished"], last["status"][status]) == (1, 1)


def test_the_monitor_says_which_way_is_better() -> None:
    grid = [point(p.num, *p.overrides, monitor="val/accuracy") for p in GRID]
    losses = [0.4, 0.5, 0.2, 0.25, 0.3, 0.9]
    found = {i: summary(loss) for i, loss in enumerate(losses)}
    board = leaderboard(grid, found)
    assert (board["monitor"], board["direction"]) == ("val/accuracy", "max")
    assert order(board) == ["0.2", "0.1", "0.3"]


def test_selection_never_looks_at_test() -> None:
    losses = [0.4, 0.5, 0.2, 0.25, 0.3, 0.9]
    boards = [
        leaderboard(GRID, {i: summary(x, test=f(x)) for i, x in enumerate(losses)})
        for f in (lambda x: x, lambda x: 1 - x)
    ]
    assert order(boards[0]) == order(boards[1])


def test_a_partial_sweep_has_a_board() -> None:
    board = leaderboard(GRID, {4: summary(0.3), 0: {"status": "running", "best": {}, "test": {}}})
    assert order(board)[0] == "0.3"
    assert board["configurations"][0]["status"]["missing"] == 1
    assert [row["val/loss"]["n"] for row in board["configurations"]] == [1, 0, 0]
    assert order(leaderboard(GRID, {})) == ["0.1", "0.2", "0.3"]


def test_equal_points_count_once_and_are_named() -> None:
    grid = [*GRID[:2], point(2, "optimizer.lr=0.2", "seed=0", same_as=0)]
    board = leaderboard(grid, {0: summary(0.4), 1: summary(0.5)})
    assert order(board) == ["0.1"]
    assert board["configurations"][0]["equal"] == [2]
    assert board["equal"] == [{"point": 2, "title": "lr=0.2 seed=0", "runs_as": 0}]


def test_only_seeds_are_one_row() -> None:
    grid = [point(0, "seed=0"), point(1, "seed=1")]
    board = leaderboard(grid, {0: summary(0.4), 1: summary(0.5)})
    assert [row["settings"] for row in board["configurations"]] == [{}]
    assert leaderboard_lines(board)[1].split()[1] == "all"


def test_the_files_are_strict_and_say_the_same(tmp_path: Path) -> None:
    board = Leaderboard(tmp_path)
    board.points = GRID
    for i, loss in enumerate([0.4, 0.5, 0.2, 0.25]):
        board.take(i, summary(loss))
    board.take(4, {"status": "diverged", "best": {"epoch": 1, "val/loss": "NaN"}, "test": {}})
    board.write()
    refuse = pytest.fail
    saved = json.loads((tmp_path / "leaderboard.json").read_text(), parse_constant=refuse)
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines()))
    assert [row["optimizer.lr"] for row in rows] == order(saved) == ["0.2", "0.1", "0.3"]
    assert float(rows[0]["val/loss_mean"]) == saved["configurations"][0]["val/loss"]["mean"]
    assert (rows[2]["val/loss_mean"], rows[2]["diverged"], rows[2]["missing"]) == ("", "1", "1")
    assert (rows[0]["val/loss seed=0"], rows[2]["val/loss seed=1"]) == ("0.2", "")
    assert float(rows[0]["val/loss_low"]) == saved["configurations"][0]["val/loss"]["low"]
    names = ["leaderboard.csv", "leaderboard.json", "points.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert board.status(4) == "diverged"
    assert board.status(5) == "missing"


def test_every_run_has_a_row_with_its_settings_and_what_came_of_it(tmp_path: Path) -> None:
    board = Leaderboard(tmp_path)
    formula = "lr_policy=\"=cmd|'/c x'!A1\""
    board.points = [*GRID[:3], point(3, formula, "seed=1"), point(4, "seed=2", same_as=0)]
    last = {"epoch": 5, "overfit/loss": 0.25, "overfit/loss_se": 0.125}
    found = summary(0.4, test=0.75) | {"last": last, "verdicts": [{"kind": "overfitting"}]}
    board.take(0, found | {"timings": {"total_s": 6.5, "train_s": 6.0}, "members": 4})
    board.take(1, {"status": "diverged", "best": {}, "test": {}})
    board.take(3, summary(0.5))
    board.write()
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))
    first = rows[0]
    assert [row["point"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["status"] for row in rows] == ["finished", "diverged", "missing", "finished",
                                               "equal"]  # fmt: skip
    assert (first["optimizer.lr"], first["seed"], first["best_epoch"]) == ("0.1", "0", "2")
    assert (first["val/loss"], first["test/accuracy"], first["gap/loss"]) == ("0.4", "0.75", "0.04")
    assert (first["overfit/loss"], first["overfit/loss_se"]) == ("0.25", "0.125")
    assert (first["took_s"], first["verdicts"], first["folder"]) == (
        "2.0",
        "overfitting",
        "0_folder",
    )
    assert [rows[1]["val/loss"], rows[2]["took_s"], rows[4]["same_as"]] == ["", "", "0"]
    assert all(not re.match("[=+@]", cell) for row in rows for cell in row.values())


def test_repetitions_over_splits_have_columns_of_their_own() -> None:
    grid = [point(i, f"seed={i}", f"data.seed={i}") for i in (0, 1)]
    board = leaderboard(grid, {0: summary(0.4), 1: summary(0.5)})
    assert board["keys"] == []
    assert board["configurations"][0]["seeds"] == {"seed=0 data.seed=0": 0.4,
                                                   "seed=1 data.seed=1": 0.5}  # fmt: skip


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_test_loss_that_is_no_number_stops_no_sweep(tmp_path: Path, loss: float) -> None:
    board = Leaderboard(tmp_path)
    board.points = GRID
    board.take(0, summary(0.4))
    board.take(1, summary(0.5) | {"test": {"loss": loss, "accuracy": 0.1}})
    board.write()
    row = board.board()["configurations"][0]
    assert row["val/loss"]["mean"] == 0.45
    assert row["test/loss"]["n"] == 2
    assert math.isnan(row["test/loss"]["mean"])


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"best": {"epoch": 1, "val/loss": "abc"}}, "it finished without a number for val/loss"),
        ({"best": {}}, "it finished without a number for val/loss"),
        ({"best": [1]}, "it finished without a number for val/loss"),
        ({"status": ["finished"]}, "summary.json has the unknown status \"['finished']\""),
    ],
)
def test_a_point_whose_summary_is_odd_is_undone_and_stops_no_other(
    odd: dict[str, Any], why: str, tmp_path: Path
) -> None:
    board = Leaderboard(tmp_path)
    board.points = GRID
    board.take(0, summary(0.4), "val/loss")
    board.take(1, summary(0.5) | odd, "val/loss")
    board.take(2, summary(0.5) | {"test": {"loss": "abc"}}, "val/loss")
    board.write()
    assert [board.status(num) for num in (0, 1, 2)] == ["finished", "damaged", "finished"]
    assert board.damaged(GRID) == [(GRID[1], why)]
    assert board.status(1) in UNDONE
    assert "1 damaged" in "\n".join(leaderboard_lines(board.board()))


def test_the_files_are_not_written_anew_for_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []
    monkeypatch.setattr("lrexp.grid.leaderboard.time.perf_counter", lambda: now[0])

    def writing(path: Path, text: str) -> None:
        now[0] += 1.0  # second
        written.append(path.name)

    monkeypatch.setattr("lrexp.grid.leaderboard.write_atomically", writing)
    board = Leaderboard(tmp_path)
    board.points = GRID
    for one in GRID:
        board.look_up([one])
        now[0] += 20.0
    assert written.count("points.csv") == 2  # it takes 3 s, and is due again after 60 more
    assert board.status(5) == "missing"


def test_a_plan_has_no_number_to_finish_with(tmp_path: Path) -> None:
    board = Leaderboard(tmp_path)
    board.take(0, {"status": "finished", "best": {}}, monitor=None)
    assert board.status(0) == "finished"


def test_former_points_of_other_settings_are_no_tries_of_a_configuration() -> None:
    def tried(num: int, seed: int, epochs: int, former: bool = False) -> Point:
        found = point(num, "optimizer.lr=0.1", f"seed={seed}", former=former)
        found.settings |= {"seed": seed, "data.seed": seed, "trainer.epochs": epochs}
        return found

    losses = {i: summary(loss) for i, loss in enumerate([0.5, 0.4, 0.2, 0.3, 0.1])}
    edited = [tried(0, 0, 5, True), tried(1, 1, 5, True), tried(2, 0, 9), tried(3, 1, 9)]
    board = leaderboard(edited, losses)
    assert [row["points"] for row in board["configurations"]] == [[2, 3], [0, 1]]
    assert [row["former"] for row in board["configurations"]] == [False, True]
    assert leaderboard_lines(board)[2].split()[1:3] == ["former", "all"]
    more_seeds = [*edited, tried(4, 2, 9, True)]  # once asked for, with the same settings
    board = leaderboard(more_seeds, losses)
    assert [row["points"] for row in board["configurations"]] == [[2, 3, 4], [0, 1]]


def test_a_full_disk_stops_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrexp.grid.leaderboard.write_atomically", full)
    Leaderboard(tmp_path).write()
    assert "the leaderboard could not be written: [Errno 28] No space left" in caplog.text


def test_the_table_fits_into_100_columns() -> None:
    grid = [point(i, f"lr_policy.rules=[{'x' * 200}{i}]", "seed=1") for i in range(30)]
    lines = leaderboard_lines(leaderboard(grid, {i: summary(0.1 * i) for i in range(30)}))
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith("by lowest val/loss")
    assert lines[-1].split()[:2] == ["and", "10"]


@pytest.mark.parametrize(
    ("width", "headings"),
    [(100, ["val/loss", "std", "test acc", "gap", "seeds"]),
     (60, ["val/loss", "test acc", "seeds"]), (40, ["val/loss", "seeds"])],
)  # fmt: skip
@pytest.mark.parametrize("monitor", ["val/loss", "val/balanced_accuracy"])
def test_columns_drop_out_where_there_is_no_room(
    width: int, headings: list[str], monitor: str
) -> None:
    grid = [
        point(i, f"lr_policy.some_long_key={'x' * 20}{i}", "seed=1", monitor=monitor)
        for i in range(4)
    ]
    found = {i: summary(0.1 * i) for i in range(4)}
    for one in found.values():
        one["best"]["val/balanced_accuracy"] = 0.5
    found[3] = summary(0.3, "diverged") | {"verdicts": [{"kind": "overfitting"}] * 3}
    lines = leaderboard_lines(leaderboard(grid, found), width=width)
    assert len(lines) == 5
    assert max(map(len, lines)) <= width
    if monitor == "val/loss":
        assert lines[0].startswith("by lowest val/loss")
        rest = lines[0].removeprefix("by lowest val/loss").strip()
        assert re.split(r"\s{2,}", rest) == headings
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4"]


def test_a_row_of_numbers_is_a_row_of_the_csv() -> None:
    board = leaderboard(GRID, {0: summary(0.4)})
    assert leaderboard_csv(board).count("\n") == 4
    assert math.isnan(board["configurations"][0]["val/loss"]["std"])
