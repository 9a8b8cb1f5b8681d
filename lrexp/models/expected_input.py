"""What the weights that a model starts from expect of their images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from lrexp.models.pretrained import timm_config, torchvision_weights
from lrexp.models.weights import weights_path
from lrexp.schema import LibraryModel, Model


@dataclass(frozen=True)
class ExpectedInput:
    """Images as the weights saw them: (pixel in [0, 1] − mean) / std, square."""

    mean: tuple[float, ...]  # per channel of the weights, which the data may have more or less of
    std: tuple[float, ...]
    size: int | None  # side in pixels, where it is known


def expected_input(model: Model) -> ExpectedInput | None:
    """The normalisation and size that a model's weights expect; None where nothing says so.

    torchvision's from its weights' own transforms, timm's from the network's description, a run's
    from its config.yaml, a safetensors file's from `mean` and `std` (JSON lists) in its metadata.
    The network is never reached, and no tensor is read.

    Raises:
        ConfigError: for pretrained weights that the library does not have.
    """
    if isinstance(model, LibraryModel) and model.pretrained:
        if model.library == "timm":
            config = timm_config(model.name)
            return ExpectedInput(tuple(config.mean), tuple(config.std), config.input_size[-1])
        preset = torchvision_weights(model.name).transforms()
        return ExpectedInput(tuple(preset.mean), tuple(preset.std), preset.crop_size[0])
    if not model.weights:
        return None
    path = weights_path(model.weights)
    run = path.parent.parent / "config.yaml"
    if path.parent.name == "checkpoints" and run.is_file():
        return _of_run(run)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        mean, std = (tuple(map(float, json.loads(metadata[key]))) for key in ("mean", "std"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):  # another kind of file
        return None
    return ExpectedInput(mean, std, None)


def _of_run(file: Path) -> ExpectedInput | None:
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    data = content.get("data", {})
    numbers = data.get("normalize")
    numbers = numbers if isinstance(numbers, dict) else data
    if not numbers.get("mean") or not numbers.get("std"):
        return None
    size = data.get("image_size")
    return ExpectedInput(
        tuple(numbers["mean"]), tuple(numbers["std"]), size if isinstance(size, int) else None
    )
