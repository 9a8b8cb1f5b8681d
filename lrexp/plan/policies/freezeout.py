"""Layers slow down and freeze one after the other, the first ones first."""

from __future__ import annotations

import math

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, cosine, make_plan, no_decay_on_bias_and_norm


def freezeout(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    t_0: float,
    how: str,
    scale_lr: bool,
    epochs: int,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """Layer i of 0 to L stops at t_i = (t_0 + (1 − t_0) · i / L)^p of training, p 1 or 3.

    Until then its rate follows its own cosine: g(t) = (1 + cos(π t / t_i)) / 2, from base_lr / t_i
    when scaled, so that all layers cover the same distance. It is frozen from the first epoch that
    starts at or after t_i (`trainable_until` = ⌈t_i · epochs⌉); in the rest of the epoch in which
    t_i lies its rate is 0. The last layer's t is 1.

    Args:
        layers: of the model.
        base_lr: optimizer.lr.
        base_weight_decay: optimizer.weight_decay.
        t_0: share of training after which the first layer freezes (before the cube), in (0, 1].
        how: linear (p = 1) or cubic (p = 3).
        scale_lr: start at base_lr / t_i instead of base_lr.
        epochs: all of training.
        frozen_dropout: dropout goes on in layers that are frozen.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Source: Brock et al. 2017, https://arxiv.org/abs/1706.04983. The authors freeze between steps;
    here a plan counts epochs.
    """
    power = {"linear": 1, "cubic": 3}[how]
    above = max(1, layers.depth - 1)

    def treat(parameter: LayerParameter) -> Treatment:
        top = parameter.head or layers.depth == 1
        t_i = 1.0 if top else (t_0 + (1 - t_0) * parameter.layer / above) ** power
        end = t_i * epochs
        return Treatment(
            1 / t_i if scale_lr else 1.0,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            trainable_until=max(1, math.ceil(round(end, 9))),
            g=cosine(end),
            frozen_dropout=frozen_dropout,
        )

    return make_plan(layers, treat)
