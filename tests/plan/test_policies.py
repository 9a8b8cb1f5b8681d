"""Every policy on random networks, and each against its formula."""

from __future__ import annotations

import itertools
import math
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from lrexp.build.rates import build_plan
from lrexp.build.schedule import Steps
from lrexp.config.errors import ConfigError
from lrexp.config.names import conf_folder
from lrexp.config.schema import OPTIONS, Rest, Rule
from lrexp.models.layers import LayerMap, LayerParameter, layer_map
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.optim.groups import param_groups
from lrexp.plan.plan import Plan, Row, Treatment, read_plan
from lrexp.plan.policies.freezing import (
    bias_norm_only,
    freeze_backbone,
    freezeout,
    gradual_unfreeze,
    lp_ft,
    surgical,
)
from lrexp.plan.policies.per_layer import per_layer
from lrexp.plan.policies.scaling import auto_rgn, discriminative, layerwise_decay, uniform

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


# Settings under which more of a policy shows than under those of its file.
OTHERWISE: dict[str, dict[str, Any]] = {
    "freeze_backbone": {"train_norm": True},
    "layerwise_decay": {"decay": 0.7, "min_scale": 0.2, "head_scale": 3.0},
    "discriminative": {"lr_low": 0.02},
    "gradual_unfreeze": {"every": 2, "decay": 0.9},
    "lp_ft": {"head_epochs": 2},
    "freezeout": {"t_0": 0.5},
}
EPOCHS = 10
NAMED = [name for name in OPTIONS["lr_policy"] if name != "custom"]  # see test_own_parts


@cache
def as_shipped(name: str) -> Any:
    """A policy's settings as its file has them."""
    file = OmegaConf.load(conf_folder() / "lr_policy" / f"{name}.yaml")
    del file["defaults"]
    typed = OmegaConf.merge(OmegaConf.structured(OPTIONS["lr_policy"][name].schema), file)
    whole = OmegaConf.create({"trainer": {"epochs": EPOCHS}, "lr_policy": typed})
    return OmegaConf.to_object(whole.lr_policy)


def plan_of(
    name: str, layers: LayerMap, decay_bias_norm: bool = False, otherwise: bool = True
) -> Plan:
    """A plan of a policy for any model, by its file and, if asked, what stands in `OTHERWISE`."""
    more: dict[str, Any] = dict(OTHERWISE.get(name, {})) if otherwise else {}
    if name == "freeze_backbone" and otherwise:
        more["unfreeze_last"] = int(layers.depth > 2)
    if name == "per_layer" and otherwise:
        more["rules"] = [
            Rule(match="head.weight", lr=0.03),
            Rule(layers="head", frozen=True),
            Rule(layers="0-1", scale=0.5),
        ]
    policy = replace(as_shipped(name), decay_bias_norm=decay_bias_norm, **more)
    if name == "per_layer" and layers.depth == 1:  # only the head is there to select
        policy.rules = [rule for rule in policy.rules if rule.layers not in ("backbone", "0-1")]
    rates = SimpleNamespace(lr=BASE_LR, weight_decay=BASE_DECAY)
    config: Any = SimpleNamespace(lr_policy=policy, optimizer=rates)
    return build_plan(config, layers, Steps(1, EPOCHS))


def treatment(row: Row) -> tuple[Any, ...]:
    """All that a policy decides for a parameter."""
    return tuple(getattr(row, f.name) for f in fields(Treatment))


