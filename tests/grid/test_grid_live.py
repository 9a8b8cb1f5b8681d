"""A grid on the terminal."""

from __future__ import annotations

import io
import logging
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from lrexp.grid.live import GridView, OncePerGrid, PointRecorder, duration
from lrexp.record.recorders import RunInfo

INFO = RunInfo(
    folder=Path("x"),
    run_id="abcdefgh",
    title="lr=0.1",
    sweep="s",
    config={},
    config_id="",
    steps=10,
    monitor="val/accuracy",
    opening=["model  m", "note   odd", "leaks  few"],
)
BEST = {"epoch": 3, "val/loss": 0.5, "val/accuracy": 0.75}
TITLES = {0: "lr=0.1", 1: "lr=0.1", 2: "lr=0.2"}
ROW = BEST | {"gap/loss": 0, "gap/loss_se": 1, "train_eval/loss": 1, "perf/epoch_s": 1, "lr/a": 1}


def seeds(count: int) -> dict[int, str]:
    return {num: f"seed={num}" for num in range(count)}


def run(view: GridView) -> None:
    for num in range(2):
        view.begin(num)
        PointRecorder(view, num, INFO, lambda: 5).row(dict(ROW))
        OncePerGrid(view, num).filter(
            logging.LogRecord("x", logging.WARNING, "", 0, "odd rates", None, None)
        )
        view.end(num, {"status": "finished", "best": BEST})
    view.begin(2)
    view.end(2, {"status": "failed", "error": "OSError: full\nmore", "best": {}})


def test_piped_output_has_a_line_per_point_as_it_ends() -> None:
    out = io.StringIO()
    view = GridView(TITLES, Console(file=out))
    with view.shown():
        run(view)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert len(lines) == 6
    told = ["note   point 0: odd", "leaks  point 0: few", "WARNING: point 0: odd rates"]
    assert lines[:3] == told, "once, with the first point that says it"
    assert lines[3].split()[:4] == ["1/3", "0", "lr=0.1", "finished"]
    assert "val/accuracy 0.75 in epoch 3" in lines[3]
    assert "left)" in lines[3]
    assert "failed  OSError: full" in lines[5]
    assert "left)" not in lines[5]


def test_a_terminal_shows_running_points_and_the_whole() -> None:
    out = io.StringIO()
    view = GridView(TITLES, Console(file=out, force_terminal=True, width=100))
    with view.shown():
        view.begin(0)
        PointRecorder(view, 0, INFO, lambda: 5).row(dict(ROW))
        shown = Console(file=io.StringIO(), width=100)
        shown.print(view._picture())
        picture = shown.file.getvalue()  # type: ignore[attr-defined]
        view.end(0, {"status": "finished", "best": BEST})
    assert "0 lr=0.1" in picture
    assert "epoch 3" in picture
    assert "val/accuracy 0.75" in picture
    assert "0/3 points" in picture
    assert "finished" in out.getvalue()


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [(100, ["finished", "val/accuracy 0.75 in epoch 3", "left)"], []),
     (60, ["finished", "val/accuracy 0.75"], ["left)"]),
     (40, ["finished"], ["val/accuracy", "left)"])],
)  # fmt: skip
def test_a_narrow_terminal_wraps_no_line(width: int, shown: list[str], left_out: list[str]) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=width, soft_wrap=True, highlight=False)
    long = {0: "optimizer.weight_decay=0.0001 lr=0.1 seed=0", 1: "lr=0.1", 2: "lr=0.2"}
    view = GridView(long, terminal)
    for num in range(2):
        view.begin(num)
        PointRecorder(view, num, INFO, lambda: 5).row(dict(ROW))
    picture = Console(file=io.StringIO(), width=width)
    picture.print(view._picture())
    lines = picture.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3, "a line each, and the whole"
    assert max(map(len, lines)) <= width
    assert all("val/accuracy 0.75" in line for line in lines[:2])
    assert [("epoch 3" in line) for line in lines[:2]] == [width > 40] * 2
    assert lines[0].startswith("0 optimizer")
    view.end(0, {"status": "finished", "best": BEST})
    view.begin(2)
    view.end(2, {"status": "failed", "error": "OSError: " + "full " * 40, "best": {}})
    finished, failed = out.getvalue().splitlines()[-2:]
    assert max(len(finished), len(failed)) <= width
    assert all(word in finished for word in shown)
    assert not any(word in finished for word in left_out)
    assert "failed" in failed


def test_no_colour_is_used_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        out = io.StringIO()
        terminal = Console(file=out, force_terminal=True, width=100, color_system="truecolor")
        view = GridView(TITLES, terminal)
        view.begin(0)
        PointRecorder(view, 0, INFO, lambda: 5).row(dict(ROW))
        terminal.print(view._picture())
        return re.findall(r"\x1b\[(?:[0-9;]*;)?(?:3[0-9]|4[0-9]|9[0-7])[0-9;]*m", out.getvalue())

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours(), "the check can fail"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colours() == []


def test_time_left_counts_what_running_points_have_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    view = GridView(seeds(4), Console(file=io.StringIO()))
    for num in range(4):
        view.begin(num)
        view.describe(num, [], 10, "val/accuracy")
    assert math.isinf(view._left())
    now = 110.0
    for num in range(4):
        view.row(num, ROW | {"step": 5})  # half of the work in 10 s
    assert view._left() == pytest.approx(10)
    view.end(0, {"status": "finished", "best": {}})  # 2.5 of 4
    assert view._left() == pytest.approx(10 / 2.5 * 1.5)


def test_what_is_done_once_does_not_count_for_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    view = GridView(seeds(4), Console(file=io.StringIO()))
    for num in range(2):
        view.begin(num)
        now += 7 if num == 0 else 0.5  # data are read for the first point
        view.describe(num, [], 10, "val/accuracy")
        now += 1
        view.end(num, {"status": "finished", "best": {}})
    assert view._left() == pytest.approx(2.5)


def test_a_large_pack_does_not_fill_the_terminal() -> None:
    view = GridView(seeds(64), Console(file=io.StringIO()))
    for num in range(64):
        view.begin(num)
    shown = Console(file=io.StringIO(), width=100)
    shown.print(view._picture())
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) < 25
    assert any("and 48 more" in line for line in lines)


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0.4, 59.6, 200, 7500)] == ["0s", "1m 00s", "3m 20s", "2h 05m"]


def test_a_part_of_something_larger_says_each_quarter_and_what_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = {"note   known"}
    view = GridView({num: f"seed={num}" for num in range(32)}, said=said)
    view.say("note   known")
    view.say("note   new")
    for num in range(32):
        view.begin(num)
        view.end(num, {"status": "failed" if num == 5 else "finished", "error": "no room"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note   new"
    assert [line.split(",")[0] for line in lines if "runs" in line] == [
        f"{done:>2}/32 runs" for done in (8, 16, 24)
    ]
    assert next(line for line in lines if "failed" in line).startswith(" 6/32  5 seed=5")
    assert len(lines) == 5
    assert said == {"note   known", "note   new"}
