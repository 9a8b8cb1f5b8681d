"""Policies: pure functions (layer map, base_lr, base_weight_decay, settings) → Plan."""

from collections.abc import Callable

from lrexp.plan import Plan
from lrexp.policies.auto_rgn import auto_rgn
from lrexp.policies.bias_norm_only import bias_norm_only
from lrexp.policies.discriminative import discriminative
from lrexp.policies.freeze_backbone import freeze_backbone
from lrexp.policies.freezeout import freezeout
from lrexp.policies.gradual_unfreeze import gradual_unfreeze
from lrexp.policies.layerwise_decay import layerwise_decay
from lrexp.policies.lp_ft import lp_ft
from lrexp.policies.per_layer import per_layer
from lrexp.policies.surgical import surgical
from lrexp.policies.uniform import uniform

POLICIES: dict[str, Callable[..., Plan]] = {
    "uniform": uniform,
    "per_layer": per_layer,
    "layerwise_decay": layerwise_decay,
    "freeze_backbone": freeze_backbone,
    "discriminative": discriminative,
    "ulmfit": discriminative,
    "gradual_unfreeze": gradual_unfreeze,
    "lp_ft": lp_ft,
    "surgical": surgical,
    "auto_rgn": auto_rgn,
    "freezeout": freezeout,
    "bias_norm_only": bias_norm_only,
}

__all__ = [
    "POLICIES",
    "auto_rgn",
    "bias_norm_only",
    "discriminative",
    "freeze_backbone",
    "freezeout",
    "gradual_unfreeze",
    "layerwise_decay",
    "lp_ft",
    "per_layer",
    "surgical",
    "uniform",
]
