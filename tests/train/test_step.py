"""The one step: what it changes, and that members of a stack take it as each alone would."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lrexp.train.step import due, gradients, update

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Linear:
    return nn.Linear(4, 3).double()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 3, (6,), generator=generator)


def test_gradients_are_those_of_this_batch_and_no_other_tensor_has_any() -> None:
    torch.manual_seed(0)
    model, (images, labels) = network(), batch(0)
    for _ in range(2):  # the second time nothing is left of the first
        loss, logits = gradients(model, F.cross_entropy, images, labels, [model.weight])
    expected = torch.autograd.grad(F.cross_entropy(model(images), labels), [model.weight])
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, expected[0])
    assert model.bias.grad is None
    assert torch.equal(logits, model(images))
    assert loss.shape == ()
    assert not loss.requires_grad


@pytest.mark.parametrize("limits", [(None, None), (0.1, None), (0.1, 0.3), (9.0, 0.2)])
def test_members_step_as_each_does_alone(limits: tuple[float | None, ...]) -> None:
    torch.manual_seed(0)
    models, (images, labels) = [network() for _ in limits], batch(1)
    names = [name for name, _ in models[0].named_parameters()]
    own = [dict(model.named_parameters()) for model in models]
    weights = {n: torch.stack([w[n].detach() for w in own]).requires_grad_() for n in names}

    def together(x: Tensor) -> Tensor:
        return vmap(lambda w: functional_call(models[0], w, (x,)))(weights)

    for model, limit in zip(models, limits, strict=True):
        trained = list(model.parameters())
        gradients(model, F.cross_entropy, images, labels, trained)
        update(torch.optim.SGD(trained, lr=0.5), trained, limit)
    losses, stacked = vmap(F.cross_entropy, in_dims=(0, None)), list(weights.values())
    gradients(together, losses, images, labels, stacked)
    highest = [x or math.inf for x in limits]
    clip = None if limits == (None, None) else torch.tensor(highest, dtype=torch.float64)
    update(torch.optim.SGD(stacked, lr=0.5), stacked, clip)
    for k in range(len(models)):
        for name in names:
            assert torch.allclose(weights[name][k], own[k][name], rtol=0, atol=1e-9)


class Order:
    """Notes in which order a step asks for measures."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def see_gradients(self, weights: object) -> None:
        self.asked.append("gradients")

    def before(self) -> list[Tensor]:
        self.asked.append("before")
        return []

    def after(self, before: list[Tensor]) -> None:
        self.asked.append("after")

    def step(self) -> None:
        self.asked.append("step")


def test_a_measured_step_is_seen_before_and_after() -> None:
    model, order, (images, labels) = network(), Order(), batch(2)
    trained = list(model.parameters())
    gradients(model, F.cross_entropy, images, labels, trained)
    update(order, trained, None, order)
    assert order.asked == ["gradients", "before", "step", "after"]


def test_weights_need_not_be_named_where_nothing_else_requires_gradients() -> None:
    model, (images, labels) = network(), batch(2)
    head = [*model.parameters()][-2:]
    gradients(model, F.cross_entropy, images, labels, head)
    assert all(w.grad is None for w in [*model.parameters()][:-2])
    found = []
    for others in (True, False):
        trained = list(model.parameters())
        gradients(model, F.cross_entropy, images, labels, trained, others=others)
        found.append([w.grad for w in trained])
    for named, unnamed in zip(*found, strict=True):
        assert named is not None
        assert torch.equal(named, unnamed)


def test_what_is_due_every_third_time_is_due_at_the_first() -> None:
    assert [i for i in range(7) if due(3, i)] == [0, 3, 6]
    assert not any(due(every, i) for every in (None, 0) for i in range(3))
