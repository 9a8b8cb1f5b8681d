"""Networks, where their parameters lie in depth, and what loading weights keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lrexp.config.errors import ConfigError
from lrexp.models.layers import layer_map
from lrexp.models.mlp import MLP
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.models.weights import load_weights, save_weights, weights_fingerprint

FIVE = ("0", "1", "2", "3", "4")
OTHER_FIVE = ("5", "6", "7", "8", "9")


def cnn(classes: int = 5, hidden: int = 6) -> SimpleCNN:
    return SimpleCNN((1, 8, 8), classes, channels=3, kernel_size=5, hidden=hidden)


def places(model: nn.Module, head_name: str = "head") -> dict[str, tuple[int, str, bool]]:
    layers = layer_map(model, head_name)
    return {p.name: (p.layer, p.layer_name, p.head) for p in layers.parameters}


def test_simple_cnn_is_convolution_hidden_head() -> None:
    assert places(cnn()) == {
        "conv.weight": (0, "conv", False),
        "conv.bias": (0, "conv", False),
        "hidden.weight": (1, "hidden", False),
        "hidden.bias": (1, "hidden", False),
        "head.weight": (2, "head", True),
        "head.bias": (2, "head", True),
    }


def test_every_hidden_layer_of_an_mlp_is_a_layer() -> None:
    layers = layer_map(MLP((1, 8, 8), 10, widths=[5, 4, 3], dropout=0.1), "head")
    assert layers.layer_names == ["hidden.0", "hidden.1", "hidden.2", "head"]
    assert layers.depth == 4
    linear = layer_map(MLP((1, 8, 8), 10, widths=[], dropout=0.0), "head")
    assert [(p.layer, p.head) for p in linear.parameters] == [(0, True), (0, True)]


class Residual(nn.Module):
    """No container: one layer, whatever is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.more = nn.Sequential(nn.Conv2d(2, 2, 3))


class Net(nn.Module):
    """Norms, containers in containers, a parameter of its own, a head that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
        self.input_norm = nn.BatchNorm2d(1)
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.stages = nn.ModuleList([nn.Sequential(Residual(), Residual()), Residual()])
        self.norm = nn.LayerNorm(4)
        self.pool = nn.AdaptiveAvgPool2d(1)


def test_containers_open_norms_join_the_layer_below_and_blocks_stay_whole() -> None:
    placed = places(Net())
    layer_of = {name: place[:2] for name, place in placed.items()}
    assert layer_of["input_norm.weight"] == (0, "input_norm")
    assert layer_of["scale"] == (0, "input_norm")
    assert layer_of["stem.0.weight"] == layer_of["stem.1.bias"] == (1, "stem.0")
    for inner in ("conv.weight", "norm.bias", "more.0.weight"):
        assert layer_of[f"stages.0.0.{inner}"] == (2, "stages.0.0")
        assert layer_of[f"stages.0.1.{inner}"] == (3, "stages.0.1")
        assert layer_of[f"stages.1.{inner}"] == (4, "stages.1")
    assert layer_of["norm.weight"] == (4, "stages.1")
    # The head is last wherever it is registered, one layer whatever it holds.
    assert layer_of["head.0.weight"] == layer_of["head.1.bias"] == (5, "head")
    assert {name for name, place in placed.items() if place[2]} == {
        f"head.{inner}" for inner in ("0.weight", "0.bias", "1.weight", "1.bias")
    }


def test_a_head_inside_a_wrapped_network_is_still_the_last_layer() -> None:
    wrapper = nn.Module()
    wrapper.add_module("net", cnn())
    wrapper.add_module("extra", nn.Linear(2, 2))
    placed = places(wrapper, "net.head")
    assert placed["net.conv.weight"] == placed["net.hidden.bias"] == (0, "net", False)
    assert placed["extra.weight"] == (1, "extra", False)
    assert placed["net.head.weight"] == (2, "net.head", True)


def test_the_map_does_not_depend_on_what_is_frozen() -> None:
    model = Net()
    before = layer_map(model, "head")
    model.stem.requires_grad_(False)
    model.norm.requires_grad_(False)
    assert layer_map(model, "head") == before


def test_a_model_without_parameters_has_no_map() -> None:
    model = nn.Module()
    model.add_module("head", nn.ReLU())
    with pytest.raises(ValueError, match="no parameters"):
        layer_map(model, "head")


@pytest.mark.parametrize(("side", "flat"), [(8, 10 * 2 * 2), (28, 10 * 12 * 12), (9, 10 * 2 * 2)])
def test_simple_cnn_is_sized_from_the_images(side: int, flat: int) -> None:
    model = SimpleCNN((1, side, side), 10, channels=10, kernel_size=5, hidden=50)
    assert model.conv.weight.shape == (10, 1, 5, 5)
    assert model.hidden.weight.shape == (50, flat)
    assert model.head.weight.shape == (10, 50)
    assert model(torch.zeros(3, 1, side, side)).shape == (3, 10)


def test_simple_cnn_takes_images_that_are_not_square_and_have_colour() -> None:
    model = SimpleCNN((3, 6, 12), 4, channels=2, kernel_size=3, hidden=5)
    assert model(torch.zeros(2, 3, 6, 12)).shape == (2, 4)


def test_images_too_small_for_the_kernel_are_refused_with_the_largest_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"model\.kernel_size=8.*too large.*8×8\n.*at most 7"):
        SimpleCNN((1, 8, 8), 10, channels=1, kernel_size=8, hidden=2)
    SimpleCNN((1, 8, 8), 10, channels=1, kernel_size=7, hidden=2)(torch.zeros(1, 1, 8, 8))


def test_mlp_computes_what_its_layers_say() -> None:
    torch.manual_seed(0)
    model = MLP((1, 2, 2), 3, widths=[4], dropout=0.5).eval()
    images = torch.randn(5, 1, 2, 2)
    hidden = (images.reshape(5, 4) @ model.hidden[0].weight.T + model.hidden[0].bias).clamp(min=0)
    assert torch.allclose(model(images), hidden @ model.head.weight.T + model.head.bias)
    assert not torch.equal(model.train()(images), model(images))  # dropout draws anew


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint of a network that knows FIVE."""
    torch.manual_seed(1)
    save_weights(cnn().state_dict(), tmp_path / "five.safetensors", FIVE)
    return tmp_path / "five.safetensors"


