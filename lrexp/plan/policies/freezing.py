"""Policies under which part of a network is frozen, for good or for a time.

A policy is (layers, base_lr, base_weight_decay, settings) → Plan, by the model's layer map,
optimizer.lr (the rate at lr_scale 1) and optimizer.weight_decay; with `decay_bias_norm` that decay
is also on biases and normalisation weights.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lrexp.config.errors import ConfigError
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import (
    Plan,
    Treatment,
    cosine,
    make_plan,
    never,
    no_decay_on_bias_and_norm,
    rise,
    then,
)
from lrexp.plan.policies.layer_groups import block_of_layers, layer_groups


def freeze_backbone(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    unfreeze_last: int = 0,
    bn_stats: str = "frozen",
    train_norm: bool = False,
    frozen_dropout: bool = False,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale 1 for the head and what is unfrozen; everything else never trains.

    Args:
        unfreeze_last: this many layers below the last one train too.
        bn_stats: BatchNorm statistics of the frozen layers: frozen, or live.
        train_norm: scales and shifts of normalisations train in the frozen layers as well.
        frozen_dropout: dropout goes on in the frozen layers.

    Raises:
        ConfigError: when no layer would be left to freeze.
    """
    first = layers.depth - 1 - unfreeze_last
    if unfreeze_last and first <= 0:
        raise ConfigError(
            "lr_policy.unfreeze_last",
            f"leaves none of the {layers.depth} layers frozen",
            f"write at most {max(0, layers.depth - 2)}; lr_policy=uniform trains everything",
            unfreeze_last,
        )

    def treat(parameter: LayerParameter) -> Treatment:
        decay = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        if parameter.head or (unfreeze_last and parameter.layer >= first):
            return Treatment(1.0, decay)
        below = Treatment(1.0, decay, bn_stats=bn_stats, frozen_dropout=frozen_dropout)
        return below if _awake(parameter, train_norm) else never(below)

    return make_plan(layers, treat)


def surgical(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    block: int | str,
    train_head: bool,
    bn_stats: str,
    train_norm: bool = False,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale 1 for the block and, if asked, the head; everything else never trains.

    Args:
        block: a layer index, a range such as 0-2, or the name of a module such as layer1.
        train_head: the head trains too.
        bn_stats: BatchNorm statistics below the head: frozen (in the block as well), live
            everywhere, or follow (live in the block alone).
        train_norm: scales and shifts of normalisations train in the frozen layers as well.
        frozen_dropout: dropout goes on in the frozen layers.

    Raises:
        ConfigError: when the block is no run of neighbouring layers.

    Source: Lee et al. 2022, https://arxiv.org/abs/2210.11466.
    """
    chosen = block_of_layers(layers, str(block))

    def treat(parameter: LayerParameter) -> Treatment:
        treatment = Treatment(
            1.0,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            bn_stats="follow" if parameter.head else bn_stats,
            frozen_dropout=frozen_dropout,
        )
        trains = train_head if parameter.head else _awake(parameter, train_norm)
        return treatment if trains or parameter.layer in chosen else never(treatment)

    return make_plan(layers, treat)


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
        train_head: the head's weights train too.
        bn_stats: BatchNorm statistics below the head: follow (live, as their scales train),
            frozen, or live.

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


def gradual_unfreeze(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    every: float,
    groups: int | None,
    rewarmup: float,
    decay: float,
    bn_stats: str,
    train_norm: bool = False,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """Group i below the top trains from ⌈i · every⌉ finished epochs on, at lr_scale = decay^i.

    Its rate rises from near 0 over `rewarmup` epochs (g(t), see `rise`), so that nothing jumps when
    a group wakes up.

    Args:
        every: epochs between two groups; below 1, several wake up at a time.
        groups: of layers; as many as layers when None. See `layer_groups`.
        rewarmup: epochs a group takes to its full rate; 0: at once.
        decay: factor on the rate per group further down, in (0, 1].
        bn_stats: BatchNorm statistics of the backbone: follow (frozen while the layer is), frozen,
            or live.
        train_norm: scales and shifts of normalisations train from the start in every layer.
        frozen_dropout: dropout goes on in layers that are still frozen.

    Source: Howard and Ruder 2018 (ULMFiT, https://arxiv.org/abs/1801.06146).
    """
    group_of = layer_groups(layers, groups)

    def treat(parameter: LayerParameter) -> Treatment:
        below = 0 if parameter.head else group_of[-1] - group_of[parameter.layer]
        waits = 0 if _awake(parameter, train_norm) else below
        start = math.ceil(round(waits * every, 6))
        return Treatment(
            decay**below,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            trainable_from=start,
            g=rise(start, rewarmup) if start and rewarmup else "",
            bn_stats="follow" if parameter.head else bn_stats,
            frozen_dropout=frozen_dropout,
        )

    return make_plan(layers, treat)


def lp_ft(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    head_epochs: int,
    finetune_scale: float,
    bn_stats: str,
    train_norm: bool = False,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """The head alone at lr_scale 1 for `head_epochs`, then all at `finetune_scale`.

    The schedule runs over the first phase and starts anew over the second, warmup included.

    Args:
        head_epochs: of the first phase; 0: there is none.
        finetune_scale: rate of everything in the second phase, as a share of base_lr.
        bn_stats: BatchNorm statistics of the backbone: frozen in both phases, as the authors ran
            it; follow (frozen in the first); or live in both.
        train_norm: scales and shifts of normalisations train along with the head.
        frozen_dropout: dropout goes on in the backbone during the first phase.

    Source: Kumar et al. 2022, https://arxiv.org/abs/2202.10054.
    """

    def treat(parameter: LayerParameter) -> Treatment:
        gentle = Treatment(
            finetune_scale,
            no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm),
            trainable_from=head_epochs,
            bn_stats="follow" if parameter.head else bn_stats,
            frozen_dropout=frozen_dropout and not parameter.head,
            schedule_restart=head_epochs or None,
        )
        if head_epochs and _awake(parameter, train_norm):
            first = then(head_epochs, finetune_scale)
            return replace(gentle, lr_scale=1.0, trainable_from=0, g=first)
        return gentle

    return make_plan(layers, treat)


def freezeout(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    t_0: float,
    how: str,
    scale_lr: bool,
    epochs: float,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """Layer i of 0 to L stops at t_i = (t_0 + (1 − t_0) · i / L)^p of training, p 1 or 3.

    Until then its rate follows its own cosine: g(t) = (1 + cos(π t / t_i)) / 2, from base_lr / t_i
    when scaled, so that all layers cover the same distance. It is frozen from the first epoch that
    starts at or after t_i (`trainable_until` = ⌈t_i · epochs⌉); in the rest of the epoch in which
    t_i lies its rate is 0. The last layer's t is 1.

    Args:
        t_0: share of training after which the first layer freezes (before the cube), in (0, 1].
        how: linear (p = 1) or cubic (p = 3).
        scale_lr: start at base_lr / t_i instead of base_lr.
        epochs: that training lasts.
        frozen_dropout: dropout goes on in layers that are frozen.

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


def _awake(parameter: LayerParameter, train_norm: bool) -> bool:
    """Whether a parameter trains where its layer is frozen, norms as under fastai's train_bn."""
    return parameter.head or (train_norm and parameter.is_norm)
