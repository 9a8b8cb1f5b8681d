"""What settings of data must be together, as far as can be seen without opening any."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.limits import finite
from lrexp.config.mistakes import unknown_setting
from lrexp.config.schema import chosen_option
from lrexp.config.schema.data import (
    HUB_NAME,
    CsvTable,
    Data,
    HuggingFace,
    ImageFiles,
    Synthetic,
    TorchvisionSet,
)


def check_data(data: Data) -> None:
    """Raise a ConfigError for the first setting that cannot be used."""
    channels = None
    if data.image_shape is not None:
        if len(data.image_shape) != 3:
            hint = "channels, height and width, such as [1, 28, 28]"
            raise ConfigError("data.image_shape", "must be three numbers", hint, data.image_shape)
        channels = data.image_shape[0]
    _check_classes(data)
    if data.val_fraction + data.test_fraction >= 1:
        given = f"{data.val_fraction} + {data.test_fraction}"
        raise ConfigError(
            "data.val_fraction", "and data.test_fraction leave nothing to train on", given=given
        )
    if data.mean is not None or data.std is not None:
        _check_normalization("data", data.mean, data.std, channels)
    normalize = data.normalize
    if isinstance(normalize, dict):
        unknown = [key for key in normalize if key not in ("mean", "std", "chosen")]
        if unknown:
            raise unknown_setting(f"data.normalize.{unknown[0]}", normalize[unknown[0]])
        mean, std = normalize.get("mean"), normalize.get("std")
        _check_normalization("data.normalize", mean, std, channels)
    elif normalize not in ("auto", "dataset", "weights"):
        hint = did_you_mean(str(normalize), ["auto", "dataset", "weights"])
        problem = "is neither one of the choices nor {mean: [...], std: [...]}"
        raise ConfigError("data.normalize", problem, hint, normalize)
    for name, path in data.eval_sets.items():
        key = f"data.eval_sets.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ConfigError(key, "must be named with letters, digits, '_' and '-'")
        if name in ("train", "train_eval", "val", "test"):
            raise ConfigError(key, "is the name of a split; choose another", given=path)
        if not Path(path).expanduser().exists():
            raise ConfigError(key, "there is no such file or folder", given=path)
    _check_place(data)


def _check_place(data: Data) -> None:
    """Where the data is, as far as that can be seen without opening it."""
    if data.group_by is not None and not isinstance(data, HuggingFace | CsvTable):
        hint = "data=hf and data=csv have columns"
        raise ConfigError("data.group_by", "this data set has no columns", hint, data.group_by)
    if isinstance(data, TorchvisionSet) and not data.download:
        held = Path(data.root).expanduser() / chosen_option("data", data).folder
        if not held.is_dir():
            hint = f"put the files of {data.name} there, or allow data.download=true"
            raise ConfigError("data.root", f"there is no folder {held}", hint, data.root)
    if isinstance(data, ImageFiles):
        if data.channels not in (1, 3):
            raise ConfigError("data.channels", "must be 1 (grey) or 3 (RGB)", given=data.channels)
        path, wanted = Path(data.path).expanduser(), "folder"
        there = path.is_dir()
        if isinstance(data, CsvTable):
            there, wanted = path.is_file(), "file"
        if isinstance(data, HuggingFace):
            there, wanted = path.exists(), "file or folder"
            there = there or re.fullmatch(HUB_NAME, data.path) is not None
        if not there:
            raise ConfigError("data.path", f"there is no {wanted} {path}", given=data.path)
    if isinstance(data, CsvTable) and data.images is not None:
        folder = Path(data.images).expanduser()
        if not folder.is_dir():
            raise ConfigError("data.images", f"there is no folder {folder}", given=data.images)
    if isinstance(data, Synthetic):
        for key in ("image_shape", "num_classes", "train_size"):
            if getattr(data, key) is None:
                hint = "data=synthetic makes what it says"
                raise ConfigError(f"data.{key}", "may not be empty", hint, "null")


def _check_classes(data: Data) -> None:
    classes = data.classes
    if classes is None:
        return
    for c in classes:
        if not (type(c) is int and c >= 0) and not isinstance(c, str):
            raise ConfigError("data.classes", "must be a list of labels or names", given=classes)
        if data.num_classes is not None and isinstance(c, int) and c >= data.num_classes:
            allowed = f"allowed: 0 to {data.num_classes - 1}"
            raise ConfigError("data.classes", f"there is no class {c}", allowed, classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ConfigError(
            "data.classes", "must name at least two classes, each once", given=classes
        )


def _check_normalization(key: str, mean: Any, std: Any, channels: int | None) -> None:
    """A finite number per channel each."""
    for name, values in (("mean", mean), ("std", std)):
        numbers = (
            isinstance(values, list)
            and values
            and all(type(v) in (int, float) and finite(v) for v in values)
        )
        if not numbers:
            hint = "a list with a finite number per channel"
            raise ConfigError(f"{key}.{name}", "is not given", hint, given=values)
    if len(mean) != len(std) or (channels is not None and len(mean) != channels):
        problem = f"and {key}.std need one number per channel"
        problem += "" if channels is None else f" ({channels})"
        raise ConfigError(f"{key}.mean", problem, given=mean)
    if not all(value > 0 for value in std):
        raise ConfigError(f"{key}.std", "must be above 0", given=std)
