"""Lower layers learn slower, by a constant factor per layer."""

from __future__ import annotations

from lrexp.models.layers import LayerMap, LayerParameter
from lrexp.plan import Plan, Treatment, make_plan, no_decay_on_bias_and_norm


def layerwise_decay(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    decay: float,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale = decay^(L − 1 − layer): 1 for the head, `decay` for the layer below it, and so on.

    Args:
        layers: of the model, L in number.
        base_lr: optimizer.lr, the head's rate.
        base_weight_decay: optimizer.weight_decay.
        decay: factor per layer, in (0, 1]; 1 is `uniform`.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Source: Clark et al. 2020 (ELECTRA, https://arxiv.org/abs/2003.10555); Bao et al. 2022 (BEiT).
    """

    def treat(parameter: LayerParameter) -> Treatment:
        return Treatment(
            decay ** (layers.depth - 1 - parameter.layer),
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
        )

    return make_plan(layers, treat)
