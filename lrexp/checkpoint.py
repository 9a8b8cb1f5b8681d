"""Checkpoints: written whole or not at all, and read without running code from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values beside the file, then put it in its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        torch.save(_alone(state), fresh)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def _alone(value: Any) -> Any:
    """The value, with copies of tensors that are part of a larger one: it would be saved whole."""
    if isinstance(value, dict):
        return {key: _alone(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_alone(inner) for inner in value]
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone()
    return value


def load_checkpoint(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in a file, its tensors on `device`; only tensors and plain values are accepted."""
    return torch.load(file, map_location=device, weights_only=True)
