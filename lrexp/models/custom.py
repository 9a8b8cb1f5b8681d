"""The user's own network, from a package that the environment allows."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.targets import check_target
from lrexp.models.library import check_images


def custom_model(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    name: str,
    target: str,
    args: dict[str, Any],
) -> nn.Module:
    """An instance of the class `target`, called with `args` and what it takes of the data.

    Args:
        image_shape: (C, H, W), passed on as `image_shape`, and C as `in_channels`, where the
            signature has such a parameter.
        num_classes: passed on as `num_classes` where the signature has it.
        name: what messages call the network.
        target: dotted name of a subclass of nn.Module.
        args: further arguments, by name.

    Raises:
        ConfigError: when the package is not allowed, there is no such class, it cannot be called
            so, or what it makes does not turn one image into `num_classes` numbers.
    """
    kind = _module_class(target)
    data = {"image_shape": image_shape, "in_channels": image_shape[0], "num_classes": num_classes}
    for key in args.keys() & data.keys():
        raise ConfigError(f"model.args.{key}", "follows data", "leave it out", args[key])
    taken = {k: v for k, v in data.items() if k in inspect.signature(kind).parameters}
    try:
        model = kind(**taken, **args)
    except ConfigError:
        raise
    except Exception as error:  # whatever a constructor makes of arguments it cannot use
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        given = ", ".join([*taken, *args]) or "no arguments"
        hint = f"it was called with {given}"
        raise ConfigError("model.target", f"cannot be built: {said}", hint, target) from error
    if next(model.parameters(), None) is None:
        raise ConfigError("model.target", "has no parameters to train", given=target)
    check_images(model, image_shape, name, key="model.target", num_classes=num_classes)
    return model


def _module_class(target: str) -> type[nn.Module]:
    """The class of that name, imported now that its package is known to be allowed."""
    check_target("model.target", target)
    path, _, last = target.rpartition(".")
    try:
        module = importlib.import_module(path)
    except Exception as error:  # the user's code runs here
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = "install its package, or put the folder that holds it on PYTHONPATH"
        raise ConfigError("model.target", f"cannot be imported: {said}", hint, target) from error
    classes = {n: v for n, v in vars(module).items() if inspect.isclass(v)}
    networks = [n for n, v in classes.items() if issubclass(v, nn.Module)]
    found = getattr(module, last, None)
    if found is None:
        problem, hint = f"{path} has no {last}", did_you_mean(last, networks)
        raise ConfigError("model.target", problem, hint, target)
    if last not in networks:
        raise ConfigError("model.target", "is no subclass of torch.nn.Module", given=target)
    return found
