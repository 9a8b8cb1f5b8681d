"""Stacked steps against torch.optim, step by step in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.grid.stack.optimizers import StackedOptimizer, refused

SHAPES = {"conv": (3, 2, 3, 3), "matrix": (4, 5), "bias": (4,), "scale": ()}
STEPS = 12
# Of each kind: settings that all members share, and those of three members.
KINDS: dict[str, tuple[type[Optimizer], dict[str, Any], list[dict[str, Any]]]] = {
    "sgd": (torch.optim.SGD, {}, [{}] * 3),
    "sgd, decay": (torch.optim.SGD, {}, [{}, {"weight_decay": 0.1}, {"weight_decay": 0.3}]),
    "sgd, momenta": (
        torch.optim.SGD,
        {},
        [{"momentum": 0.9}, {}, {"momentum": 0.5, "weight_decay": 0.1}],
    ),
    "sgd, nesterov": (
        torch.optim.SGD,
        {"nesterov": True},
        [{"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.2}, {"momentum": 0.9}],
    ),
    "adam": (torch.optim.Adam, {}, [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9)}]),
    "adam, eps": (torch.optim.Adam, {"weight_decay": 0.1}, [{}, {"eps": 0.1}, {"eps": 1e-3}]),
    "adamw": (torch.optim.AdamW, {}, [{}, {"weight_decay": 0.5}, {"betas": (0.8, 0.99)}]),
    "rmsprop": (torch.optim.RMSprop, {}, [{}, {"weight_decay": 0.1}, {"alpha": 0.9, "eps": 0.1}]),
    "rmsprop, momenta": (
        torch.optim.RMSprop,
        {},
        [{"momentum": 0.9}, {}, {"momentum": 0.3, "weight_decay": 0.1}],
    ),
}
Rates = Callable[[int, int, int], float]  # member, group, step → rate


def members(kind: str) -> list[Optimizer]:
    """Three members' optimizers, each with two groups that are not those of the others."""
    make, common, settings = KINDS[kind]
    names, made = list(SHAPES), []
    generator = torch.Generator().manual_seed(1)
    for k, own in enumerate(settings):
        tensors = {
            name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
            for name, shape in SHAPES.items()
        }
        parts = [names[: k + 1], names[k + 1 :]]
        groups = [{"params": [tensors[n] for n in part], "names": part} for part in parts]
        made.append(make(groups, lr=0.1, **common, **own))  # type: ignore[call-arg]
    return made


def tensors_of(optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        name: tensor
        for group in optimizer.param_groups
        for name, tensor in zip(group["names"], group["params"], strict=True)
    }


def stack(optimizers: list[Optimizer]) -> tuple[StackedOptimizer, dict[str, Tensor]]:
    own = [tensors_of(optimizer) for optimizer in optimizers]
    weights = {name: torch.stack([t[name].detach() for t in own]) for name in SHAPES}
    momentum = [any(g.get("momentum") for g in o.param_groups) for o in optimizers]
    return StackedOptimizer(optimizers, weights, momentum), weights


