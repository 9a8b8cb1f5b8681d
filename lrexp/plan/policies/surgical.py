"""One block of neighbouring layers learns, the rest stays."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm
from lrexp.plan.policies.layer_groups import block_of_layers


def surgical(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    block: int | str,
    train_head: bool,
    bn_stats: str,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """lr_scale 1 for the block and, if asked, the head; everything else never trains.

    Args:
        layers: of the model.
        base_lr: optimizer.lr, the rate of all that trains.
        base_weight_decay: optimizer.weight_decay, of all that trains.
        block: a layer index, a range such as 0-2, or the name of a module such as layer1.
        train_head: the head trains too.
        bn_stats: BatchNorm statistics below the head: frozen (in the block as well), live
            everywhere, or follow (live in the block alone).
        frozen_dropout: dropout goes on in the frozen layers.
        decay_bias_norm: weight decay also on biases and normalisation weights.

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
        trains = parameter.layer in chosen or (parameter.head and train_head)
        return treatment if trains else never(treatment)

    return make_plan(layers, treat)
