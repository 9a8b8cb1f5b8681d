"""Only the head learns."""

from __future__ import annotations

from lrexp.models.layers import LayerMap, LayerParameter
from lrexp.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm


def freeze_backbone(
    layers: LayerMap, base_lr: float, base_weight_decay: float, *, decay_bias_norm: bool
) -> Plan:
    """lr_scale 1 for the head; everything else never trains.

    Args:
        layers: of the model.
        base_lr: optimizer.lr, the head's rate.
        base_weight_decay: optimizer.weight_decay, of the head.
        decay_bias_norm: weight decay also on the head's biases and normalisation weights.
    """

    def treat(parameter: LayerParameter) -> Treatment:
        treatment = Treatment(
            1.0, no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        )
        return treatment if parameter.head else never(treatment)

    return make_plan(layers, treat)
