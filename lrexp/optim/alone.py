"""An optimizer over a copy of one of its weights: what a step of it would do."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrexp.optim.optimizers import part_of, use_training_weights

NOT_COPIED = ("param_groups", "state", "step")  # the last where it is wrapped on the instance


def moves(optimizer: Optimizer, weight: Tensor, gradient: Tensor, lr: float, steps: int) -> bool:
    """Whether steps of one weight by itself would change a bit of it; nothing is changed.

    Both with the state that the optimizer keeps of the weight and without one, as it began: the
    first step of some only looks (ADOPT).

    Args:
        optimizer: that has the weight.
        weight: of the optimizer.
        gradient: at every step, of the weight's shape.
        lr: the rate of every step.
        steps: how many.
    """
    return all(_moves(optimizer, weight, gradient, lr, steps, blank) for blank in (False, True))


def comes_back(optimizer: Optimizer, weight: Tensor, gradient: Tensor, lr: float) -> bool:
    """Whether a step of one weight and one by the opposite gradient lead back to the same bits.

    Those of a sign do (Lion, SignSGD). Arguments as in `moves`; nothing is changed.
    """
    for there in (gradient, -gradient):
        began, _, after = _steps(optimizer, weight, [there, -there], lr, blank=True)
        if torch.equal(began, after):
            return True
    return False


def _moves(
    optimizer: Optimizer, weight: Tensor, gradient: Tensor, lr: float, steps: int, blank: bool
) -> bool:
    tried = _steps(optimizer, weight, [gradient] * steps, lr, blank)
    began = next(tried)
    return any(not torch.equal(began, after) for after in tried)


def _steps(
    optimizer: Optimizer, weight: Tensor, gradients: Sequence[Tensor], lr: float, blank: bool
) -> Iterator[Tensor]:
    """The weight before and after a step by each gradient.

    `blank`: without what the optimizer keeps of it.
    """
    own, twin = _alone(optimizer, weight)
    own.param_groups[0]["lr"] = lr
    use_training_weights(own)
    if blank:
        own.state.clear()
    yield twin.detach().clone()
    for gradient in gradients:
        twin.grad = gradient.detach().clone()
        own.step()
        yield twin.detach().clone()


def _alone(optimizer: Optimizer, weight: Tensor) -> tuple[Optimizer, Tensor]:
    """An optimizer of the same kind, settings and state over a copy of a weight, and the copy."""
    decay = _group(optimizer, weight)["weight_decay"]
    optimizer = part_of(optimizer, weight)
    group = _group(optimizer, weight)
    twin = weight.detach().clone().requires_grad_()
    own = object.__new__(type(optimizer))  # a constructor has arguments that nobody kept
    for key, value in vars(optimizer).items():
        if key not in NOT_COPIED:
            vars(own)[key] = OrderedDict() if key.endswith("_hooks") else deepcopy(value)
    settings: dict[str, Any] = {k: v for k, v in group.items() if k not in ("params", "names")}
    own.param_groups = [{**deepcopy(settings), "weight_decay": decay, "params": [twin]}]
    own.state = defaultdict(dict)
    if weight in optimizer.state:
        own.state[twin] = deepcopy(optimizer.state[weight])
    return own, twin


def _group(optimizer: Optimizer, weight: Tensor) -> dict[str, Any]:
    groups = optimizer.param_groups
    return next(group for group in groups if any(p is weight for p in group["params"]))
