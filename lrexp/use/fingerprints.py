"""Whether a tensor changed: 64 bits of each are kept where it is, no copy, and nobody waits."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

BLOCK = 1 << 20
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHARDED = {"DTensor", "FlatParameter"}  # classes of torch; DeepSpeed marks tensors with ds_id


def fingerprint(tensor: Tensor) -> Tensor:
    """A sum of a tensor's bits, each value's times a number of its place: () int64, where it is.

    Another value in one place always gives another sum, others in several all but surely (as a
    hash of 64 bits). Exact on any device, whatever the order of the sum; nothing is waited for.
    """
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    bits = plain.contiguous().reshape(-1).view(INTEGERS[plain.element_size()])
    weights = _weights(tensor.device)
    sums = [(part.long() * weights[: len(part)]).sum() for part in bits.split(BLOCK)]
    return sums[0] if len(sums) == 1 else fingerprint(torch.stack(sums))


@functools.lru_cache
def _weights(device: torch.device) -> Tensor:
    """Odd numbers, so that none of them takes bits from a difference: (BLOCK,) int64."""
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (BLOCK,), generator=drawn).bitwise_or(1).to(device)


def readable(tensor: Tensor) -> bool:
    """Whether all of a tensor's values are here."""
    absent = isinstance(tensor, UninitializedParameter) or tensor.is_meta
    return not (absent or sharded(tensor) or tensor.layout is not torch.strided)


def sharded(tensor: Tensor) -> bool:
    """Whether other processes hold parts of a tensor."""
    return type(tensor).__name__ in SHARDED or hasattr(tensor, "ds_id")


def read(found: Mapping[Any, Tensor]) -> dict[Any, Any]:
    """Numbers by key of () tensors by key; a device is waited for once."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Any]] = {}
    for key, value in found.items():
        by_kind.setdefault((value.device, value.dtype), []).append(key)
    numbers: dict[Any, Any] = {}
    for keys in by_kind.values():
        numbers |= zip(keys, torch.stack([found[key] for key in keys]).tolist(), strict=True)
    return numbers


def prints(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fingerprints of those that can be read, by name."""
    return {name: fingerprint(t) for name, t in tensors.items() if readable(t)}
