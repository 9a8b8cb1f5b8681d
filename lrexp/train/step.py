"""The one training step, for a network alone and for several that are stacked.

What differs is what it is called with. Alone: an `nn.Module`, a loss (), its parameters, a torch
optimizer, a number to clip at. Stacked: a model of K members, a loss (K,), weights (K, ...), an
optimizer that steps all of them, a limit (K,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lrexp.train.loss_scale import LossScale


class Steps(Protocol):
    """An optimizer: it changes the weights it knows by their gradients."""

    def step(self) -> object: ...


class Measures(Protocol):
    """Takes the size of a gradient and of a step."""

    def see_gradients(self, weights: Iterable[Tensor]) -> None: ...

    def before(self) -> list[Tensor]: ...

    def after(self, before: list[Tensor]) -> None: ...


def gradients(
    model: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    weights: Sequence[Tensor],
    scale: LossScale | None = None,
    add: bool = False,
    others: bool = True,
) -> tuple[Tensor, Tensor]:
    """Forward, loss, backward: every weight's `grad` is that of this batch, None without one.

    Args:
        model: images → logits (B, classes), or (K, B, classes) of K members.
        loss: logits and labels → (), or (K,).
        images: (B, C, H, W), or (K, B, C, H, W) where members see their own.
        labels: of the images.
        weights: what gradients are taken of. No other tensor's `grad` is touched.
        scale: the gradients are those of the loss as it scales it.
        add: the gradients go on top of those that are there, of earlier batches of one step.
        others: whether other tensors may require gradients. Where none does autograd need not look
            for the weights, which takes as long as a layer of a small network.

    Returns:
        The loss, () or (K,), and the logits.
    """
    logits = model(images)
    losses = loss(logits, labels)
    if not add:
        for weight in weights:
            weight.grad = None
    taken = losses if scale is None else scale.scale(losses)
    each = torch.ones_like(taken) if taken.ndim else None
    torch.autograd.backward(taken, each, inputs=weights if others else None)
    return losses.detach(), logits.detach()


def update(
    optimizer: Steps,
    weights: Sequence[Tensor],
    limit: float | Tensor | None = None,
    stats: Measures | None = None,
) -> None:
    """Measure the gradients, clip them and step.

    Args:
        optimizer: over the weights; a `LossScale` where gradients are of a scaled loss.
        weights: whose gradients `gradients` has left.
        limit: of the norm over all of them; (K,) of members, infinite for those without one.
        stats: takes the size of the gradients, and compares the weights before and after, at a step
            that is measured.
    """
    if isinstance(optimizer, LossScale):
        optimizer.unscale()
    if stats is not None:
        stats.see_gradients(weights)
    before = stats.before() if stats is not None else []
    if isinstance(limit, Tensor):
        clip_members(weights, limit)
    elif limit is not None:
        torch.nn.utils.clip_grad_norm_(weights, limit)
    optimizer.step()
    if stats is not None:
        stats.after(before)


def due(every: int | None, i: int) -> bool:
    """Whether what is done at every so many steps is done at the i-th; never for 0 or None."""
    return every is not None and every > 0 and i % every == 0


@torch.no_grad()
def clip_members(weights: Sequence[Tensor], limits: Tensor) -> None:
    """Scale each member's gradient down to its own limit (K,), as clip_grad_norm_ does."""
    found = [weight.grad for weight in weights if weight.grad is not None]
    norms = member_norms(found).norm(dim=0)  # (K,)
    factors = (limits / (norms + 1e-6)).clamp(max=1.0)
    factors = torch.where(limits.isinf(), 1.0, factors)
    for gradient in found:
        gradient.mul_(factors.view(-1, *(1,) * (gradient.ndim - 1)))


def member_norms(tensors: Iterable[Tensor]) -> Tensor:
    """(tensors, K) Euclidean norms of tensors (K, ...)."""
    return torch.stack([torch.linalg.vector_norm(t.reshape(len(t), -1), dim=1) for t in tensors])
