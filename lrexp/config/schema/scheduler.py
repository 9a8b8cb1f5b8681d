"""Settings of schedulers. A length is a share of training, "N epochs" or "N steps"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, length, number, setting
from lrexp.config.schema.metrics import MONITORS


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
    momentum: list[float] | None = number(at_least=0, below=1, count=2)


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
