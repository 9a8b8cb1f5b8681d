"""BatchNorm statistics, dropout and the autograd graph of what is frozen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lrexp.models.layers import LayerMap, layer_map
from lrexp.optim.groups import frozen_state, param_groups, set_rates, set_trainable
from lrexp.plan.plan import Plan, Treatment, make_plan, never
from lrexp.plan.policies.freezing import bias_norm_only, freeze_backbone, surgical


class Net(nn.Module):
    """A block that holds BatchNorm and dropout, dropout between layers and before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.between = nn.Dropout(0.5)
        self.top = nn.Conv2d(4, 4, 3)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.top(self.between(self.block(images).relu())).mean((2, 3))  # (B, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def layers(model: Net) -> LayerMap:
    return layer_map(model, "classifier")


def training(model: nn.Module, plan: Plan, finished_epochs: int = 0) -> set[str]:
    """Leaf modules in train mode after the plan and model.train()."""
    set_trainable(model, plan, finished_epochs)
    model.train()
    return {n for n, m in model.named_modules() if m.training and not list(m.children())}


def frozen(layers: LayerMap, **settings: Any) -> Plan:
    return freeze_backbone(layers, 0.1, 0.1, decay_bias_norm=True, **settings)


HEAD = {"classifier.0", "classifier.1", "classifier.2"}


def test_a_frozen_backbone_has_no_live_statistics_and_no_dropout_unless_asked(
    model: Net, layers: LayerMap
) -> None:
    assert training(model, frozen(layers)) == HEAD
    assert training(model, frozen(layers, bn_stats="live")) == HEAD | {"block.1"}
    dropouts = {"block.2", "between"}
    convolutions = {"block.0", "top"}
    asked = training(model, frozen(layers, frozen_dropout=True))
    assert asked - convolutions == HEAD | dropouts
    everything = training(model, frozen(layers, frozen_dropout=True, bn_stats="live"))
    assert everything - convolutions == HEAD | dropouts | {"block.1"}
    # and back again: nothing is left of earlier plans
    assert training(model, frozen(layers)) == HEAD


def test_frozen_statistics_under_trained_norms(model: Net, layers: LayerMap) -> None:
    plan = frozen(layers, train_norm=True)
    assert "block.1" not in training(model, plan)
    assert model.block[1].weight.requires_grad
    assert "block.1.running_mean" in frozen_state(model, plan)
    live = frozen(layers, train_norm=True, bn_stats="live")
    assert "block.1" in training(model, live)
    assert "block.1.running_mean" not in frozen_state(model, live)


@pytest.mark.parametrize("bn_stats", ["frozen", "follow", "live"])
@pytest.mark.parametrize("block", ["block", "top"])
def test_statistics_of_an_operated_network_are_as_stated(
    model: Net, layers: LayerMap, bn_stats: str, block: str
) -> None:
    plan = surgical(
        layers, 0.1, 0.0, block=block, train_head=True, bn_stats=bn_stats, frozen_dropout=False,
        decay_bias_norm=False,
    )  # fmt: skip
    live = bn_stats == "live" or (bn_stats == "follow" and block == "block")
    assert ("block.1" in training(model, plan)) == live
    before = model.block[1].running_mean.clone()
    model(torch.randn(4, 1, 8, 8))
    assert torch.equal(model.block[1].running_mean, before) != live
    assert ("block.1.running_mean" in frozen_state(model, plan)) != live


def test_dropout_goes_on_where_only_weight_matrices_are_frozen(
    model: Net, layers: LayerMap
) -> None:
    plan = bias_norm_only(
        layers, 0.1, 0.0, train_head=True, bn_stats="follow", decay_bias_norm=False
    )
    assert {"block.1", "block.2", "between", "classifier.0"} <= training(model, plan)


def test_waking_up_later_brings_statistics_and_dropout_back(model: Net, layers: LayerMap) -> None:
    late = Treatment(1.0, 0.0, trainable_from=2)
    plan = make_plan(layers, lambda p: Treatment(1.0, 0.0) if p.head else late)
    assert training(model, plan, 1) == HEAD
    copied = copy.deepcopy(model).train()
    assert not copied.block[1].training
    assert {"block.1", "block.2", "between"} <= training(model, plan, 2)
    assert not copied.block[1].training
    assert not copied.train().block[1].training  # no one asked the copy to wake up
    assert "block.1.running_mean" not in frozen_state(model, plan)  # it may change later


def test_a_stale_gradient_cannot_move_what_froze_after_training(
    model: Net, layers: LayerMap
) -> None:
    ends = Treatment(1.0, 0.5, trainable_until=1)
    plan = make_plan(layers, lambda p: Treatment(1.0, 0.5) if p.head else ends)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.1), momentum=0.9)
    for epoch in range(3):
        set_trainable(model, plan, epoch)
        before = model.top.weight.detach().clone()
        model(torch.randn(4, 1, 8, 8)).sum().backward()
        optimizer.step()  # no zero_grad: what is left of epoch 0 must be gone
        assert torch.equal(model.top.weight, before) == (epoch >= 1)


def test_a_frozen_prefix_leaves_no_graph(model: Net, layers: LayerMap) -> None:
    training(model, frozen(layers))
    features = model.features(torch.randn(4, 1, 8, 8))
    assert features.grad_fn is None
    assert not features.requires_grad
    assert model(torch.randn(4, 1, 8, 8)).grad_fn is not None


def test_g_multiplies_the_rates_of_its_groups_alone(model: Net, layers: LayerMap) -> None:
    plan = make_plan(layers, lambda p: Treatment(0.5 if p.head else 1.0, 0.0))
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.2), lr=0.2)
    set_rates(optimizer, 0.2, 0.5, {"backbone": 0.25})
    found = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert found == {"backbone": pytest.approx(0.025), "head": pytest.approx(0.05)}
    assert never(Treatment(1.0, 0.1, trainable_from=3, g="cosine 2.0")) == never(Treatment(1, 1))