@pytest.mark.parametrize("policy", NAMED)
@settings(max_examples=25, deadline=None)
@given(model=models(), everywhere=st.booleans(), otherwise=st.booleans())
def test_plan_has_every_parameter_of_any_model_once_and_groups_share_hyperparameters(
    policy: str, model: nn.Module, everywhere: bool, otherwise: bool
) -> None:
    plan = plan_of(policy, layer_map(model, "head"), everywhere, otherwise)
    assert sorted(row.name for row in plan.rows) == sorted(n for n, _ in model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert all(row.shape == shapes[row.name] for row in plan.rows)
    for name, rows in plan.groups.items():
        assert re.fullmatch(r"[A-Za-z0-9_]+", name)
        assert len({treatment(r) for r in rows}) == 1
    assert len(plan.groups) == len({treatment(r) for r in plan.rows})  # merged where equal
    groups = param_groups(model, plan, BASE_LR)
    trained = [name for group in groups for name in group["names"]]
    assert sorted(trained + plan.frozen_names) == sorted(shapes)
    assert read_plan(plan.to_csv()) == plan
    # Every other order of the parameters in the map gives each the same treatment.
    shuffled = list(layer_map(model, "head").parameters)
    random.Random(0).shuffle(shuffled)
    other = plan_of(policy, LayerMap(tuple(shuffled)), everywhere, otherwise)
    assert {r.name: treatment(r) for r in plan.rows} == {r.name: treatment(r) for r in other.rows}


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


@pytest.mark.parametrize("policy", NAMED)
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


def test_a_rule_with_the_selection_of_an_earlier_one_contradicts_or_repeats_it(
    layers: LayerMap,
) -> None:
    stem = Rule(match="stem.*", scale=0.5)
    message = refused(layers, stem, Rule(match="re:^stem", lr=0.1))
    assert "lr_policy.rules[1]: match 're:^stem' contradicts rules[0]" in message
    assert "repeats rules[0]" in refused(layers, stem, Rule(match="stem.?*", scale=0.5))
    message = refused(
        layers, stem, Rule(match="norm.*", scale=0.5), Rule(layers="0", weight_decay=0.1)
    )
    assert "lr_policy.rules[2]: layers '0' selects only parameters that earlier" in message
    assert "(rules[0], rules[1])" in message


class WithBareModules(nn.Module):
    """Modules that have no parameters, beside some that have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(2, 2)


def test_a_rule_may_select_a_module_class() -> None:
    layers = layer_map(WithBareModules(), "head")
    plan = per_layer(
        layers, BASE_LR, BASE_DECAY, decay_bias_norm=False, default=Rest(1.0),
        rules=[Rule(type="BatchNorm2d", scale=0.25), Rule(type="Linear", frozen=True)],
    )  # fmt: skip
    got = {r.name: (r.lr_scale, r.frozen) for r in plan.rows}
    assert got == {
        "conv.weight": (1.0, False),
        "conv.bias": (1.0, False),
        "bn.weight": (0.25, False),
        "bn.bias": (0.25, False),
        "head.weight": (0.0, True),
        "head.bias": (0.0, True),
    }
    message = refused(layers, Rule(type="BatchNorm1d", scale=1.0))
    assert "type 'BatchNorm1d' selects no parameter" in message
    assert "nearest: 'BatchNorm2d'; classes of modules with parameters:" in message


@pytest.mark.parametrize(
    "rule",
    [
        Rule(match="relu.*", scale=0.5),
        Rule(match="relu", scale=0.5),
        Rule(match="re:^relu", frozen=True),
        Rule(type="ReLU", scale=0.5),
    ],
)
def test_a_rule_for_modules_without_parameters_has_an_error_of_its_own(rule: Rule) -> None:
    message = refused(layer_map(WithBareModules(), "head"), rule)
    assert "lr_policy.rules[0]" in message
    assert "selects only modules without parameters (relu)" in message


def test_stem_scale_is_the_first_layers_scale_on_any_depth() -> None:
    for depth in (2, 6, 61):
        model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(depth)))
        layers = layer_map(model, str(depth - 1))
        plan = layerwise_decay(
            layers, BASE_LR, 0.0, decay=None, stem_scale=0.1, decay_bias_norm=False
        )
        scales = [row.lr_scale for row in plan.rows if row.name.endswith("weight")]
        assert scales[0] == pytest.approx(0.1)
        assert scales[-1] == 1.0
        ratios = [low / high for low, high in itertools.pairwise(scales)]
        assert ratios == pytest.approx([ratios[0]] * (depth - 1))


def test_min_scale_and_head_scale_give_what_timm_gives(layers: LayerMap) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm_optim = pytest.importorskip("timm.optim")
    model = TimmStyle()
    theirs = {
        id(p): group["lr_scale"]
        for group in timm_optim.param_groups_layer_decay(model, layer_decay=0.5, min_scale=0.2)
        for p in group["params"]
    }
    plan = layerwise_decay(
        layers, 0.1, 0.0, decay=0.5, min_scale=0.2, head_scale=7.0, decay_bias_norm=False
    )
    ours = {row.name: row.lr_scale for row in plan.rows}
    for name, parameter in model.named_parameters():
        expected = 7.0 if name.startswith("head.") else theirs[id(parameter)]
        assert ours[name] == pytest.approx(expected, rel=1e-9), name


def scales(plan: Plan) -> dict[str, float]:
    """lr_scale by layer name; every layer here has one."""
    return {row.layer_name: row.lr_scale for row in plan.rows}


def test_discriminative_rates_are_evenly_spaced_on_a_log_scale(layers: LayerMap) -> None:
    plan = discriminative(
        layers, 0.1, 0.0, lr_low=1e-5, lr_high=1e-3, ratio=None, groups=None, decay_bias_norm=False
    )
    rates = [0.1 * scale for scale in scales(plan).values()]
    assert rates == pytest.approx(torch.logspace(-5, -3, 5, dtype=torch.float64).tolist())
    plan = discriminative(
        layers, 0.1, 0.0, lr_low=1e-5, lr_high=None, ratio=None, groups=3, decay_bias_norm=False
    )
    # fastai: slice(1e-5, 0.1) over 3 groups is [1e-5, 1e-3, 0.1]; 4 layers below the head split 2-2
    rates = [0.1 * scale for scale in scales(plan).values()]
    assert rates == pytest.approx([1e-5, 1e-5, 1e-3, 1e-3, 0.1])


def test_ulmfit_is_a_factor_of_2_6_per_layer(layers: LayerMap) -> None:
    assert list(scales(plan_of("ulmfit", layers)).values()) == pytest.approx(
        [2.6**-4, 2.6**-3, 2.6**-2, 1 / 2.6, 1.0]
    )


def test_discriminative_refuses_rates_upside_down_and_more_groups_than_layers(
    layers: LayerMap,
) -> None:
    common: dict[str, Any] = {"ratio": None, "decay_bias_norm": False}
    with pytest.raises(ConfigError, match=r"lr_policy.lr_low=0.2: is above optimizer.lr"):
        discriminative(layers, 0.1, 0.0, lr_low=0.2, lr_high=None, groups=None, **common)
    with pytest.raises(ConfigError, match=r"lr_policy.groups=6: the model has 5 layers"):
        discriminative(layers, 0.1, 0.0, lr_low=0.01, lr_high=None, groups=6, **common)


def test_freeze_backbone_can_leave_layers_and_norms_out(layers: LayerMap) -> None:
    plan = freeze_backbone(
        layers, BASE_LR, 0.0, unfreeze_last=2, bn_stats="live", train_norm=True,
        decay_bias_norm=False,
    )  # fmt: skip
    trained = {r.name.split(".w")[0].split(".b")[0] for r in plan.rows if not r.frozen}
    assert trained == {"norm", "blocks.1", "blocks.2", "head"}
    assert {r.bn_stats for r in plan.rows if r.layer_name == "stem"} == {"live"}
    assert {r.bn_stats for r in plan.rows if r.layer_name == "blocks.2"} == {"follow"}
    with pytest.raises(ConfigError, match=r"unfreeze_last=4: leaves none of the 5 layers frozen"):
        freeze_backbone(layers, BASE_LR, 0.0, unfreeze_last=4, decay_bias_norm=False)


class Normed(nn.Module):
    """A normalisation in every layer below the head."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(3):
            layer = nn.Module()
            layer.conv, layer.bn = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)  # type: ignore[assignment]
            self.add_module(f"layer{i}", layer)
        self.head = nn.Linear(1, 2)


