"""The generators that all code in this program shares, and that a network may draw from.

Each of them is begun anew at a draw of `lrexp.data.draws` before whatever may draw from it, so that
dropout, stochastic depth or a noise of the user's own depend on nothing that was drawn before.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def begin_at(drawn: int, device: torch.device, torchs_alone: bool = False) -> None:
    """Begin Python's, numpy's and torch's generators, the device's too, at a draw in [0, 2⁶³).

    `torchs_alone` leaves Python's and numpy's, where nothing can draw from them: beginning these
    two takes longer than a small layer.
    """
    for generator in _of_torch(device):
        generator.manual_seed(drawn)
    if not torchs_alone:
        random.seed(drawn)
        np.random.seed(drawn & 0xFFFFFFFF)  # takes 32 bits


@contextmanager
def begun_at(drawn: int, device: torch.device) -> Iterator[None]:
    """As `begin_at`, and afterwards as they were."""
    before = random.getstate(), np.random.get_state(), _torch_states(device)
    begin_at(drawn, device)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        for generator, state in zip(_of_torch(device), before[2], strict=True):
            generator.set_state(state)


def moved(drawn: int, device: torch.device) -> str | None:
    """Which of them was drawn from since `begin_at(drawn)`; None when none was."""
    states = _states(device)
    with begun_at(drawn, device):
        fresh = _states(device)
    return next((name for name, state in states.items() if state != fresh[name]), None)


def _states(device: torch.device) -> dict[str, Any]:
    """Where each stands, by what people call it."""
    of_numpy: Any = np.random.get_state()
    of_torch = [bytes(state.numpy()) for state in _torch_states(device)]
    return {
        "Python's random": random.getstate(),
        "numpy.random": (of_numpy[1].tobytes(), *of_numpy[2:]),
        "torch's generator": of_torch,
    }


def _torch_states(device: torch.device) -> list[torch.Tensor]:
    return [generator.get_state() for generator in _of_torch(device)]


@functools.cache
def _of_torch(device: torch.device) -> tuple[torch.Generator, ...]:
    """torch's, that of the device first."""
    if device.type == "cuda":
        torch.cuda.init()
        own = torch.cuda.default_generators[device.index or 0]
    elif device.type == "mps":
        own = torch.mps._get_default_mps_generator()
    else:
        return (torch.default_generator,)
    return own, torch.default_generator