def test_a_head_for_the_same_classes_is_kept(weights: Path) -> None:
    model = cnn()
    assert load_weights(model, str(weights), FIVE, "head") == {
        n for n, _ in model.named_parameters()
    }
    torch.manual_seed(1)
    saved = cnn().state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("classes", [OTHER_FIVE, FIVE[::-1], FIVE[:3]])
def test_a_head_for_other_classes_stays_fresh(weights: Path, classes: tuple[str, ...]) -> None:
    model = cnn(len(classes))
    fresh = model.head.weight.detach().clone()
    conv = model.conv.weight.detach().clone()
    loaded = load_weights(model, str(weights), classes, "head")
    assert loaded == {"conv.weight", "conv.bias", "hidden.weight", "hidden.bias"}
    assert torch.equal(model.head.weight, fresh)
    assert not torch.equal(model.conv.weight, conv)
    sources = {p.name: p.source for p in layer_map(model, "head", loaded).parameters}
    assert sources["conv.bias"] == "loaded"
    assert sources["head.bias"] == "fresh"


def test_a_file_that_names_no_classes_is_judged_by_the_shape_of_its_head(tmp_path: Path) -> None:
    save_file(cnn().state_dict(), tmp_path / "plain.safetensors")
    file = str(tmp_path / "plain.safetensors")
    assert "head.weight" in load_weights(cnn(5), file, OTHER_FIVE, "head")
    assert "head.weight" not in load_weights(cnn(3), file, FIVE[:3], "head")


def test_a_file_without_a_head_leaves_the_head_fresh(tmp_path: Path) -> None:
    headless = {n: t for n, t in cnn().state_dict().items() if not n.startswith("head.")}
    metadata = {"class_names": json.dumps(FIVE)}
    save_file(headless, tmp_path / "headless.safetensors", metadata=metadata)
    model = cnn()
    assert load_weights(model, str(tmp_path / "headless.safetensors"), FIVE, "head") == set(
        headless
    )


def test_weights_that_do_not_fit_say_which_and_how(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.weights=.*do not fit") as caught:
        load_weights(cnn(hidden=7), str(weights), OTHER_FIVE, "head")
    assert "hidden.weight is (6, 12), the model wants (7, 12)" in str(caught.value)
    renamed = {n.replace("conv.", "stem."): t for n, t in cnn().state_dict().items()}
    save_file(renamed, tmp_path / "renamed.safetensors")
    model = cnn()
    before = model.hidden.weight.detach().clone()
    with pytest.raises(ConfigError) as caught:
        load_weights(model, str(tmp_path / "renamed.safetensors"), FIVE, "head")
    assert "missing conv.weight" in str(caught.value)
    assert "unexpected stem.bias, stem.weight" in str(caught.value)
    assert torch.equal(model.hidden.weight, before)  # nothing is half-loaded


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"no weights at all")
    with pytest.raises(ConfigError, match="neither a safetensors file nor a checkpoint"):
        load_weights(cnn(), str(tmp_path / "weights.pt"), FIVE, "head")


def test_bundled_weights_load_and_an_unknown_name_gets_the_nearest() -> None:
    model = SimpleCNN((1, 8, 8), 5, channels=10, kernel_size=5, hidden=50)
    assert len(load_weights(model, "bundled:simple_cnn_digits_0_4", FIVE, "head")) == 6
    with pytest.raises(ConfigError, match="did you mean 'bundled:simple_cnn_digits_0_4'"):
        load_weights(model, "bundled:simple_cnn_digits_0_5", FIVE, "head")


def test_fingerprint_follows_the_bytes(weights: Path) -> None:
    before = weights_fingerprint(str(weights))
    assert before is not None
    assert len(before) == 16
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert weights_fingerprint(str(weights)) != before
    assert weights_fingerprint(None) is None
