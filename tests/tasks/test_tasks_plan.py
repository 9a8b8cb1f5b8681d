"""task=plan: what it says is what training does, and it needs neither data nor weights."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from rich.console import Console
from trainers import Silent, trainer_of

from lrexp.__main__ import main
from lrexp.build.experiment import build, build_preview
from lrexp.config.errors import ConfigError
from lrexp.plan.plan import difference_lines, read_plan
from lrexp.plan.preview import (
    Preview,
    layer_lines,
    layer_table,
    schedule_csv,
    schedule_plot,
    shown_steps,
    total_lines,
)
from lrexp.tasks.plan import draw_rates

Compose = Callable[..., Any]
Lrexp = Callable[..., CompletedProcess[str]]
FINETUNE = ("experiment=finetune_digits", "trainer.device=cpu", "data.leak_check=skip")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_the_command_prints_and_writes_a_plan_and_trains_nothing(
    lrexp: Lrexp, tmp_path: Path
) -> None:
    first = lrexp("task=plan", "experiment=finetune_digits", "lr_policy=freeze_backbone")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in first.stdout
    table = {line.split()[0]: line.split() for line in lines}
    assert table["conv"][1:] == ["loaded", "260", "10.1%", "never", "-", "-", "-", "-", "-"]
    assert table["head"][1:] == ["fresh", "255", "9.9%", "always", "1", *["0.05"] * 3, "0"]
    assert "105 = 7 per epoch × 15 epochs, 100 training images" in first.stdout
    (folder,) = (tmp_path / "outputs" / "finetune_digits").iterdir()
    found = {p.name for p in folder.iterdir()}
    assert found == {
        ".hydra", "config.yaml", "lrexp.log", "plan.csv", "rates.png", "schedule.csv",
        "summary.json",
    }  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"outputs"}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["best"]) == ("finished", {})
    assert summary["parameters"] == {"total": 2565, "trainable": 255}
    assert summary["plan_hash"] == read_plan((folder / "plan.csv").read_text()).hash

    again = lrexp("task=plan", "experiment=finetune_digits", "task.against=latest")
    assert again.returncode == 0, again.stderr
    assert f"against {folder / 'plan.csv'}:" in again.stdout
    assert "lr_scale 0.0 → 1.0" in again.stdout
    faster = lrexp(
        "task=plan", "experiment=finetune_digits", f"task.against={folder}", "optimizer.lr=0.1"
    )
    assert "optimizer.lr: 0.05 → 0.1" in faster.stdout


@pytest.mark.slow
def test_no_data_is_needed(lrexp: Lrexp) -> None:
    done = lrexp("task=plan", "data=mnist", "data.root=nowhere", "trainer.epochs=2")
    assert done.returncode == 0, done.stderr
    assert "1,688 = 844 per epoch × 2 epochs, 54,000 training images" in done.stdout


def test_a_plan_that_is_not_there_is_a_mistake_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["task=plan", "task.against=nowhere"]) == 2
    said = capsys.readouterr().err
    assert "task.against=nowhere: there is no " in said
    assert "run folder" in said
    assert not list(tmp_path.iterdir())


COMBINATIONS = [
    ("lr_policy=layerwise_decay", "scheduler=cosine", "scheduler.warmup=0.2"),
    ("lr_policy=uniform", "scheduler=step", "scheduler.step_size=1", "optimizer.weight_decay=0.1"),
    ("lr_policy=gradual_unfreeze", "scheduler=constant"),
    ("lr_policy=lp_ft", "lr_policy.head_epochs=2", "scheduler=cosine"),
    ("lr_policy=freezeout", "scheduler=constant"),
    ("lr_policy=freeze_backbone", "scheduler=one_cycle"),
]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: c[0].split("=")[1])
def test_the_rates_it_shows_are_those_that_training_uses(
    combination: tuple[str, ...], compose: Compose
) -> None:
    config = compose(*FINETUNE, *combination, "trainer.epochs=4")
    shown = build_preview(config)
    trainer = trainer_of(config)
    trainer.run(Silent())
    assert shown.plan == trainer.experiment.plan
    assert shown.total_steps == trainer.step
    assert len(trainer.rows) == 4
    for row in trainer.rows:
        last = int(row["step"]) - 1  # rows have the rate of the epoch's last step
        for group, rates in shown.rates.items():
            if rates[last] is not None:
                assert rates[last] == row[f"lr/{group}"]
            else:
                assert not shown.plan.groups[group][0].trains_after(int(row["epoch"]) - 1)


SIZES = [
    (),
    ("data.val_fraction=0.33",),
    ("data.test_fraction=0", "data.batch_size=7"),
    ("data.limit=50",),
    ("data.limit=5000",),
    ("trainer.limit_train_batches=3",),
    ("trainer.max_steps=31",),
]


@pytest.mark.parametrize("overrides", SIZES, ids=lambda o: " ".join(o))
def test_steps_follow_from_what_the_yaml_states_of_the_data(
    overrides: tuple[str, ...], compose: Compose
) -> None:
    config = compose("trainer.device=cpu", "data.leak_check=skip", *overrides)
    shown, built = build_preview(config), build(config)
    assert shown.exact_size
    assert shown.train_size == len(built.dataset.train)
    assert shown.s == built.schedule
    assert shown.steps_per_epoch == built.steps_per_epoch


def test_a_choice_of_classes_is_counted_by_its_share_and_said_to_be_about(
    compose: Compose,
) -> None:
    config = compose("data.classes=[5,6,7]", "trainer.device=cpu")
    shown = build_preview(config)
    assert abs(shown.train_size - len(build(config).dataset.train)) < 10
    assert "about" in total_lines(shown)[1]
    assert not shown.exact_size


@pytest.mark.parametrize(
    ("override", "held"),
    [
        ("data.num_classes=9", "10"),
        ("data.image_shape=[1,8,9]", "[1, 8, 8]"),
        ("data.train_size=1000", "1797"),
    ],
)
def test_data_that_is_not_as_stated_is_refused(override: str, held: str, compose: Compose) -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose(override))
    assert f"is not what the data holds: {held}" in str(caught.value)
    assert caught.value.key == override.partition("=")[0]


def test_the_head_is_fresh_or_loaded_by_the_files_header_alone(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lrexp.models.weight_files as weights

    opened: list[str] = []
    real = weights.safe_open

    class HeaderOnly:
        def __init__(self, *arguments: Any):
            self._file = real(*arguments)

        def __enter__(self) -> HeaderOnly:
            self._inner = self._file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self._file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            opened.append(name)
            assert name != "get_tensor", "values were read"
            return getattr(self._inner, name)

    monkeypatch.setattr(weights, "safe_open", HeaderOnly)
    known = ("model.weights=bundled:simple_cnn_digits_0_4", "data.classes=[0,1,2,3,4]")
    assert {row.source for row in build_preview(compose(*known)).plan.rows} == {"loaded"}
    other = build_preview(compose(*FINETUNE)).plan
    assert {row.source for row in other.rows if row.head} == {"fresh"}
    assert {row.source for row in other.rows if not row.head} == {"loaded"}
    assert "get_slice" in opened


def test_what_cannot_train_cannot_be_planned(compose: Compose) -> None:
    muon = compose("optimizer=torch", "optimizer.name=Muon")
    with pytest.raises(ConfigError, match="optimizer=muon"):
        build_preview(muon)


def test_a_line_says_when_a_layer_trains_and_at_which_rates(compose: Compose) -> None:
    overrides = ("lr_policy=layerwise_decay", "scheduler=cosine", "optimizer.weight_decay=0.01")
    shown = build_preview(compose(*overrides, "trainer.epochs=5", "scheduler.warmup=1 epoch"))
    conv, hidden, head = layer_lines(shown)
    assert [line.layer for line in (conv, hidden, head)] == ["conv", "hidden", "head"]
    assert (conv.parameters, hidden.parameters, head.parameters) == (260, 2050, 510)
    assert (conv.scale, conv.weight_decay, conv.trains) == ("0.5625", "0.01, 0", "always")
    assert conv.peak == pytest.approx(0.05 * 0.5625)
    assert conv.start == pytest.approx(0.05 * 0.5625 / 69)
    assert conv.end is not None
    assert 0 < conv.end < conv.peak / 1000


@pytest.mark.parametrize(
    ("policy", "trains"),
    [
        ("gradual_unfreeze", ["from 4", "from 3", "always"]),
        ("freeze_backbone", ["never", "never", "always"]),
    ],
)
def test_epochs_are_counted_from_one(policy: str, trains: list[str], compose: Compose) -> None:
    shown = build_preview(compose(f"lr_policy={policy}", "trainer.epochs=6"))
    found = [line.trains for line in layer_lines(shown)]
    assert found == trains
    if policy == "gradual_unfreeze":
        column = [row["lr/conv"] for row in rows_of(schedule_csv(shown))]
        assert set(column[: 3 * shown.steps_per_epoch]) == {""}  # frozen: no rate
        assert float(column[-1]) == pytest.approx(0.05)


def test_schedule_csv_has_a_line_per_step(compose: Compose) -> None:
    shown = build_preview(compose("scheduler=cosine", "lr_policy=layerwise_decay"))
    rows = rows_of(schedule_csv(shown))
    assert [int(row["step"]) for row in rows] == list(range(1020))
    for row, s in zip(rows, shown.s, strict=True):
        assert float(row["s"]) == s
        assert float(row["lr/head"]) == pytest.approx(0.05 * s)
        assert float(row["lr/conv"]) == pytest.approx(0.05 * 0.5625 * s)


def test_a_long_run_keeps_epoch_edges_and_extremes() -> None:
    schedule = [1.0] * 500_000
    schedule[123_456], schedule[234_567] = 2.0, 0.5
    steps = shown_steps(schedule, 5_005)
    assert steps == sorted(set(steps))
    assert {0, 499_999, 5_004, 5_005, 123_456, 234_567} <= set(steps)
    assert 10_000 <= len(steps) <= 10_300
    assert shown_steps([1.0] * 300, 10) == list(range(300))
    assert shown_steps([], 10) == []


def preview(compose: Compose, *overrides: str) -> Preview:
    return build_preview(compose(*overrides))


def test_the_plot_rises_and_falls_with_the_schedule(compose: Compose) -> None:
    lines = schedule_plot(preview(compose, "scheduler=cosine", "scheduler.warmup=0.3"))
    top = lines[0].partition("│")[2]
    assert 1 < top.find("█") < 25
    assert top.rstrip()[-1] != " "
    assert len(top.rstrip()) < 50
    assert lines[0].split("│")[0].strip() == "1"
    assert lines[-1].split() == ["epoch", "0", "15"]
    flat = schedule_plot(preview(compose))
    assert all(set(line.partition("│")[2]) == {"█"} for line in flat[:5])
    short = schedule_plot(preview(compose, "trainer.max_steps=3", "scheduler=cosine"))
    assert len(short[0].partition("│")[2]) == 64
    assert schedule_plot(preview(compose, "trainer.epochs=0")) == []


def test_the_table_fits_100_columns_with_long_names_and_many_layers(compose: Compose) -> None:
    shown = preview(
        compose, "model=torchvision", "model.name=resnet50", "lr_policy=layerwise_decay",
        "optimizer.weight_decay=0.0001",
    )  # fmt: skip
    text = io.StringIO()
    Console(file=text, width=100).print(layer_table(shown, plain=True))
    lines = text.getvalue().splitlines()
    assert len(lines) == 19  # a header, 18 layers
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    ("width", "headings"),
    [(60, "layer trains scale start peak end"), (40, "layer trains scale peak")],
)
@pytest.mark.parametrize("plain", [True, False])
def test_in_a_narrow_terminal_columns_drop_out(
    compose: Compose, width: int, headings: str, plain: bool
) -> None:
    shown = preview(compose, "lr_policy=layerwise_decay", "scheduler=cosine")
    text = io.StringIO()
    Console(file=text, width=width).print(layer_table(shown, plain, width))
    lines = [line for line in text.getvalue().splitlines() if set(line) - set(" ─╶╴")]
    assert lines[0].split() == headings.split()
    assert len(lines) == 1 + len(layer_lines(shown))
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    plot = schedule_plot(shown, width - 14)
    assert max(map(len, plot)) <= width


def test_a_network_as_large_as_resnet50_is_planned_within_2_seconds_of_computing(
    compose: Compose, tmp_path: Path
) -> None:
    import torchvision  # noqa: F401

    overrides = ("model=torchvision", "model.name=resnet50", "lr_policy=layerwise_decay")
    config = compose(*overrides, "scheduler=cosine", "trainer.epochs=90", "data=mnist")
    preview(compose, "model=mlp")  # imports
    draw_rates(preview(compose), tmp_path / "warm.png", "")
    started = time.process_time()
    shown = build_preview(config)
    schedule_csv(shown)
    draw_rates(shown, tmp_path / "rates.png", "")
    assert time.process_time() - started < 2
    assert shown.total_steps == 844 * 90


def test_the_picture_is_a_png_and_needs_no_display(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    for i, overrides in enumerate([("lr_policy=layerwise_decay",), ("trainer.epochs=0",)]):
        draw_rates(preview(compose, *overrides), tmp_path / f"{i}.png", "title")
        assert (tmp_path / f"{i}.png").read_bytes().startswith(b"\x89PNG")


def test_long_lists_of_names_are_shortened() -> None:
    lines = difference_lines(["a, b, c, d, e: lr_scale 1.0 → 0.5", "a, b: only in the first plan"])
    assert lines == [
        "a, b, c and 2 more: lr_scale 1.0 → 0.5",
        "a, b: only in the first plan",
    ]


def test_a_measured_scale_and_a_plateau_are_said_to_be_open(compose: Compose) -> None:
    shown = preview(compose, "lr_policy=auto_rgn", "scheduler=plateau")
    assert any("before every epoch" in note for note in shown.notes)
    assert any("plateau" in note for note in shown.notes)
    assert {line.scale for line in layer_lines(shown)} == {"measured"}
