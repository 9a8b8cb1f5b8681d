"""The layer map: against timm's own layer decay, and by structure."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from lrexp.config.errors import ConfigError
from lrexp.models.layers import LayerMap, head_names, layer_map, unwrapped
from lrexp.plan.plan import Plan
from lrexp.plan.policies.scaling import layerwise_decay, uniform

timm = pytest.importorskip("timm", reason="timm is not installed")

# Model → its layers, and tensors that timm's patterns do not name.
ORACLE = {
    "vit_base_patch16_224": (14, []),
    "vit_small_patch14_reg4_dinov2": (14, []),
    "swin_tiny_patch4_window7_224": (14, []),
    "maxvit_tiny_tf_224": (6, ["head.norm", "head.pre_logits.fc"]),
    "resnet18": (10, []),
    "resnet50": (18, []),
    "densenet121": (60, ["features.norm5"]),
    "efficientnet_b0": (18, []),
    "mobilenetv3_large_100": (18, ["conv_head"]),
    "convnext_tiny": (20, ["head.norm"]),
    "convnext_base": (38, ["head.norm"]),
}


@pytest.fixture(scope="module")
def made() -> Any:
    """A function from a timm name to the model on the meta device, each built once."""
    models: dict[str, nn.Module] = {}

    def make(name: str) -> nn.Module:
        if name not in models:
            with torch.device("meta"):
                models[name] = timm.create_model(name, num_classes=10)
        return models[name]

    return make


def torchvision_model(name: str, **arguments: Any) -> nn.Module:
    # regnet computes its widths with tensors, which needs a real device
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return get_model(name, weights=None, num_classes=10, **arguments)


def decayed(layers: LayerMap, decay_bias_norm: bool = False) -> Plan:
    return layerwise_decay(layers, 1e-3, 0.05, decay=0.75, decay_bias_norm=decay_bias_norm)


def treatments(plan: Plan) -> dict[str, tuple[float, float]]:
    return {row.name: (pytest.approx(row.lr_scale), row.weight_decay) for row in plan.rows}


def timms(model: nn.Module, exclude_1d: bool = True) -> dict[str, tuple[float, float]]:
    """Parameter → (lr_scale, weight_decay) as timm's optimizer factory would have them."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    groups = importlib.import_module("timm.optim").param_groups_layer_decay(
        model,
        weight_decay=0.05,
        no_weight_decay_list=getattr(model, "no_weight_decay", set)(),
        layer_decay=0.75,
        weight_decay_exclude_1d=exclude_1d,
    )
    return {names[id(t)]: (g["lr_scale"], g["weight_decay"]) for g in groups for t in g["params"]}


def places(layers: LayerMap) -> dict[str, tuple[int, str]]:
    return {p.name: (p.layer, p.layer_name) for p in layers.parameters}


