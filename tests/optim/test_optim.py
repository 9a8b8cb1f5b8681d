"""Parameter groups, freezing that holds against everything, optimizer state by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lrexp.config.schema import Rest, Rule
from lrexp.models.layers import layer_map
from lrexp.optim.groups import (
    frozen_state,
    load_state_by_name,
    param_groups,
    quick_hash,
    set_rates,
    set_trainable,
    state_by_name,
    tensor_hash,
)
from lrexp.plan.plan import Plan, Treatment, make_plan, never
from lrexp.plan.policies.freezing import freeze_backbone
from lrexp.plan.policies.per_layer import per_layer
from lrexp.plan.policies.scaling import layerwise_decay, uniform

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}


class Net(nn.Module):
    """Norms with and without parameters, at the top and in a block, dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(images)).relu()  # (B, 4, H, W)
        return self.head(self.block(x).mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def frozen_backbone(model: nn.Module, weight_decay: float = 0.1) -> Plan:
    return freeze_backbone(layer_map(model, "head"), 0.1, weight_decay, decay_bias_norm=True)


def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        images = torch.randn(8, 1, 8, 8, generator=generator) * 3 + 1
        nn.functional.cross_entropy(model(images), torch.arange(8) % 2).backward()
        optimizer.step()


def copy_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_param_groups_hold_the_models_own_tensors_with_rates_and_decay(model: nn.Module) -> None:
    plan = layerwise_decay(layer_map(model, "head"), 0.2, 0.01, decay=0.5, decay_bias_norm=False)
    groups = param_groups(model, plan, 0.2)
    own = dict(model.named_parameters())
    assert sorted(n for g in groups for n in g["names"]) == sorted(own)
    for group in groups:
        assert all(own[n] is p for n, p in zip(group["names"], group["params"], strict=True))
        assert group["lr"] == 0.2 * group["lr_scale"]
    found = {g["name"]: (g["lr"], g["weight_decay"]) for g in groups}
    assert found == {
        "conv_decay": (0.05, 0.01),
        "conv_no_decay": (0.05, 0.0),
        "block_0_decay": (0.1, 0.01),
        "block_0_no_decay": (0.1, 0.0),
        "head_decay": (0.2, 0.01),
        "head_no_decay": (0.2, 0.0),
    }


def test_set_rates_is_base_times_scale_times_s(model: nn.Module) -> None:
    plan = layerwise_decay(layer_map(model, "head"), 0.2, 0.0, decay=0.5, decay_bias_norm=False)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.2))
    set_rates(optimizer, 0.2, 0.3)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.015, 0.03, 0.06])
    set_rates(optimizer, 0.2, 1.0)  # nothing accumulates
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.1, 0.2]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_tensors_and_buffers_are_bit_identical_after_training(
    name: str, model: nn.Module
) -> None:
    plan = frozen_backbone(model)
    # A gradient from before the freeze must not move anything either.
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    set_trainable(model, plan, 0)
    optimizer = OPTIMIZERS[name](param_groups(model, plan, 0.1), lr=0.1)
    before = copy_of(model.state_dict())
    train_steps(model, optimizer)
    for tensor_name, tensor in model.state_dict().items():
        same = torch.equal(tensor, before[tensor_name])
        assert same == (not tensor_name.startswith("head.")), tensor_name


def test_frozen_is_no_gradient_no_state_no_place_in_the_clipping_norm(model: nn.Module) -> None:
    plan = frozen_backbone(model)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    set_trainable(model, plan, 0)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith("head.")
        assert (parameter.grad is None) == (not name.startswith("head.")), name
    optimizer = torch.optim.Adam(param_groups(model, plan, 0.1))
    train_steps(model, optimizer)
    assert all(name.startswith("head.") for name in state_by_name(optimizer))
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in model.head.parameters()}


