"""Networks from torchvision and timm, by name, without weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from lrexp.errors import ConfigError, nearest

# Settings of the libraries that have their own place here.
TAKEN = {
    "num_classes": "the number of classes follows data",
    "in_chans": "the number of channels follows data",
    "weights": "write model.weights",
    "checkpoint_path": "write model.weights",
    "pretrained": "write model.weights",
    "features_only": "features have no classifier to train",
}
# Without auxiliary classifiers, which would make the output in training a tuple.
AUXILIARY = ("googlenet", "inception_v3")


def torchvision_model(
    image_shape: tuple[int, int, int], num_classes: int, *, name: str, args: dict[str, Any]
) -> nn.Module:
    """A classification network of torchvision, randomly initialised.

    They are made for 3 channels. For one channel the first convolution is summed over its inputs,
    which computes what the 3-channel network would on that image repeated in every channel.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: outputs of the head.
        name: as torchvision.models.list_models() has it.
        args: further arguments of that model's function.

    Raises:
        ConfigError: for an unknown name, an argument it does not take, or images it cannot take.
    """
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    if name in AUXILIARY:
        args = {"aux_logits": False, "init_weights": True, **args}
    model = _made(name, args, lambda: models.get_model(name, num_classes=num_classes, **args))
    channels = image_shape[0]
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    if channels == 1 and first.in_channels == 3:
        first.in_channels = 1
        first.weight = nn.Parameter(first.weight.detach().sum(1, keepdim=True))
    _check_images(model, image_shape, name)
    return model


def timm_model(
    image_shape: tuple[int, int, int], num_classes: int, *, name: str, args: dict[str, Any]
) -> nn.Module:
    """A network of timm, randomly initialised, for the data's channels.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: outputs of the head.
        name: as timm.list_models() has it.
        args: further arguments of timm.create_model, for example img_size.

    Raises:
        ConfigError: when timm is not installed; for an unknown name, an argument the model does
            not take, or images it cannot take.
    """
    try:
        import timm
    except ImportError as error:
        hint = "pip install 'lrexp[timm]', or model=torchvision, which needs nothing more"
        raise ConfigError("model", "needs timm, which is not installed", hint, "timm") from error
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    sizes = {"num_classes": num_classes, "in_chans": image_shape[0]}
    model = _made(name, args, lambda: timm.create_model(name, pretrained=False, **sizes, **args))
    _check_images(model, image_shape, name)
    return model


def _check_name(library: str, name: str, known: list[str]) -> None:
    if name not in known:
        match = nearest(name, known)
        listed = f"{len(known)} names: {library}{'.models' * (library != 'timm')}.list_models()"
        hint = f"did you mean '{match}'? {listed}" if match else listed
        raise ConfigError("model.name", f"{library} has no such model", hint, name)


def _made(name: str, args: dict[str, Any], make: Any) -> nn.Module:
    for key in args:
        if key in TAKEN:
            raise ConfigError(f"model.args.{key}", "cannot be set here", TAKEN[key], args[key])
    try:
        return make()
    except Exception as error:  # whatever a constructor makes of arguments it cannot use
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = args or ""
        raise ConfigError("model.args", f"{name} cannot be built: {said}", given=given) from error


def _check_images(model: nn.Module, image_shape: tuple[int, int, int], name: str) -> None:
    """Run the network once on an empty image, so that what does not fit is known at the start."""
    if next(model.parameters()).is_meta:
        return
    training = model.training
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.eval()(torch.zeros(1, *image_shape))
    except Exception as error:  # assertions, shape errors, whatever the network raises
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        shape = "×".join(map(str, image_shape))
        raise ConfigError(
            "model.name",
            f"cannot take images of {shape}: {said}",
            "choose another model; some take their size under model.args (img_size, image_size)",
            name,
        ) from error
    model.train(training)
