"""Rates measured before every epoch: what the gradients want to move most learns fastest."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm


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
    measurement (see `metrics.relative_gradient_norms` and `metrics.measured_scales`).

    Args:
        layers: of the model.
        base_lr: optimizer.lr, the rate of what moves most.
        base_weight_decay: optimizer.weight_decay.
        variant: paper (every tensor by itself, normalisations never train) or per_layer (all
            tensors of a layer together, normalisations too).
        bn_stats: BatchNorm statistics: frozen, as the authors ran it, follow, or live.
        decay_bias_norm: weight decay also on biases and normalisation weights.

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
