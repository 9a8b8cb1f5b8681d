"""Training starts at the head and reaches one more layer every few epochs."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, no_decay_on_bias_and_norm, rise
from lrexp.plan.policies.layer_groups import layer_groups


def gradual_unfreeze(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    every: int,
    groups: int | None,
    rewarmup: float,
    decay: float,
    bn_stats: str,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """Group i below the top trains from i · every finished epochs on, at lr_scale = decay^i.

    Its rate rises from near 0 over `rewarmup` epochs (g(t), see `rise`), so that nothing jumps when
    a group wakes up.

    Args:
        layers: of the model.
        base_lr: optimizer.lr, the head's rate.
        base_weight_decay: optimizer.weight_decay.
        every: epochs between two groups.
        groups: of layers; as many as layers when None. See `layer_groups`.
        rewarmup: epochs a group takes to its full rate; 0: at once.
        decay: factor on the rate per group further down, in (0, 1].
        bn_stats: BatchNorm statistics of the backbone: follow (frozen while the layer is), frozen,
            or live.
        frozen_dropout: dropout goes on in layers that are still frozen.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Source: Howard and Ruder 2018 (ULMFiT, https://arxiv.org/abs/1801.06146).
    """
    group_of = layer_groups(layers, groups)

    def treat(parameter: LayerParameter) -> Treatment:
        below = 0 if parameter.head else group_of[-1] - group_of[parameter.layer]
        start = below * every
        return Treatment(
            decay**below,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            trainable_from=start,
            g=rise(start, rewarmup) if start and rewarmup else "",
            bn_stats="follow" if parameter.head else bn_stats,
            frozen_dropout=frozen_dropout,
        )

    return make_plan(layers, treat)
