"""Policies: pure functions (layer map, base_lr, base_weight_decay, settings) → Plan."""

from collections.abc import Callable

from lrexp.plan import Plan
from lrexp.policies.freeze_backbone import freeze_backbone
from lrexp.policies.layerwise_decay import layerwise_decay
from lrexp.policies.per_layer import per_layer
from lrexp.policies.uniform import uniform

POLICIES: dict[str, Callable[..., Plan]] = {
    "uniform": uniform,
    "per_layer": per_layer,
    "layerwise_decay": layerwise_decay,
    "freeze_backbone": freeze_backbone,
}

__all__ = ["POLICIES", "freeze_backbone", "layerwise_decay", "per_layer", "uniform"]
