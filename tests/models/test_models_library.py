"""model=torchvision and model=timm: built from the data, refused in words."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torchvision.models import get_model
from trainers import trainer_of
from unchanged import imports_anew

from lrexp.build.data import StatedData, build_dataset
from lrexp.build.experiment import build, build_preview
from lrexp.build.model import build_model
from lrexp.config.errors import ConfigError
from lrexp.config.schema import option_of
from lrexp.models.layers import head_names
from lrexp.models.library import timm_model, torchvision_model
from lrexp.tasks.opening import Launch, run_info
from lrexp.train.loop import Trainer

CPU = torch.device("cpu")
SMALL = ["model=torchvision", "model.name=squeezenet1_1"]  # 0.7 million parameters
SHORT_NAMES = (
    "resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16",
    "swin_t", "squeezenet1_1",
)  # fmt: skip
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "mobilenet_v3_small"),
        ("torchvision", "regnet_y_400mf"),
        pytest.param("timm", "mobilenetv3_small_050", marks=needs_timm),
    ],
)
def test_a_network_of_a_library_fits_the_data(compose: Any, library: str, name: str) -> None:
    config = compose(
        f"model={library}", f"model.name={name}", "data.classes=[2,3,5]", "data.leak_check=skip"
    )
    assert (config.model.library, config.model.name) == (library, name)
    dataset = build_dataset(config, CPU)
    model, layers = build_model(config, dataset)
    assert model.training
    assert model(dataset.train.images[:4]).shape == (4, 3)
    heads = [p for p in layers.parameters if p.head]
    assert {p.shape[0] for p in heads} == {3}
    assert {p.layer for p in heads} == {layers.depth - 1}


def test_a_network_of_a_library_trains_and_follows_the_seed(compose: Any) -> None:
    class Rows(list[dict[str, float]]):
        row = list.append

    def built(seed: int) -> Trainer:
        config = compose(
            "model=torchvision", "model.name=mobilenet_v3_small", "lr_policy=layerwise_decay",
            "trainer.epochs=1", "trainer.limit_train_batches=2", "data.limit=40", f"seed={seed}",
            "data.leak_check=skip",
        )  # fmt: skip
        return trainer_of(config)

    trainers, rows = [built(seed) for seed in (1, 1, 2)], Rows()
    first, again, other = (trainer.experiment.model.state_dict() for trainer in trainers)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])
    trainers[0].run(rows)
    assert rows[0]["step"] == 2
    assert rows[0]["lr/head"] == pytest.approx(0.05)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_any_number_of_channels_makes_the_first_convolution_anew_and_nothing_else(
    name: str,
) -> None:
    with torch.device("meta"):
        colour = get_model(name, num_classes=5).state_dict()
        others = [torchvision_model((c, 64, 64), 5, name=name, args={}) for c in (1, 4)]
    for model, channels in zip(others, (1, 4), strict=True):
        state = model.state_dict()
        assert state.keys() == colour.keys()
        (changed,) = [n for n in state if state[n].shape != colour[n].shape]
        out, _, *kernel = colour[changed].shape
        assert state[changed].shape == (out, channels, *kernel)
        assert changed == next(n for n in state if state[n].ndim == 4)


def test_the_small_stem_keeps_the_images_size_up_to_the_first_stage() -> None:
    model = torchvision_model((1, 32, 32), 5, name="resnet18", args={}, stem="small")
    seen: list[tuple[int, ...]] = []
    model.layer1.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert seen == [(2, 64, 32, 32)]
    std = model.conv1.weight.std().item()
    assert std == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # of kaiming's fan_out
    theirs = get_model("resnet18", num_classes=5).state_dict()
    assert {n: t.shape for n, t in model.state_dict().items() if n != "conv1.weight"} == {
        n: t.shape for n, t in theirs.items() if n != "conv1.weight"
    }
    with pytest.raises(ConfigError, match=r"model\.stem=small: .*swin_t is none"):
        torchvision_model((3, 32, 32), 5, name="swin_t", args={}, stem="small")


@pytest.mark.parametrize("option", [*SHORT_NAMES, "cifar_resnet", "timm", "regnet_y_400mf"])
def test_a_plan_of_any_network_needs_no_values(compose: Any, option: str) -> None:
    if option == "timm":
        pytest.importorskip("timm")
    chosen = ["model=torchvision", f"model.name={option}"] if "regnet" in option else []
    config = compose(*(chosen or [f"model={option}"]))
    data = StatedData((3, 224, 224), tuple("abcdefg"), 100, exact=True)
    model, layers = build_model(config, data, meta=True)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    head = [p for p in layers.parameters if p.head]
    assert [p.shape[0] for p in head] == [7] * len(head)
    assert {p.layer for p in head} == {layers.depth - 1}


HEADS = {
    "resnet18": "fc", "resnet50": "fc", "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1", "convnext_tiny": "classifier.2", "vit_b_16": "heads.head",
    "swin_t": "head", "squeezenet1_1": "classifier.1", "densenet121": "classifier",
    "regnet_y_400mf": "fc", "vgg11": "classifier.6", "mnasnet0_5": "classifier.1",
    "shufflenet_v2_x0_5": "fc", "googlenet": "fc", "inception_v3": "fc", "maxvit_t": "classifier.5",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_what_changes_shape_with_the_classes(name: str) -> None:
    inception = name in ("googlenet", "inception_v3")
    extra = {"aux_logits": False, "init_weights": False} if inception else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        three, seven = (get_model(name, num_classes=n, **extra) for n in (3, 7))
    shapes = {n: t.shape for n, t in three.state_dict().items()}
    changed = {n for n, t in seven.state_dict().items() if t.shape != shapes[n]}
    assert head_names(seven) == (HEADS[name],)
    assert changed == {n for n in shapes if n.startswith(f"{HEADS[name]}.")}


def test_a_short_name_is_torchvision_with_that_name_and_its_config_says_so(compose: Any) -> None:
    for name in SHORT_NAMES:
        config = compose(f"model={name}")
        assert (config.model.library, config.model.name) == ("torchvision", name)
        assert option_of(vars(config.model)) == "torchvision"
    assert compose("model=resnet18", "model.stem=small").model.stem == "small"


@pytest.mark.parametrize(
    ("make", "shape", "name", "args", "message"),
    [
        (torchvision_model, (3, 8, 8), "squeezenet1_0", {}, r"model\.name=.*cannot take.*3×8×8"),
        (torchvision_model, (3, 64, 64), "vit_b_16", {}, r"vit_b_16: cannot take images of 3×64"),
        (torchvision_model, (3, 64, 64), "resnet19", {}, r"no such model\n.*'resnet18'"),
        (torchvision_model, (3, 64, 64), "fcn_resnet50", {}, r"torchvision has no such model"),
        (torchvision_model, (3, 64, 64), "resnet18", {"nonsense": 1}, r"model\.args=.*nonsense"),
        (torchvision_model, (3, 64, 64), "resnet18", {"weights": "x"}, r"write model\.weights"),
        pytest.param(
            timm_model, (1, 8, 8), "vit_tiny_patch16_224", {}, r"cannot take.*\n.*model\.args",
            marks=needs_timm,
        ),
        pytest.param(
            timm_model, (1, 8, 8), "resnet18x", {}, r"timm has no such.*\n.*did you mean 'resnet18",
            marks=needs_timm,
        ),
        pytest.param(
            timm_model, (1, 8, 8), "hf-hub:timm/resnet18.a1_in1k", {}, r"timm has no such model",
            marks=needs_timm,
        ),
        pytest.param(
            timm_model, (1, 8, 8), "resnet18", {"in_chans": 3}, r"model\.args\.in_chans=3",
            marks=needs_timm,
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_said_in_words(
    make: Callable[..., Any], shape: Any, name: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(shape, 5, name=name, args=args)


@needs_timm
def test_the_opening_and_the_plan_of_a_timm_network_say_whose_layers_it_has(
    compose: Any, tmp_path: Path
) -> None:
    chosen = ["model=timm", "model.name=test_resnet", "data.leak_check=skip"]
    config = compose(*chosen)
    note = "layers by timm's own groups"
    assert note in build_preview(config).notes
    launch = Launch(tmp_path, chosen, "", None)
    resolved = OmegaConf.structured(config)
    summary: dict[str, Any] = {"config_id": "id", "remarks": []}
    told = run_info(resolved, config, launch, trainer_of(config), summary, []).opening
    assert f"note   {note}" in told
    assert build_preview(compose("task=plan")).notes == []


def test_dropout_in_front_of_the_head_drops_in_a_run_that_freezes_the_backbone(
    compose: Any,
) -> None:
    chosen = ["model=mlp", "model.widths=[6,5]", "model.dropout=0.5", "data.leak_check=skip"]
    trainer = trainer_of(compose(*chosen, "lr_policy=freeze_backbone"))
    trainer.begin_epoch()
    modules = dict(trainer.experiment.model.named_modules())
    assert {n for n, m in modules.items() if isinstance(m, nn.Dropout) and m.training} == {
        "after.1.1"
    }
    assert build(compose(*chosen)).beside == {}  # nothing is ever frozen, nothing is traced


@needs_timm
def test_arguments_of_a_library_need_no_plus(compose: Any) -> None:
    config = compose(
        "model=timm", "model.name=vit_tiny_patch16_224", "model.args.img_size=8",
        "model.args.patch_size=2", "model.args.depth=2",
    )  # fmt: skip
    assert config.model.args == {"img_size": 8, "patch_size": 2, "depth": 2}
    model, layers = build_model(config, build_dataset(config, CPU))
    assert layers.layer_names == ["stem", "blocks.0", "blocks.1", "head"]
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_missing_timm_is_said_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"model=timm: needs timm.*\n.*'lrexp\[timm\]'"):
        timm_model((1, 8, 8), 2, name="resnet18", args={})


@needs_timm
def test_timm_is_imported_only_when_asked_for(compose: Any) -> None:
    """That no module imports it at once is tested of the code, in test_architecture."""
    with imports_anew(r"timm\b") as looked_for:
        build(compose("trainer.device=cpu"))
        assert looked_for == []
        timm_model((3, 32, 32), 2, name="test_resnet", args={})
        assert "timm" in looked_for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.name=mlp"], ["model.name=mlp: is written model=mlp"]),
        ([*SMALL, "model.library=timm"], ["model.library=timm: is written model=timm"]),
        ([*SMALL, "model.args._target_=os.system"], ["model.args._target_", "plain values"]),
        ([*SMALL, "model.args.a=[{_target_:x}]"], ["model.args.a[0]._target_"]),
        ([*SMALL, "model.hidden=3"], ["model.hidden", "there is no such setting"]),
        (["model.convention=bait"], ["model.convention=bait", "did you mean 'beit'"]),
        (["model.convention=block", "model.layers=[conv.*]"], ["and so does model.layers"]),
        (["model.layers=[]"], ["model.layers", "names no layer"]),
        (["model.layers=['re:(']"], ["model.layers[0]", "no regular expression"]),
        (["model.layers=conv"], ["model.layers", "a list"]),
    ],
)
def test_a_mistake_in_the_model_names_it_and_where_it_came_from(
    lrexp: Callable[..., Any], overrides: list[str], expected: list[str]
) -> None:
    done = lrexp(*overrides, "logger=none")
    assert done.returncode == 2
    assert done.stdout == ""
    where = "  write: " if "is written" in expected[0] else "from the command line"
    for part in [*expected, where]:
        assert part in done.stderr


def test_the_order_by_hand_and_the_convention_reach_the_plan(compose: Any) -> None:
    def scales(*overrides: str) -> dict[str, float]:
        plan = build(compose("lr_policy=layerwise_decay", "lr_policy.decay=0.5", *overrides)).plan
        return {row.name: row.lr_scale for row in plan.rows}

    by_hand = scales("model.layers=[hidden.weight,conv.*,hidden.bias]")
    assert by_hand == {
        "hidden.weight": 0.125, "conv.weight": 0.25, "conv.bias": 0.25, "hidden.bias": 0.5,
        "head.weight": 1.0, "head.bias": 1.0,
    }  # fmt: skip
    blocks = scales("model=mlp", "model.widths=[4,4,4]", "model.convention=block")
    assert blocks["hidden.0.weight"] == blocks["hidden.2.weight"] == 0.5


def test_parameters_without_a_layer_of_their_own_are_warned_of_when_rates_differ(
    compose: Any, caplog: Any
) -> None:
    overrides = ["model.layers=[conv.*]"]
    with caplog.at_level(logging.WARNING):
        build(compose(*overrides, "lr_policy=uniform"))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        build(compose(*overrides, "lr_policy=layerwise_decay"))
    assert ["hidden.weight, hidden.bias" in r.getMessage() for r in caplog.records] == [True]
