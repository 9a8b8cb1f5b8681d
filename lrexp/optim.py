"""From a plan to parameter groups; setting rates; freezing; optimizer state by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Set
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.plan import Plan

# What some optimizers count per group and not per parameter: LAMB and Adan their steps,
# schedule-free ones the weights of their average and whether the model holds it now.
COUNTERS = ("step", "k", "weight_sum", "lr_max", "train_mode")


def param_groups(model: nn.Module, plan: Plan, base_lr: float) -> list[dict[str, Any]]:
    """One torch parameter group per group of the plan that ever trains, in order of depth.

    Each holds `params`, their `names`, the group's `name`, its `lr_scale`, its `weight_decay` and
    `lr` = base_lr × lr_scale. The set of groups never changes during a run: what trains later is
    in it from the start with its gradients off, so that a checkpoint always fits.
    """
    tensors = dict(model.named_parameters())
    return [
        {
            "params": [tensors[row.name] for row in rows],
            "names": [row.name for row in rows],
            "name": name,
            "lr_scale": rows[0].lr_scale,
            "lr": base_lr * rows[0].lr_scale,
            "weight_decay": rows[0].weight_decay,
        }
        for name, rows in plan.groups.items()
        if not rows[0].frozen
    ]


def set_rates(optimizer: Optimizer, base_lr: float, s: float) -> None:
    """Give every group its rate for the coming step: lr = base_lr × lr_scale × s."""
    for group in optimizer.param_groups:
        group["lr"] = base_lr * group["lr_scale"] * s


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether every group has what `set_momentum` sets."""
    return all("betas" in group or "momentum" in group for group in optimizer.param_groups)


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Give every group its momentum for the coming step: beta1 where it has betas."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def set_trainable(model: nn.Module, plan: Plan, finished_epochs: int) -> None:
    """Freeze and unfreeze every parameter as the plan says for the coming epoch.

    A frozen parameter has `requires_grad` off and no gradient, so neither an optimizer step nor
    weight decay nor gradient clipping can touch it. A module whose parameters are all frozen stays
    in eval mode even under `model.train()`, which keeps BatchNorm statistics and dropout still.
    """
    trains = {row.name: row.trains_after(finished_epochs) for row in plan.rows}
    for name, tensor in model.named_parameters():
        tensor.requires_grad_(trains[name])
        if not trains[name]:
            tensor.grad = None
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    still = {id(module) for _, module in _frozen_modules(model, frozen)}
    for module in model.modules():
        if id(module) in still:
            module.train = MethodType(_stay_in_eval, module)
            module.train()
        elif "train" in module.__dict__:
            del module.train


def frozen_state(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Parameters that never train, and the buffers of modules that hold only such parameters."""
    never = set(plan.frozen_names)
    state = {name: p.detach() for name, p in model.named_parameters() if name in never}
    frozen = {id(p) for name, p in model.named_parameters() if name in never}
    for name, module in _frozen_modules(model, frozen):
        state |= {f"{name}.{inner}": b for inner, b in module.named_buffers(recurse=False)}
    return state


def _frozen_modules(model: nn.Module, frozen: Set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Modules all of whose parameters are frozen, given by id.

    A module with buffers but no parameters (BatchNorm without affine) goes with the parameters
    registered before it.
    """
    before = False
    for name, module in model.named_modules():
        own = [id(p) in frozen for p in module.parameters()]
        if all(own) if own else before and any(True for _ in module.buffers()):
            yield name, module
        direct = [id(p) in frozen for p in module.parameters(recurse=False)]
        before = all(direct) if direct else before


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """16 hex digits over names, shapes, types and bits of the tensors."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Every parameter that has a gradient now."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def state_by_name(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Optimizer state per parameter name: momentum buffers, moments, step counts.

    What its group counts stands under `group` with every parameter, so that it too is found by
    name, in whatever group the parameter is then.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        counters = {key: group[key] for key in COUNTERS if key in group}
        for name, tensor in zip(group["names"], group["params"], strict=True):
            values = dict(optimizer.state.get(tensor, {}))
            if counters:
                values["group"] = counters
            if values:
                found[name] = values
    return found


def load_state_by_name(optimizer: Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """Put state from `state_by_name` back, matched by parameter name and nothing else.

    Raises:
        KeyError: for a name this optimizer does not train.
    """
    tensors = dict(_named(optimizer))
    optimizer.state.clear()
    for name, values in state.items():
        tensor = tensors[name]
        own = {
            key: _like(value, tensor) if isinstance(value, Tensor) else value
            for key, value in values.items()
            if key != "group"
        }
        if own:
            optimizer.state[tensor] = own
    for group in optimizer.param_groups:
        counted = next(
            (state[n]["group"] for n in group["names"] if "group" in state.get(n, {})), {}
        )
        for key, value in counted.items():
            group[key] = value.clone() if isinstance(value, Tensor) else value


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy on the parameter's device; step counts stay where the optimizer keeps them."""
    return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)


def _named(optimizer: Optimizer) -> Iterable[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stands in for `train` on a frozen module."""
    return nn.Module.train(module, False)
