"""model.weights: checkpoints, runs, other channels, what does not fit, and what is said of it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lrexp.build.data import StatedData
from lrexp.build.experiment import build
from lrexp.build.model import build_model
from lrexp.config.errors import ConfigError
from lrexp.models.cifar_resnet import CifarResNet
from lrexp.models.layers import head_names
from lrexp.models.library import torchvision_model
from lrexp.models.pretrained import expected_input
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.models.weights import (
    adapted_to_channels,
    load_weights,
    read_weights,
    save_weights,
    weights_fingerprint,
)
from lrexp.train.loop import Trainer

FIVE = ("0", "1", "2", "3", "4")
BACKBONE = {"conv.weight", "conv.bias", "hidden.weight", "hidden.bias"}


def cnn(channels: int = 1, classes: int = 5) -> SimpleCNN:
    return SimpleCNN((channels, 8, 8), classes, channels=3, kernel_size=5, hidden=6)


def equal(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda s: s, ""),
        (lambda s: {"model": s, "epoch": 3, "best": {"value": 0.5}}, ""),
        (lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}}, "module."),
        (lambda s: {"model_state_dict": {f"_orig_mod.{n}": t for n, t in s.items()}}, "_orig_mod."),
        (lambda s: {f"module._orig_mod.{n}": t for n, t in s.items()}, "module._orig_mod."),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_loads_however_it_was_wrapped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrap: Any, prefix: str, zipped: bool
) -> None:
    saved, model = cnn().state_dict(), cnn()
    file = tmp_path / "weights.bin"
    torch.save(wrap(saved), file, _use_new_zipfile_serialization=zipped)
    with caplog.at_level(logging.INFO):
        assert len(load_weights(model, str(file), FIVE, "head")) == 6
    assert equal(model, saved)
    (line,) = [r.getMessage() for r in caplog.records]
    assert f"loaded 6 tensors of {file}; missing none; unexpected none; mismatched none" in line
    assert (f"prefix {prefix} left out" in line) == bool(prefix)
    shapes = read_weights(str(file), header_only=True).tensors
    assert all(t.is_meta for t in shapes.values())
    assert [t.shape for t in shapes.values()] == [t.shape for t in saved.values()]


@pytest.mark.parametrize("length", [0x4B50, 0x0280])
def test_a_safetensors_header_whose_length_looks_like_another_format_is_read(
    tmp_path: Path, length: int
) -> None:
    model, file = cnn(), tmp_path / "w.safetensors"
    known = {"class_names": json.dumps(["a", "b", "c", "d", "e"])}
    save_file(model.state_dict(), file, metadata={"a": "", **known})
    short = length - int.from_bytes(file.read_bytes()[:8], "little")
    save_file(model.state_dict(), file, metadata={"a": "x" * short, **known})
    content = file.read_bytes()
    assert int.from_bytes(content[:8], "little") == length
    assert content[:2] in (b"PK", b"\x80\x02")
    assert load_weights(cnn(), str(file), FIVE, "head") == BACKBONE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_cast_to_the_models(tmp_path: Path, dtype: torch.dtype) -> None:
    saved, model = {n: t.to(dtype) for n, t in cnn().state_dict().items()}, cnn()
    save_file(saved, tmp_path / "w.safetensors")
    load_weights(model, str(tmp_path / "w.safetensors"), FIVE, "head")
    assert equal(model, {n: t.float() for n, t in saved.items()})


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_first_convolution_is_adapted_as_timm_does(channels: int, dtype: torch.dtype) -> None:
    timm_models = pytest.importorskip("timm.models")
    kernel = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = timm_models.adapt_input_conv(channels, kernel)
    found = adapted_to_channels(kernel, channels)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_adapted_weights_compute_what_they_did_on_a_grey_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = torchvision_model((3, 32, 32), 5, name="resnet18", args={}).eval()
    save_file(colour.state_dict(), tmp_path / "rgb.safetensors")
    images = torch.randn(2, 1, 32, 32)
    for channels in (1, 6):
        model = torchvision_model((channels, 32, 32), 5, name="resnet18", args={}).eval()
        loaded = load_weights(model, str(tmp_path / "rgb.safetensors"), FIVE, "fc")
        assert loaded == {n for n, _ in model.named_parameters()}  # the adapted one counts
        with torch.no_grad():
            expected = colour(images.expand(-1, 3, -1, -1))
            assert torch.allclose(model(images.expand(-1, channels, -1, -1)), expected, atol=1e-4)


def test_only_a_first_convolution_is_adapted(tmp_path: Path) -> None:
    save_file(cnn().state_dict(), tmp_path / "w.safetensors")
    model = SimpleCNN((1, 8, 8), 5, channels=4, kernel_size=5, hidden=6)
    with pytest.raises(ConfigError, match=r"mismatched conv\.weight is \(3, 1, 5, 5\)"):
        load_weights(model, str(tmp_path / "w.safetensors"), FIVE, "head")


def test_counters_of_batches_may_be_missing_and_statistics_may_not(tmp_path: Path) -> None:
    state = CifarResNet((3, 8, 8), 5, 20).state_dict()
    counted = {n: t for n, t in state.items() if "num_batches" not in n}
    save_file(counted, tmp_path / "w.safetensors")
    model = CifarResNet((3, 8, 8), 5, 20)
    assert len(load_weights(model, str(tmp_path / "w.safetensors"), FIVE, "linear")) == 59
    del counted["bn1.running_mean"]
    save_file(counted, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"missing bn1\.running_mean\n"):
        load_weights(model, str(tmp_path / "w.safetensors"), FIVE, "linear")


def test_not_strict_loads_what_fits_and_warns_of_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = cnn().state_dict()
    del state["conv.bias"]
    state["hidden.weight"] = torch.zeros(7, 12)
    state |= {f"extra.{i}": torch.zeros(1) for i in range(6)}
    save_file(state, tmp_path / "w.safetensors")
    model = cnn(classes=2)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    loaded = load_weights(model, str(tmp_path / "w.safetensors"), ("a", "b"), "head", strict=False)
    assert loaded == {"conv.weight", "hidden.bias"}
    assert torch.equal(model.conv.weight, state["conv.weight"])
    for kept in ("conv.bias", "hidden.weight", "head.weight"):
        assert torch.equal(model.state_dict()[kept], before[kept])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in (
        "loaded 2 tensors", "missing conv.bias;", "unexpected extra.0, extra.1, extra.2, extra.3"
        " and 2 more;", "hidden.weight is (7, 12), the model wants (6, 12)",
        "head fresh: head.weight, head.bias",
    ):  # fmt: skip
        assert part in record.getMessage()


def test_weights_of_which_nothing_fits_are_refused_though_not_strict(tmp_path: Path) -> None:
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="none of the tensors fits"):
        load_weights(cnn(), str(tmp_path / "w.safetensors"), FIVE, "head", strict=False)


def test_the_convolution_that_classifies_in_squeezenet_is_replaced_for_other_classes(
    tmp_path: Path,
) -> None:
    known = torchvision_model((3, 32, 32), 5, name="squeezenet1_1", args={})
    save_weights(known.state_dict(), tmp_path / "w.safetensors", FIVE)
    model = torchvision_model((3, 32, 32), 2, name="squeezenet1_1", args={})
    fresh = model.classifier[1].weight.detach().clone()
    loaded = load_weights(
        model, str(tmp_path / "w.safetensors"), ("ants", "bees"), head_names(model)
    )
    left = {n for n, _ in model.named_parameters()} - loaded
    assert left == {"classifier.1.weight", "classifier.1.bias"}
    assert torch.equal(model.classifier[1].weight, fresh)
    assert torch.equal(model.features[0].weight, known.features[0].weight)


@pytest.mark.skipif("LREXP_TEST_DATA" not in os.environ, reason="LREXP_TEST_DATA is not set")
def test_squeezenets_half_precision_weights_load_strictly() -> None:
    file = Path(os.environ["LREXP_TEST_DATA"], "weights", "squeezenet1_1_tv_fp16.safetensors")
    model = torchvision_model((3, 64, 64), 1000, name="squeezenet1_1", args={})
    loaded = load_weights(model, str(file), tuple(map(str, range(1000))), head_names(model))
    assert loaded == {n for n, _ in model.named_parameters()}
    assert model.classifier[1].weight.dtype == torch.float32


class Rows(list[dict[str, float]]):
    row = list.append


@pytest.fixture
def finished(compose: Any, tmp_path: Path) -> Path:
    """A run folder with best.pt, of a network that knows the digits 0-4."""
    config = compose("data.classes=[0,1,2,3,4]", "trainer.epochs=1", "seed=4")
    trainer = Trainer(build(config), config.trainer, config.data.batch_size, config.seed)
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    trainer.run(Rows(), tmp_path / "outputs" / "mine" / "checkpoints")
    return tmp_path / "outputs" / "mine"


def test_a_run_goes_on_from_the_best_weights_of_another(
    compose: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = torch.load(finished / "checkpoints" / "best.pt", weights_only=True)
    same, other = ("data.classes=[0,1,2,3,4]", "data.classes=[5,6,7,8,9]")
    experiment = build(compose(same, f"model.weights={finished}"))
    assert equal(experiment.model, best["model"])
    assert {row.source for row in experiment.plan.rows} == {"loaded"}
    assert experiment.weights_fingerprint == weights_fingerprint(
        str(finished / "checkpoints" / "best.pt")
    )
    (finished.parent / "latest").symlink_to("mine")
    monkeypatch.chdir(finished.parent.parent)
    config = compose(other, "model.weights=latest")
    assert config.model.weights == str(finished)
    sources = {row.name: row.source for row in build(config).plan.rows}
    assert {n for n, source in sources.items() if source == "loaded"} == BACKBONE


def test_a_plan_reads_shapes_alone_and_has_the_same_sources(compose: Any, finished: Path) -> None:
    config = compose("data.classes=[5,6,7,8,9]", f"model.weights={finished}")
    data = StatedData((1, 8, 8), tuple("56789"), 100, exact=True)
    model, layers = build_model(config, data, meta=True)
    assert all(t.is_meta for t in model.state_dict().values())
    assert {p.name for p in layers.parameters if p.source == "loaded"} == BACKBONE


def test_a_folder_that_is_no_run_is_refused_with_the_runs_in_it(
    compose: Any, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has no checkpoints/best\.pt\n.*its runs: .*/mine"):
        compose(f"model.weights={finished.parent}")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"model\.weights=latest: there is no such.*\n.*no run"):
        compose("model.weights=latest")
    with pytest.raises(ConfigError, match=r"model\.pretrained=True: and model\.weights"):
        compose("model=resnet18", "model.pretrained=true", f"model.weights={finished}")


def test_what_a_run_or_file_expects_of_images_comes_from_what_it_states(
    compose: Any, finished: Path
) -> None:
    model = compose(f"model.weights={finished}").model
    assert expected_input(model) is None
    for content, expected in (
        ({"normalize": {"mean": [0.1], "std": [0.2]}, "image_size": 16}, ((0.1,), (0.2,), 16)),
        ({"mean": [0.3], "std": [0.5]}, ((0.3,), (0.5,), None)),
        ({"normalize": "dataset"}, None),
    ):
        (finished / "config.yaml").write_text(json.dumps({"data": content}))
        found = expected_input(model)
        assert (found and (found.mean, found.std, found.size)) == expected
    file = finished / "w.safetensors"
    for metadata, expected in (
        ({"mean": "[0.4, 0.5]", "std": "[1, 2]"}, ((0.4, 0.5), (1.0, 2.0), None)),
        ({"mean": "[0.4]"}, None),
        ({}, None),
    ):
        save_file(cnn().state_dict(), file, metadata=metadata)
        found = expected_input(compose(f"model.weights={file}").model)
        assert (found and (found.mean, found.std, found.size)) == expected
    assert expected_input(compose("model.weights=bundled:simple_cnn_digits_0_4").model) is None
    assert expected_input(compose().model) is None
