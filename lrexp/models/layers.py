"""The layer map: every parameter of a model, ordered by depth."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class LayerParameter:
    """One parameter and its place in the network."""

    name: str
    shape: tuple[int, ...]
    layer: int  # 0 is nearest to the input
    layer_name: str
    head: bool  # part of the classifier whose shape follows the data
    source: str  # "loaded" from weights, or "fresh"
    module: str = ""  # class of the module that owns it, such as BatchNorm2d

    @property
    def is_norm(self) -> bool:
        """True for the scale and shift of a normalisation, whoever's class it is."""
        return "Norm" in self.module

    @property
    def is_bias_or_norm(self) -> bool:
        """True for tensors with at most one dimension, which timm too keeps free of decay."""
        return len(self.shape) <= 1


@dataclass(frozen=True)
class LayerMap:
    """Every parameter of a model once, in order of depth, frozen or not."""

    parameters: tuple[LayerParameter, ...]
    bare_modules: tuple[tuple[str, str], ...] = ()  # (name, class) of modules without parameters

    @property
    def depth(self) -> int:
        """The number of layers."""
        return 1 + max(p.layer for p in self.parameters)

    @property
    def layer_names(self) -> list[str]:
        """One name per layer, from the input to the head."""
        return list(dict.fromkeys(p.layer_name for p in self.parameters))


def layer_map(model: nn.Module, head_name: str, loaded: Set[str] = frozenset()) -> LayerMap:
    """Place every parameter of a plain module in a layer.

    A layer is a child module with parameters, in order of registration; containers are expanded
    into their items, and a normalisation joins the layer before it. Parameters that belong to the
    model itself go with the first layer. The head is the last layer.

    Args:
        model: any module.
        head_name: dotted name of its classifier.
        loaded: names of the parameters that came from a weights file.

    Raises:
        ValueError: when the model has no parameter or no module called `head_name`.
    """
    layer_of: dict[str, tuple[int, str]] = {}
    last = -1
    blocks = [b for b in _blocks(model, "") if b[0] != head_name and not _inside(b[0], head_name)]
    blocks.append((head_name, model.get_submodule(head_name)))
    layer_name = blocks[0][0]
    for name, module in blocks:
        names = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
        if not names:
            continue
        if last < 0 or name == head_name or not isinstance(module, NORMS):
            last, layer_name = last + 1, name
        layer_of |= dict.fromkeys(names, (last, layer_name))
    first = (0, next(iter(layer_of.values()))[1]) if layer_of else (0, "")
    placed = [
        LayerParameter(
            name=name,
            shape=tuple(tensor.shape),
            layer=layer_of.get(name, first)[0],
            layer_name=layer_of.get(name, first)[1],
            head=_inside(name, head_name),
            source="loaded" if name in loaded else "fresh",
            module=type(model.get_submodule(name.rpartition(".")[0])).__name__,
        )
        for name, tensor in model.named_parameters()
    ]
    if not placed:
        raise ValueError(f"{type(model).__name__} has no parameters")
    bare = (
        (name, type(module).__name__)
        for name, module in model.named_modules()
        if name and next(module.parameters(), None) is None
    )
    return LayerMap(tuple(sorted(placed, key=lambda p: p.layer)), tuple(bare))


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        dotted = f"{prefix}{name}"
        if isinstance(child, CONTAINERS):
            yield from _blocks(child, f"{dotted}.")
        else:
            yield dotted, child


def _inside(name: str, module_name: str) -> bool:
    return name.startswith(f"{module_name}.")