@pytest.mark.parametrize(
    "policy",
    [name for name, o in OPTIONS["lr_policy"].items() if "train_norm" in o.schema.__annotations__],
)
def test_norms_may_train_in_frozen_layers_under_every_policy_that_freezes_layers(
    policy: str,
) -> None:
    layers = layer_map(Normed(), "head")

    def first_epoch(train_norm: bool) -> dict[str, Row]:
        settings = replace(as_shipped(policy), train_norm=train_norm)
        config: Any = SimpleNamespace(
            lr_policy=settings, optimizer=SimpleNamespace(lr=BASE_LR, weight_decay=0.0)
        )
        rows = build_plan(config, layers, Steps(1, EPOCHS)).rows
        return {row.name: row for row in rows if row.trains_after(0)}

    without, trained = first_epoch(False), first_epoch(True)
    norms = {p.name for p in layers.parameters if p.is_norm}
    assert len(norms) == 6
    assert trained.keys() == without.keys() | norms
    assert {trained[name].lr_scale for name in norms} == {1.0}
    assert all(trained[name].lr_scale == row.lr_scale for name, row in without.items())


def starts(plan: Plan) -> dict[str, int]:
    return {row.layer_name: row.trainable_from for row in plan.rows}


def gradual(layers: LayerMap, groups: int | None, rewarmup: float = 0.5) -> Plan:
    return gradual_unfreeze(
        layers, BASE_LR, 0.0, every=3, groups=groups, rewarmup=rewarmup, decay=0.5,
        bn_stats="follow", frozen_dropout=False, decay_bias_norm=False,
    )  # fmt: skip


