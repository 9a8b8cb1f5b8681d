"""The terminal: aligned columns, a progress bar where it belongs, and a result in plain words."""

from __future__ import annotations

import io
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lrexp.plan.plan import Plan, Row
from lrexp.record.console import (
    COLUMNS,
    ConsoleRecorder,
    closing_lines,
    epoch_line,
    gap_in_words,
    heading_line,
    opening_lines,
    verdict_lines,
    worst_in_words,
)
from lrexp.record.recorders import RunInfo

ROW = {
    "epoch": 3,
    "train/loss": 0.25,
    "train_eval/loss": 0.2,
    "val/loss": 0.3,
    "val/accuracy": 0.945,
    "gap/loss": 0.1,
    "gap/loss_se": 0.02,
    "overfit/loss": 0.0,
    "overfit/loss_se": 0.0,
    "overfit/accuracy": 0.0,
    "overfit/accuracy_se": 0.0,
    "lr/all": 0.05,
    "perf/epoch_s": 0.31,
}
SUMMARY = {
    "status": "finished",
    "best": ROW,
    "last": ROW | {"epoch": 5},
    "test": {"loss": 0.33, "accuracy": 0.94, "images": 359},
    "worst_classes": [],
    "leaks": None,
    "error": None,
    "data": {},
    "overfit": None,
    "verdicts": [],
}


def info(folder: Path, **changes: Any) -> RunInfo:
    given: dict[str, Any] = {
        "folder": folder,
        "run_id": "abcd1234",
        "title": "a title",
        "sweep": None,
        "config": {},
        "config_id": "0" * 12,
        "steps": 50,
        "monitor": "val/loss",
        "opening": ["model  simple_cnn", "data   [digits]"],
    }
    return RunInfo(**given | changes)


