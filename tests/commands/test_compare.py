"""What differs between two runs: the command, and the functions under it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT

from lrexp.__main__ import main
from lrexp.commands.compare import found_lines
from lrexp.config.schema import meaning_of
from lrexp.folder.environment import environment
from lrexp.runs.differences import (
    CAUSES,
    SavedRun,
    change_lines,
    config_changes,
    curve_differences,
    environment_changes,
    lone_epochs,
    read_run,
)
from lrexp.runs.predictions import paired_differences

GOLDEN = Path(__file__).parents[1] / "golden_run"


def write_predictions(
    file: Path, scores: np.ndarray, labels: np.ndarray, first_id: int = 0
) -> Path:
    n = len(labels)
    columns = {
        "id": np.arange(first_id, first_id + n),
        "item": [f"image {i}" for i in range(n)],
        "split": ["val"] * n,
        "label": labels.tolist(),
        "scores": scores.astype(np.float32).tolist(),
    }
    table = pa.table(columns).replace_schema_metadata({"class_names": '["a", "b", "c"]'})
    pq.write_table(table.take(np.random.default_rng(0).permutation(n)), file)  # in any order
    return file


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def test_the_paired_error_is_that_of_the_differences(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels, logits = rng.integers(0, 3, 200), rng.normal(size=(200, 3))
    first, second = softmax(logits), softmax(logits + 0.3 * rng.normal(size=(200, 3)))
    a = write_predictions(tmp_path / "a.parquet", first, labels)
    b = write_predictions(tmp_path / "b.parquet", second, labels)
    loss, accuracy = paired_differences(a, b)
    rows = np.arange(200)
    expected = -np.log(second[rows, labels]) + np.log(first[rows, labels])
    assert (loss.metric, loss.images) == ("val/loss", 200)
    assert loss.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert loss.se == pytest.approx(expected.std(ddof=1) / math.sqrt(200), rel=1e-5)
    right = (second.argmax(1) == labels).astype(float) - (first.argmax(1) == labels)
    assert accuracy.mean == pytest.approx(right.mean())
    assert accuracy.se == pytest.approx(right.std(ddof=1) / math.sqrt(200))
    better = write_predictions(
        tmp_path / "c.parquet", softmax(logits + 5 * np.eye(3)[labels]), labels
    )
    assert paired_differences(a, better)[0].beyond_noise
    assert not paired_differences(a, a)[0].beyond_noise


def test_several_labels_per_image_have_the_mean_binary_loss(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    first = np.array([[0.9, 0.2, 0.8], [0.4, 0.6, 0.7]])
    a = write_predictions(tmp_path / "a.parquet", first, labels)
    b = write_predictions(tmp_path / "b.parquet", 1 - first, labels)
    loss, accuracy = paired_differences(a, b)
    of_label = np.where(labels == 1, first, 1 - first)
    assert loss.mean == pytest.approx((np.log(of_label) - np.log(1 - of_label)).mean(), rel=1e-5)
    assert accuracy.mean == -0.5  # the first image was right in all of its labels


def test_other_images_are_not_paired(tmp_path: Path) -> None:
    labels, scores = np.array([0, 1]), np.full((2, 3), 1 / 3)
    a = write_predictions(tmp_path / "a.parquet", scores, labels)
    assert paired_differences(a, tmp_path / "none.parquet") == []
    shifted = write_predictions(tmp_path / "b.parquet", scores, labels, first_id=1)
    assert paired_differences(a, shifted) == []
    other = write_predictions(tmp_path / "c.parquet", scores, np.array([1, 1]))
    assert paired_differences(a, other) == []


def test_curves_differ_where_a_bit_does_and_speed_does_not_count() -> None:
    was = [
        {"epoch": 1, "val/loss": 1.0, "gap/loss": "NaN", "perf/epoch_s": 1.0},
        {"epoch": 2, "val/loss": 0.5, "gap/loss": 0.0, "perf/epoch_s": 1.0},
        {"epoch": 3, "val/loss": 0.25, "gap/loss": 0.0},
    ]
    now = [
        {"epoch": 1, "val/loss": 1.0, "gap/loss": "NaN", "perf/epoch_s": 2.0},
        {"epoch": 2, "val/loss": math.nextafter(0.5, 1), "gap/loss": 0.0, "perf/epoch_s": 2.0},
        {"epoch": 4, "val/loss": 0.5},
    ]
    assert curve_differences(was, was) == []
    (only,) = curve_differences(was, now)
    assert (only.metric, only.first_epoch, only.epoch) == ("val/loss", 2, 2)
    assert only.largest == math.nextafter(0.5, 1) - 0.5
    assert lone_epochs(was, now) == ([3], [4])
    (lost,) = curve_differences([{"epoch": 1, "a": 1.0}], [{"epoch": 1}])
    assert lost.largest == math.inf


def test_config_changes_are_by_key_and_know_what_decides_nothing() -> None:
    was = {"seed": 0, "model": {"name": "mlp", "widths": [4]}, "data": {"normalize": "auto"}}
    now = {"seed": 0, "model": {"name": "mlp", "widths": [5], "dropout": None}}
    now |= {"data": {"normalize": {"mean": [0.5], "std": [1.0], "chosen": "auto"}}}
    lines = change_lines(config_changes(was, now))
    assert lines == ["model.widths: [4] → [5]", "model.dropout: (not there) → null"]
    assert meaning_of("optimizer.lr").decides
    assert meaning_of("data.limit").decides
    assert not meaning_of("logger.mode").decides
    assert not meaning_of("data.eval_sets.sketches").decides


def test_environment_changes_name_causes_first_and_nothing_that_is_not_recorded() -> None:
    was = {"os": "a", "threads": 1, "packages": {"torch": "2.0"}, "fingerprints": {"data": "x"}}
    now = environment(torch.device("cpu"), 2, {"data": "y"})
    assert set(CAUSES) == {*now, "parts"}  # of parts of the user's own alone
    now |= {"os": "b", "packages": {"torch": "2.1"}}
    for then in (now, dict(reversed(now.items()))):  # whatever order a record was written in
        keys = [key for key, _, _ in environment_changes(was, then)]
        assert keys == ["fingerprints.data", "threads", "packages.torch", "os"]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The golden run with another rate, another thread count and other numbers."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "other"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["optimizer"]["lr"] = 0.1
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    rows[1]["val/loss"] -= 0.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((folder / "summary.json").read_text())
    summary["best"]["val/loss"] -= 0.5
    (folder / "summary.json").write_text(json.dumps(summary))
    facts = json.loads((folder / "environment.json").read_text())
    facts["threads"] += 1
    (folder / "environment.json").write_text(json.dumps(facts))
    plan = (folder / "plan.csv").read_text()
    lines = plan.splitlines()
    lines[1] = lines[1].replace(",1.0,", ",0.5,", 1)
    (folder / "plan.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_everything_that_differs_is_said_on_one_screen(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(GOLDEN), str(other)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100
    assert "config  optimizer.lr: 0.05 → 0.1" in said
    assert "plan    conv.weight: lr_scale 1.0 → 0.5" in said
    assert "env     threads: 1 → 2" in said
    assert "better  B by val/loss (lower is better), by 0.5" in said
    assert "no predictions on the same images" in said
    (curve,) = [line for line in lines if "in epoch 2" in line and "val/loss" in line]
    assert "0.5" in curve


def test_who_trained_longer_is_said_beside_who_is_better(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(GOLDEN), str(other)]) == 0
    assert "budget" not in capsys.readouterr().out
    rows = (other / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    (other / "metrics.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    assert main(["compare", str(GOLDEN), str(other)]) == 0
    said = capsys.readouterr().out
    fewer = json.loads(rows[-2])["step"]
    assert f"not on the same budget: A took {last['step']} steps, B {fewer}" in said


def test_a_run_is_the_same_as_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(GOLDEN), str(GOLDEN)]) == 0
    said = capsys.readouterr().out
    for words in ("equal bit for bit", "the same settings", "the same plan", "the same code"):
        assert words in said


def test_a_config_alone_is_compared_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(GOLDEN / "config.yaml", tmp_path / "mailed.yaml")
    assert main(["compare", str(GOLDEN), str(tmp_path / "mailed.yaml")]) == 0
    said = capsys.readouterr().out
    assert "the same settings" in said
    for words in ("B has no summary.json", "B has no metrics.jsonl", "B has no plan.csv"):
        assert words in said
    assert main(["compare", str(GOLDEN), str(tmp_path / "none")]) == 2
    assert "there is no such run" in capsys.readouterr().err


def test_a_config_beside_its_run_stands_for_the_run() -> None:
    assert read_run(str(GOLDEN / "config.yaml")).rows


def test_compare_needs_no_torch_and_survives_a_pipe(other: Path) -> None:
    code = (
        "import sys\nfrom lrexp.__main__ import main\ncode = main(['compare', *sys.argv[1:]])\n"
        "print(sorted({'torch', 'wandb', 'hydra', 'datasets'} & set(sys.modules)), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN), str(other)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert "\x1b" not in done.stdout


def test_what_was_found_of_each_run_stands_side_by_side() -> None:
    def with_verdicts(*kinds: str) -> SavedRun:
        said = [{"kind": kind, "message": f"it is {kind}"} for kind in kinds]
        return replace(read_run(str(GOLDEN)), summary={"verdicts": said})

    lines = found_lines(with_verdicts("too_slow", "leak"), with_verdicts("collapsed"))
    assert lines == ["A: it is too_slow; and leak", "B: it is collapsed"]
    assert found_lines(with_verdicts(), with_verdicts()) == []
