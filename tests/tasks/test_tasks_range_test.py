"""task=range_test: its files, what is read back from them, and its words."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from lrexp.__main__ import main
from lrexp.config.errors import UserError
from lrexp.folder.files import write_atomically
from lrexp.judge.range_test import DEFAULT, RULES, Ramp, ramp_rates
from lrexp.report.range_test.found import RangeTest, read_range_test
from lrexp.report.range_test.page import range_page
from lrexp.report.range_test.words import cautions, curve_plot, opening_lines, result_lines
from lrexp.runs.run import Run
from lrexp.tasks.opening import Launch
from lrexp.tasks.range_test import _show, climbed, range_csv

Lrexp = Callable[..., CompletedProcess[str]]
MadeOnce = Callable[[str, Callable[[Path], object]], Path]
WORDS = (
    "task=range_test", "experiment=finetune_digits", "logger=none", "trainer.device=cpu",
    "task.steps=60", "task.repeats=2", "task.lr_from=0.0001", "optimizer.lr=0.2",
)  # fmt: skip


@pytest.fixture
def folder(made_once: MadeOnce, tmp_path: Path) -> Path:
    """Of a range test in this process."""

    def make(into: Path) -> None:
        assert main([*WORDS, f"hydra.run.dir={into / 'run'}"]) == 0

    made = made_once("range_test", make) / "run"
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_the_folder_holds_what_it_says_and_no_training(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "plan.csv", "range_test.csv", "range_test.png",
        "report.html", "summary.json",
    }  # fmt: skip
    assert not names & {"metrics.jsonl", "checkpoints"}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["best"], summary["members"]) == ("finished", {}, 2)
    found = summary["range_test"]
    assert [one["rule"] for one in found["suggestions"]] == list(RULES)
    assert found["default"]["rule"] == DEFAULT
    assert found["default"]["low"] <= found["default"]["rate"] <= found["default"]["high"]
    assert found["overrides"] == [f"optimizer.lr={found['default']['rate']:.2g}"]


def test_what_is_read_back_is_what_was_measured(folder: Path) -> None:
    test = read_range_test(folder)
    with (folder / "range_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [ramp.seed for ramp in test.ramps] == [0, 1]
    assert [len(ramp.losses) for ramp in test.ramps] == [
        sum(row["seed"] == str(seed) for row in rows) for seed in (0, 1)
    ]
    for ramp in test.ramps:
        own = [row for row in rows if row["seed"] == str(ramp.seed)]
        assert [float(row["loss"]) for row in own] == ramp.losses
        assert [float(row["smoothed"]) for row in own] == pytest.approx(ramp.smoothed)
        assert [float(row["lr"]) for row in own] == list(ramp.rates[: len(own)])
    assert test.as_summary()["range_test"] == json.loads(
        (folder / "summary.json").read_text()
    )["range_test"]  # fmt: skip
    assert range_csv(test.ramps) == (folder / "range_test.csv").read_text()


def test_a_ramp_that_blew_up_is_read_back(folder: Path) -> None:
    rates = ramp_rates(1e-4, 10, 60)
    ramp = Ramp(3, rates, 0.9, 4.0)
    for loss in [2.0] * 30 + [math.nan]:
        ramp.see(loss)
    write_atomically(folder / "range_test.csv", range_csv([ramp]))
    (again,) = read_range_test(folder).ramps
    assert (again.seed, len(again.losses), again.usable) == (3, 31, 30)
    assert "no finite number" in again.reason


def test_the_command_to_paste_is_that_of_the_run_at_the_rate(folder: Path) -> None:
    test = read_range_test(folder)
    assert test.default
    assert test.command == (
        "python -m lrexp experiment=finetune_digits logger=none trainer.device=cpu"
        f" optimizer.lr={test.default.rate:.2g}"
    )
    assert result_lines(test)[-1] == f"take   {test.command}"


def test_the_line_of_a_group_is_a_rule_where_all_else_learns_alike(
    folder: Path, compose: Callable[..., Any]
) -> None:
    test = read_range_test(folder)
    test.task["group"] = "head"
    assert test.default
    rule = f"lr_policy.rules=[{{layers: head, lr: {test.default.rate:.2g}}}]"
    assert test.overrides == ["lr_policy=per_layer", rule]
    (rule_of_head,) = compose("experiment=finetune_digits", *test.overrides).lr_policy.rules
    assert (rule_of_head.layers, rule_of_head.lr) == ("head", float(f"{test.default.rate:.2g}"))
    assert test.command.endswith(f"optimizer.lr=0.2 lr_policy=per_layer '{rule}'")
    assert opening_lines(test)[0].startswith("ramp   rate of head 0.0001 to 10")
    config = read_range_test(folder)
    config.task["group"] = "hidden"
    assert config.overrides[1].startswith("lr_policy.rules=[{layers: 1, lr: ")


def test_the_report_is_made_anew_from_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    was = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "range_test.png").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "range_test.png").stat().st_size > 10_000
    page = (folder / "report.html").read_text()
    assert len(page) == pytest.approx(len(was), rel=0.01)
    test = read_range_test(folder)
    assert test.default
    assert f"Take {test.default.rate:.2g} for optimizer.lr" in page
    assert "longest slope" in page
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("there", [False, True])
def test_no_picture_is_drawn_through_a_link_that_leads_out(
    there: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, aim = folder / "range_test.png", tmp_path / "elsewhere.png"
    was = picture.read_bytes() + b"mine"
    if there:
        aim.write_bytes(was)
    picture.unlink()
    picture.symlink_to(aim)
    assert main(["report", str(folder)]) == 1
    assert "is a link that leads out of the folder" in capsys.readouterr().err
    assert aim.read_bytes() == was if there else not aim.exists()


def test_a_picture_of_somebody_else_is_left_alone(folder: Path) -> None:
    picture = folder / "range_test.png"
    picture.write_text("mine")
    assert main(["report", str(folder)]) == 1
    assert picture.read_text() == "mine"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps: 60", "steps: 1000000000", "the ramp that config.yaml describes is none"),
        ("lr_to: 10.0", "lr_to: .nan", "the ramp that config.yaml describes is none"),
        ("lr_from: 0.0001", "lr_from: -1.0", "the ramp that config.yaml describes is none"),
        ("smoothing: 0.9", "smoothing: 1.0", "the ramp that config.yaml describes is none"),
        ("smoothing: 0.9", "smoothing: much", "config.yaml does not say how it was made"),
    ],
)
def test_settings_that_no_test_has_are_refused_in_words(
    old: str, new: str, said: str, folder: Path
) -> None:
    file = folder / "config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=said):
        read_range_test(folder)


def test_losses_that_no_test_has_are_refused_in_words(folder: Path) -> None:
    file = folder / "range_test.csv"
    head = "seed,step,lr,loss,smoothed\n"
    for rows, said in (("", "of 0 seeds"), ("\n".join(f"{k},0,1,1,1" for k in range(200)), "200")):
        file.write_text(head + rows)
        with pytest.raises(UserError, match=said):
            read_range_test(folder)
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        read_range_test(folder)


def test_no_note_moves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _show(["note   \x1b[2Ja file"])
    assert "\x1b" not in capsys.readouterr().out


def test_ramps_that_do_not_fit_together_are_climbed_one_by_one(
    compose: Callable[..., Any], tmp_path: Path
) -> None:
    words = ("task=range_test", "experiment=finetune_digits", "trainer.device=cpu")
    config = compose(*words, "task.repeats=2", "task.steps=20", "data.leak_check=skip")

    class Full:
        def train_epoch(self, watch: Callable[[torch.Tensor], bool]) -> None:
            watch(torch.tensor([1.0, 1.0]))
            raise MemoryError

    alone = climbed(config, Launch(tmp_path, [], "", None))
    found = climbed(config, Launch(tmp_path, [], "", None, together=lambda trainers: Full()))
    assert not found.stacked
    assert [ramp.losses for ramp in found.ramps] == [ramp.losses for ramp in alone.ramps]


def made_up(losses: list[float], seeds: int = 1, **task: Any) -> RangeTest:
    config = {"lr_from": 1e-4, "lr_to": 10.0, "steps": len(losses), "group": None, **task}
    ramps = []
    for seed in range(seeds):
        ramp = Ramp(seed, ramp_rates(1e-4, 10, len(losses)), 0.0, 4.0)
        for loss in losses:
            ramp.see(loss)
        ramps.append(ramp)
    run = Run(Path("nowhere"), config={"task": config})
    run.summary = {"remarks": [], "data": {}, "timings": {}}
    return RangeTest(run, ramps)


def test_what_to_be_careful_of_is_said() -> None:
    flat = made_up([2.0] * 60)
    assert flat.default is None
    assert flat.command == ""
    assert "no rate is suggested" in cautions(flat)[0]
    assert "No rate is suggested" in range_page(flat)
    falling = made_up([2.0] * 20 + [2 - i / 50 for i in range(60)])
    assert "raise task.lr_to above 10" in " ".join(cautions(falling))
    dip = [2.0] * 30 + [1.0] * 10 + [2.0] * 20
    assert cautions(made_up(dip)) == []


def test_a_ramp_that_begins_too_high_is_said_to() -> None:
    test = made_up([2.0, 3.0, math.nan] + [2.0] * 57)
    assert cautions(test) == [
        "The ramp of seed 0 ended at step 3, as the loss was no finite number, so no rate is"
        " suggested: lower task.lr_from."
    ]


def test_a_sweep_of_range_tests_has_no_report_that_calls_them_damaged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    folder.rename(sweep / "0_a")
    first = {"task.name": "range_test", "seed": 0}
    point = {"num": 0, "folder": "0_a", "overrides": [], "lacks": [], "differs": {}, "case": ""}
    saved = {"command": [], "first": first, "points": [point | {"same_as": None}]}
    (sweep / "points.json").write_text(json.dumps(saved))
    assert main(["report", str(sweep)]) == 2
    assert "holds no trained runs" in capsys.readouterr().err
    assert main(["report", str(sweep), "--runs"]) == 0
    assert not (sweep / "report.html").exists()
    assert "picture" in capsys.readouterr().out


def test_the_plot_is_as_wide_as_asked_and_marks_what_is_taken() -> None:
    test = made_up([2.0] * 30 + [2 - i / 12 for i in range(15)] + [2.5] * 15)
    for width in (24, 64):
        lines = curve_plot(test, width)
        assert max(map(len, lines)) == 13 + width
        assert len(lines) == 9
        assert "▲" in lines[-1]
    assert curve_plot(made_up([2.0, math.nan]), 64) == []


@pytest.mark.slow
def test_the_command_prints_plots_and_names_the_line_to_paste(lrexp: Lrexp, tmp_path: Path) -> None:
    done = lrexp("task=range_test", "experiment=finetune_digits", "logger=none", "task.repeats=2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "seeds 0 to 1, stacked" in done.stdout
    assert "take   python -m lrexp experiment=finetune_digits logger=none optimizer.lr=" in (
        done.stdout
    )
    (folder,) = (tmp_path / "outputs" / "finetune_digits").iterdir()
    assert (folder / "report.html").exists()
    assert (tmp_path / "outputs" / "latest").resolve() == folder
    wrong = lrexp("task=range_test", "task.group=haed", "logger=none")
    assert wrong.returncode == 2
    assert "did you mean 'head'?" in wrong.stderr
    assert len(list((tmp_path / "outputs").rglob("summary.json"))) == 1  # nothing half-written
    words = ("task=range_test", "experiment=finetune_digits", "logger=none", "task.repeats=1")
    grid = lrexp("-m", *words, "lr_policy=uniform,freeze_backbone", "task.steps=40")
    assert grid.returncode == 0, grid.stderr
    assert len(list((tmp_path / "outputs").rglob("range_test.csv"))) == 3
