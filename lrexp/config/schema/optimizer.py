"""Settings of optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, number, setting


@dataclass
class Optimizer:
    """What every optimizer option has."""

    name: str = setting(resume="stays")
    lr: float = number(above=0, stack="member")
    weight_decay: float = number(at_least=0, stack="member")


@dataclass
class Sgd(Optimizer):
    momentum: float = number(at_least=0, below=1, stack="member")
    nesterov: bool = setting()


@dataclass
class Adam(Optimizer):
    betas: list[float] = number(at_least=0, below=1, count=2, stack="member")
    eps: float = number(above=0, stack="member")


@dataclass
class Rmsprop(Optimizer):
    alpha: float = number(at_least=0, below=1, stack="member")
    momentum: float = number(at_least=0, below=1, stack="member")
    eps: float = number(above=0, stack="member")


@dataclass
class Nadam(Adam):
    momentum_decay: float = number(at_least=0)
    decoupled_weight_decay: bool = setting()


@dataclass
class Radam(Adam):
    decoupled_weight_decay: bool = setting()


@dataclass
class Adagrad(Optimizer):
    initial_accumulator_value: float = number(at_least=0)
    eps: float = number(above=0, stack="member")


@dataclass
class Adafactor(Optimizer):
    beta2_decay: float = number(at_most=0)
    eps_gradient: float | None = number(above=0)
    eps_scale: float = number(above=0)
    clip_threshold: float = number(at_least=1)


@dataclass
class Lion(Optimizer):
    betas: list[float] = number(at_least=0, below=1, count=2, stack="member")


@dataclass
class Lamb(Adam):
    max_grad_norm: float | None = number(above=0)
    trust_clip: bool = setting()
    always_adapt: bool = setting()


@dataclass
class Muon(Optimizer):
    momentum: float = number(at_least=0, below=1, stack="member")
    nesterov: bool = setting()
    ns_steps: int = number(at_least=1, at_most=99)
    adjust_lr: str = choice("match_rms_adamw", "original")
    adamw_betas: list[float] = number(at_least=0, below=1, count=2)
    adamw_eps: float = number(above=0)


@dataclass
class ScheduleFreeSgd(Optimizer):
    momentum: float = number(above=0, below=1, stack="member")


@dataclass
class ScheduleFreeAdamw(Optimizer):
    betas: list[float] = number(above=0, below=1, count=2, stack="member")
    eps: float = number(above=0, stack="member")


@dataclass
class LibraryOptimizer(Optimizer):
    """optimizer=torch and optimizer=timm: any of theirs, by its own name."""

    library: str = setting(resume="stays")
    args: dict[str, Any] = setting()
