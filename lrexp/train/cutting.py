"""Where a network can be cut: what a module of it gets, and whether that decides all it makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.data.generators import begun_at, moved
from lrexp.train.computing import AUTOCAST, PLAIN, Computing
from lrexp.train.feature_store import NotCachedError
from lrexp.train.forward import DRAWN

# images that are tried in a batch of their own, and by every run that takes what another computed
AGAIN = 2


class _Reached(BaseException):
    """The network came as far as the cut."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.args_there, self.kwargs_there = args, kwargs


def reaching(model: nn.Module, cut: str, images: Tensor, computing: Computing = PLAIN) -> Tensor:
    """(B, ...) what a module of the network gets of images; nothing behind is computed.

    As a training step computes it where the network is in training mode, else as an evaluation: in
    bf16 and fp16 what it gets may be of that type.

    Raises:
        NotCachedError: when it is not called, or not with one tensor of as many images.
    """

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    handle = model.get_submodule(cut).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.enable_grad() if model.training else torch.inference_mode():
            computing.forward(model)(images)
    except _Reached as reached:
        return _only_tensor(reached.args_there, reached.kwargs_there, len(images))
    finally:
        handle.remove()
    raise NotCachedError(f"{cut} takes no part in what the network computes")


def _only_tensor(args: tuple[Any, ...], kwargs: dict[str, Any], images: int) -> Tensor:
    """What a module was called with, apart from what it may do to it."""
    (first, *others) = args or (None,)
    if others or kwargs or not isinstance(first, Tensor) or first.shape[:1] != (images,):
        raise NotCachedError("the head is given more than one tensor, or not a row of it per image")
    return first.detach().clone(memory_format=torch.contiguous_format)


def refuse_by_trying(network: nn.Module, cut: str, images: Tensor, computing: Computing) -> None:
    """Raise NotCachedError unless the module `cut` and what it gets say all of the network.

    Args:
        network: used up by it; its mode is that of what is tried.
        cut: name of the module.
        images: (B, C, H, W).
        computing: how both are computed.
    """
    device, part = images.device, network.get_submodule(cut)
    inputs: list[Tensor] = []
    outputs: list[tuple[Any, int]] = []  # and how often each had been changed when it came
    made: list[Any] = []  # by the network, before it is converted
    drawn: list[str | None] = []
    below = {n: b for n, b in network.named_buffers() if not n.startswith(f"{cut}.")}
    before = {name: buffer.clone() for name, buffer in below.items()}

    def at_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(_only_tensor(args, kwargs, len(images)))
        drawn.append(moved(DRAWN, device))

    def at_output(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append((output, getattr(output, "_version", 0)))

    handles = [
        part.register_forward_pre_hook(at_input, with_kwargs=True),
        part.register_forward_hook(at_output),
        network.register_forward_hook(lambda _, __, output: made.append(output)),
    ]
    with begun_at(DRAWN, device):
        logits: Any = computing.forward(network)(images)
    for handle in handles:
        handle.remove()
    if len(inputs) != 1:
        raise NotCachedError(f"{cut} is called {len(inputs)} times for a batch")
    if drawn[0] is not None:
        raise NotCachedError(f"the frozen part draws random numbers (from {drawn[0]})")
    now = dict(network.named_buffers())
    if not all(same(buffer, now[name]) for name, buffer in before.items()):
        raise NotCachedError("the frozen part moves statistics of its own")
    (output, version), (features,) = outputs[0], inputs
    (own,) = made
    if not isinstance(own, Tensor) or own is not output or own._version != version:
        raise NotCachedError(f"the network does something with what {cut} makes")
    with begun_at(DRAWN, device):
        again = computing.forward(part)(features.clone())
    if not torch.equal(logits, again):
        raise NotCachedError(f"{cut} makes something else of the same features")
    if not same(features, reaching(network, cut, images, computing)):
        raise NotCachedError("the frozen part makes something else of the same images")
    # in float32: what bf16 and fp16 round otherwise in another batch is no sign of it
    exact = replace(computing, precision="fp32")
    alone = reaching(network, cut, images[:AGAIN], exact)
    together = reaching(network, cut, images, exact)[:AGAIN]
    largest = float(together.abs().max())
    if not torch.allclose(alone, together, rtol=1e-3, atol=1e-5 * largest):
        raise NotCachedError("what the frozen part makes of an image depends on its batch")


def same(one: Tensor, other: Tensor) -> bool:
    """To the bit; on a GPU, which sums in whatever order, up to that."""
    if one.device.type == "cpu" or one.shape != other.shape:
        return torch.equal(one, other)
    return alike(one, other)


def alike(one: Tensor, other: Tensor) -> bool:
    """Up to what sums in another order round otherwise: in bf16 and fp16 a few of their last bits.

    Of these an error of one layer is as large as its largest value, also where values cancel.
    """
    if one.dtype not in AUTOCAST.values():
        return torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
    bits = 4 * torch.finfo(one.dtype).eps
    largest = float(one.float().nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, other, rtol=bits, atol=bits * largest, equal_nan=True)
