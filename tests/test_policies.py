"""Every policy on random networks, and each against its formula."""

from __future__ import annotations

import math
import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrexp.errors import ConfigError
from lrexp.models import LayerMap, SimpleCNN, layer_map
from lrexp.optim import param_groups
from lrexp.plan import Plan
from lrexp.policies import POLICIES, freeze_backbone, layerwise_decay, per_layer, uniform
from lrexp.schema import Rest, Rule

BASE_LR, BASE_DECAY = 0.1, 0.02
LEAVES: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(2, 3),
    lambda: nn.Linear(2, 2, bias=False),
    lambda: nn.Conv2d(1, 2, 3),
    lambda: nn.BatchNorm2d(2),
    lambda: nn.LayerNorm(3),
    nn.ReLU,
]


def _block(children: list[nn.Module]) -> nn.Module:
    """A module that is no container: a layer of its own."""
    block = nn.Module()
    for i, child in enumerate(children):
        block.add_module(f"part{i}", child)
    return block


_trees: st.SearchStrategy[nn.Module] = st.recursive(
    st.sampled_from(LEAVES).map(lambda make: make()),
    lambda trees: st.tuples(
        st.sampled_from([lambda c: nn.Sequential(*c), nn.ModuleList, _block]),
        st.lists(trees, min_size=1, max_size=3),
    ).map(lambda built: built[0](built[1])),
    max_leaves=5,
)


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    """A module with up to four children of any structure, and a head."""
    model = nn.Module()
    for i, child in enumerate(draw(st.lists(_trees, max_size=4))):
        model.add_module(f"stage{i}", child)
    model.add_module("head", nn.Linear(3, 2))
    return model


