"""Biases and normalisations learn, and the head; weight matrices stay."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm


def bias_norm_only(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    train_head: bool,
    bn_stats: str,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale 1 for tensors with at most one dimension, normalisations and, if asked, the head.

    Args:
        layers: of the model.
        base_lr: optimizer.lr, the rate of all that trains.
        base_weight_decay: optimizer.weight_decay, of all that trains.
        train_head: the head's weights train too.
        bn_stats: BatchNorm statistics below the head: follow (live, as their scales train),
            frozen, or live.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Source: Ben Zaken et al. 2022 (BitFit, https://arxiv.org/abs/2106.10199); Frankle et al. 2021
    (https://arxiv.org/abs/2003.00152) for BatchNorm alone.
    """

    def treat(parameter: LayerParameter) -> Treatment:
        treatment = Treatment(
            1.0,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            bn_stats="follow" if parameter.head else bn_stats,
            frozen_dropout=True,
        )
        trains = parameter.is_bias_or_norm or parameter.is_norm or (parameter.head and train_head)
        return treatment if trains else never(treatment)

    return make_plan(layers, treat)
