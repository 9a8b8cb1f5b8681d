"""cifar_resnet: its sizes, its shortcuts, and the weights that others trained for it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lrexp.models.cifar_resnet import CifarResNet
from lrexp.models.layers import head_names, layer_map
from lrexp.models.weights import load_weights

needs_data = pytest.mark.skipif(
    "LREXP_TEST_DATA" not in os.environ, reason="LREXP_TEST_DATA is not set"
)
TEN = tuple("0123456789")
FILES = {20: "resnet20-12fca82f.safetensors", 56: "resnet56-4bfd9763.safetensors"}


def data(*path: str) -> Path:
    return Path(os.environ["LREXP_TEST_DATA"], *path)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_parameters_are_those_of_the_closed_form(depth: int) -> None:
    model = CifarResNet((3, 32, 32), 10, depth)
    blocks, widths = (depth - 2) // 6, (16, 32, 64)
    convolutions = 3 * 16 * 9 + sum(
        9 * (a * w + w * w + 2 * (blocks - 1) * w * w)
        for a, w in zip((16, 16, 32), widths, strict=True)
    )
    norms = 2 * 16 + sum(2 * 2 * blocks * w for w in widths)
    counted = sum(p.numel() for p in model.parameters())
    assert counted == convolutions + norms + 64 * 10 + 10
    assert counted == {20: 269_722, 56: 853_018}.get(depth, counted)
    layers = layer_map(model)
    assert layers.depth == 1 + 3 * blocks + 1
    assert {p.name for p in layers.parameters if p.head} == {"linear.weight", "linear.bias"}


def test_a_block_that_adds_nothing_is_its_shortcut_strided_and_zero_padded() -> None:
    model = CifarResNet((3, 33, 32), 4, 20).eval()
    block = model.layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 16, 33, 32)
    with torch.no_grad():
        found = block(x)
    assert found.shape == (2, 32, 17, 16)
    assert torch.equal(found[:, 8:24], F.relu(x[:, :, ::2, ::2]))
    assert not found[:, :8].any()
    assert not found[:, 24:].any()


@needs_data
@pytest.mark.parametrize("depth", [20, 56])
def test_weights_of_others_load_strictly(depth: int) -> None:
    model = CifarResNet((3, 32, 32), 10, depth)
    loaded = load_weights(model, str(data("weights", FILES[depth])), TEN, head_names(model))
    assert loaded == {name for name, _ in model.named_parameters()}


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("depth", "accuracy"), [(20, 0.915), (56, 0.926)])
def test_accuracy_on_cifar10_is_what_the_weights_are_known_for(depth: int, accuracy: float) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    image: Any = pytest.importorskip("PIL.Image")
    rows = parquet.read_table(data("cifar10_10k", "test.parquet")).to_pydict()
    pixels = np.stack([np.array(image.open(io.BytesIO(r["bytes"]))) for r in rows["image"]])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    model = CifarResNet((3, 32, 32), 10, depth).eval()
    load_weights(model, str(data("weights", FILES[depth])), TEN, head_names(model))
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in images.split(250)])
    assert (predicted == torch.tensor(rows["label"])).double().mean() == pytest.approx(accuracy)