def test_a_parameter_frozen_for_now_is_left_alone_by_decay_momentum_and_stale_gradients(
    model: nn.Module,
) -> None:
    layers = layer_map(model, "head")
    late = Treatment(1.0, 0.5, trainable_from=2)
    plan = make_plan(layers, lambda p: Treatment(1.0, 0.5) if p.head else late)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.1), momentum=0.9)
    assert len(optimizer.param_groups) == 2  # the set of groups is fixed from the start
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    before = copy_of(dict(model.named_parameters()))
    for finished in (0, 1):
        set_trainable(model, plan, finished)
        train_steps(model, optimizer, 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not name.startswith("head.")), name
    assert not any(n.startswith(("conv.", "block.")) for n in state_by_name(optimizer))
    set_trainable(model, plan, 2)
    train_steps(model, optimizer, 1)
    assert not torch.equal(model.conv.weight, before["conv.weight"])


def test_frozen_modules_stay_in_eval_when_the_model_goes_to_train(model: nn.Module) -> None:
    set_trainable(model, frozen_backbone(model), 0)
    for _ in range(2):
        model.train()
        modes = {name: module.training for name, module in model.named_modules()}
        assert modes.pop("") is True
        assert modes == {name: name.split(".")[0] == "head" for name in modes}
        model.eval()
        assert not any(module.training for module in model.modules())


def test_freezing_survives_a_deep_copy_without_reaching_back(model: nn.Module) -> None:
    plan = frozen_backbone(model)
    set_trainable(model, plan, 0)
    copied = copy.deepcopy(model)
    model.eval()
    copied.train()
    assert not model.norm.training
    assert not copied.norm.training
    assert copied.head.training
    assert not model.head.training
    before = copied.norm.running_mean.clone()
    train_steps(copied, torch.optim.SGD(param_groups(copied, plan, 0.1)), 1)
    assert torch.equal(copied.norm.running_mean, before)
    unfrozen = uniform(layer_map(copied, "head"), 0.1, 0.0, decay_bias_norm=False)
    set_trainable(copied, unfrozen, 0)
    assert copied.train().norm.training
    assert not model.train().norm.training


def test_unfreezing_gives_gradients_and_train_mode_back(model: nn.Module) -> None:
    plan = frozen_backbone(model)
    set_trainable(model, plan, 0)
    set_trainable(model, uniform(layer_map(model, "head"), 0.1, 0.0, decay_bias_norm=False), 0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.train().modules())
    before = model.norm.running_mean.clone()
    model(torch.ones(4, 1, 8, 8))
    assert not torch.equal(model.norm.running_mean, before)


def test_a_module_with_one_trained_parameter_still_trains(model: nn.Module) -> None:
    plan = per_layer(
        layer_map(model, "head"), 0.1, 0.0, decay_bias_norm=False, default=Rest(),
        rules=[Rule(match="norm.weight", frozen=True)],
    )  # fmt: skip
    set_trainable(model, plan, 0)
    assert model.train().norm.training
    assert not model.norm.weight.requires_grad
    assert model.norm.bias.requires_grad


def test_a_norm_without_parameters_in_a_frozen_backbone_stays_still_too() -> None:
    torch.manual_seed(0)
    model = Net()
    model.norm = nn.BatchNorm2d(4, affine=False)
    plan = frozen_backbone(model)
    set_trainable(model, plan, 0)
    before = model.norm.running_mean.clone()
    train_steps(model, torch.optim.SGD(param_groups(model, plan, 0.1)))
    assert torch.equal(model.norm.running_mean, before)
    assert "norm.running_mean" in frozen_state(model, plan)


