"""Schedules: step → multiplier s(t) of every rate, and m(t) where momentum cycles with it.

Tabulated once per run, from torch's own schedulers wherever torch has the class.
"""

from __future__ import annotations

from collections.abc import Callable

from lrexp.optim.schedulers.any_torch import any_torch, any_torch_momenta
from lrexp.optim.schedulers.per_epoch import constant, exponential, multistep, step
from lrexp.optim.schedulers.per_step import (
    cosine,
    cosine_restarts,
    inverse_sqrt,
    linear,
    one_cycle,
    one_cycle_momenta,
    polynomial,
    slanted_triangular,
    wsd,
)

# scheduler option -> (steps, steps_per_epoch, settings) → s(t). `plateau` is not among them: what
# it does depends on the run.
SCHEDULES: dict[str, Callable[..., list[float]]] = {
    "constant": constant,
    "linear": linear,
    "step": step,
    "multistep": multistep,
    "exponential": exponential,
    "polynomial": polynomial,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "one_cycle": one_cycle,
    "wsd": wsd,
    "inverse_sqrt": inverse_sqrt,
    "slanted_triangular": slanted_triangular,
    "torch": any_torch,
}
# The same for m(t), of those that may cycle momentum; empty when one does not.
MOMENTA: dict[str, Callable[..., list[float]]] = {
    "one_cycle": one_cycle_momenta,
    "torch": any_torch_momenta,
}
