"""Schedules: (steps, steps_per_epoch, settings) → s(t), a list with a multiplier for every step.

T is the number of steps. step, multistep and exponential move once an epoch and fall without an
end, so `floor` cuts them off (s(t) is never below it), as it does inverse_sqrt. All others move
every step and have an end, and `floor` is that end: the shape lies between 1 and floor. Unless the
docstring says otherwise it is reached at t = T, one step after the last, as in torch and timm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    StepLR,
)

from lrexp.optim.schedulers.table import cut_off_at, ending_at, tabulate

COOLDOWNS: dict[str, Callable[[float], float]] = {
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


def constant(steps: int, steps_per_epoch: int, **settings: Any) -> list[float]:
    """s(t) = 1, whatever the settings: any floor is below it, and a plateau falls by itself."""
    return [1.0] * steps


def step(
    steps: int, steps_per_epoch: int, *, step_size: int, gamma: float, floor: float
) -> list[float]:
    """s(t) = max(floor, gamma^⌊epoch / step_size⌋), epochs from 0: torch's StepLR, per epoch."""
    make = partial(StepLR, step_size=step_size, gamma=gamma)
    return cut_off_at(floor, tabulate(make, steps, every=steps_per_epoch))


def multistep(
    steps: int, steps_per_epoch: int, *, milestones: list[int], gamma: float, floor: float
) -> list[float]:
    """s(t) = max(floor, gamma^(milestones ≤ epoch)), epochs from 0: torch's MultiStepLR, per epoch.

    `milestones` are finished epochs; those beyond the end never lower the rate.
    """
    make = partial(MultiStepLR, milestones=milestones, gamma=gamma)
    return cut_off_at(floor, tabulate(make, steps, every=steps_per_epoch))


def exponential(steps: int, steps_per_epoch: int, *, gamma: float, floor: float) -> list[float]:
    """s(t) = max(floor, gamma^epoch), epochs from 0: torch's ExponentialLR, per epoch."""
    make = partial(ExponentialLR, gamma=gamma)
    return cut_off_at(floor, tabulate(make, steps, every=steps_per_epoch))


def linear(steps: int, steps_per_epoch: int, *, floor: float) -> list[float]:
    """s(t) = 1 − (1 − floor)·t / T: torch's LinearLR, per step."""
    return tabulate(lambda unit: LinearLR(unit, 1.0, floor, steps), steps)


def polynomial(steps: int, steps_per_epoch: int, *, power: float, floor: float) -> list[float]:
    """s(t) = floor + (1 − floor)·(1 − t/T)^power: torch's PolynomialLR, per step.

    Source: the `poly` policy of Chen et al. 2018 (DeepLab), https://arxiv.org/abs/1606.00915.
    """
    return ending_at(floor, tabulate(lambda unit: PolynomialLR(unit, steps, power), steps))


def cosine(steps: int, steps_per_epoch: int, *, floor: float) -> list[float]:
    """s(t) = floor + (1 − floor)·(1 + cos(π t / T)) / 2: torch's CosineAnnealingLR, per step.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.
    """
    return tabulate(lambda unit: CosineAnnealingLR(unit, steps, eta_min=floor), steps)


def cosine_restarts(
    steps: int, steps_per_epoch: int, *, period_steps: int, multiply: int, floor: float
) -> list[float]:
    """s(t) = floor + (1 − floor)·(1 + cos(π c / P)) / 2, c steps into a period of P, per step.

    Every period is `multiply` times as long as the one before and starts at 1 again; the last is
    cut where training ends. torch's CosineAnnealingWarmRestarts.
    Source: Loshchilov and Hutter 2017 (SGDR), https://arxiv.org/abs/1608.03983.

    Args:
        period_steps: P of the first period, at least 1.
        multiply: at least 1.
        floor: where every period ends, one step after its last.
    """
    return tabulate(
        lambda unit: CosineAnnealingWarmRestarts(unit, period_steps, multiply, eta_min=floor), steps
    )


def wsd(
    steps: int, steps_per_epoch: int, *, decay_steps: int, shape: str, floor: float
) -> list[float]:
    """Warmup, stable, decay: s(t) = 1, and floor + (1 − floor)·d(p) over the last D steps.

    p = (t − (T − D)) / D, and d(p) = 1 − √p, 1 − p or (1 + cos πp) / 2. Per step; `warmup` is its
    first phase.
    Source: Hu et al. 2024 (MiniCPM), https://arxiv.org/abs/2404.06395; 1-sqrt: Hägele et al. 2024,
    https://arxiv.org/abs/2405.18392.

    Args:
        decay_steps: D, from 0 to T.
        shape: 1-sqrt, linear or cosine.
        floor: where it ends.
    """
    decay = [COOLDOWNS[shape](t / decay_steps) for t in range(decay_steps)]
    return [1.0] * (steps - decay_steps) + ending_at(floor, decay)


