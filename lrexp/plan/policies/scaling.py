"""Policies under which every layer learns, each at a rate of its own.

A policy is (layers, base_lr, base_weight_decay, settings) → Plan, by the model's layer map,
optimizer.lr and optimizer.weight_decay; with `decay_bias_norm` that decay is also on biases and
normalisation weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm
from lrexp.plan.policies.layer_groups import layer_groups

STEM_SCALE = 0.01  # of `discriminative`, when nothing is given: fastai's fine_tune(lr_mult=100)


def uniform(
    layers: LayerMap, base_lr: float, base_weight_decay: float, *, decay_bias_norm: bool
) -> Plan:
    """Every parameter at lr_scale 1."""
    return make_plan(
        layers,
        lambda p: Treatment(1.0, no_decay_on_bias_and_norm(p, base_weight_decay, decay_bias_norm)),
    )


def layerwise_decay(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    decay: float | None,
    stem_scale: float | None = None,
    min_scale: float = 0.0,
    head_scale: float = 1.0,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale = max(min_scale, decay^(L − 1 − layer)), and head_scale for the head.

    With `stem_scale` instead of `decay`, decay = stem_scale^(1 / (L − 1)): the first layer gets
    that scale however many layers there are.

    Args:
        decay: factor per layer, in (0, 1]; 1 is `uniform`. None: stem_scale says it.
        stem_scale: lr_scale of the first layer, in (0, 1]. None: decay says it.
        min_scale: no layer learns slower.
        head_scale: lr_scale of the head.

    >>> from torch import nn
    >>> from lrexp.models.layers import layer_map
    >>> layers = layer_map(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), "1")
    >>> plan = layerwise_decay(layers, 0.1, 0.0, decay=0.5, decay_bias_norm=False)
    >>> [(row.name, row.lr_scale) for row in plan.rows]
    [('0.weight', 0.5), ('0.bias', 0.5), ('1.weight', 1.0), ('1.bias', 1.0)]

    Source: Clark et al. 2020 (ELECTRA, https://arxiv.org/abs/2003.10555); Bao et al. 2022 (BEiT).
    """
    factor = decay
    if factor is None:
        assert stem_scale is not None
        factor = stem_scale ** (1 / max(1, layers.depth - 1))
    scales = [max(min_scale, factor**above) for above in range(layers.depth)][::-1]

    def treat(parameter: LayerParameter) -> Treatment:
        return Treatment(
            head_scale if parameter.head else scales[parameter.layer],
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
        )

    return make_plan(layers, treat)


def discriminative(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    lr_low: float | None,
    lr_high: float | None,
    ratio: float | None,
    groups: int | None,
    stem_scale: float | None = None,
    decay_bias_norm: bool,
) -> Plan:
    """lr_i = lr_low · (lr_high / lr_low)^(i / (n − 1)) for group i of n, 0 nearest to the input.

    With `ratio` instead of `lr_low`, lr_i = lr_high / ratio^(n − 1 − i); with neither, lr_low =
    stem_scale · lr_high, at any lr_high.

    Args:
        lr_low: absolute rate of the first group, at most lr_high.
        lr_high: absolute rate of the last group. None: base_lr.
        ratio: between neighbouring groups, at least 1.
        stem_scale: of the first group, as a share of lr_high, in (0, 1]. None: `STEM_SCALE`, unless
            lr_low or ratio says it.
        groups: n; as many as layers when None. See `layer_groups`.

    Raises:
        ConfigError: when lr_low is above lr_high or there are fewer layers than groups.

    Source: Howard and Ruder 2018 (ULMFiT, https://arxiv.org/abs/1801.06146); fastai's
    `slice(lr_low, lr_high)`, which its `fine_tune` calls with lr_low = lr_high / 100.
    """
    group_of = layer_groups(layers, groups)
    last = group_of[-1]
    high = (base_lr if lr_high is None else lr_high) / base_lr
    steepness = ratio
    if lr_low is not None:
        if lr_low > high * base_lr:
            top = "optimizer.lr" if lr_high is None else "lr_policy.lr_high"
            problem = f"is above {top}={high * base_lr:g}"
            hint = "write lr_policy.lr_low=null lr_policy.stem_scale=0.01: a share of that rate"
            raise ConfigError("lr_policy.lr_low", problem, hint, lr_low)
        steepness = (high * base_lr / lr_low) ** (1 / max(1, last))
    elif ratio is None:
        share = STEM_SCALE if stem_scale is None else stem_scale
        steepness = (1 / share) ** (1 / max(1, last))
    assert steepness is not None

    def treat(parameter: LayerParameter) -> Treatment:
        return Treatment(
            high / steepness ** (last - group_of[parameter.layer]),
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
        )

    return make_plan(layers, treat)


def top_given(settings: Mapping[str, Any]) -> bool:
    """Whether lr_high is given: the others are lr_low or shares of it, none follows base_lr."""
    return settings["lr_high"] is not None


def auto_rgn(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    variant: str,
    bn_stats: str,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale = r / max r, r = mean of ‖g‖ / ‖w‖ over 5 batches, per tensor or per layer.

    The plan says what is measured together (`measured`); its lr_scale of 1 holds until the first
    measurement (`lrexp.train.scales`).

    Args:
        variant: paper (every tensor by itself, normalisations never train) or per_layer (all
            tensors of a layer together, normalisations too).
        bn_stats: BatchNorm statistics: frozen, as the authors ran it, follow, or live.

    Source: Lee et al. 2022, https://arxiv.org/abs/2210.11466, algorithm Auto-RGN. The authors
    start a new optimizer every epoch; here its state is kept.
    """

    def treat(parameter: LayerParameter) -> Treatment:
        paper = variant == "paper"
        treatment = Treatment(
            1.0,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            measured=parameter.name if paper else parameter.layer_name,
            bn_stats="follow" if parameter.head else bn_stats,
            frozen_dropout=True,
        )
        return never(treatment) if paper and parameter.is_norm else treatment

    return make_plan(layers, treat)