def printed(folder: Path, *rows: dict[str, Any], terminal: bool = False) -> str:
    """Everything a run with these epochs writes to its output."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, highlight=False)
    recorder = ConsoleRecorder(info(folder), lambda: 17, console=console)
    for row in rows:
        if terminal:
            time.sleep(0.15)  # the bar is drawn ten times a second
        recorder.row(row)
    recorder.finish(SUMMARY)
    return output.getvalue()


def test_every_cell_ends_where_its_heading_ends() -> None:
    header = "  ".join(heading.rjust(width) for heading, width in COLUMNS)
    ends = [0]
    for heading, _ in COLUMNS:
        ends.append(header.index(heading, ends[-1]) + len(heading))
    two_rates = ROW | {"lr/all": 0.0005, "lr/head": 0.05, "epoch": 12, "val/accuracy": 1.0}
    slow = two_rates | {"gap/loss": -12.3456, "gap/loss_se": 1.5, "perf/epoch_s": 1234.5}
    fast = ROW | {"perf/epoch_s": 0.00409}
    untrained = {k: v for k, v in ROW.items() if not k.startswith(("train/", "lr/"))}
    losses = [key for key in ROW if "loss" in key]
    exploding = ROW | dict.fromkeys(losses, 1.5e20)
    diverged = ROW | dict.fromkeys(losses, math.nan)
    for row in (ROW, two_rates, slow, fast, untrained, exploding, diverged):
        line = epoch_line(row)
        assert len(line) == len(header), line
        for end in ends[1:]:
            assert line[end - 1] != " "
            assert line[end : end + 2].strip() == ""


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (92, [heading for heading, _ in COLUMNS]),
        (60, ["epoch", "train-eval", "val loss", "gap ± se", "val acc"]),
        (40, ["epoch", "train-eval", "val loss", "val acc"]),
        (5, ["epoch"]),
    ],
)
def test_columns_drop_out_where_there_is_no_room(width: int, headings: list[str]) -> None:
    shown, row = heading_line("val/loss", width), epoch_line(ROW, width=width)
    assert re.split(r"\s{2,}", shown.strip()) == headings
    assert len(shown) == len(row) <= width
    assert len(row.replace(" ± ", "±").split()) == len(headings)


def test_a_narrow_terminal_wraps_no_row_and_the_log_has_all_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=40, soft_wrap=True, highlight=False)
    with caplog.at_level("INFO"):
        recorder = ConsoleRecorder(info(tmp_path, steps=0), lambda: 0, console=console)
        recorder.row(ROW)
    _, _, heading, row = output.getvalue().splitlines()
    assert (heading, row) == (heading_line("val/loss", 40), epoch_line(ROW, width=40))
    assert caplog.messages[-2:] == [heading_line("val/loss"), epoch_line(ROW)]


@pytest.mark.parametrize("width", [40, 60])
def test_no_bar_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, highlight=False)
    recorder = ConsoleRecorder(info(tmp_path), lambda: 17, console=console)
    recorder._progress.refresh()
    recorder.finish(SUMMARY)
    bars = [line for line in plain(output.getvalue()).splitlines() if "17/50" in line]
    assert bars
    assert max(map(len, bars)) <= width


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", text)


def test_no_colour_is_used_where_none_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def colours() -> list[str]:
        output = io.StringIO()
        console = Console(file=output, force_terminal=True, width=100, color_system="truecolor")
        recorder = ConsoleRecorder(info(tmp_path), lambda: 17, console=console)
        recorder.row(ROW)
        recorder._progress.refresh()
        recorder.finish(SUMMARY)
        return re.findall(r"\x1b\[(?:[0-9;]*;)?(?:3[0-9]|4[0-9]|9[0-7])[0-9;]*m", output.getvalue())

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours(), "the check can fail"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colours() == []


def test_lines_of_a_point_that_others_run_beside_begin_with_its_number(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=60, highlight=False, soft_wrap=True)
    point = info(tmp_path / "12_lr_0.1", sweep="a sweep")
    recorder = ConsoleRecorder(point, lambda: 17, console=console)
    recorder.row(ROW)
    recorder.finish(SUMMARY)
    lines = output.getvalue().splitlines()
    assert len(lines) > 6
    assert all(line.startswith("[12] ") for line in lines)
    assert lines[3] == f"[12] {epoch_line(ROW, width=55)}"
    assert "17/50" not in output.getvalue(), "bars of several would overwrite each other"


def test_an_epoch_line_shows_what_the_row_holds() -> None:
    cells = epoch_line(ROW | {"lr/head": 0.5}).split("  ")
    *shown, elapsed_s = [cell.strip() for cell in cells if cell.strip()]
    assert shown == ["3", "0.2500", "0.2000", "0.3000", "0.100 ± 0.020", "94.5%", "0.05..0.5"]
    assert float(elapsed_s) == 0.31


@pytest.mark.parametrize(
    ("monitor", "value", "shown"),
    [
        ("val/f1_macro", 0.93149, "0.931"),
        ("val/balanced_accuracy", 0.93149, "93.1%"),
        ("train/accuracy", 1.0, "100.0%"),
        ("gap/loss_running", -0.0123456, "-0.0123"),
        ("gap/loss_running", None, "-"),
    ],
)
def test_a_monitor_without_a_column_takes_the_place_of_the_accuracy(
    monitor: str, value: float | None, shown: str
) -> None:
    row = ROW | ({} if value is None else {monitor: value})
    plain, heading, line = epoch_line(ROW), heading_line(monitor), epoch_line(row, monitor)
    assert len(heading) == len(heading_line("val/loss")) == len(plain) == len(line)
    end = heading.index("monitor") + len("monitor")
    assert end == heading_line("val/loss").index("val acc") + len("val acc")
    assert line[:end].split()[-1] == shown
    assert line[end:] == plain[end:]


@pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy", "gap/loss", "train/loss"])
def test_a_monitor_that_has_a_column_changes_nothing(monitor: str) -> None:
    assert "monitor" not in heading_line(monitor)
    assert epoch_line(ROW, monitor) == epoch_line(ROW)


def test_the_best_epoch_says_the_value_of_another_monitor(tmp_path: Path) -> None:
    summary = SUMMARY | {"best": ROW | {"val/f1_macro": 0.93149}}
    best, *_ = closing_lines(summary, info(tmp_path, monitor="val/f1_macro"))
    assert "(highest val/f1_macro, 0.931): val loss 0.300" in best


def test_further_test_sets_and_worst_classes_have_their_lines(tmp_path: Path) -> None:
    worst = [
        {"split": "test", "class": "cat", "images": 1200, "found": 600, "recall": 0.5}
        | {"taken_for": "dog", "times": 400},
        {"split": "test", "class": "fox", "images": 9, "found": 8, "recall": 8 / 9}
        | {"taken_for": "dog", "times": 1},
    ]
    night = {"loss": 1.5, "accuracy": 0.5, "label_accuracy": 0.81, "images": 1000}
    test = SUMMARY["test"] | {"eval_sets": {"night": night}}
    lines = closing_lines(SUMMARY | {"test": test, "worst_classes": worst}, info(tmp_path))
    assert lines[1].startswith("test   loss 0.330, accuracy 94.0% on 359 images never used")
    assert lines[2] == (
        "test/night  loss 1.500, accuracy 50.0% (all labels right; single labels 81.0%)"
        " on 1,000 images"
    )
    said = "classes on test: cat (600 of 1,200 found, 400 taken for dog), fox (8 of 9, 1 for dog)"
    assert lines[3] == f"worst  {said}"
    for row in worst:
        del row["taken_for"]
    assert worst_in_words(worst) == "classes on test: cat (600 of 1,200 found), fox (8 of 9)"
    # Further test sets alone, without a test split.
    alone = closing_lines(SUMMARY | {"test": {"eval_sets": {"night": night}}}, info(tmp_path))
    assert [line.split()[0] for line in alone[:3]] == ["best", "test/night", "gap"]


def test_of_uneven_classes_balanced_accuracy_stands_beside_accuracy(tmp_path: Path) -> None:
    best, test = ROW | {"val/balanced_accuracy": 0.61}, SUMMARY["test"] | {"balanced_accuracy": 0.5}
    summary = SUMMARY | {"best": best, "test": test, "data": {"classes": {"uneven": True}}}
    said = closing_lines(summary, info(tmp_path))
    assert said[0].endswith("val accuracy 94.5% (balanced 61.0%)")
    assert "accuracy 94.0% (balanced 50.0%) on 359 images" in said[1]
    even = closing_lines(summary | {"data": {"classes": {"uneven": False}}}, info(tmp_path))
    assert "balanced" not in "".join(even)


def test_piped_output_is_plain_lines(tmp_path: Path) -> None:
    lines = printed(tmp_path, ROW, ROW | {"epoch": 4}).splitlines()
    assert "\x1b" not in "".join(lines)
    assert "steps" not in "".join(lines)
    assert lines[:2] == ["model  simple_cnn", "data   [digits]"]  # brackets are no markup
    assert lines[2].split()[:3] == ["epoch", "train", "loss"]
    assert lines[3:5] == [epoch_line(ROW), epoch_line(ROW | {"epoch": 4})]


def test_a_terminal_shows_how_far_the_run_is_and_wipes_it_at_the_end(tmp_path: Path) -> None:
    text = printed(tmp_path, ROW, ROW | {"epoch": 4}, terminal=True)
    *_, last_bar = re.finditer(r"steps[^\n]*17/50", text)
    after = text[last_bar.end() :]
    assert "\x1b[2K" in after  # erase the line
    assert "best   epoch 3" in after
    assert text.endswith("\n")


def test_no_bar_for_a_run_without_steps(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    recorder = ConsoleRecorder(info(tmp_path, steps=0), lambda: 0, console=console)
    recorder.finish(SUMMARY)
    assert "steps" not in output.getvalue()


def test_closing_lines_say_best_epoch_test_gap_and_folder(tmp_path: Path) -> None:
    best, test, gap, folder = closing_lines(SUMMARY, info(tmp_path))
    assert best.startswith("best   epoch 3 (lowest val/loss)")
    assert "val loss 0.300" in best
    assert "94.5%" in best
    assert test.startswith("test   loss 0.330, accuracy 94.0% on 359 images")
    assert gap == f"gap    {gap_in_words(ROW, {})}"
    assert folder == f"run    {tmp_path}"


def test_a_metric_to_maximise_is_called_highest(tmp_path: Path) -> None:
    best, *_ = closing_lines(SUMMARY, info(tmp_path, monitor="val/accuracy"))
    assert "(highest val/accuracy)" in best


def test_the_folder_is_named_as_a_user_can_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = closing_lines(SUMMARY, info(tmp_path / "outputs" / "x"))
    assert lines[-1] == "run    outputs/x"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "diverged"}, "diverged in epoch 5"),
        ({"status": "interrupted"}, "interrupted"),
        ({"status": "failed", "error": "OSError: disk full"}, "failed: OSError: disk full"),
    ],
)
def test_closing_lines_say_first_how_a_run_ended(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    lines = closing_lines(SUMMARY | changes, info(tmp_path))
    assert lines[0].startswith(said)
    assert lines[-1] == f"run    {tmp_path}"


def test_a_run_that_lost_patience_says_so(tmp_path: Path) -> None:
    full = closing_lines(SUMMARY, info(tmp_path))
    cut_short = SUMMARY | {"last": SUMMARY["last"] | {"step": 10}}
    stopped, *rest = closing_lines(cut_short, info(tmp_path, steps=50))
    assert stopped == "stopped after epoch 5: no better val/loss for trainer.patience epochs"
    assert rest == full


def test_a_run_that_was_still_improving_says_so(tmp_path: Path) -> None:
    lines = closing_lines(SUMMARY | {"last": ROW}, info(tmp_path))
    assert "was best in the last epoch: more epochs or higher rates may help" in lines[-2]
    bound = closing_lines(SUMMARY | {"last": ROW}, info(tmp_path, ends_by="trainer.max_steps"))
    assert "more steps (trainer.max_steps ended it here) or higher rates may help" in bound[-2]
    assert "last epoch" not in "".join(closing_lines(SUMMARY, info(tmp_path)))


def test_the_opening_says_what_is_loaded_and_who_learns_how_fast() -> None:
    plan = Plan(
        tuple(
            Row(f"{layer}.{kind}", shape, i, layer, group, layer == "head", source, scale, decay)
            for i, (layer, source, scale) in enumerate(
                [("conv", "loaded", 0.5), ("head", "fresh", 1.0)]
            )
            for kind, shape, group, decay in [
                ("weight", (3, 4), f"{layer}_decay", 0.1),
                ("bias", (3,), f"{layer}_no_decay", 0.0),
            ]
        )
    )
    model, loaded, data, rates = opening_lines(
        "net", "file.safetensors", "images", plan, 0.1, {"train": 1000, "val": 20}
    )
    assert model == "model  net: 30 parameters, all train"
    assert loaded == "loaded 2 of 4 tensors of file.safetensors; fresh: head.weight, head.bias"
    assert data == "data   images: 1,000 train, 20 val images"
    assert rates == "rates  conv 0.05, head 0.1"


def test_a_run_without_a_best_epoch_still_says_where_it_is(tmp_path: Path) -> None:
    summary = SUMMARY | {"status": "failed", "error": "x", "best": {}, "last": {}, "test": {}}
    assert closing_lines(summary, info(tmp_path)) == ["failed: x", f"run    {tmp_path}"]


def test_the_last_lines_say_the_headline_with_its_advice_and_count_the_rest() -> None:
    def said(kind: str, severity: str = "warning") -> dict[str, Any]:
        return {"kind": kind, "severity": severity, "message": f"it is {kind}", "advice": "do so"}

    assert verdict_lines([]) == []
    assert verdict_lines([said("leak")]) == ["found  it is leak; do so"]
    assert verdict_lines([said("healthy", "info")]) == ["found  it is healthy"]
    first, rest = verdict_lines(
        [said("diverged"), said("leak"), said("plateau"), said("thrashing")]
    )
    assert first == "found  it is leak; do so"  # that it diverged is the first line of all
    assert rest.startswith("       and 2 more: plateau, thrashing (")


def test_tensors_that_never_moved_are_told_with_the_reason(tmp_path: Path) -> None:
    proof = {"tensors": {"a": "moved"}, "reasons": {}, "not_judged": []}
    said = closing_lines(SUMMARY | {"learning_proof": proof}, info(tmp_path))
    assert said == closing_lines(SUMMARY, info(tmp_path)), "nothing is to be said of it"
    still = {f"b{i}": "still in epoch 1: the gradient is 0" for i in range(5)}
    proof = {"tensors": {"a": "moved", **dict.fromkeys(still, "still")}, "reasons": still}
    said = closing_lines(SUMMARY | {"learning_proof": proof | {"not_judged": []}}, info(tmp_path))
    assert (
        "learnt 1 of 6 tensors moved in every phase that trains them;"
        " b0, b1, b2, ... (5) still in epoch 1: the gradient is 0"
    ) in said
