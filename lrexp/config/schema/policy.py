"""Settings of learning-rate policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, number, setting


@dataclass
class Policy:
    """What every policy option has."""

    name: str = setting()
    decay_bias_norm: bool = setting()


@dataclass
class Rule:
    """One line of lr_policy.rules: what it selects, and what that gets."""

    match: str | None = None
    type: str | None = None
    layers: Any = None
    lr: float | None = number(above=0, default=None)
    scale: float | None = number(above=0, default=None)
    weight_decay: float | None = number(at_least=0, default=None)
    frozen: bool = False


@dataclass
class Rest:
    """lr_policy.default: what a parameter gets that no rule selects."""

    scale: float = number(above=0, default=1.0)


@dataclass
class PerLayer(Policy):
    rules: list[Rule] = setting()
    default: Rest = setting()


@dataclass
class LayerwiseDecay(Policy):
    decay: float | None = number(above=0, at_most=1)
    stem_scale: float | None = number(above=0, at_most=1)
    min_scale: float = number(at_least=0, at_most=1)
    head_scale: float = number(above=0)


@dataclass
class FreezeBackbone(Policy):
    unfreeze_last: int = number(at_least=0)
    bn_stats: str = choice("frozen", "live")
    train_norm: bool = setting()
    frozen_dropout: bool = setting()


@dataclass
class Discriminative(Policy):
    lr_low: float | None = number(above=0)
    lr_high: float | None = number(above=0)
    ratio: float | None = number(at_least=1)
    groups: int | None = number(at_least=2)


@dataclass
class GradualUnfreeze(Policy):
    every: int = number(at_least=1)
    groups: int | None = number(at_least=2)
    rewarmup: float = number(at_least=0)
    decay: float = number(above=0, at_most=1)
    bn_stats: str = choice("follow", "frozen", "live")
    frozen_dropout: bool = setting()


@dataclass
class LpFt(Policy):
    head_epochs: int = number(at_least=1)
    finetune_scale: float = number(above=0)
    bn_stats: str = choice("frozen", "follow", "live")
    frozen_dropout: bool = setting()


@dataclass
class Surgical(Policy):
    block: Any = setting()  # a layer index, a range such as 0-2, or a module's name
    train_head: bool = setting()
    bn_stats: str = choice("frozen", "follow", "live")
    frozen_dropout: bool = setting()


@dataclass
class AutoRgn(Policy):
    variant: str = choice("paper", "per_layer")
    bn_stats: str = choice("frozen", "follow", "live")


@dataclass
class Freezeout(Policy):
    t_0: float = number(above=0, at_most=1)
    how: str = choice("linear", "cubic")
    scale_lr: bool = setting()
    epochs: int = number(at_least=0)
    frozen_dropout: bool = setting()


@dataclass
class BiasNormOnly(Policy):
    train_head: bool = setting()
    bn_stats: str = choice("follow", "frozen", "live")
