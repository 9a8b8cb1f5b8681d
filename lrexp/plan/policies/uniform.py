"""One rate for every layer."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap
from lrexp.plan.plan import Plan, Treatment, make_plan, no_decay_on_bias_and_norm


def uniform(
    layers: LayerMap, base_lr: float, base_weight_decay: float, *, decay_bias_norm: bool
) -> Plan:
    """Every parameter at lr_scale 1.

    Args:
        layers: of the model.
        base_lr: optimizer.lr; a scale of 1 makes it every layer's rate.
        base_weight_decay: optimizer.weight_decay.
        decay_bias_norm: weight decay also on biases and normalisation weights.
    """
    return make_plan(
        layers,
        lambda p: Treatment(1.0, no_decay_on_bias_and_norm(p, base_weight_decay, decay_bias_norm)),
    )
