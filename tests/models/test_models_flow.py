"""What stands between which parameters, and which dropout is still while a backbone is frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model
from torchvision.models.vision_transformer import VisionTransformer

from lrexp.models.flow import parameters_beside
from lrexp.models.layers import head_names, layer_map
from lrexp.models.mlp import MLP
from lrexp.optim.groups import set_trainable
from lrexp.plan.plan import Plan
from lrexp.plan.policies.freezing import freeze_backbone, gradual_unfreeze, lp_ft

DROPPING = ("Drop", "StochasticDepth")  # in the names of what draws in training


def drops(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that drop something in training."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(word in type(module).__name__ for word in DROPPING)
        and (getattr(module, "p", 0) or getattr(module, "drop_prob", 0))
    }


def frozen(model: nn.Module, **settings: Any) -> Plan:
    return freeze_backbone(layer_map(model), 0.1, 0.0, decay_bias_norm=False, **settings)


def at_work(
    model: nn.Module, plan: Plan, image_shape: tuple[int, int, int], finished_epochs: int = 0
) -> set[str]:
    """Which of them draw after the plan and model.train()."""
    set_trainable(model, plan, finished_epochs, parameters_beside(model, image_shape))
    model.train()
    return {name for name, module in drops(model).items() if module.training}


def into_head(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What the head gets in two steps that draw differently."""
    seen: list[Tensor] = []
    head = model.get_submodule(head_names(model)[0])
    handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for seed in (1, 2):
            torch.manual_seed(seed)
            model(images)
    handle.remove()
    return seen


def torchvisions(name: str, **settings: Any) -> nn.Module:
    if name == "vit":  # as vit_b_16, smaller
        return VisionTransformer(32, 16, 2, 2, 32, 64, dropout=0.1, num_classes=7)
    return get_model(name, num_classes=7, **settings)


def timms(name: str, **settings: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=7, **settings)


PLAIN = {"aux_logits": False, "init_weights": False}
RATES = {"drop_rate": 0.5, "drop_path_rate": 0.3}
# Network, and the dropout in front of its head; a network that drops in its own forward has "".
FAMILIES: list[tuple[Callable[..., nn.Module], str, dict[str, Any], int, set[str]]] = [
    (torchvisions, "alexnet", {}, 64, set()),  # a ReLU stands in front of the head
    (torchvisions, "vgg11", {"init_weights": False}, 32, {"classifier.5"}),
    (torchvisions, "mobilenet_v2", {}, 32, {"classifier.0"}),
    (torchvisions, "mobilenet_v3_small", {}, 32, {"classifier.2"}),
    (torchvisions, "efficientnet_b0", {"stochastic_depth_prob": 0.5}, 32, {"classifier.0"}),
    (torchvisions, "mnasnet0_5", {}, 32, {"classifier.0"}),
    (torchvisions, "squeezenet1_1", {}, 32, {"classifier.0"}),
    (torchvisions, "googlenet", PLAIN, 64, {"dropout"}),
    (torchvisions, "densenet121", {"drop_rate": 0.5}, 32, set()),  # in its frozen blocks alone
    (torchvisions, "convnext_tiny", {"stochastic_depth_prob": 0.5}, 32, set()),
    (torchvisions, "swin_t", {"dropout": 0.5}, 32, set()),
    (torchvisions, "maxvit_t", {}, 224, set()),
    (torchvisions, "vit", {}, 32, set()),  # a norm stands in front of the head
    (timms, "resnet18", RATES, 32, {""}),
    (timms, "efficientnet_b0", RATES, 32, {""}),
    (timms, "mobilenetv3_small_050", RATES, 32, {""}),
    (timms, "vit_tiny_patch16_224", RATES | {"img_size": 32, "depth": 2}, 32, {"head_drop"}),
    (timms, "convnext_atto", RATES, 32, {"head.drop"}),
    (timms, "regnety_002", RATES, 32, {"head.drop"}),
    (timms, "poolformer_s12", RATES, 32, {"head.drop"}),
    (timms, "mixer_s32_224", RATES | {"img_size": 32}, 32, {"head_drop"}),
]


HEAVY = ("vgg11", "googlenet", "densenet121", "swin_t", "maxvit_t")


@pytest.mark.parametrize(
    ("make", "name", "settings", "side", "expected"),
    [
        pytest.param(
            *row, marks=[pytest.mark.slow] * (row[1] in HEAVY), id=f"{row[0].__name__}-{row[1]}"
        )
        for row in FAMILIES
    ],
)
def test_dropout_in_front_of_the_head_trains_with_it_and_no_other_does(
    make: Callable[..., nn.Module], name: str, settings: dict[str, Any], side: int, expected: set
) -> None:
    torch.manual_seed(0)
    model = make(name, **settings)
    assert at_work(model, frozen(model), (3, side, side)) == expected - {""}
    images = torch.randn(2, 3, side, side)
    one, other = into_head(model, images)
    assert torch.equal(one, other) == (not expected)
    for dropped in expected:  # without it nothing is left to chance
        if dropped:
            model.get_submodule(dropped).p = 0.0  # type: ignore[assignment]
        else:
            model.drop_rate = 0.0  # type: ignore[assignment]
    one, other = into_head(model, images)
    assert torch.equal(one, other)


