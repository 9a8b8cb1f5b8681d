"""Linear probing, then fine-tuning: the head first, then everything, gently."""

from __future__ import annotations

from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, no_decay_on_bias_and_norm, then


def lp_ft(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    head_epochs: int,
    finetune_scale: float,
    bn_stats: str,
    frozen_dropout: bool,
    decay_bias_norm: bool,
) -> Plan:
    """The head alone at lr_scale 1 for `head_epochs`, then all at `finetune_scale`.

    The schedule runs over the first phase and starts anew over the second, warmup included.

    Args:
        layers: of the model.
        base_lr: optimizer.lr, the head's rate in the first phase.
        base_weight_decay: optimizer.weight_decay.
        head_epochs: of the first phase.
        finetune_scale: rate of everything in the second phase, as a share of base_lr.
        bn_stats: BatchNorm statistics of the backbone: frozen in both phases, as the authors ran
            it; follow (frozen in the first); or live in both.
        frozen_dropout: dropout goes on in the backbone during the first phase.
        decay_bias_norm: weight decay also on biases and normalisation weights.

    Source: Kumar et al. 2022, https://arxiv.org/abs/2202.10054.
    """

    def treat(parameter: LayerParameter) -> Treatment:
        decay = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        if parameter.head:
            g = then(head_epochs, finetune_scale)
            return Treatment(1.0, decay, g=g, schedule_restart=head_epochs)
        return Treatment(
            finetune_scale,
            decay,
            trainable_from=head_epochs,
            bn_stats=bn_stats,
            frozen_dropout=frozen_dropout,
            schedule_restart=head_epochs,
        )

    return make_plan(layers, treat)
