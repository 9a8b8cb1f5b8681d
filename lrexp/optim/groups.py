"""From a plan to parameter groups; setting rates; freezing; optimizer state by name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType, MethodType
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from lrexp.plan.plan import Plan, Row

# What some optimizers count per group and not per parameter: LAMB and Adan their steps,
# schedule-free ones the weights of their average and whether the model holds it now.
COUNTERS = ("step", "k", "weight_sum", "lr_max", "train_mode")

Beside = Mapping[str, Collection[str]]  # module without parameters → parameters around it
NOTHING_TRACED: Beside = MappingProxyType({})


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


def set_rates(
    optimizer: Optimizer, base_lr: float, s: float, g: Mapping[str, float] | None = None
) -> None:
    """Give every group its rate for the coming step: lr = base_lr × lr_scale × g × s.

    Args:
        optimizer: over groups of `param_groups`.
        base_lr: optimizer.lr.
        s: the schedule's multiplier at this step.
        g: the policy's factor at this step for groups by name, 1 for all others.
    """
    for group in optimizer.param_groups:
        group["lr"] = base_lr * group["lr_scale"] * s
        if g and group["name"] in g:
            group["lr"] *= g[group["name"]]


def measured_groups(optimizer: Optimizer, plan: Plan) -> dict[str, dict[str, Any]]:
    """The parameter groups whose lr_scale is measured, by name."""
    measured = {group for group, rows in plan.groups.items() if rows[0].measured}
    return {group["name"]: group for group in optimizer.param_groups if group["name"] in measured}


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


def set_trainable(
    model: nn.Module, plan: Plan, finished_epochs: int, beside: Beside = NOTHING_TRACED
) -> None:
    """Freeze and unfreeze every parameter as the plan says for the coming epoch.

    A frozen parameter has `requires_grad` off and no gradient, so neither an optimizer step nor
    weight decay nor gradient clipping can touch it. A module whose parameters are all frozen stays
    in eval mode even under `model.train()`, which keeps dropout still unless the plan lets it go
    on; so does a module without parameters that stands between frozen ones alone. BatchNorm
    modules go by the plan's `bn_stats`.

    Args:
        model: changed in place.
        plan: of all its parameters.
        finished_epochs: before the coming one.
        beside: parameters around each module that has none, of `parameters_beside`. Where it has
            no entry, the siblings stand for them.
    """
    trains = {row.name: row.trains_after(finished_epochs) for row in plan.rows}
    for name, tensor in model.named_parameters():
        tensor.requires_grad_(trains[name])
        if not trains[name]:
            tensor.grad = None
    for _, module, rows in _modules_with_rows(model, plan, beside):
        if _stays_in_eval(module, rows, any(trains[row.name] for row in rows)):
            module.train = MethodType(_train_children_only, module)
            module.training = False
        elif "train" in module.__dict__:
            del module.train


def frozen_state(
    model: nn.Module, plan: Plan, beside: Beside = NOTHING_TRACED
) -> dict[str, Tensor]:
    """What must not change: parameters that never train, and buffers that go with them.

    Buffers go with a module's own parameters, or those beside it (see `set_trainable`); BatchNorm
    statistics go by `bn_stats`.
    """
    never = set(plan.frozen_names)
    state = {name: p.detach() for name, p in model.named_parameters() if name in never}
    for name, module, rows in _modules_with_rows(model, plan, beside):
        trains = not all(row.frozen for row in rows)
        still = _statistics_stay(rows, trains) if isinstance(module, _NormBase) else not trains
        if still:
            prefix = f"{name}." if name else ""
            state |= {f"{prefix}{inner}": b for inner, b in module.named_buffers(recurse=False)}
    return state


def _stays_in_eval(module: nn.Module, rows: Sequence[Row], trains: bool) -> bool:
    """Whether a module with these parameters is in eval mode now, some of them training or not."""
    if isinstance(module, _NormBase):
        return _statistics_stay(rows, trains)
    return not trains and not any(row.frozen_dropout for row in rows)


def _statistics_stay(rows: Sequence[Row], trains: bool) -> bool:
    settings = {row.bn_stats for row in rows}
    return "live" not in settings and ("frozen" in settings or not trains)


def _modules_with_rows(
    model: nn.Module, plan: Plan, beside: Beside
) -> Iterator[tuple[str, nn.Module, list[Row]]]:
    """Every module and the parameters it goes with: those inside it.

    A module without parameters (dropout) goes with those `beside` it, before and behind, where
    that is known, and else with the nearest siblings on both sides that have some, or with its
    parent. BatchNorm without any goes with one sibling, the one before it if there is one: its
    statistics are of what that makes.
    """
    row_by_name = {row.name: row for row in plan.rows}
    row_of = {id(p): row_by_name[name] for name, p in model.named_parameters()}

    def walk(
        module: nn.Module, name: str, before: list[Row], after: list[Row]
    ) -> Iterator[tuple[str, nn.Module, list[Row]]]:
        rows = [row_of[id(p)] for p in module.parameters()]
        if not rows and isinstance(module, _NormBase):
            rows = before or after
        elif not rows:
            traced = [row_by_name[parameter] for parameter in beside.get(name, ())]
            rows = traced or [*before, *after]
        yield name, module, rows
        children = list(module.named_children())
        inside = [[row_of[id(p)] for p in child.parameters()] for _, child in children]
        for i, (child_name, child) in enumerate(children):
            near = [next(filter(None, side), []) for side in (inside[:i][::-1], inside[i:])]
            around = near if any(near) else (rows, [])
            yield from walk(child, f"{name}.{child_name}" if name else child_name, *around)

    yield from walk(model, "", [], [])


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes, types and bits of the tensors, for records."""
    return _over(tensors, hashlib.blake2b(digest_size=8))


def quick_hash(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits over the same, for what a run compares with its own: 50 times as fast."""
    return _over(tensors, xxhash.xxh3_128())


def _over(tensors: Mapping[str, Tensor], digest: Any) -> str:
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
    found = {name: (group, p) for group in optimizer.param_groups for name, p in named([group])}
    optimizer.state.clear()
    for name, values in state.items():
        group, tensor = found[name]
        own = {key: value for key, value in values.items() if key != "group"}
        for key, value in own.items():
            if not isinstance(value, Tensor):
                continue
            if key == "step":
                own[key] = value.to(counter_device(group, tensor), copy=True)
            elif value.shape == tensor.shape:  # in its layout, which may have been another
                own[key] = torch.empty_like(tensor, dtype=value.dtype).copy_(value)
            else:
                own[key] = value.to(tensor.device, copy=True)
        if own:
            optimizer.state[tensor] = own
    for group in optimizer.param_groups:
        counted = (state[n]["group"] for n in group["names"] if "group" in state.get(n, {}))
        group.update(deepcopy(next(counted, {})))


def counter_device(group: Mapping[str, Any], tensor: Tensor) -> torch.device:
    """Where an optimizer keeps the step count of a parameter: on the CPU, where it counts itself.

    With the parameter where the step is one kernel, or one of a CUDA graph, which counts as well.
    """
    counts_there = group.get("fused") or group.get("capturable")
    return tensor.device if counts_there else torch.device("cpu")


def named(groups: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of some groups with its name."""
    for group in groups:
        yield from zip(group["names"], group["params"], strict=True)


def _train_children_only(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stands in for `train` on a module that stays in eval mode; its children decide themselves."""
    nn.Module.train(module, mode)
    module.training = False
    return module