def inverse_sqrt(
    steps: int, steps_per_epoch: int, *, timescale_steps: int, floor: float
) -> list[float]:
    """s(t) = max(floor, √(τ / (t + τ))), per step; it has no end, so floor cuts it off.

    With τ = the warmup's steps this is the Transformer's schedule, peak 1 (Vaswani et al. 2017,
    https://arxiv.org/abs/1706.03762); with another τ, Zhai et al. 2022 (Scaling Vision
    Transformers), https://arxiv.org/abs/2106.04560.

    Args:
        timescale_steps: τ, at least 1.
        floor: s never falls below it.
    """
    tau = timescale_steps
    return cut_off_at(floor, [math.sqrt(tau / (t + tau)) for t in range(steps)])


def slanted_triangular(
    steps: int, steps_per_epoch: int, *, cut_frac: float, floor: float
) -> list[float]:
    """s(t) = floor + (1 − floor)·p: p rises from 0 to 1 by step C, then falls to 0. Per step.

    C = ⌊T · cut_frac⌋, p = t / C before C and (T − t) / (T − C) from there on.
    Source: Howard and Ruder 2018 (ULMFiT), https://arxiv.org/abs/1801.06146, whose `ratio` is
    1 / floor. Their fall is C·(1/cut_frac − 1) steps long, the same when T·cut_frac is
    whole; otherwise it ends early and goes on below 0, which this does not.

    Args:
        cut_frac: share of the steps that rise, in (0, 1).
        floor: where it starts and ends.
    """
    cut = math.floor(steps * cut_frac)
    rise = [t / cut for t in range(cut)]
    fall = [(steps - t) / (steps - cut) for t in range(cut, steps)]
    return ending_at(floor, rise + fall)


def one_cycle(
    steps: int,
    steps_per_epoch: int,
    *,
    pct_start: float,
    div: float,
    floor: float,
    anneal: str,
    timing: str,
    momentum: list[float] | None,
    read: str = "lr",
) -> list[float]:
    """s(t) rises from 1/div to 1, then falls to floor, along half cosines or lines. Per step.

    m(t) goes from momentum[0] at the start to momentum[1] at the peak and back, against the rate,
    at the same steps and along the same curve.

    With timing `torch` it is torch's OneCycleLR: 1 at t = pct_start·T − 1 and floor at the last
    step, t = T − 1 (final_div_factor = 1 / (div · floor)). With timing `fastai` it is fastai's
    fit_one_cycle: 1 at t = pct_start·T and floor at t = T (div_final = 1 / floor). A rise shorter
    than a step is left out; the only step of one is the end with `torch`, the start with `fastai`.
    Source: Smith and Topin 2018, https://arxiv.org/abs/1708.07120.

    Args:
        pct_start: where the highest rate lies, as a share of the steps, in (0, 1).
        div: the highest rate over the first; the first is never below floor.
        floor: where it ends, as a share of the highest rate.
        anneal: cos or linear.
        timing: torch or fastai.
        momentum: at both ends and at the peak; None: the optimizer keeps its own. The rates do not
            depend on it.
        read: `momentum` for m(t), which is empty without `momentum`.
    """
    if read == "momentum" and momentum is None:
        return []
    total = steps
    if timing == "fastai":
        # torch reaches its peak one step before pct_start·total and its end at the last step. One
        # step more, of which the table leaves the last out, puts both where fastai has them.
        total = steps + 1
        pct_start = (pct_start * steps + 1) / total
    if pct_start * total == 1:
        pct_start *= 1 - 1e-12  # a rise of no steps, by which torch would divide
    div = min(div, 1 / floor) if floor else div
    high, low = momentum or (0.0, 0.0)
    return tabulate(
        lambda unit: OneCycleLR(
            unit,
            max_lr=1.0,
            total_steps=total,
            pct_start=pct_start,
            anneal_strategy="cos" if anneal == "cos" else "linear",
            cycle_momentum=momentum is not None,
            max_momentum=high,
            base_momentum=low,
            div_factor=div,
            final_div_factor=1 / (div * floor) if floor else math.inf,
        ),
        steps,
        read,
    )
