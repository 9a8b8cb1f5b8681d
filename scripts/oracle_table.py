"""Layer-wise decay against timm's: model × reference → parameters whose rate or decay differs.

    python scripts/oracle_table.py

Every model is built on the meta device. The reference is timm.optim.param_groups_layer_decay with
the model's own no_weight_decay(); a torchvision model is compared with the timm model that has the
same parameter names. The last column counts the tensors that timm leaves to the last layer's rate
without naming them, which lrexp lists in a warning.
"""

from __future__ import annotations

import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.models import get_model

from lrexp.models.layers import layer_map
from lrexp.plan.policies.scaling import layerwise_decay

TIMM = (
    "vit_base_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "swin_tiny_patch4_window7_224",
    "maxvit_tiny_tf_224",
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "convnext_base",
)
TORCHVISION = ("resnet18", "resnet50", "densenet121")


def reference(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameter → (lr_scale, weight_decay) as timm has them, at decay 0.75 and 0.05."""
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    listed = getattr(model, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=listed, layer_decay=0.75
    )
    return {
        names[id(tensor)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for tensor in group["params"]
    }


def row(title: str, model: nn.Module, against: nn.Module) -> str:
    """One line of the table."""
    layers, expected = layer_map(model), reference(against)
    plan = layerwise_decay(layers, 1e-3, 0.05, decay=0.75, decay_bias_norm=False)
    ours = {r.name: (r.lr_scale, r.weight_decay) for r in plan.rows}
    assert ours.keys() == expected.keys()
    rates = sum(abs(ours[name][0] - expected[name][0]) > 1e-12 for name in ours)
    decays = sum(ours[name][1] != expected[name][1] for name in ours)
    left = len(layer_map(against).unplaced)
    counts = f"{len(ours):10d} {layers.depth:6d} {len(plan.groups):6d}"
    return f"{title:<42} {counts} {rates:10d} {decays:12d} {left:9d}"


def main() -> None:
    print(f"timm {timm.__version__}, torch {torch.__version__}")
    counts = f"{'parameters':>10} {'layers':>6} {'groups':>6}"
    print(f"{'model':<42} {counts} {'rates off':>10} {'decays off':>12} {'unplaced':>9}")
    with torch.device("meta"):
        for name in TIMM:
            model = timm.create_model(name, num_classes=1000)
            print(row(f"timm {name}", model, model))
        for name in TORCHVISION:
            print(row(f"torchvision {name}", get_model(name), timm.create_model(name)))


if __name__ == "__main__":
    main()
