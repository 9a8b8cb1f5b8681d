"""Settings of what decides the rates: optimizers, policies, schedulers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, length, number, setting
from lrexp.config.schema.training import MONITORS


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


@dataclass
class Policy:
    """What every policy option has."""

    name: str = setting()
    decay_bias_norm: bool = setting()


@dataclass
class Rule:
    """One line of lr_policy.rules: what it selects, and what that gets."""

    match: str | None = None  # a glob, or re:REGEX, on the names of parameters
    type: str | None = None  # a module class, such as BatchNorm2d
    layers: Any = None  # head, backbone, an index such as 0, or a range such as 0-2
    lr: float | None = number(above=0, default=None)  # absolute rate
    scale: float | None = number(above=0, default=None)  # instead: a share of optimizer.lr
    weight_decay: float | None = number(at_least=0, default=None)  # in place of the optimizer's
    frozen: bool = False  # true: it does not train


@dataclass
class Rest:
    """lr_policy.default: what a parameter gets that no rule selects."""

    scale: float = number(above=0, default=1.0)  # share of optimizer.lr


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
    stem_scale: float | None = number(above=0, at_most=1, neutral=None)
    groups: int | None = number(at_least=2)


@dataclass
class GradualUnfreeze(Policy):
    every: Any = length(least=1, spread=True)
    groups: int | None = number(at_least=2)
    rewarmup: float = number(at_least=0)
    decay: float = number(above=0, at_most=1)
    bn_stats: str = choice("follow", "frozen", "live")
    train_norm: bool = setting(neutral=False)
    frozen_dropout: bool = setting()


@dataclass
class LpFt(Policy):
    head_epochs: Any = length(least=1, whole=True)
    finetune_scale: float = number(above=0)
    bn_stats: str = choice("frozen", "follow", "live")
    train_norm: bool = setting(neutral=False)
    frozen_dropout: bool = setting()


@dataclass
class Surgical(Policy):
    block: Any = setting()  # a layer index, a range such as 0-2, or a module's name
    train_head: bool = setting()
    bn_stats: str = choice("frozen", "follow", "live")
    train_norm: bool = setting(neutral=False)
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


@dataclass
class CustomPolicy(Policy):
    """A function of the user's own; `library` is `custom`, so that `name` can be the function's."""

    library: str = setting()
    target: str = setting()
    args: dict[str, Any] = setting()


@dataclass
class Scheduler:
    """What every scheduler option has."""

    name: str = setting()
    warmup: Any = length()
    floor: float = number(at_least=0, below=1)


@dataclass
class StepDecay(Scheduler):
    step_size: int = number(at_least=1)
    gamma: float = number(above=0)


@dataclass
class MultiStep(Scheduler):
    milestones: list[int] = number(at_least=1, in_epochs=True)
    gamma: float = number(above=0)


@dataclass
class Exponential(Scheduler):
    gamma: float = number(above=0)


@dataclass
class Polynomial(Scheduler):
    power: float = number(above=0)


@dataclass
class CosineRestarts(Scheduler):
    period: Any = length(least=1)
    multiply: int = number(at_least=1)


@dataclass
class OneCycle(Scheduler):
    pct_start: float = number(above=0, below=1)
    div: float = number(at_least=1)
    anneal: str = choice("cos", "linear")
    timing: str = choice("torch", "fastai")
    momentum: list[float] | None = number(
        at_least=0,
        below=1,
        count=2,
        such_as="at both ends and at the peak, such as 'scheduler.momentum=[0.95, 0.85]'; or null",
    )


@dataclass
class Wsd(Scheduler):
    decay: Any = length(fits=True)
    shape: str = choice("1-sqrt", "linear", "cosine")


@dataclass
class InverseSqrt(Scheduler):
    timescale: Any = length(least=1, empty="warmup")


@dataclass
class SlantedTriangular(Scheduler):
    cut_frac: float = number(above=0, below=1)


@dataclass
class ReduceOnPlateau(Scheduler):
    monitor: str = choice(*MONITORS)
    factor: float = number(above=0, below=1)
    patience: int = number(at_least=0)
    threshold: float = number(at_least=0)
    threshold_mode: str = choice("rel", "abs")
    cooldown: int = number(at_least=0)


@dataclass
class TorchScheduler(Scheduler):
    library: str = setting()
    interval: str = choice("epoch", "step")
    args: dict[str, Any] = setting()


@dataclass
class CustomScheduler(Scheduler):
    """A function of the user's own; `library` is `custom`, so that `name` can be the function's."""

    library: str = setting()
    target: str = setting()
    args: dict[str, Any] = setting()
