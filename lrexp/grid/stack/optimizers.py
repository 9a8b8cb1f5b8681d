"""The steps of torch's SGD, Adam, AdamW and RMSprop for several members at once.

A weight is one tensor (K, ...) over K members. What differs between members (rates, weight decay,
momentum) enters a step as a tensor (K, 1, ...), and as a plain number where all have the same. The
state that a step keeps is stacked too, and every member's own torch optimizer holds views of it, so
that it stays what is saved, and what a run goes on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrexp.optim.groups import counter_device

State = Mapping[str, Tensor]
Coefficients = Mapping[str, Any]  # each (K, 1, ...), or a number
# What torch offers and is not stacked, by the value that leaves it off.
OFF = {"maximize": False, "amsgrad": False, "centered": False, "dampening": 0}


class Rule(NamedTuple):
    """How one kind of optimizer steps."""

    # Changes a weight (K, ...) and its state in place by its gradient; see `flavour` for the last.
    step: Callable[[Tensor, Tensor, State, Coefficients, bool], None]
    hyperparameters: tuple[str, ...]
    state: tuple[str, ...]  # tensors of the weight's shape; momentum_buffer only with momentum
    counts: bool = True  # whether torch keeps the number of steps


def _sgd(weight: Tensor, gradient: Tensor, state: State, c: Coefficients, nesterov: bool) -> None:
    """g += λw;  b = μb + g;  w −= lr (g + μb) with nesterov, lr b without."""
    gradient = _with_decay(gradient, weight, c["decay"])
    if "momentum_buffer" in state:
        buffer = state["momentum_buffer"].mul_(c["momentum"]).add_(gradient)
        gradient = gradient + buffer * c["momentum"] if nesterov else buffer
    _add_product(weight, gradient, c["minus_lr"])


def _adam(weight: Tensor, gradient: Tensor, state: State, c: Coefficients, decoupled: bool) -> None:
    """m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²;  w −= lr/(1−β₁ᵗ) m / (√v/√(1−β₂ᵗ) + ε).

    Before it g += λw, or decoupled w *= 1 − lr λ.
    """
    if decoupled:
        weight.mul_(c["keep"])
    else:
        gradient = _with_decay(gradient, weight, c["decay"])
    mean = state["exp_avg"].lerp_(gradient, c["one_minus_beta1"])
    square = state["exp_avg_sq"].mul_(c["beta2"])
    _add_product(square, gradient.square(), c["one_minus_beta2"])
    size = square.sqrt().div_(c["root_correction2"]).add_(c["eps"])
    _add_product(weight, mean / size, c["minus_step_size"])


def _rmsprop(weight: Tensor, gradient: Tensor, state: State, c: Coefficients, _: bool) -> None:
    """g += λw;  v = αv + (1−α)g²;  b = μb + g / (√v + ε);  w −= lr b."""
    gradient = _with_decay(gradient, weight, c["decay"])
    square = state["square_avg"].mul_(c["alpha"])
    _add_product(square, gradient.square(), c["one_minus_alpha"])
    update = gradient / square.sqrt().add_(c["eps"])
    if "momentum_buffer" in state:
        update = state["momentum_buffer"].mul_(c["momentum"]).add_(update)
    _add_product(weight, update, c["minus_lr"])


_ADAM = Rule(_adam, ("beta1", "beta2", "eps"), ("exp_avg", "exp_avg_sq"))
RULES: dict[type[Optimizer], Rule] = {
    torch.optim.SGD: Rule(_sgd, ("momentum",), ("momentum_buffer",), counts=False),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: Rule(
        _rmsprop, ("momentum", "alpha", "eps"), ("square_avg", "momentum_buffer")
    ),
}


def _coefficients(h: Mapping[str, np.ndarray], step: np.ndarray) -> dict[str, np.ndarray]:
    """What a rule's steps take.

    Args:
        h: hyperparameters, each (steps, parameters, K) float64.
        step: (steps, parameters, 1) number of each parameter's step, from 1.
    """
    lr = h["lr"]
    found = {"decay": h["weight_decay"]}
    found |= {key: h[key] for key in ("momentum", "alpha", "beta2", "eps") if key in h}
    found |= {f"one_minus_{k}": 1 - h[k] for k in ("alpha", "beta1", "beta2") if k in h}
    if "beta1" not in h:
        return found | {"minus_lr": -lr}
    return found | {
        "keep": 1 - lr * h["weight_decay"],
        "root_correction2": np.sqrt(1 - h["beta2"] ** step),
        "minus_step_size": -lr / (1 - h["beta1"] ** step),
    }


def refused(optimizer: Optimizer) -> str | None:
    """Why an optimizer has no stacked step, in a sentence; None when it has one."""
    kind = type(optimizer)
    if kind not in RULES:
        names = ", ".join(rule.__name__ for rule in RULES)
        return f"{kind.__name__} has no stacked step, only {names} have"
    for group in optimizer.param_groups:
        for key, off in OFF.items():
            if group.get(key, off) != off:
                return f"{kind.__name__} with {key} has no stacked step"
    return None


def flavour(optimizer: Optimizer) -> bool:
    """The one switch that members must share: nesterov, or weight decay apart from the gradient."""
    group = optimizer.param_groups[0]
    return bool(group.get("nesterov") or group.get("decoupled_weight_decay"))


class StackedOptimizer:
    """One step of several members' optimizers, all of one kind and flavour.

    State that the optimizers have is taken up, and their state is a view of what is kept here from
    then on.

    Args:
        optimizers: of the K members, over the same parameters, each in groups of its own.
        weights: (K, ...) by name.
        uses_momentum: (K,) whether a member's momentum is ever above 0.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        weights: Mapping[str, Tensor],
        uses_momentum: Sequence[bool],
    ):
        self._optimizers, self._uses_momentum = list(optimizers), list(uses_momentum)
        self._rule, self._flavour = RULES[type(optimizers[0])], flavour(optimizers[0])
        self._places: list[dict[str, tuple[Tensor, int]]] = [  # of each member by name
            {
                name: (parameter, j)  # and the index of the group it is in
                for j, group in enumerate(optimizer.param_groups)
                for name, parameter in zip(group["names"], group["params"], strict=True)
            }
            for optimizer in optimizers
        ]
        self._weights = {name: w for name, w in weights.items() if name in self._places[0]}
        self._state: dict[str, dict[str, Tensor]] = {}
        self._count = dict.fromkeys(self._weights, 0)  # steps made
        self._table: dict[str, list[float] | Tensor] = {}
        self._next = 0  # of the prepared steps
        for name in self._weights:
            if any(self._own_states(name)):
                self._begin(name)

    def prepare(self, steps: int, set_rates: Sequence[Callable[[int], None]]) -> None:
        """Tabulate what the coming steps need.

        Args:
            steps: how many.
            set_rates: gives each member's optimizer its rates and momentum for the i-th of them.
        """
        first = "beta1" if "beta1" in self._rule.hyperparameters else "momentum"
        shape = (steps, len(self._weights), len(self._optimizers))
        found = {
            key: np.empty(shape) for key in ("lr", "weight_decay", *self._rule.hyperparameters)
        }
        for k, (optimizer, set_them) in enumerate(zip(self._optimizers, set_rates, strict=True)):
            groups = optimizer.param_groups
            of = np.array([self._places[k][name][1] for name in self._weights])
            rates = []
            for i in range(steps):
                set_them(i)
                rates.append([(group["lr"], _number(group, first)) for group in groups])
            table = np.array(rates)  # (steps, groups, 2)
            for key, values in found.items():
                if key in ("lr", first):
                    values[:, :, k] = table[:, of, int(key == first)]
                else:
                    values[:, :, k] = np.array([_number(group, key) for group in groups])[of]
        made = np.array(list(self._count.values()))[:, None]
        number = made + np.arange(1, steps + 1)[:, None, None]  # (steps, parameters, 1)
        like = next(iter(self._weights.values()))
        self._next = 0
        self._table = {
            key: _column(np.broadcast_to(values, shape), like)
            for key, values in _coefficients(found, number).items()
        }

    @torch.no_grad()
    def step(self) -> None:
        """The next of the prepared steps, of the weights that have a gradient."""
        i, self._next = self._next, self._next + 1
        now = {key: rows[i] for key, rows in self._table.items()}  # each a float or (parameters, K)
        for j, (name, weight) in enumerate(self._weights.items()):
            if weight.grad is None:
                continue
            if name not in self._state:
                self._begin(name)
            ones = (1,) * (weight.ndim - 1)
            c = {k: v[j].view(-1, *ones) if isinstance(v, Tensor) else v for k, v in now.items()}
            self._rule.step(weight, weight.grad, self._state[name], c, self._flavour)
            self._count[name] += 1

    def hand_over(self) -> None:
        """Tell every member's own optimizer how many steps were made."""
        for name in self._state if self._rule.counts else ():
            for k, state in enumerate(self._own_states(name)):
                tensor, group = self._places[k][name]
                where = counter_device(self._optimizers[k].param_groups[group], tensor)
                state["step"] = torch.tensor(float(self._count[name]), device=where)

    def _begin(self, name: str) -> None:
        """Stack a parameter's state, zeros where a member has none."""
        own, zeros = self._own_states(name), torch.zeros_like(self._weights[name][0])
        self._count[name] = int(own[0].get("step", 0))
        momentum = any(self._uses_momentum)
        self._state[name] = {
            key: torch.stack([state.get(key, zeros) for state in own])
            for key in self._rule.state
            if key != "momentum_buffer" or momentum
        }
        for k, optimizer in enumerate(self._optimizers):
            views = {
                key: stacked[k]
                for key, stacked in self._state[name].items()
                if key != "momentum_buffer" or self._uses_momentum[k]
            }
            if views:
                optimizer.state[self._places[k][name][0]] = views

    def _own_states(self, name: str) -> list[dict[str, Any]]:
        """What each member's own optimizer keeps of a parameter."""
        pairs = zip(self._optimizers, self._places, strict=True)
        return [optimizer.state.get(places[name][0], {}) for optimizer, places in pairs]


def _number(group: Mapping[str, Any], key: str) -> float:
    """A hyperparameter of a group, beta1 and beta2 out of its betas."""
    return group["betas"][int(key[-1]) - 1] if key.startswith("beta") else group[key]


def _column(values: np.ndarray, like: Tensor) -> list[float] | Tensor:
    """(steps, parameters, K) as a plain number per step where all have the same, else a tensor."""
    if (values == values[:, :1, :1]).all():
        return values[:, 0, 0].tolist()
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _add_product(target: Tensor, tensor: Tensor, factor: Tensor | float) -> None:
    """target += tensor × factor, in place."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor)
    else:
        target.add_(tensor, alpha=factor)


def _with_decay(gradient: Tensor, weight: Tensor, decay: Tensor | float) -> Tensor:
    """gradient + weight × decay."""
    if isinstance(decay, Tensor):
        return torch.addcmul(gradient, weight, decay)
    return gradient.add(weight, alpha=decay) if decay else gradient