def test_gradual_unfreeze_reaches_one_more_layer_or_group_every_k_epochs(layers: LayerMap) -> None:
    plan = gradual(layers, None)
    assert list(starts(plan).values()) == [12, 9, 6, 3, 0]
    assert list(scales(plan).values()) == [0.5**4, 0.5**3, 0.5**2, 0.5, 1.0]
    assert {r.g for r in plan.rows} == {"", *(f"rise {s} 0.5" for s in (3, 6, 9, 12))}
    assert list(starts(gradual(layers, 3)).values()) == [6, 6, 3, 3, 0]
    assert {r.g for r in gradual(layers, 3, rewarmup=0).rows} == {""}


def test_lp_ft_trains_the_head_then_everything_at_a_fraction(layers: LayerMap) -> None:
    plan = lp_ft(
        layers, BASE_LR, 0.0, head_epochs=4, finetune_scale=0.1, bn_stats="frozen",
        frozen_dropout=False, decay_bias_norm=False,
    )  # fmt: skip
    assert plan.schedule_restart == 4
    assert {r.name for r in plan.rows if r.trains_after(3)} == {"head.weight", "head.bias"}
    assert all(r.trains_after(4) for r in plan.rows)
    tables = plan.factors(steps=10, steps_per_epoch=2)
    rates = {
        group: [rows[0].lr_scale * g for g in tables[group]] for group, rows in plan.groups.items()
    }
    assert rates == {
        "backbone": pytest.approx([0] * 8 + [0.1] * 2),
        "head": pytest.approx([1] * 8 + [0.1] * 2),
    }
    assert {(r.head, r.bn_stats) for r in plan.rows} == {(True, "follow"), (False, "frozen")}


def operated(layers: LayerMap, block: int | str, train_head: bool = False) -> set[str]:
    plan = surgical(
        layers, BASE_LR, 0.0, block=block, train_head=train_head, bn_stats="frozen",
        frozen_dropout=False, decay_bias_norm=False,
    )  # fmt: skip
    return {row.layer_name for row in plan.rows if not row.frozen}


def test_surgical_trains_one_block_and_the_head_if_asked(layers: LayerMap) -> None:
    assert operated(layers, 0) == operated(layers, "stem") == {"stem"}
    assert operated(layers, "blocks.1", train_head=True) == {"blocks.1", "head"}
    assert operated(layers, "1-2") == {"blocks.0", "blocks.1"}
    assert operated(layers, "blocks") == {"blocks.0", "blocks.1", "blocks.2"}
    for wrong in ("block", "9", 7):
        with pytest.raises(ConfigError, match=r"lr_policy.block=.*: selects no layer\n.*blocks.2"):
            operated(layers, wrong)


