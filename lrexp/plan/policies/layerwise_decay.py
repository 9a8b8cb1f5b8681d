"""Lower layers learn slower, by a constant factor per layer."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, no_decay_on_bias_and_norm


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
        layers: of the model, L in number.
        base_lr: optimizer.lr, the rate at the top.
        base_weight_decay: optimizer.weight_decay.
        decay: factor per layer, in (0, 1]; 1 is `uniform`. None: stem_scale says it.
        stem_scale: lr_scale of the first layer, in (0, 1]. None: decay says it.
        min_scale: no layer learns slower.
        head_scale: lr_scale of the head.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    >>> from torch import nn
    >>> from lrexp.models.layers import layer_map
    >>> layers = layer_map(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), "1")
    >>> plan = layerwise_decay(layers, 0.1, 0.0, decay=0.5, decay_bias_norm=False)
    >>> [(row.name, row.lr_scale) for row in plan.rows]
    [('0.weight', 0.5), ('0.bias', 0.5), ('1.weight', 1.0), ('1.bias', 1.0)]

    Source: Clark et al. 2020 (ELECTRA, https://arxiv.org/abs/2003.10555); Bao et al. 2022 (BEiT).
    """
    if decay is not None:
        factor = decay
    else:
        assert stem_scale is not None
        factor = stem_scale ** (1 / max(1, layers.depth - 1))

    def treat(parameter: LayerParameter) -> Treatment:
        scale = max(min_scale, factor ** (layers.depth - 1 - parameter.layer))
        return Treatment(
            head_scale if parameter.head else scale,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
        )

    return make_plan(layers, treat)
