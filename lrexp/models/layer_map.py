"""Every parameter's place in the depth of a network. Plain values, nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerParameter:
    """One parameter and its place in the network."""

    name: str
    shape: tuple[int, ...]
    layer: int  # 0 is nearest to the input
    layer_name: str
    head: bool  # part of the classifier whose shape follows the data
    source: str  # "loaded" from weights, or "fresh"
    undecayed: bool = False  # no weight decay by its library's judgement (a position embedding)
    vector: bool = False  # as good as one dimension, such as a scale (C, 1, 1)
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
    unplaced: tuple[str, ...] = ()  # outside the head, yet in its layer: nothing says where else
    empty_head: str | None = None  # the last layer's name when the model lost its classifier
    bare_modules: tuple[tuple[str, str], ...] = ()  # (name, class) of modules without parameters
    note: str = ""  # of a timm model: whose order this is

    @property
    def depth(self) -> int:
        """The number of layers, that of a missing classifier included."""
        return 1 + max(p.layer for p in self.parameters) + (self.empty_head is not None)

    @property
    def layer_names(self) -> list[str]:
        """One name per layer, from the input to the head."""
        names = list(dict.fromkeys(p.layer_name for p in self.parameters))
        return names if self.empty_head is None else [*names, self.empty_head]