def gradients(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {
        name: torch.randn((3, *shape), generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def own_step(optimizer: Optimizer, k: int, found: dict[str, Tensor]) -> None:
    for name, tensor in tensors_of(optimizer).items():
        tensor.grad = found[name][k].clone() if name in found else None
    optimizer.step()


def stacked_step(
    stacked: StackedOptimizer, weights: dict[str, Tensor], found: dict[str, Tensor]
) -> None:
    for name, weight in weights.items():
        weight.grad = found[name].clone() if name in found else None
    stacked.step()


def set_rates(optimizer: Optimizer, k: int, rates: Rates, step: int) -> None:
    for j, group in enumerate(optimizer.param_groups):
        group["lr"] = rates(k, j, step)


def compare(
    stacked: StackedOptimizer,
    weights: dict[str, Tensor],
    lone: list[Optimizer],
    linked: list[Optimizer],
) -> None:
    """Weights, and every member's own state, which torch's optimizer must find as it left it."""
    stacked.hand_over()
    for k, (optimizer, own) in enumerate(zip(lone, linked, strict=True)):
        mine = tensors_of(own)
        for name, tensor in tensors_of(optimizer).items():
            assert (weights[name][k] - tensor).abs().max() <= 1e-12, (name, k)
            expected, found = optimizer.state.get(tensor, {}), own.state.get(mine[name], {})
            expected = {key: value for key, value in expected.items() if value is not None}
            assert expected.keys() == found.keys(), (name, k)
            for key, value in expected.items():
                assert torch.allclose(value, found[key], rtol=0, atol=1e-12), (name, k, key)


def run(
    kind: str,
    rates: Rates,
    frozen: Callable[[int], set[str]] = lambda epoch: set(),
    epochs: int = 1,
    betas: Callable[[int], float] | None = None,
) -> None:
    lone, linked = members(kind), members(kind)
    stacked, weights = stack(linked)

    def prepared(optimizer: Optimizer, k: int, step: int) -> None:
        set_rates(optimizer, k, rates, step)
        for group in optimizer.param_groups if betas else ():
            if "betas" in group:
                group["betas"] = (betas(step), group["betas"][1])
            else:
                group["momentum"] = betas(step)

    for epoch in range(epochs):
        first, trains = epoch * STEPS, SHAPES.keys() - frozen(epoch)
        stacked.prepare(
            STEPS,
            [
                lambda i, o=o, k=k, first=first: prepared(o, k, first + i)
                for k, o in enumerate(linked)
            ],
        )
        for i in range(STEPS):
            found = {name: g for name, g in gradients(first + i).items() if name in trains}
            for k, optimizer in enumerate(lone):
                prepared(optimizer, k, first + i)
                own_step(optimizer, k, found)
            stacked_step(stacked, weights, found)
            compare(stacked, weights, lone, linked)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_torchs_own_with_one_rate(kind: str) -> None:
    run(kind, lambda k, j, step: 0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_torchs_own_with_rates_per_member_group_and_step(kind: str) -> None:
    run(kind, lambda k, j, step: 0.01 * (k + 1) * (j + 1) / (1 + step % 5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_of_0_moves_no_weight_but_its_state_goes_on(kind: str) -> None:
    run(kind, lambda k, j, step: 0.0 if (k == 1 or j == 1) and step < 6 else 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_and_unfreezing_keep_skip_and_begin_state_as_torch_does(kind: str) -> None:
    frozen = {0: {"conv", "scale"}, 1: {"scale"}, 2: {"matrix", "scale"}, 3: set[str]()}
    run(kind, lambda k, j, step: 0.02 * (k + 1), lambda epoch: frozen[epoch], epochs=4)


@pytest.mark.parametrize("kind", ["sgd, nesterov", "adam", "adamw"])
def test_a_cycle_of_momentum_is_followed(kind: str) -> None:
    run(kind, lambda k, j, step: 0.02, betas=lambda step: 0.95 - 0.01 * step)


@pytest.mark.parametrize("kind", KINDS)
def test_state_that_the_members_have_is_taken_up(kind: str) -> None:
    rates = lambda k, j, step: 0.02 * (k + 1)  # noqa: E731
    lone, linked = members(kind), members(kind)
    for step in range(5):  # both by themselves
        for k in range(3):
            for optimizer in (lone[k], linked[k]):
                set_rates(optimizer, k, rates, step)
                own_step(optimizer, k, gradients(step))
    stacked, weights = stack(linked)
    each = [lambda i, o=o, k=k: set_rates(o, k, rates, i) for k, o in enumerate(linked)]
    stacked.prepare(STEPS, each)
    for i in range(STEPS):
        for k, optimizer in enumerate(lone):
            set_rates(optimizer, k, rates, i)
            own_step(optimizer, k, gradients(50 + i))
        stacked_step(stacked, weights, gradients(50 + i))
        compare(stacked, weights, lone, linked)


def test_a_member_that_is_not_finite_changes_nothing_for_the_others() -> None:
    for kind in KINDS:
        ends = []
        for poison in (False, True):
            stacked, weights = stack(members(kind))
            stacked.prepare(STEPS, [lambda i: None] * 3)
            for i in range(STEPS):
                found = gradients(i)
                if poison and i == 3:
                    for gradient in found.values():
                        gradient[1] = np.nan
                stacked_step(stacked, weights, found)
            ends.append(weights)
        for name in SHAPES:
            clean, poisoned = ends[0][name], ends[1][name]
            assert torch.equal(clean[[0, 2]], poisoned[[0, 2]])
            assert poisoned[1].isnan().all()


@pytest.mark.parametrize(
    ("make", "settings", "named"),
    [
        (torch.optim.NAdam, {}, "NAdam"),
        (torch.optim.Adam, {"amsgrad": True}, "amsgrad"),
        (torch.optim.RMSprop, {"centered": True}, "centered"),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}, "dampening"),
        (torch.optim.AdamW, {"maximize": True}, "maximize"),
    ],
)
def test_what_has_no_stacked_step_is_named(make: Any, settings: dict, named: str) -> None:
    assert named in (refused(make([nn.Parameter(torch.zeros(2))], lr=0.1, **settings)) or "")


def test_what_has_a_stacked_step_is_not_refused() -> None:
    assert [refused(optimizer) for kind in KINDS for optimizer in members(kind)] == [None] * 27
