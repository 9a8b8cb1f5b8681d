"""What a real run leaves for its report, and that a report can never cost a run."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_lines import main_in

from lrexp.data.dataset import Split
from lrexp.data.feeding import InMemory
from lrexp.data.transforms import Normalize
from lrexp.record.predictions import write_wrong_images

SMALL = ("experiment=smoke", "trainer.threads=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose layers start one after the other, on a schedule that moves."""
    folder = tmp_path_factory.mktemp("trained")
    schedule = ("lr_policy.rewarmup=2.5", "scheduler=cosine", "scheduler.warmup=0.2")
    line = (*SMALL, "lr_policy=gradual_unfreeze", *schedule, "trainer.epochs=4")
    assert main_in(folder, *line, "name=with_report") == 0
    (summary,) = folder.glob("outputs/*/*/summary.json")
    return summary.parent


def test_a_run_ends_with_a_report_of_itself(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert '<span class="badge finished">' in page
    assert "with_report · gradual_unfreeze" in page
    assert "Most wrong on test" in page
    assert "python -m lrexp experiment=smoke" in page
    assert not (trained / "plots").exists(), "plots take as long as the run: made on request"


def test_the_planned_rates_are_those_that_were_used(trained: Path) -> None:
    """Against what the optimizer held at every epoch's last step."""
    planned = list(csv.DictReader((trained / "schedule.csv").read_text().splitlines()))
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    compared = 0
    for row in rows:
        at = planned[row["step"] - 1]
        assert int(at["step"]) == row["step"] - 1
        for key in (key for key in row if key.startswith("lr/")):
            assert float(at[key] or 0) == pytest.approx(row[key], rel=1e-12), (row["epoch"], key)
            compared += bool(row[key])
    assert compared > 6


@pytest.mark.slow
def test_a_diverged_run_has_a_report(lrexp: Any, tmp_path: Path) -> None:
    done = lrexp(*SMALL, "optimizer.lr=1e9")
    assert done.returncode == 0
    (report,) = tmp_path.glob("outputs/*/*/report.html")
    page = report.read_text()
    assert "Diverged in epoch" in page
    assert '"kind":"bad"' in page


def test_a_failed_run_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_right(_trainer: Any, checkpoints: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(checkpoints / "last.pt"))

    monkeypatch.setattr("lrexp.train.loop.save_last", no_right)
    run = tmp_path / "run"
    assert main_in(tmp_path, *SMALL, f"hydra.run.dir={run}") == 1
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    page = (run / "report.html").read_text()
    assert '<span class="badge failed">' in page
    assert "checkpoints" in page


def test_a_report_that_cannot_be_written_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "report.html").mkdir(parents=True)
    assert main_in(tmp_path, *SMALL, f"hydra.run.dir={run}") == 0
    assert "report.html could not be written" in "".join(capsys.readouterr())
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_points_of_a_grid_have_no_report_and_no_pictures(lrexp: Any, tmp_path: Path) -> None:
    done = lrexp("-m", *SMALL, "trainer.epochs=1", "seed=0,1")
    assert done.returncode == 0, done.stderr
    points = list(tmp_path.glob("outputs/*/*/*/summary.json"))
    assert len(points) == 2
    for name in ("report.html", "wrong_images.npz", "schedule.csv"):
        assert not [p for p in points if (p.parent / name).exists()], name


# ---- the most wrong images


def split_of(images: np.ndarray, labels: torch.Tensor, white: int = 255) -> Split:
    cpu, channels = torch.device("cpu"), images.shape[1]
    return Split(
        ids=np.arange(len(images)) + 100,
        labels=labels,
        pixels=InMemory(images, cpu),
        rows=np.arange(len(images)),
        normalize=Normalize([0.0] * channels, [1.0] * channels, white, cpu),
    )


def test_the_highest_losses_among_wrong_images_are_kept_in_order(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (60, 3, 10, 12), np.uint8)
    labels = torch.from_numpy(drawn.integers(0, 3, 60))
    logits = torch.from_numpy(drawn.normal(size=(60, 3))).float()
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    correct = (logits.argmax(1) == labels).numpy().astype(float)
    file = tmp_path / "wrong.npz"
    write_wrong_images(file, "val", split_of(images, labels), logits, losses, correct, list("abc"))
    wrong = [i for i in range(60) if not correct[i]]
    wanted = sorted(wrong, key=lambda i: -losses[i])[:24]
    with np.load(file, allow_pickle=False) as kept:
        assert kept["item"].tolist() == [f"image {i + 100}" for i in wanted]
        assert np.array_equal(kept["images"], images[wanted].transpose(0, 2, 3, 1))
        assert kept["true"].tolist() == ["abc"[labels[i]] for i in wanted]
        assert kept["predicted"].tolist() == ["abc"[logits[i].argmax()] for i in wanted]
        assert kept["true_score"] == pytest.approx(np.exp(-losses[wanted]), rel=1e-5)
        assert str(kept["split"]) == "val"
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.npz"]


def test_pictures_are_bright_and_small(tmp_path: Path) -> None:
    images = np.full((1, 1, 100, 200), 16, np.uint8)
    labels, logits = torch.tensor([0]), torch.tensor([[0.0, 1.0]])
    one = np.ones(1)
    file = tmp_path / "wrong.npz"
    write_wrong_images(file, "val", split_of(images, labels, 16), logits, one, 0 * one, "ab")
    with np.load(file) as kept:
        assert kept["images"].shape == (1, 32, 64, 1)
        assert (kept["images"] == 255).all(), "16 is white here"


def test_several_labels_are_named(tmp_path: Path) -> None:
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    logits = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 2.0, -1.0]])
    images = np.zeros((2, 3, 4, 4), np.uint8)
    file = tmp_path / "wrong.npz"
    losses = np.array([1.0, 2.0])
    write_wrong_images(file, "val", split_of(images, labels), logits, losses, np.zeros(2), "abc")
    with np.load(file) as kept:
        assert kept["true"].tolist() == ["none", "a, c"]
        assert kept["predicted"].tolist() == ["b", "a"]


def test_nothing_is_written_when_nothing_is_wrong(tmp_path: Path) -> None:
    split = split_of(np.zeros((1, 1, 4, 4), np.uint8), torch.tensor([1]))
    file, one = tmp_path / "wrong.npz", np.ones(1)
    write_wrong_images(file, "val", split, torch.tensor([[0.0, 1.0]]), one, one, "ab")
    assert not file.exists()
