"""The presets on real images reach what their files promise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lrexp.__main__ import main

DATA = os.environ.get("LREXP_TEST_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="needs real images: LREXP_TEST_DATA is not set"),
]


def accuracy_of(folder: Path, *overrides: str) -> float:
    """Test accuracy in percent of one run, that of validation where there is no test set."""
    given = [override.replace("DATA", str(DATA)) for override in overrides]
    assert main([*given, "logger=none", f"hydra.run.dir={folder}"]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    return 100 * (summary["test"].get("accuracy") or summary["best"]["val/accuracy"])


RESNET20 = "model.weights=DATA/weights/resnet20-12fca82f.safetensors"


def test_resnet20_weights_classify_cifar10_as_published(tmp_path: Path) -> None:
    cifar10 = ("data=hf", "data.path=DATA/cifar10_10k", "trainer.epochs=0")
    resnet20 = ("model=cifar_resnet", "model.depth=20", RESNET20)
    assert accuracy_of(tmp_path / "run", *cifar10, *resnet20) == pytest.approx(91.5, abs=0.3)


def test_traffic_signs_want_a_rate_that_moves_the_pretrained_backbone(tmp_path: Path) -> None:
    fewer = "trainer.epochs=2"  # scripts/transfer_table.py trains all of them for 10
    preset = ("experiment=traffic_signs", "data.path=DATA/gtsrb32", RESNET20, fewer)
    slow = ("lr_policy=per_layer", "lr_policy.rules=[{layers: backbone, scale: 0.02}]")
    good = accuracy_of(tmp_path / "good", *preset)
    tiny = accuracy_of(tmp_path / "tiny", *preset, *slow)
    assert good >= 60
    assert tiny < good - 15


def test_hymenoptera_are_told_apart_with_imagenet_weights(tmp_path: Path) -> None:
    preset = ("experiment=hymenoptera", "data.path=DATA/hymenoptera", "trainer.epochs=3")
    weights = "model.weights=DATA/weights/squeezenet1_1_tv_fp16.safetensors"
    assert accuracy_of(tmp_path / "run", *preset, weights) >= 75


def test_mnist_reaches_the_accuracy_of_the_classic_experiment(tmp_path: Path) -> None:
    preset = ("experiment=mnist_simple_cnn", "data.root=DATA/mnist", "data.download=false")
    assert accuracy_of(tmp_path / "run", *preset) >= 96.5
