"""Which part of the depth a layer belongs to: groups of layers, ranges and blocks of layers."""

from __future__ import annotations

import re

from lrexp.config.errors import ConfigError
from lrexp.models.layer_map import LayerMap, LayerParameter


def layer_groups(layers: LayerMap, groups: int | None) -> list[int]:
    """The group of every layer, 0 nearest to the input: every layer its own, or `groups` in all.

    With `groups`, the last layer is one alone and those below are split evenly, as fastai splits a
    network into body and head.

    Raises:
        ConfigError: when there are fewer layers than groups.
    """
    depth = layers.depth
    if groups is None:
        return list(range(depth))
    if groups > depth:
        raise ConfigError("lr_policy.groups", f"the model has {depth} layers", given=groups)
    return [i * (groups - 1) // max(1, depth - 1) for i in range(depth)]


def in_range(written: str, parameter: LayerParameter) -> bool:
    """Whether a parameter lies in `head`, `backbone`, a layer index, or a range such as 0-2."""
    if written in ("head", "backbone"):
        return parameter.head == (written == "head")
    first, _, last = written.partition("-")
    return int(first) <= parameter.layer <= int(last or first)


def block_of_layers(layers: LayerMap, block: str) -> set[int]:
    """The layers of a block: an index, a range such as 0-2, or a name such as layer1.

    A name means the layer called so and all layers inside the module called so.

    Raises:
        ConfigError: when no layer is meant, or those meant do not follow each other.
    """
    if re.fullmatch(r"\d+(-\d+)?", block):
        found = {p.layer for p in layers.parameters if in_range(block, p)}
    else:
        found = {
            p.layer
            for p in layers.parameters
            if p.layer_name == block or p.layer_name.startswith(f"{block}.")
        }
    if not found:
        raise ConfigError("lr_policy.block", "selects no layer", name_layers(layers), block)
    if len(found) <= max(found) - min(found):
        raise ConfigError(
            "lr_policy.block", "selects layers that do not follow each other", given=block
        )
    return found


def name_layers(layers: LayerMap) -> str:
    """`the layers are 0 to 2: conv, hidden, head`."""
    return f"the layers are 0 to {layers.depth - 1}: {', '.join(layers.layer_names)}"
