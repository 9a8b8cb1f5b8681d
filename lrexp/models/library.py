"""Networks from torchvision and timm, by name, with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lrexp.config.errors import ConfigError, nearest

# Settings of the libraries that have their own place here.
TAKEN = {
    "num_classes": "the number of classes follows data",
    "in_chans": "the number of channels follows data",
    "weights": "write model.weights or model.pretrained",
    "checkpoint_path": "write model.weights",
    "pretrained": "write model.pretrained",
    "pretrained_cfg": "it names files and addresses: write model.weights or model.pretrained",
    "pretrained_cfg_overlay": "it names files and addresses: write model.weights",
    "cache_dir": "the library has its own place for weights",
    "features_only": "features have no classifier to train",
}
# Without auxiliary classifiers, which would make the output in training a tuple.
AUXILIARY = ("googlenet", "inception_v3")


def torchvision_model(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    name: str,
    args: dict[str, Any],
    stem: str = "imagenet",
) -> nn.Module:
    """A classification network of torchvision, randomly initialised.

    They are made for 3 channels; for any other number the first convolution is made anew.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: outputs of the head.
        name: as torchvision.models.list_models() has it.
        args: further arguments of that model's function.
        stem: `imagenet`, the network's own; of a ResNet also `small`: a 3×3 convolution of
            stride 1 and no max-pool, for images of about 32×32 (He et al. 2016, section 4.2).

    Raises:
        ConfigError: for an unknown name, an argument it does not take, a stem it does not have, or
            images it cannot take.
    """
    from torchvision import models

    check_torchvision_name(name)
    if name in AUXILIARY:
        args = {"aux_logits": False, "init_weights": True, **args}
    model = made(name, args, lambda: models.get_model(name, num_classes=num_classes, **args))
    first_name, first = _first_convolution(model)
    small = stem == "small"
    if small and not isinstance(model, models.ResNet):
        problem = f"is a setting of the ResNets, and {name} is none"
        raise ConfigError("model.stem", problem, "model.stem=imagenet keeps its own", stem)
    if small or image_shape[0] != first.in_channels:
        conv = _convolution_like(first, image_shape[0], small)
        if isinstance(model, models.ResNet):  # as torchvision begins its convolutions
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        parent, _, last = first_name.rpartition(".")
        setattr(model.get_submodule(parent), last, conv)
    if small:
        model.add_module("maxpool", nn.Identity())
    check_images(model, image_shape, name)
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
    timm = timm_with(name)
    sizes = {"num_classes": num_classes, "in_chans": image_shape[0]}
    model = made(name, args, lambda: timm.create_model(name, pretrained=False, **sizes, **args))
    check_images(model, image_shape, name)
    return model


def check_torchvision_name(name: str) -> None:
    """Refuse a name that torchvision has no classification network for."""
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))


def timm_with(name: str) -> Any:
    """The module timm, which has a model of that name.

    Raises:
        ConfigError: when timm is not installed or has none.
    """
    try:
        import timm
    except ImportError as error:
        hint = "pip install 'lrexp[timm]', or model=torchvision, which needs nothing more"
        raise ConfigError("model", "needs timm, which is not installed", hint, "timm") from error
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    return timm


def _check_name(library: str, name: str, known: list[str]) -> None:
    if name not in known:
        match = nearest(name, known)
        listed = f"{len(known)} names: {library}{'.models' * (library != 'timm')}.list_models()"
        hint = f"did you mean '{match}'? {listed}" if match else listed
        raise ConfigError("model.name", f"{library} has no such model", hint, name)


def made(name: str, args: dict[str, Any], make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` returns; a ConfigError that names the arguments when it does not."""
    for key in args:
        if key in TAKEN:
            raise ConfigError(f"model.args.{key}", "cannot be set here", TAKEN[key], args[key])
    try:
        return make()
    except Exception as error:  # whatever a constructor makes of arguments it cannot use
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = args or ""
        raise ConfigError("model.args", f"{name} cannot be built: {said}", given=given) from error


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


def _convolution_like(conv: nn.Conv2d, channels: int, small: bool) -> nn.Conv2d:
    """A fresh convolution over so many channels, of the same geometry unless `small`."""
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    if small:
        kernel, stride, padding = (3, 3), (1, 1), (1, 1)
    bias = conv.bias is not None
    sizes = (channels, conv.out_channels, kernel, stride, padding)  # type: ignore[arg-type]
    return nn.Conv2d(*sizes, dilation=conv.dilation, bias=bias)  # type: ignore[arg-type]


def check_images(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    name: str,
    key: str = "model.name",
    num_classes: int | None = None,
) -> None:
    """Run the network once on an empty image, so that what does not fit is known at the start.

    Raises:
        ConfigError: when it fails, or does not give (1, num_classes).
    """
    if next(model.parameters()).is_meta:
        return
    training, shape = model.training, "×".join(map(str, image_shape))
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = model.eval()(torch.zeros(1, *image_shape))
    except Exception as error:  # assertions, shape errors, whatever the network raises
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            key,
            f"cannot take images of {shape}: {said}",
            "bring images to another size with data.image_size, or choose another model; some take"
            " their size under model.args (img_size, image_size)",
            name,
        ) from error
    model.train(training)
    given = tuple(getattr(logits, "shape", ()))
    if num_classes is not None and given != (1, num_classes):
        what = given or type(logits).__name__
        problem = f"gives {what} for one image of {shape}; (1, {num_classes}) is wanted"
        hint = "give __init__ a parameter num_classes: it is called with the data's"
        raise ConfigError(key, problem, hint, name)
