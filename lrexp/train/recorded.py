"""A forward and backward pass as a CUDA graph: recorded once, replayed for every batch like it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from lrexp.config.errors import UserError, out_of_memory
from lrexp.data.generators import begun_at, moved
from lrexp.train.computing import first_line
from lrexp.train.experiment import Experiment
from lrexp.train.loss_scale import LossScale
from lrexp.train.step import gradients

WARM_PASSES = 3  # libraries choose and load their kernels in them, which cannot be recorded

Loss = Callable[[Tensor, Tensor], Tensor]


class Pass(Protocol):
    """Forward, loss and backward of a batch: leaves gradients; returns loss () and logits."""

    def __call__(
        self, loss: Loss, images: Tensor, labels: Tensor, /, *, add: bool = False
    ) -> tuple[Tensor, Tensor]: ...


class Recorded:
    """A pass over batches of one shape, that of the first; others are computed as they come.

    A replay starts all kernels of the pass at once, so that the time to start each, which is most
    of a small network's, is spent once. The optimizer steps outside of it: rates stay numbers that
    change from step to step. What it draws follows the seed that the generators begin at.

    Args:
        one: the pass.
        weights: that it leaves gradients of, the same ones for as long as this is used.
        buffers: that a pass in training mode changes.
        phase: what the recording holds for.
    """

    def __init__(
        self,
        one: Pass,
        weights: Sequence[Tensor],
        buffers: Iterable[Tensor],
        phase: Hashable = None,
    ):
        self.phase = phase
        self._one, self._weights, self._buffers = one, list(weights), list(buffers)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images = self._labels = torch.empty(0)
        self._made: tuple[Tensor, Tensor] = (self._images, self._labels)
        self._gradients: list[Tensor | None] = []

    def __call__(
        self, loss: Loss, images: Tensor, labels: Tensor, /, *, add: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As `one`, by the first loss. The next replay writes over what it returns and leaves.

        Raises:
            UserError: when the pass cannot be recorded.
        """
        if self._graph is None:
            self._record(loss, images, labels)
        if images.shape != self._images.shape or self._graph is None:
            return self._one(loss, images, labels, add=add)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        return self._made

    def _record(self, loss: Loss, images: Tensor, labels: Tensor) -> None:
        """Record the pass; buffers and generators are as before, for nothing has been trained."""
        self._images, self._labels = images.clone(), labels.clone()
        kept = [buffer.clone() for buffer in self._buffers]
        try:
            with torch.cuda.device(images.device):
                drawn = self._warm(loss)
                if not drawn:
                    self._graph = self._captured(loss)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise _cannot(f"{first_line(error)}; it may wait for a value on the GPU") from error
        if drawn:
            raise _cannot(f"it draws from {drawn} on the CPU, and would draw the same at every one")
        self._gradients = [weight.grad for weight in self._weights]
        with torch.no_grad():
            for buffer, before in zip(self._buffers, kept, strict=True):
                buffer.copy_(before)

    def _warm(self, loss: Loss) -> str | None:
        """Compute the pass a few times; which generator of the CPU it drew from, None for none."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with begun_at(0, self._images.device), torch.cuda.stream(aside):
            for _ in range(WARM_PASSES):
                self._one(loss, self._images, self._labels)
            drawn = moved(0, torch.device("cpu"))
        here.wait_stream(aside)
        return drawn

    def _captured(self, loss: Loss) -> torch.cuda.CUDAGraph:
        """The pass as a graph, with gradients in memory of its own: none is there before."""
        for weight in self._weights:
            weight.grad = None
        graph = torch.cuda.CUDAGraph()
        # what other threads do meanwhile, such as the one that pins what is streamed, is not ours
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._made = self._one(loss, self._images, self._labels)
        return graph


def pass_of(
    experiment: Experiment,
    called: nn.Module,
    weights: Sequence[Tensor],
    scale: LossScale | None,
    before: Pass | None,
) -> Pass:
    """What computes a batch of an experiment, from a recording where that is asked for.

    Args:
        experiment: in the mode that it trains in.
        called: its network, or what stands for it among ranks or on features.
        weights: that gradients are taken of.
        scale: of losses, in float16.
        before: of the epoch before, whose recording holds for as long as the phase of the plan.
    """
    model, computing = experiment.model, experiment.computing
    known = {"weights": weights, "scale": scale, "others": experiment.own_network}
    one = partial(gradients, computing.forward(called), **known)
    if not computing.cuda_graph:
        return one
    phase = (*map(id, weights), *(module.training for module in model.modules()))
    if isinstance(before, Recorded) and before.phase == phase:
        return before
    return Recorded(one, weights, model.buffers(), phase)


def _cannot(why: str) -> UserError:
    return UserError(
        f"trainer.cuda_graph=true: a step of this network cannot be recorded: {why}\n"
        "  trainer.cuda_graph=false trains it as it is"
    )