@pytest.mark.parametrize("name", ORACLE)
def test_layerwise_decay_is_timms_name_by_name(made: Any, name: str) -> None:
    layers = layer_map(made(name))
    depth, unplaced = ORACLE[name]
    assert layers.depth == len(layers.layer_names) == depth
    assert treatments(decayed(layers)) == timms(made(name))
    assert treatments(decayed(layers, decay_bias_norm=True)) == timms(made(name), exclude_1d=False)
    assert {n.rpartition(".")[0] for n in layers.unplaced} == set(unplaced)
    classifier = tuple(f"{head}." for head in head_names(made(name)))
    assert {p.name for p in layers.parameters if p.head} == {
        n for n, _ in made(name).named_parameters() if n.startswith(classifier)
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_torchvision_networks_with_timms_names_have_timms_map(made: Any, name: str) -> None:
    layers = layer_map(torchvision_model(name))
    assert treatments(decayed(layers)) == timms(made(name))
    assert set(layers.unplaced) == set(layer_map(made(name)).unplaced)


def test_the_oracle_sees_a_layer_in_the_wrong_place(made: Any) -> None:
    wrong = decayed(layer_map(made("resnet18"), convention="block"))
    assert treatments(wrong) != timms(made("resnet18"))


def test_beit_moves_exactly_the_final_norm_to_the_head(made: Any) -> None:
    vit = made("vit_base_patch16_224")
    timm_way, beit = (places(layer_map(vit, convention=c)) for c in ("timm", "beit"))
    assert {n for n in beit if beit[n] != timm_way[n]} == {"norm.weight", "norm.bias"}
    assert beit["norm.weight"] == beit["head.weight"] == (13, "head")
    assert not any(p.head for p in layer_map(vit, convention="beit").parameters if "norm" in p.name)
    swin = torchvision_model("swin_t")
    timm_way, beit = (places(layer_map(swin, convention=c)) for c in ("timm", "beit"))
    assert {n for n in beit if beit[n] != timm_way[n]} == {"norm.weight", "norm.bias"}
    for without in (torchvision_model("resnet18"), made("efficientnet_b0")):
        assert layer_map(without, convention="beit") == layer_map(without)


def test_strict_refuses_what_timm_does_not_name(made: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.convention=strict.*2 parameters.*norm5\.weight"):
        layer_map(made("densenet121"), convention="strict")
    vit = made("vit_base_patch16_224")
    assert layer_map(vit, convention="strict") == layer_map(vit)
    with pytest.raises(ConfigError, match=r"class_token"):
        layer_map(torchvision_model("vit_b_16"), convention="strict")


def test_block_makes_one_layer_of_every_child(made: Any) -> None:
    layers = layer_map(torchvision_model("resnet18"), convention="block")
    assert layers.layer_names == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert places(layers)["bn1.weight"] == (0, "conv1")
    layers = layer_map(made("maxvit_tiny_tf_224"), convention="block")
    assert layers.layer_names == ["stem", "stages", "head.fc"]
    assert places(layers)["head.norm.weight"] == (2, "head.fc")
    assert not layers.unplaced
    layers = layer_map(made("vit_base_patch16_224"), convention="block")
    assert places(layers)["cls_token"] == (0, "patch_embed")


class Wrapped(nn.Module):
    """As DataParallel and its like are seen from outside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "convnext_tiny", "densenet121"])
def test_wrapped_compiled_and_partly_frozen_models_have_the_same_map(made: Any, name: str) -> None:
    model = made(name)
    before = layer_map(model)
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    for wrapper in (Wrapped(model), compiled, Wrapped(compiled), nn.DataParallel(model)):
        assert layer_map(wrapper) == before
        assert unwrapped(wrapper) is model
        assert head_names(wrapper) == head_names(model)
    for tensor in list(model.parameters())[:100]:
        tensor.requires_grad_(False)
    assert layer_map(model) == before
    model.requires_grad_(True)


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_224", "swin_tiny_patch4_window7_224", "resnet18"]
)
def test_a_headless_timm_model_keeps_every_layer_in_its_place(made: Any, name: str) -> None:
    whole = layer_map(made(name))
    with torch.device("meta"):
        headless = layer_map(timm.create_model(name, num_classes=0))
    assert headless.depth == whole.depth
    assert headless.layer_names == whole.layer_names
    assert headless.parameters == tuple(p for p in whole.parameters if not p.head)


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("resnet18", "fc"), ("vgg11", "classifier.6"), ("swin_t", "head"), ("vit_b_16", "heads.head")],
)
def test_a_headless_torchvision_model_keeps_every_layer_in_its_place(
    name: str, classifier: str
) -> None:
    model = torchvision_model(name)
    whole = layer_map(model)
    assert {p.name.rpartition(".")[0] for p in whole.parameters if p.head} == {classifier}
    model.set_submodule(classifier, nn.Identity())
    headless = layer_map(model)
    assert headless.layer_names == whole.layer_names
    assert headless.parameters == tuple(p for p in whole.parameters if not p.head)
    assert treatments(decayed(headless)).items() <= treatments(decayed(whole)).items()


# Family → its layers, the head, side of the images.
TORCHVISION = {
    "resnet18": (10, "fc", 64),
    "vgg11": (11, "classifier.6", 64),
    "densenet121": (60, "classifier", 64),
    "mobilenet_v3_small": (15, "classifier.3", 64),
    "efficientnet_b0": (19, "classifier.1", 64),
    "convnext_tiny": (20, "classifier.2", 64),
    "vit_b_16": (14, "heads.head", 224),
    "swin_t": (14, "head", 224),
    "squeezenet1_1": (10, "classifier.1", 64),
    "regnet_y_400mf": (18, "fc", 64),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_depth_follows_the_order_of_first_use_in_a_forward_pass(name: str) -> None:
    depth, head, side = TORCHVISION[name]
    model = torchvision_model(name).eval()
    layers = layer_map(model)
    layer_of = {p.name: p.layer for p in layers.parameters}
    used: list[tuple[int, str]] = []
    owners = {n.rpartition(".")[0] for n in layer_of} - {"", "encoder"}  # tokens are not called
    for owner in owners:
        at = {layer_of[n] for n in layer_of if n.rpartition(".")[0] == owner}
        assert len(at) == 1, f"{owner} is torn apart"
        module = model.get_submodule(owner)
        seen = (at.pop(), owner)
        module.register_forward_pre_hook(lambda *_, seen=seen: used.append(seen))
    device = next(model.parameters()).device
    with torch.no_grad():
        model(torch.zeros(2, 3, side, side, device=device))
    called = {owner for _, owner in used}
    for owner in owners - called:  # attention hands on the weights of its layers as tensors
        assert owner.rpartition(".")[0] in called
    assert [layer for layer, _ in used] == sorted(layer for layer, _ in used)
    assert used[-1] == (depth - 1, head)
    assert layers.depth == depth
    assert {p.name.rpartition(".")[0] for p in layers.parameters if p.head} == {head}
    left_by_timm = {"features.norm5"} if name == "densenet121" else set()
    assert {n.rpartition(".")[0] for n in layers.unplaced} == left_by_timm


@pytest.mark.parametrize(
    ("name", "norm", "with_layer"),
    [
        ("vit_b_16", "encoder.ln", "encoder.layers.encoder_layer_11"),
        ("swin_t", "norm", "features.7.1"),
        ("densenet121", "features.norm5", "classifier"),  # timm's map leaves it there
        ("convnext_tiny", "classifier.0", "classifier.2"),  # sits in the head's own container
    ],
)
def test_a_final_norm_goes_with_the_last_block_unless_it_sits_with_the_head(
    name: str, norm: str, with_layer: str
) -> None:
    assert places(layer_map(torchvision_model(name)))[f"{norm}.weight"][1] == with_layer


def test_what_stands_between_two_stages_goes_with_the_block_before() -> None:
    convnext = places(layer_map(torchvision_model("convnext_tiny")))
    assert convnext["features.2.1.weight"] == convnext["features.1.2.layer_scale"]
    swin = places(layer_map(torchvision_model("swin_t")))
    assert swin["features.2.reduction.weight"] == swin["features.1.1.norm1.weight"]


def test_parallel_branches_of_a_repeated_module_are_one_layer() -> None:
    model = torchvision_model("googlenet", aux_logits=False, init_weights=False)
    layers = layer_map(model)
    assert layers.layer_names[3:] == [
        *(f"inception{b}" for b in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")), "fc"
    ]  # fmt: skip


def test_a_backbone_inside_a_network_is_expanded() -> None:
    model = nn.Module()
    model.add_module("backbone", torchvision_model("resnet18"))
    model.backbone.fc = nn.Identity()  # type: ignore[assignment]
    model.add_module("head", nn.Linear(512, 3))
    inner = layer_map(torchvision_model("resnet18")).layer_names[:-1]
    assert layer_map(model).layer_names == [*(f"backbone.{name}" for name in inner), "head"]


def test_a_plain_module_without_a_head_by_name_ends_in_its_last_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
    assert head_names(model) == ("3",)
    assert places(layer_map(model))["1.weight"] == (0, "0")
    assert layer_map(model).layer_names == ["0", "3"]


def test_a_head_may_have_two_parts() -> None:
    with torch.device("meta"):
        model = timm.create_model("deit_tiny_distilled_patch16_224")
    assert head_names(model) == ("head", "head_dist")
    heads = {p.name.split(".")[0] for p in layer_map(model).parameters if p.head}
    assert heads == {"head", "head_dist"}


def test_an_order_by_hand_places_every_parameter(made: Any) -> None:
    globs = ["*1.weight", "re:^(bn1|layer[12])", "layer*"]
    layers = layer_map(made("resnet18"), layers=globs, convention="strict")
    at = places(layers)
    assert layers.layer_names == [*globs, "fc"]
    assert at["conv1.weight"][0] == at["layer4.1.conv1.weight"][0] == 0
    assert at["bn1.bias"][0] == at["layer1.0.conv2.weight"][0] == 1
    assert at["layer4.0.conv2.weight"][0] == 2
    assert at["fc.weight"][0] == 3


def test_what_an_order_by_hand_leaves_out_is_listed_and_refused_by_strict(made: Any) -> None:
    layers = layer_map(made("resnet18"), layers=["layer*"])
    assert set(layers.unplaced) == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert {places(layers)[name] for name in layers.unplaced} == {(1, "fc")}
    with pytest.raises(ConfigError, match=r"3 parameters.*conv1\.weight"):
        layer_map(made("resnet18"), layers=["layer*"], convention="strict")


@pytest.mark.parametrize(
    ("globs", "message"),
    [
        (["laier1.*"], r"model\.layers\[0\]=laier1\.\*.*selects no parameter\n.*nearest: 'layer"),
        (["layer*", "layer1.*"], r"model\.layers\[1\].*earlier entries took"),
        (["layer*", "fc.*"], r"model\.layers\[1\].*only the head"),
    ],
)
def test_an_entry_by_hand_that_places_nothing_is_an_error(
    made: Any, globs: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        layer_map(made("resnet18"), layers=globs)


def test_a_vit_has_as_few_groups_as_distinct_rates_and_decays(made: Any) -> None:
    layers = layer_map(made("vit_base_patch16_224"))
    plan = decayed(layers)
    assert len(plan.groups) == len({(row.lr_scale, row.weight_decay) for row in plan.rows}) == 28
    assert len(uniform(layers, 0.1, 0.05, decay_bias_norm=False).groups) == 2
    assert len(uniform(layers, 0.1, 0.0, decay_bias_norm=False).groups) == 1


@pytest.mark.parametrize("name", ["iformer_h", "cait_xxs24_224", "regnety_002"])
def test_group_names_are_words_and_rates_timms(made: Any, name: str) -> None:
    plan = decayed(layer_map(made(name)))  # the second's matcher is a function
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", group) for group in plan.groups)
    assert treatments(plan) == timms(made(name))


# torchvision's network and timm's of the same: what torchvision's lacks of the parameters that
# timm's has without weight decay, tensors and values.
TWINS = {
    ("convnext_tiny", "convnext_tiny"): (0, 0),
    ("vit_b_16", "vit_base_patch16_224"): (0, 0),
    ("swin_t", "swin_tiny_patch4_window7_224"): (0, 0),
    # two biases for a third of qkv each, where torchvision's one has a third that stays 0
    ("swin_v2_t", "swinv2_tiny_window8_256"): (12, -4416),
    ("maxvit_t", "maxvit_tiny_tf_224"): (1, 10),  # the bias of the classifier
    ("efficientnet_b0", "efficientnet_b0"): (0, 0),
    ("mobilenet_v2", "mobilenetv2_100"): (0, 0),
    ("mobilenet_v3_small", "mobilenetv3_small_100"): (0, 0),
    ("mnasnet1_0", "mnasnet_100"): (0, 0),
    ("regnet_y_400mf", "regnety_004"): (0, 0),
    ("vgg11_bn", "vgg11_bn"): (0, 0),
}


@pytest.mark.parametrize(("ours", "theirs"), TWINS)
def test_weight_decay_leaves_alone_in_torchvisions_network_what_it_does_in_timms(
    made: Any, ours: str, theirs: str
) -> None:
    layers, twin = layer_map(torchvision_model(ours)), layer_map(made(theirs))

    def free(of: LayerMap, everywhere: bool) -> tuple[int, int]:
        rows = [row for row in decayed(of, everywhere).rows if not row.weight_decay]
        return len(rows), sum(row.size for row in rows)

    (tensors, values), (their_tensors, their_values) = free(layers, False), free(twin, False)
    assert (their_tensors - tensors, their_values - values) == TWINS[ours, theirs]
    if ours != "swin_v2_t":  # timm's for larger images
        assert free(layers, True) == free(twin, True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("vit_b_16", "vit_base_patch16_224"), ("regnet_y_400mf", "regnety_004")],
)
def test_torchvisions_network_has_timms_rates_where_both_are_built_alike(
    made: Any, ours: str, theirs: str
) -> None:
    def by_rate(layers: LayerMap) -> Counter[tuple[float, float]]:
        sizes: Counter[tuple[float, float]] = Counter()
        for row in decayed(layers).rows:
            sizes[round(row.lr_scale, 9), row.weight_decay] += row.size
        return sizes

    assert by_rate(layer_map(torchvision_model(ours))) == by_rate(layer_map(made(theirs)))


class Scaled(nn.Module):
    """A scale of many dimensions and a classifier with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.gamma, self.mix = (nn.Parameter(torch.zeros(s)) for s in ((4, 1, 1), (4, 4)))
        self.head = nn.Linear(4, 1)


def test_a_scale_is_known_by_its_shape_and_a_matrix_by_its_layer() -> None:
    layers = layer_map(Scaled())
    free = {row.name for row in decayed(layers).rows if not row.weight_decay}
    assert free == {"gamma", "conv.bias", "head.bias"}  # not conv.weight (4, 1, 1, 1)
    assert all(row.weight_decay for row in decayed(layers, decay_bias_norm=True).rows)


def test_a_timm_model_says_whose_layers_it_has(made: Any) -> None:
    own = "layers by timm's own groups"
    assert layer_map(made("resnet18")).note == layer_map(made("cait_xxs24_224")).note == own
    for name in ("poolformer_s12", "pit_ti_224", "csatv2"):
        layers = layer_map(made(name))
        assert layers.note == "layers by structure: timm has no groups of its own for this network"
        assert layers.depth > 10
    assert layer_map(made("resnet18"), layers=["*1.*", "layer*"]).note == ""
    assert layer_map(made("resnet18"), convention="block").note == ""
    assert layer_map(torchvision_model("resnet18")).note == ""


def test_no_weight_decay_of_the_model_is_a_flag_and_no_bias(made: Any) -> None:
    flagged = {p.name for p in layer_map(made("vit_base_patch16_224")).parameters if p.undecayed}
    assert flagged == {"cls_token", "pos_embed"}
    assert not any(p.undecayed for p in layer_map(made("resnet50")).parameters)


def test_a_head_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no module 'classifier'"):
        layer_map(nn.Sequential(nn.Linear(1, 1)), "classifier")
