"""How forward and backward passes are computed: in which numbers, layout, compiled or not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.config.errors import UserError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# trainer.compile → arguments of torch.compile. Every shape has a graph of its own, so that what is
# computed does not depend on which shapes came before, as before and after a run went on. Autotuned
# kernels come without CUDA graphs, which trainer.cuda_graph makes of the whole pass.
COMPILERS: dict[str, dict[str, Any]] = {
    "default": {"backend": "inductor", "dynamic": False},
    "max-autotune": {
        "backend": "inductor",
        "mode": "max-autotune-no-cudagraphs",
        "dynamic": False,
    },
    "aot_eager": {"backend": "aot_eager", "dynamic": False},
}


@dataclass(frozen=True)
class Computing:
    """How a network is computed. Its weights are float32, whatever a pass computes in.

    Training, evaluation, tests and predictions go through the same `forward`. Compiled is the
    training step alone: what is judged is computed as whoever loads the weights will.
    """

    precision: str = "fp32"  # of schema.training.PRECISIONS
    channels_last: bool = False
    compile: str = "none"  # of schema.training.COMPILED
    cuda_graph: bool = False

    def forward(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network as it is computed: images (B, C, H, W) → logits (B, classes) float32.

        The network itself where nothing is asked for. Also a part of it, on what it gets of them.
        """
        dtype, nhwc = AUTOCAST.get(self.precision), self.channels_last
        if dtype is None and not nhwc:
            return model

        def computed(images: Tensor) -> Tensor:
            if nhwc and images.ndim == 4:  # what a part gets may have no height and width left
                images = images.contiguous(memory_format=torch.channels_last)
            if dtype is None:
                return model(images)
            with torch.autocast(images.device.type, dtype):
                logits = model(images)
            return logits.float() if logits.dtype == dtype else logits

        return computed

    @property
    def unscaled(self) -> Computing:
        """For gradients that no scaler keeps from becoming 0: float32 in place of float16."""
        return replace(self, precision="fp32") if self.precision == "fp16" else self

    @contextmanager
    def compiled(self, model: nn.Module) -> Iterator[None]:
        """The network is compiled in it, where that is asked for, and its names stay.

        A graph holds for what trains and which modules are in training mode now: of a parameter
        that is unfrozen later it has no gradient, and nobody would say so. Begin anew then.

        Raises:
            UserError: when it cannot be compiled.
        """
        if self.compile == "none":
            yield
            return
        _forget_graphs_of_others(model)
        model.compile(**COMPILERS[self.compile])
        try:
            yield
        except Exception as error:
            if not _of_the_compiler(error):
                raise
            said = first_line(getattr(error, "inner_exception", error))
            raise UserError(
                f"trainer.compile={self.compile}: the network cannot be compiled here: {said}\n"
                "  trainer.compile=none trains it as it is"
            ) from error
        finally:
            model._compiled_call_impl = None  # copies, evaluation and whoever has it: as it was


_graphs_are_for: Hashable = None  # what the program's compiled graphs were traced with


def _forget_graphs_of_others(model: nn.Module) -> None:
    """Drop all compiled graphs unless they are of this network in its phase of now.

    They are found by the code of a network's class and by guards, which do not have to ask for
    `requires_grad`: another network's, or those of another phase, might be taken.
    """
    global _graphs_are_for
    trains = tuple(p.requires_grad for p in model.parameters())
    now = weakref.ref(model), trains, tuple(m.training for m in model.modules())
    if now != _graphs_are_for:
        torch.compiler.reset()
        _graphs_are_for = now


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _of_the_compiler(error: Exception) -> bool:
    """Whether the error is one of torch's compiler, which is imported where it is used."""
    ours = ("torch._dynamo", "torch._inductor")
    return any(kind.__module__.startswith(ours) for kind in type(error).__mro__)


PLAIN = Computing()
COLLECT_EVERY = 256  # steps


@contextmanager
def quiet_collector() -> Iterator[Callable[[int], None]]:
    """Python's garbage collector is off in it, and collects what came up in it right after.

    A collection looks at every object there is, and steps wait for it. Yields what is called after
    every step: now and then it collects what came up since, so that a network whose activations
    hang together in circles does not fill the memory. Left alone where somebody turned the
    collector off before, who collects himself.
    """
    if not gc.isenabled():
        yield lambda step: None
        return

    def now_and_then(step: int) -> None:
        if step % COLLECT_EVERY == 0:
            gc.collect(1)

    gc.disable()
    try:
        yield now_and_then
    finally:
        gc.enable()
        gc.collect(1)  # the young alone: what was there before is not looked at
