"""Networks from torchvision, timm and the user's own packages, with random weights."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from lrexp.config.errors import ConfigError, first_line, nearest
from lrexp.config.parts import called, part, taken_of

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
    models = library_with("torchvision", name)
    args = torchvision_arguments(name, args)
    model = made(name, args, lambda: models.get_model(name, num_classes=num_classes, **args))
    first_name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    small = stem == "small"
    if small and not isinstance(model, models.ResNet):
        problem = f"is a setting of the ResNets, and {name} is none"
        raise ConfigError("model.stem", problem, "model.stem=imagenet keeps its own", stem)
    if small or image_shape[0] != first.in_channels:
        same = ("kernel_size", "stride", "padding", "dilation")
        geometry: dict[str, Any] = {name: getattr(first, name) for name in same}
        geometry |= {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)} if small else {}
        sizes, bias = (image_shape[0], first.out_channels), first.bias is not None
        conv = nn.Conv2d(*sizes, bias=bias, **geometry)
        if isinstance(model, models.ResNet):  # as torchvision begins its convolutions
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        parent, _, last = first_name.rpartition(".")
        setattr(model.get_submodule(parent), last, conv)
    if small:
        model.add_module("maxpool", nn.Identity())
    check_images(model, image_shape, name)
    return model


def torchvision_arguments(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """What a network of torchvision is called with, beside the number of classes."""
    return {"aux_logits": False, "init_weights": True, **args} if name in AUXILIARY else args


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
    timm = library_with("timm", name)
    sizes = {"num_classes": num_classes, "in_chans": image_shape[0]}
    model = made(name, args, lambda: timm.create_model(name, pretrained=False, **sizes, **args))
    check_images(model, image_shape, name)
    return model


def library_with(library: str, name: str) -> Any:
    """The module torchvision.models or timm, which has a classification network of that name.

    Raises:
        ConfigError: when timm is not installed or the library has none.
    """
    is_timm = library == "timm"
    try:
        module: Any = importlib.import_module("timm" if is_timm else "torchvision.models")
    except ImportError as error:
        if not is_timm:
            raise
        hint = "pip install 'lrexp[timm]', or model=torchvision, which needs nothing more"
        raise ConfigError("model", "needs timm, which is not installed", hint, "timm") from error
    if is_timm and module.is_model(name):  # with the tag of some weights, too
        return module
    known = module.list_models() if is_timm else module.list_models(module=module)
    if name not in known:
        match = nearest(name, known)
        listed = f"{len(known)} names: {module.__name__}.list_models()"
        hint = f"did you mean '{match}'? {listed}" if match else listed
        raise ConfigError("model.name", f"{library} has no such model", hint, name)
    return module


def made(name: str, args: dict[str, Any], make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` returns; a ConfigError that names the arguments when it does not."""
    for key in args:
        if key in TAKEN:
            raise ConfigError(f"model.args.{key}", "cannot be set here", TAKEN[key], args[key])
    try:
        return make()
    except Exception as error:  # whatever a constructor makes of arguments it cannot use
        problem = f"{name} cannot be built: {first_line(error)}"
        raise ConfigError("model.args", problem, given=args or "") from error


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
        hint = (
            "bring images to another size with data.image_size, or choose another model; some take"
            " their size under model.args (img_size, image_size)"
        )
        problem = f"cannot take images of {shape}: {first_line(error)}"
        raise ConfigError(key, problem, hint, name) from error
    model.train(training)
    given = tuple(getattr(logits, "shape", ()))
    if num_classes is not None and given != (1, num_classes):
        what = given or type(logits).__name__
        problem = f"gives {what} for one image of {shape}; (1, {num_classes}) is wanted"
        hint = "give __init__ a parameter num_classes: it is called with the data's"
        raise ConfigError(key, problem, hint, name)


def custom_model(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    name: str,
    target: str,
    args: dict[str, Any],
) -> nn.Module:
    """What the class or function `target` makes, called with `args` and what it takes of the data.

    Args:
        image_shape: (C, H, W), passed on as `image_shape`, and C as `in_channels`, where the
            signature has such a parameter.
        num_classes: passed on as `num_classes` where the signature has it.
        name: what messages call the network.
        target: dotted name of a subclass of nn.Module, or of a function that makes one.
        args: further arguments, by name.

    Raises:
        ConfigError: when the package is not allowed, there is no such class, it cannot be called
            so, or what it makes does not turn one image into `num_classes` numbers.
    """
    key, made_by = "model.target", part("model.target", target)
    if inspect.isclass(made_by) and not issubclass(made_by, nn.Module):
        raise ConfigError(key, "is no subclass of torch.nn.Module", given=target)
    model = called(key, target, made_by, _of_data(image_shape, num_classes), args)
    if not isinstance(model, nn.Module):
        problem = f"gave a {type(model).__name__}, no torch.nn.Module"
        raise ConfigError(key, problem, given=target)
    if next(model.parameters(), None) is None:
        raise ConfigError("model.target", "has no parameters to train", given=target)
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        hint = "give its layers their sizes: image_shape and in_channels can be asked for by name"
        raise ConfigError(key, "has lazy layers, whose shapes nothing here knows", hint, target)
    check_images(model, image_shape, name, key="model.target", num_classes=num_classes)
    return model


def custom_arguments(
    target: str, image_shape: tuple[int, int, int], num_classes: int, args: dict[str, Any]
) -> dict[str, Any]:
    """What the network `target` is made with. Raises as `custom_model`."""
    key, offered = "model.target", _of_data(image_shape, num_classes)
    return {**taken_of(key, target, part(key, target), offered, args), **args}


def _of_data(image_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    return {"image_shape": image_shape, "in_channels": image_shape[0], "num_classes": num_classes}
