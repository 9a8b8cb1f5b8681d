"""A plan as rules of per_layer: the same plan to the last bit, and multiplied where it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode

from lrexp.build.data import stated_data
from lrexp.build.model import build_model
from lrexp.build.rates import build_plan
from lrexp.build.schedule import count_steps
from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader, without_hydra
from lrexp.config.errors import ConfigError
from lrexp.models.layers import LayerMap
from lrexp.plan.multiplied import (
    Rules,
    difference,
    merged_words,
    parts_of,
    refuse_moving,
    rules_of,
)
from lrexp.plan.plan import Plan
from lrexp.session.hydra import hydra_of

Compose = Callable[..., Any]
RESNET = ("model=cifar_resnet", "data=cifar10", "optimizer.weight_decay=0.02")
RULES = '[{type:BatchNorm2d,scale:0.3},{match:"*.conv1.weight",weight_decay:0.5},{layers:2,lr:0.7}]'
STILL = (
    ("lr_policy=uniform", "lr_policy.decay_bias_norm=true"),
    ("lr_policy=layerwise_decay", "lr_policy.decay=0.7"),
    ("lr_policy=discriminative", "lr_policy.lr_low=1e-4", "optimizer.lr=0.03"),
    ("lr_policy=per_layer", f"lr_policy.rules={RULES}", "lr_policy.default.scale=0.11"),
    ("lr_policy=freeze_backbone", "lr_policy.unfreeze_last=2"),
    ("lr_policy=surgical", "lr_policy.block=2-3", "lr_policy.bn_stats=follow"),
)


def planned(config: Any) -> tuple[LayerMap, Plan]:
    data = stated_data(config)
    layers = build_model(config, data, meta=True)[1]
    return layers, build_plan(config, layers, count_steps(config, data.train_size))


def ruled(config: Any, layers: LayerMap, plan: Plan, factors: dict[int, float]) -> Rules:
    return rules_of(
        layers,
        plan,
        factors,
        base_weight_decay=config.optimizer.weight_decay,
        decay_bias_norm=config.lr_policy.decay_bias_norm,
    )


@pytest.mark.parametrize("policy", STILL, ids=" ".join)
def test_rules_make_the_same_plan_and_multiply_one_layer_alone(
    policy: tuple[str, ...], compose: Compose
) -> None:
    config = compose(*RESNET, *policy)
    layers, plan = planned(config)
    refuse_moving(layers, plan, config.lr_policy.name)
    kept = [word for word in policy if not word.startswith("lr_policy")]
    as_it_is = compose(*RESNET, *kept, *ruled(config, layers, plan, {}).overrides)
    assert difference(plan, planned(as_it_is)[1]) == ""
    factors = {2: 4.0, 3: 0.25, 10: 0.0}
    rules = ruled(config, layers, plan, factors)
    changed = {r.name: r for r in planned(compose(*RESNET, *kept, *rules.overrides))[1].rows}
    for row in plan.rows:
        other, factor = changed[row.name], factors.get(row.layer, 1.0)
        if row.frozen or factor == 0:
            assert other.frozen
            assert other.bn_stats == "follow"
            continue
        assert (other.lr_scale, other.weight_decay) == (row.lr_scale * factor, row.weight_decay)
        assert other.trains_throughout


def test_a_plan_is_told_from_another(compose: Compose) -> None:
    plan = planned(compose(*RESNET))[1]
    assert difference(plan, planned(compose(*RESNET, "lr_policy=ulmfit"))[1])
    frozen = planned(compose(*RESNET, "lr_policy=freeze_backbone"))[1]
    assert "frozen" in difference(plan, frozen)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("gradual_unfreeze", "in time"),
        ("lp_ft", "in time"),
        ("freezeout", "in time"),
        ("auto_rgn", "measures"),
        ("surgical lr_policy.bn_stats=live", "BatchNorm"),
        ("bias_norm_only", "dropout"),
        ("freeze_backbone lr_policy.frozen_dropout=true", "dropout"),
    ],
)
def test_rates_that_move_in_time_are_refused(policy: str, said: str, compose: Compose) -> None:
    config = compose(*RESNET, *f"lr_policy={policy}".split())
    with pytest.raises(ConfigError, match=said) as raised:
        refuse_moving(*planned(config), config.lr_policy.name)
    assert "uniform" in str(raised.value)


def test_neighbours_share_a_rule_and_the_commonest_scale_needs_none(compose: Compose) -> None:
    config = compose(*RESNET)
    layers, plan = planned(config)
    rules = ruled(config, layers, plan, {0: 4.0, 1: 4.0, 3: 0.0})
    assert rules.overrides == [
        "lr_policy=per_layer",
        "lr_policy.rules=[{layers:0-1,scale:4.0},{layers:3,frozen:true}]",
        "lr_policy.default.scale=1.0",
        "lr_policy.decay_bias_norm=false",
    ]


def test_its_file_composes_to_the_same_plan(tmp_path: Path, compose: Compose) -> None:
    config = compose(*RESNET, "lr_policy=per_layer", f"lr_policy.rules={RULES}")
    layers, plan = planned(config)
    rules = ruled(config, layers, plan, {1: 4.0})
    (tmp_path / "lr_policy").mkdir()
    (tmp_path / "lr_policy" / "layer_test.yaml").write_text(rules.yaml(["Measured."]))
    loader = CheckedLoader(str(tmp_path))
    with hydra_of(loader):
        words = [*RESNET, "lr_policy=layer_test"]
        composed = loader.load_configuration(CONFIG_NAME, words, RunMode.RUN)
        of_file = check(without_hydra(composed))[1]
    pasted = planned(compose(*RESNET, *rules.overrides))[1]
    assert difference(pasted, planned(of_file)[1]) == ""
    assert difference(plan, pasted)


def test_of_a_deep_network_neighbours_are_merged_and_the_last_layer_is_alone(
    compose: Compose,
) -> None:
    layers, plan = planned(compose(*RESNET))
    assert [part.name for part in parts_of(layers, plan, 99)] == layers.layer_names
    parts = parts_of(layers, plan, 4)
    assert [(part.first, part.last) for part in parts] == [(0, 3), (4, 6), (7, 9), (10, 10)]
    assert sum(part.parameters for part in parts) == sum(row.size for row in plan.rows)
    assert "11 layers are measured as 4 parts" in merged_words(parts, layers.depth)
    assert merged_words(parts_of(layers, plan, 11), 11) == ""
    frozen = planned(compose(*RESNET, "lr_policy=freeze_backbone"))[1]
    assert [part.trained > 0 for part in parts_of(layers, frozen, 4)] == [False] * 3 + [True]