def test_surgical_refuses_a_block_with_a_hole_in_it() -> None:
    names = ["a.0", "b", "a.1", "head"]
    parameters = tuple(
        LayerParameter(f"{name}.weight", (2, 2), i, name, name == "head", "fresh")
        for i, name in enumerate(names)
    )
    with pytest.raises(ConfigError, match="do not follow each other"):
        operated(LayerMap(parameters), "a")


def test_auto_rgn_measures_every_tensor_or_every_layer(layers: LayerMap) -> None:
    paper = auto_rgn(
        layers, BASE_LR, BASE_DECAY, variant="paper", bn_stats="frozen", decay_bias_norm=False
    )
    assert paper.frozen_names == ["norm.weight", "norm.bias"]
    others = [r.name for r in paper.rows if not r.frozen]
    assert paper.measured == {name: [name] for name in others}
    assert len(param_groups(TimmStyle(), paper, BASE_LR)) == len(others)
    layer = auto_rgn(
        layers, BASE_LR, BASE_DECAY, variant="per_layer", bn_stats="follow", decay_bias_norm=False
    )
    assert not layer.frozen_names
    assert list(layer.measured) == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]
    assert set(layer.measured["stem"]) == {
        "stem.weight", "stem.bias", "norm.weight", "norm.bias",
    }  # fmt: skip


@pytest.mark.parametrize(("how", "p"), [("linear", 1), ("cubic", 3)])
@pytest.mark.parametrize("scale_lr", [True, False])
def test_freezeout_stops_layer_by_layer_on_a_cosine(
    layers: LayerMap, how: str, p: int, scale_lr: bool
) -> None:
    epochs, per_epoch, t_0 = 20, 10, 0.5
    plan = freezeout(
        layers, BASE_LR, 0.0, t_0=t_0, how=how, scale_lr=scale_lr, epochs=epochs,
        frozen_dropout=False, decay_bias_norm=False,
    )  # fmt: skip
    tables = plan.factors(epochs * per_epoch, per_epoch)
    for row in plan.rows:
        t_i = (t_0 + (1 - t_0) * row.layer / 4) ** p
        assert row.trainable_until == math.ceil(t_i * epochs - 1e-9)
        assert row.lr_scale == pytest.approx(1 / t_i if scale_lr else 1.0)
        end = t_i * epochs * per_epoch
        expected = [
            0.5 * (1 + math.cos(math.pi * t / end)) if t < end else 0.0
            for t in range(epochs * per_epoch)
        ]
        assert tables[row.group] == pytest.approx(expected, abs=1e-12)
    if scale_lr:  # all layers cover the same distance
        distance = {r.layer: r.lr_scale * sum(tables[r.group]) for r in plan.rows}
        assert list(distance.values()) == pytest.approx([epochs * per_epoch / 2] * 5, rel=0.05)


def test_freezeout_never_freezes_the_head_before_the_end(layers: LayerMap) -> None:
    plan = plan_of("freezeout", layers)
    until = {r.layer_name: r.trainable_until for r in plan.rows}
    assert list(until.values()) == [2, 3, 5, 7, 10]  # 10 · (0.5 + 0.5 i / 4)³, rounded up


def test_bias_norm_only_leaves_weight_matrices_alone(layers: LayerMap) -> None:
    plan = bias_norm_only(
        layers, BASE_LR, 0.0, train_head=False, bn_stats="follow", decay_bias_norm=False
    )
    assert {r.name for r in plan.rows if r.frozen} == {
        "stem.weight", "blocks.0.weight", "blocks.1.weight", "blocks.2.weight", "head.weight",
    }  # fmt: skip
    headed = plan_of("bias_norm_only", layers)
    assert set(plan.frozen_names) - set(headed.frozen_names) == {"head.weight"}


def test_the_map_knows_the_class_of_every_owner_and_modules_without_parameters() -> None:
    layers = layer_map(WithBareModules(), "head")
    assert {p.name.split(".")[0]: p.module for p in layers.parameters} == {
        "conv": "Conv2d",
        "bn": "BatchNorm2d",
        "head": "Linear",
    }
    assert {p.name for p in layers.parameters if p.is_norm} == {"bn.weight", "bn.bias"}
    assert layers.bare_modules == (("relu", "ReLU"),)
