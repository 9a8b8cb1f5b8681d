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
        torch.save(state, fresh)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def load_checkpoint(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in a file, its tensors on `device`; only tensors and plain values are accepted."""
    return torch.load(file, map_location=device, weights_only=True)
