"""A policy of the user's own: whatever its function returns, as a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lrexp.config.checks import check_limits
from lrexp.config.errors import ConfigError, did_you_mean, few, unknown_setting
from lrexp.config.parts import called, number_of, part
from lrexp.config.policy_checks import check_rule
from lrexp.config.schema.rates import Rest, Rule
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm
from lrexp.plan.policies.layer_groups import name_layers
from lrexp.plan.policies.per_layer import per_layer

KEY = "lr_policy.target"
RETURNS = (
    "it returns a scale per layer from the input up, scales by name of the layer, rules as"
    " lr_policy=per_layer has them, or a Plan"
)


def custom_policy(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    name: str,
    target: str,
    args: dict[str, Any],
    decay_bias_norm: bool,
) -> Plan:
    """What the function `target` says, which is called with `args` and what it takes of the rest.

    A scale of 0 freezes its layer. Of scales by name `head` and `backbone` mean what no layer of
    that name is; layers that are not named have scale 1.

    Args:
        layers: of the model.
        base_lr: optimizer.lr.
        base_weight_decay: optimizer.weight_decay, for all but a Plan and rules that give another.
        name: what messages call it.
        target: dotted name of the function.
        args: further arguments, by name.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Raises:
        ConfigError: when it cannot be had, raises, or returns something else.
    """
    offered = {"layers": layers, "base_lr": base_lr, "base_weight_decay": base_weight_decay}
    said = called(KEY, target, part(KEY, target), offered, args)
    if isinstance(said, Plan):
        return _total(said, layers, target)
    if isinstance(said, Mapping):
        scales = _scales_by_name(said, layers, target)
    elif isinstance(said, Sequence) and said and isinstance(said[0], Mapping):
        rules = [_rule(i, rule, target) for i, rule in enumerate(said)]
        decay = {"decay_bias_norm": decay_bias_norm}
        return per_layer(layers, base_lr, base_weight_decay, rules=rules, default=Rest(), **decay)
    else:
        scales = _scales_in_order(said, layers, target)

    def treat(parameter: LayerParameter) -> Treatment:
        decay = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        treatment = Treatment(scales[parameter.layer], decay)
        return treatment if treatment.lr_scale else never(treatment)

    return make_plan(layers, treat)


def _total(plan: Plan, layers: LayerMap, target: str) -> Plan:
    """The plan, if it is one of this network's parameters, each once."""
    planned, there = sorted(r.name for r in plan.rows), sorted(p.name for p in layers.parameters)
    if planned != there:
        others = sorted(set(planned) ^ set(there)) or planned
        problem = f"gave a plan that is not one of every parameter once ({few(others, 3)})"
        raise ConfigError(KEY, problem, "make_plan(layers, treat) makes a whole one", target)
    return plan


def _scales_in_order(said: Any, layers: LayerMap, target: str) -> list[float]:
    try:
        values = list(said)
    except TypeError as error:
        raise ConfigError(KEY, f"gave a {type(said).__name__}", RETURNS, target) from error
    if len(values) != layers.depth:
        problem = f"gave {len(values)} scales for {layers.depth} layers"
        raise ConfigError(KEY, problem, name_layers(layers), target)
    return [_scale(value, target) for value in values]


def _scales_by_name(said: Mapping[Any, Any], layers: LayerMap, target: str) -> list[float]:
    names = layers.layer_names
    for name in said:
        if name not in (*names, "head", "backbone"):
            hint = did_you_mean(str(name), [*names, "head", "backbone"])
            raise ConfigError(KEY, f"names a layer {name!r} that is not there", hint, target)
    heads = {parameter.layer for parameter in layers.parameters if parameter.head}
    rest = [said.get("head" if i in heads else "backbone", 1.0) for i in range(layers.depth)]
    scales = (said.get(name, other) for name, other in zip(names, rest, strict=True))
    return [_scale(value, target) for value in scales]


def _scale(value: Any, target: str) -> float:
    scale = number_of(KEY, target, value)
    if not (math.isfinite(scale) and scale >= 0):
        raise ConfigError(KEY, f"gave a scale of {scale:g}", "0 freezes, 1 is optimizer.lr", target)
    return scale


def _rule(i: int, said: Any, target: str) -> Rule:
    key = f"lr_policy.rules[{i}]"
    if not isinstance(said, Mapping):
        raise ConfigError(KEY, f"gave rules, and a {type(said).__name__} among them", "", target)
    for name in said.keys() - {f.name for f in fields(Rule)}:
        raise unknown_setting(f"{key}.{name}", said[name], Rule)
    rule = Rule(**said)
    check_limits(f"{key}.", rule)
    check_rule(key, rule)
    return rule