def test_dropout_follows_what_trains_when() -> None:
    model, shape = torchvisions("mobilenet_v3_small"), (3, 32, 32)
    layers, rest = layer_map(model), {"decay_bias_norm": False, "frozen_dropout": False}
    probing = lp_ft(
        layers, 0.1, 0.0, head_epochs=2, finetune_scale=0.1, bn_stats="frozen", **rest
    )  # fmt: skip
    gradual = gradual_unfreeze(
        layers, 0.1, 0.0, every=1, groups=None, rewarmup=0.0, decay=1.0, bn_stats="follow", **rest
    )
    for plan in (probing, gradual):
        assert at_work(model, plan, shape) == {"classifier.2"}
    model = timms("vit_tiny_patch16_224", img_size=32, depth=3, pos_drop_rate=0.1, drop_rate=0.1)
    assert at_work(model, frozen(model), shape) == {"head_drop"}
    assert at_work(model, frozen(model, unfreeze_last=1), shape) == {"head_drop"}
    assert at_work(model, frozen(model, unfreeze_last=3), shape) == {"head_drop", "pos_drop"}
    assert at_work(model, frozen(model, frozen_dropout=True), shape) == {"head_drop", "pos_drop"}


class Tutorial(nn.Module):
    """Dropout registered far from where it acts; the layer that trains first is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.last_drop, self.first_drop = nn.Dropout(0.5), nn.Dropout(0.5)
        self.conv, self.fc1, self.fc2 = nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first_drop(self.conv(images).relu_().mean((2, 3)))
        return self.fc2(functional.normalize(self.last_drop(self.fc1(x).relu())))


class Shortcut(nn.Module):
    """A branch that is dropped and added to its shortcut right before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.drop_path, self.drop = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.fc1(images.mean((2, 3)))
        return self.head(self.drop(x + self.drop_path(self.norm(x))))


def test_the_order_of_execution_decides_and_not_that_of_registration() -> None:
    model = Tutorial()
    beside = parameters_beside(model, (1, 8, 8))
    assert beside["first_drop"] == {"conv.weight", "conv.bias", "fc1.weight", "fc1.bias"}
    assert beside["last_drop"] == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert at_work(model, frozen(model), (1, 8, 8)) == {"last_drop"}
    assert at_work(model, frozen(model, unfreeze_last=1), (1, 8, 8)) == {"last_drop", "first_drop"}


def test_a_branch_beside_its_shortcut_is_in_front_of_nothing() -> None:
    model = Shortcut()
    beside = parameters_beside(model, (4, 2, 2))
    assert beside["drop_path"] == {"norm.weight", "norm.bias"}
    assert {"head.weight", "fc1.weight", "norm.weight"} <= beside["drop"]
    assert at_work(model, frozen(model), (4, 2, 2)) == {"drop"}


def test_every_hidden_layer_of_an_mlp_has_its_own_dropout() -> None:
    model = MLP((1, 4, 4), 3, widths=[5, 4], dropout=0.5)
    assert at_work(model, frozen(model), (1, 4, 4)) == {"after.1.1"}


class Refusing(Tutorial):
    """Takes no single image."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 1:
            raise ValueError("a batch, please")
        return super().forward(images)


def test_tracing_leaves_the_network_and_the_random_numbers_as_they_were() -> None:
    for model in (Tutorial(), Refusing(), torchvisions("mobilenet_v3_small")):
        model.get_submodule(head_names(model)[0]).requires_grad_(False)
        next(model.children()).eval()
        state = {n: t.clone() for n, t in model.state_dict().items()}
        modes = {n: m.training for n, m in model.named_modules()}
        grads = {n: p.requires_grad for n, p in model.named_parameters()}
        generator = torch.get_rng_state()
        shape = (1, 8, 8) if isinstance(model, Tutorial) else (3, 32, 32)
        assert bool(parameters_beside(model, shape)) != isinstance(model, Refusing)
        assert torch.equal(torch.get_rng_state(), generator)
        assert {n: m.training for n, m in model.named_modules()} == modes
        assert {n: p.requires_grad for n, p in model.named_parameters()} == grads
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
        assert not any(m._forward_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_traced_goes_with_its_siblings_on_both_sides() -> None:
    model = torchvisions("mobilenet_v3_small")
    set_trainable(model, frozen(model), 0)
    model.train()
    assert {name for name, module in drops(model).items() if module.training} == {"classifier.2"}
