"""Rates that grow geometrically from the input to the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, no_decay_on_bias_and_norm
from lrexp.plan.policies.layer_groups import layer_groups


def discriminative(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    lr_low: float | None,
    lr_high: float | None,
    ratio: float | None,
    groups: int | None,
    decay_bias_norm: bool,
) -> Plan:
    """lr_i = lr_low · (lr_high / lr_low)^(i / (n − 1)) for group i of n, 0 nearest to the input.

    Without `lr_low`, lr_i = lr_high / ratio^(n − 1 − i).

    Args:
        layers: of the model.
        base_lr: optimizer.lr.
        base_weight_decay: optimizer.weight_decay.
        lr_low: absolute rate of the first group, at most lr_high. None: ratio says it.
        lr_high: absolute rate of the last group. None: base_lr.
        ratio: between neighbouring groups, at least 1. None: lr_low says it.
        groups: n; as many as layers when None. See `layer_groups`.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Raises:
        ConfigError: when lr_low is above lr_high or there are fewer layers than groups.

    Source: Howard and Ruder 2018 (ULMFiT, https://arxiv.org/abs/1801.06146); fastai's
    `slice(lr_low, lr_high)`.
    """
    group_of = layer_groups(layers, groups)
    last = group_of[-1]
    high = (base_lr if lr_high is None else lr_high) / base_lr
    if lr_low is not None:
        if lr_low > high * base_lr:
            top = "optimizer.lr" if lr_high is None else "lr_policy.lr_high"
            raise ConfigError("lr_policy.lr_low", f"is above {top}", given=lr_low)
        ratio = (high * base_lr / lr_low) ** (1 / max(1, last))
    assert ratio is not None

    def treat(parameter: LayerParameter) -> Treatment:
        return Treatment(
            high / ratio ** (last - group_of[parameter.layer]),
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
        )

    return make_plan(layers, treat)


def all_absolute(settings: Mapping[str, Any]) -> bool:
    """Whether the rates at both ends are given, so that base_lr is neither."""
    return bool(settings["lr_low"] and settings["lr_high"])
