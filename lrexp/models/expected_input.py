"""What the weights that a model starts from expect of their images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lrexp.config.errors import ConfigError
from lrexp.config.saved import read_saved_config
from lrexp.config.schema.training import LibraryModel, Model
from lrexp.folder.layout import CHECKPOINTS, CONFIG
from lrexp.models.pretrained import timm_config, torchvision_weights
from lrexp.models.weights import weights_path


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
    run = path.parent.parent / CONFIG
    if path.parent.name == CHECKPOINTS and run.is_file():
        return _of_run(run)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        mean, std = (tuple(map(float, json.loads(metadata[key]))) for key in ("mean", "std"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):  # another kind of file
        return None
    return ExpectedInput(mean, std, None)


def _of_run(file: Path) -> ExpectedInput | None:
    data = read_saved_config(file).get("data")
    data = data if isinstance(data, dict) else {}
    numbers = data.get("normalize")
    numbers = numbers if isinstance(numbers, dict) else data
    if not numbers.get("mean") or not numbers.get("std"):
        return None
    try:
        mean, std = (tuple(map(float, numbers[key])) for key in ("mean", "std"))
    except (TypeError, ValueError) as error:
        problem = "the run's data.normalize has no usable mean and std"
        raise ConfigError("model.weights", problem, place=str(file)) from error
    size = data.get("image_size")
    return ExpectedInput(mean, std, size if isinstance(size, int) else None)