def plan_of(name: str, layers: LayerMap, decay_bias_norm: bool = False) -> Plan:
    settings_of: dict[str, dict[str, Any]] = {
        "uniform": {},
        "freeze_backbone": {},
        "layerwise_decay": {"decay": 0.7},
        "per_layer": {
            "rules": [
                Rule(match="head.weight", lr=0.03),
                Rule(layers="head", frozen=True),
                Rule(layers="0-1", scale=0.5)
                if layers.depth > 1
                else Rule(match="head.*", scale=2.0),
            ],
            "default": Rest(scale=0.1),
        },
    }
    if name == "per_layer" and layers.depth == 1:
        settings_of[name]["rules"].pop()  # only the head is there to select
    return POLICIES[name](
        layers, BASE_LR, BASE_DECAY, decay_bias_norm=decay_bias_norm, **settings_of[name]
    )


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(model=models(), everywhere=st.booleans())
def test_plan_has_every_parameter_of_any_model_once_and_groups_share_hyperparameters(
    policy: str, model: nn.Module, everywhere: bool
) -> None:
    plan = plan_of(policy, layer_map(model, "head"), everywhere)
    assert sorted(row.name for row in plan.rows) == sorted(n for n, _ in model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert all(row.shape == shapes[row.name] for row in plan.rows)
    for name, rows in plan.groups.items():
        assert re.fullmatch(r"[A-Za-z0-9_]+", name)
        assert len({(r.lr_scale, r.weight_decay, r.frozen) for r in rows}) == 1
    groups = param_groups(model, plan, BASE_LR)
    trained = [name for group in groups for name in group["names"]]
    assert sorted(trained + plan.frozen_names) == sorted(shapes)
    # Every other order of the parameters in the map gives each the same treatment.
    shuffled = list(layer_map(model, "head").parameters)
    random.Random(0).shuffle(shuffled)
    other = plan_of(policy, LayerMap(tuple(shuffled)), everywhere)
    assert {r.name: (r.lr_scale, r.weight_decay, r.trainable_until) for r in plan.rows} == {
        r.name: (r.lr_scale, r.weight_decay, r.trainable_until) for r in other.rows
    }


@settings(max_examples=40, deadline=None)
@given(model=models(), decay=st.floats(0.05, 1.0))
def test_layerwise_decay_is_the_closed_form(model: nn.Module, decay: float) -> None:
    layers = layer_map(model, "head")
    plan = layerwise_decay(layers, BASE_LR, 0.0, decay=decay, decay_bias_norm=False)
    for row in plan.rows:
        below = layers.depth - 1 - row.layer
        assert row.lr_scale == pytest.approx(math.prod([decay] * below), rel=1e-12)
    assert {row.lr_scale for row in plan.rows if row.head} == {1.0}


def test_layerwise_decay_of_1_is_uniform() -> None:
    layers = layer_map(SimpleCNN((1, 8, 8), 10, 4, 3, 6), "head")
    decayed = layerwise_decay(layers, BASE_LR, BASE_DECAY, decay=1.0, decay_bias_norm=False)
    assert decayed == uniform(layers, BASE_LR, BASE_DECAY, decay_bias_norm=False)


class TimmStyle(nn.Module):
    """Stem with norm, three blocks, head; `group_matcher` tells timm what we find by structure."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
        self.head = nn.Linear(4, 2)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem|^norm", "blocks": [(r"^blocks\.(\d+)", None)]}


def test_layerwise_decay_gives_what_timm_gives() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm_optim = pytest.importorskip("timm.optim")
    model = TimmStyle()
    theirs = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in timm_optim.param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.6)
        for p in group["params"]
    }
    plan = layerwise_decay(layer_map(model, "head"), 0.1, 0.05, decay=0.6, decay_bias_norm=False)
    ours = {row.name: (row.lr_scale, row.weight_decay) for row in plan.rows}
    for name, parameter in model.named_parameters():
        assert ours[name] == pytest.approx(theirs[id(parameter)], rel=1e-9), name


@pytest.fixture
def layers() -> LayerMap:
    return layer_map(TimmStyle(), "head")


@pytest.mark.parametrize("policy", POLICIES)
def test_biases_and_norms_decay_only_when_asked_to(policy: str, layers: LayerMap) -> None:
    free = {"norm.weight", "norm.bias", "stem.bias", "head.bias"}
    frozen = set(plan_of(policy, layers).frozen_names)
    for everywhere in (False, True):
        decay = {r.name: r.weight_decay for r in plan_of(policy, layers, everywhere).rows}
        for name in free - frozen:
            assert decay[name] == (BASE_DECAY if everywhere else 0.0)
        assert decay["head.weight"] == BASE_DECAY
        assert all(decay[name] == 0 for name in frozen)


def test_freeze_backbone_trains_the_head_and_nothing_else(layers: LayerMap) -> None:
    plan = freeze_backbone(layers, BASE_LR, BASE_DECAY, decay_bias_norm=False)
    assert {r.name for r in plan.rows if not r.frozen} == {"head.weight", "head.bias"}
    assert all(r.lr_scale == (0.0 if r.frozen else 1.0) for r in plan.rows)
    groups = param_groups(TimmStyle(), plan, BASE_LR)
    assert [(g["name"], g["lr"]) for g in groups] == [
        ("head_decay", BASE_LR),
        ("head_no_decay", BASE_LR),
    ]


def rates(rules: list[Rule], default: float = 1.0, base_lr: float = 0.05) -> list[float]:
    """The rates of torch's own optimizer for two linear layers under SGD with momentum."""
    model = nn.Sequential()
    model.add_module("first", nn.Linear(2, 3))
    model.add_module("head", nn.Linear(3, 2))
    plan = per_layer(
        layer_map(model, "head"), base_lr, 0.0,
        rules=rules, default=Rest(default), decay_bias_norm=False,
    )  # fmt: skip
    optimizer = torch.optim.SGD(param_groups(model, plan, base_lr), lr=base_lr, momentum=0.9)
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("base_lr", [0.05, 0.1, 0.003, 7.0])
def test_absolute_rates_of_two_layers_arrive_exactly(base_lr: float) -> None:
    rules = [Rule(match="first.*", lr=0.001), Rule(match="head.*", lr=0.01)]
    assert rates(rules, base_lr=base_lr) == [0.001, 0.01]


def test_a_layer_without_a_rule_gets_the_default() -> None:
    assert rates([Rule(match="first.*", lr=0.001)]) == [0.001, 0.05]
    assert rates([Rule(match="first.*", lr=0.001)], default=0.1) == [0.001, 0.05 * 0.1]


def test_the_first_rule_that_matches_decides(layers: LayerMap) -> None:
    plan = per_layer(
        layers, BASE_LR, BASE_DECAY, decay_bias_norm=False, default=Rest(1.0),
        rules=[
            Rule(match="blocks.1.*", scale=0.5),
            Rule(match="re:^blocks\\.", weight_decay=0.3),
            Rule(layers="0", frozen=True),
        ],
    )  # fmt: skip
    got = {r.name: (r.lr_scale, r.weight_decay, r.frozen) for r in plan.rows}
    assert got["blocks.1.weight"] == (0.5, BASE_DECAY, False)
    assert got["blocks.0.weight"] == (1.0, 0.3, False)
    assert got["blocks.0.bias"] == (1.0, 0.3, False)  # the rule names it, so it decays
    assert got["stem.weight"] == got["norm.bias"] == (0.0, 0.0, True)
    assert got["head.weight"] == (1.0, BASE_DECAY, False)


def test_rules_that_do_not_overlap_may_stand_in_any_order(layers: LayerMap) -> None:
    rules = [
        Rule(match="stem.*", scale=0.1),
        Rule(layers="1-2", lr=0.03),
        Rule(layers="head", scale=2.0),
    ]
    plans = [
        per_layer(layers, BASE_LR, 0.0, rules=r, default=Rest(), decay_bias_norm=False)
        for r in (rules, rules[::-1])
    ]
    assert plans[0] == plans[1]


def refused(layers: LayerMap, *rules: Rule) -> str:
    with pytest.raises(ConfigError) as caught:
        per_layer(layers, BASE_LR, 0.0, rules=list(rules), default=Rest(), decay_bias_norm=False)
    return str(caught.value)


def test_a_rule_that_matches_nothing_is_named_with_its_place_and_the_names_there_are(
    layers: LayerMap,
) -> None:
    message = refused(layers, Rule(match="head.*", scale=0.5), Rule(match="relu.*", scale=1.0))
    assert "lr_policy.rules[1]" in message
    assert "'relu.*'" in message
    assert "stem.weight" in message
    message = refused(layers, Rule(layers="9", scale=1.0))
    assert "layers are 0 to 4" in message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("stme.*", "stem"),
        ("block.1.weight", "blocks.1.weight"),
        ("blocks.4.*", "blocks."),
        ("haed.weight", "head"),
        ("stem", "stem.*"),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(
    written: str, meant: str, layers: LayerMap
) -> None:
    hint = refused(layers, Rule(match=written, scale=1.0)).splitlines()[1]
    close = re.search(r"nearest: '?([^';]+?)'?(;|$)", hint)
    assert close, hint
    assert close[1].startswith(meant), hint


def test_a_rule_that_earlier_rules_shadow_is_an_error(layers: LayerMap) -> None:
    message = refused(layers, Rule(match="blocks.*", scale=0.5), Rule(match="blocks.1.*", lr=0.1))
    assert "lr_policy.rules[1]" in message
    assert "'blocks.1.*'" in message
    assert "earlier rules" in message
