"""Policies: pure functions (layer map, base_lr, base_weight_decay, settings) → Plan."""

from collections.abc import Callable

from lrexp.plan.plan import Plan
from lrexp.plan.policies.auto_rgn import auto_rgn
from lrexp.plan.policies.bias_norm_only import bias_norm_only
from lrexp.plan.policies.discriminative import discriminative
from lrexp.plan.policies.freeze_backbone import freeze_backbone
from lrexp.plan.policies.freezeout import freezeout
from lrexp.plan.policies.gradual_unfreeze import gradual_unfreeze
from lrexp.plan.policies.layerwise_decay import layerwise_decay
from lrexp.plan.policies.lp_ft import lp_ft
from lrexp.plan.policies.per_layer import per_layer
from lrexp.plan.policies.surgical import surgical
from lrexp.plan.policies.uniform import uniform

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