def test_frozen_state_is_what_must_not_change(model: nn.Module) -> None:
    plan = frozen_backbone(model)
    names = {n for n in model.state_dict() if not n.startswith("head.")}
    assert set(frozen_state(model, plan)) == names
    nothing = uniform(layer_map(model, "head"), 0.1, 0.0, decay_bias_norm=False)
    assert frozen_state(model, nothing) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["w"].view(-1)[0].add_(1e-6),
        lambda t: t["n"].add_(1),
        lambda t: t.update(v=t.pop("w")),
        lambda t: t.update(w=t["w"].view(3, 2)),
        lambda t: t.update(w=t["w"].double()),
        lambda t: t["w"].mul_(-1),
    ],
)
def test_tensor_hash_changes_with_a_bit_a_name_a_shape_a_type(
    change: Callable[[dict[str, torch.Tensor]], object],
) -> None:
    def make() -> dict[str, torch.Tensor]:
        return {"w": torch.tensor([[1.0, 0.0, 2.0], [3.0, 4.0, 5.0]]), "n": torch.tensor(3)}

    turned = dict(reversed(make().items()))
    changed = make()
    change(changed)
    for hashed in (tensor_hash, quick_hash):
        assert hashed(make()) == hashed(turned)
        assert hashed(changed) != hashed(make())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_goes_by_name_and_not_by_position(name: str, model: nn.Module) -> None:
    layers = layer_map(model, "head")
    settings = {"momentum": 0.9} if name in ("sgd", "rmsprop") else {}
    plan = uniform(layers, 0.01, 0.0, decay_bias_norm=False)
    optimizer = OPTIMIZERS[name](param_groups(model, plan, 0.01), lr=0.01, **settings)
    train_steps(model, optimizer)
    state = copy.deepcopy(state_by_name(optimizer))
    assert set(state) == {n for n, _ in model.named_parameters()}

    # The same model in other groups, last layer first, parameters backwards.
    other_model = copy.deepcopy(model)
    decayed = layerwise_decay(layers, 0.01, 0.0, decay=0.999999999, decay_bias_norm=False)
    groups = param_groups(other_model, decayed, 0.01)[::-1]
    for group in groups:
        group["params"], group["names"] = group["params"][::-1], group["names"][::-1]
        group["lr"] = 0.01
    other = OPTIMIZERS[name](groups, lr=0.01, **settings)
    load_state_by_name(other, state)
    read = state_by_name(other)
    for parameter, values in state.items():
        assert read[parameter].keys() == values.keys()
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(read[parameter][key]), torch.as_tensor(value))
    model.block[2].p = other_model.block[2].p = 0.0  # dropout would draw apart
    train_steps(model, optimizer)
    train_steps(other_model, other)
    for parameter, tensor in model.state_dict().items():
        assert torch.equal(tensor, other_model.state_dict()[parameter]), parameter


def test_loaded_state_is_a_copy(model: nn.Module) -> None:
    plan = uniform(layer_map(model, "head"), 0.01, 0.0, decay_bias_norm=False)
    optimizer = torch.optim.Adam(param_groups(model, plan, 0.01))
    train_steps(model, optimizer)
    state = copy.deepcopy(state_by_name(optimizer))
    load_state_by_name(optimizer, state)
    before = copy.deepcopy(state)
    train_steps(model, optimizer)
    assert torch.equal(state["conv.weight"]["exp_avg"], before["conv.weight"]["exp_avg"])
    assert torch.equal(state["conv.weight"]["step"], before["conv.weight"]["step"])


def test_state_for_an_unknown_parameter_is_refused(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(param_groups(model, frozen_backbone(model), 0.1))
    with pytest.raises(KeyError, match="conv"):
        load_state_by_name(optimizer, {"conv.weight": {"momentum_buffer": torch.zeros(1)}})


def test_never_is_rate_0_decay_0_and_no_group(model: nn.Module) -> None:
    layers = layer_map(model, "head")
    plan = make_plan(
        layers, lambda p: Treatment(1.0, 0.0) if p.head else never(Treatment(2.0, 3.0))
    )
    assert {(r.lr_scale, r.weight_decay) for r in plan.rows if r.frozen} == {(0.0, 0.0)}
    assert [g["name"] for g in param_groups(model, plan, 0.1)] == ["head"]
