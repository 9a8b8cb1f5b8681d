"""A moving average of a network's weights, and how it takes their place for an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrexp.train.signals import whole


class _Place(NamedTuple):
    """Where a network keeps a tensor; a module may put another one there at any time."""

    module: nn.Module
    owner: dict[str, Any]  # its parameters, or its buffers
    key: str

    @property
    def tensor(self) -> Tensor:
        return self.owner[self.key]

    @property
    def trains(self) -> bool:
        """A parameter that gradients are taken of, a buffer of a module in training mode."""
        is_parameter = self.owner is self.module._parameters
        return self.tensor.requires_grad if is_parameter else self.module.training


class Average:
    """An exponential moving average of all that training moves, floating-point buffers too.

    After the step t = 0, 1, ... average ← d · average + (1 − d) · weights, where d is
    min(decay, (1 + t) / (10 + t)): the weights before training, which it begins with, are soon
    forgotten (TensorFlow's ExponentialMovingAverage; torch.optim.swa_utils and timm begin with the
    weights after the first step). What is frozen has no average apart from its value, and one that
    is unfrozen begins with it; nor have integers, such as BatchNorm's counters of batches.

    Args:
        model: whose weights are followed; they are where they are but in `in_place`.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        self._places = dict(_places(model))
        self._tensors: dict[str, Tensor] = {}  # of what trains now; the weights, while in place
        self._held = False  # whether the network holds the average

    @torch.no_grad()
    def begin(self) -> None:
        """Follow what trains from now on, and nothing else: freezing was changed."""
        self.put_back()
        known = self._tensors
        self._tensors = {
            name: known[name] if name in known else place.tensor.detach().clone()
            for name, place in self._places.items()
            if place.trains
        }
        self._followed = [self._places[name] for name in self._tensors]
        self._averages = list(self._tensors.values())

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the weights after a step; nobody waits for the device."""
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [place.tensor for place in self._followed]
        torch._foreach_lerp_(self._averages, weights, 1 - decay)  # type: ignore[attr-defined]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In it the network holds the average, and afterwards its weights again, bit for bit."""
        try:
            with whole():
                self._hold(True)
            yield
        finally:
            self.put_back()

    def put_back(self) -> None:
        """Let the network hold its weights, if it does not.

        Whoever saves or trains them asks for it: a signal may come just before `in_place` does.
        """
        with whole():
            self._hold(False)

    def _hold(self, average: bool) -> None:
        """Exchange the memory of both. Nothing is copied, so nothing is rounded."""
        if average == self._held:
            return
        for name, tensor in self._tensors.items():
            held = self._places[name].tensor
            self._tensors[name], held.data = held.data, tensor
        self._held = average

    def seen_in(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What evaluations see of some tensors of the network, while it holds its weights."""
        return {name: self._tensors.get(name, tensor) for name, tensor in tensors.items()}

    def state(self) -> dict[str, Tensor]:
        """The average of what trains; all else is as the network has it."""
        self.put_back()
        return dict(self._tensors)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()`."""
        self._tensors = {
            name: tensor.to(self._places[name].tensor.device, copy=True)
            for name, tensor in state.items()
        }


def _places(model: nn.Module) -> Iterator[tuple[str, _Place]]:
    """By name every floating-point tensor that may move, each once.

    Buffers that hold infinity are none: they are masks, whose average would be no number.
    """
    known: set[int] = set()
    for prefix, module in model.named_modules():
        for owner in (module._parameters, module._buffers):
            for key, tensor in owner.items():
                if tensor is None or id(tensor) in known or not tensor.is_floating_point():
                    continue
                known.add(id(tensor))
                if owner is module._parameters or tensor.isfinite().all():
                    yield f"{prefix}.{key}" if prefix else key, _Place(module, owner, key)
