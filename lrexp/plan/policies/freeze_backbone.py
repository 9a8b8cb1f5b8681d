"""Only the head learns, or the head and a few layers below it."""

from __future__ import annotations

from lrexp.config.errors import ConfigError
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm


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
        layers: of the model.
        base_lr: optimizer.lr, the rate of all that trains.
        base_weight_decay: optimizer.weight_decay, of all that trains.
        unfreeze_last: this many layers below the last one train too.
        bn_stats: BatchNorm statistics of the frozen layers: frozen, or live.
        train_norm: scales and shifts of normalisations train in the frozen layers as well.
        frozen_dropout: dropout goes on in the frozen layers.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Raises:
        ConfigError: when no layer would be left to freeze.
    """
    first = layers.depth - 1 - unfreeze_last
    if unfreeze_last and first <= 0:
        raise ConfigError(
            "lr_policy.unfreeze_last",
            f"leaves none of the {layers.depth} layers frozen",
            "lr_policy=uniform trains everything",
            unfreeze_last,
        )

    def treat(parameter: LayerParameter) -> Treatment:
        decay = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        if parameter.head or (unfreeze_last and parameter.layer >= first):
            return Treatment(1.0, decay)
        below = Treatment(1.0, decay, bn_stats=bn_stats, frozen_dropout=frozen_dropout)
        return below if train_norm and parameter.is_norm else never(below)

    return make_plan(layers, treat)
