"""A run's network as a file of Python that needs torch, and the library it is of, alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import lrexp
from lrexp.build.model import network_settings
from lrexp.config.errors import UserError
from lrexp.config.schema import chosen_option, load, option_of
from lrexp.config.schema.training import CustomModel, LibraryModel
from lrexp.models.library import (
    custom_arguments,
    library_with,
    torchvision_arguments,
)
from lrexp.use.trained import Trained

FUNCTION = '''
def network() -> nn.Module:
    """The network as it is built; model.safetensors beside this file has its weights."""
'''


def network_source(trained: Trained) -> str:
    """Python with a function `network()`, which makes the run's network without its weights.

    Of torchvision and timm it calls the library; a network of lrexp's own is copied into it whole;
    one of the user's own is imported from the user's package.

    Raises:
        UserError: for a network that no name leads back to.
    """
    model = trained.config.model
    shape, classes = trained.preprocessing.image_shape, len(trained.class_names)
    if isinstance(model, CustomModel):
        lines = _of_user(model, shape, classes)
    elif isinstance(model, LibraryModel) and model.library == "timm":
        lines = _of_timm(model, shape, classes)
    elif isinstance(model, LibraryModel):
        lines = list(_of_torchvision(model, trained.model, classes))
    else:
        lines = _of_ours(trained, shape, classes)
    of = f"{model.name} of {classes} classes, written by lrexp {lrexp.__version__}"
    return "\n".join([f"# {of!r}", "", *lines, ""])  # quoted: a name may be of several lines


def _of_ours(trained: Trained, shape: tuple[int, ...], classes: int) -> list[str]:
    model = trained.config.model
    kind: Any = load(chosen_option("model", model).make)
    file = inspect.getsourcefile(kind)
    if file is None or not Path(file).is_relative_to(Path(lrexp.__file__).parent):
        what = option_of(vars(model))
        raise UserError(f"model={what}: its code is not lrexp's, and no name says where it is")
    called = _call(kind.__name__, (shape, classes), network_settings(model))
    return [standalone(Path(file)), f"{FUNCTION}    return {called}"]


def standalone(file: Path) -> str:
    """A file of ours without its docstring, errors of ours in it being ValueErrors."""
    text = re.sub(r'\A""".*?"""\n+', "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(
        r"^from lrexp\.config\.errors import (\w+)$", r"\1 = ValueError", text, flags=re.M
    )


def _call(called: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """A call as Python writes it, of plain values under names that configs of others may hold."""
    if odd := [name for name in named if not name.isidentifier()]:
        raise UserError(f"{called} cannot be exported: {odd[0]!r} is no name of an argument")
    arguments = [*map(repr, given), *(f"{name}={value!r}" for name, value in named.items())]
    return f"{called}({', '.join(arguments)})"


def _of_timm(model: LibraryModel, shape: tuple[int, ...], classes: int) -> list[str]:
    args = {"num_classes": classes, "in_chans": shape[0], **network_settings(model)["args"]}
    called = _call("timm.create_model", (model.name,), args)
    return ["import timm", "from torch import nn", "", f"{FUNCTION}    return {called}"]


def _of_torchvision(model: LibraryModel, built: nn.Module, classes: int) -> Iterator[str]:
    """The library's network, and what is put in the place of some of its layers."""
    args = torchvision_arguments(model.name, network_settings(model)["args"])
    plain = library_with("torchvision", model.name).get_model(
        model.name, num_classes=classes, **args
    )
    theirs = {name: repr(module) for name, module in plain.named_modules()}
    made = _call("models.get_model", (model.name,), {"num_classes": classes, **args})
    yield from ("from torch import nn", "from torchvision import models", "")
    yield f"{FUNCTION}    model = {made}"
    for name, module in built.named_modules():
        if not any(module.children()) and repr(module) != theirs.get(name):
            parent, _, last = name.rpartition(".")
            owner = f"model.get_submodule({parent!r})" if parent else "model"
            yield f"    setattr({owner}, {last!r}, nn.{module!r})"
    yield "    return model"


def _of_user(model: CustomModel, shape: tuple[int, int, int], classes: int) -> list[str]:
    module, _, name = model.target.rpartition(".")
    if module in ("__main__", "in_memory"):
        raise UserError(
            f"{model.target} cannot be exported: it was handed over by a program, and no module"
            " that others can import holds it\n  move it into one, and train with it again"
        )
    args = custom_arguments(model.target, shape, classes, model.args)
    returned = f"{FUNCTION}    return {_call(name, (), args)}"
    return ["from torch import nn", "", f"from {module} import {name}", "", returned]
