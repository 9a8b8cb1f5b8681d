"""Settings of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, location, number, setting

BUNDLED = "bundled:"  # prefix of model.weights for files that ship in lrexp/models/bundled


@dataclass
class Model:
    """What every model option has."""

    name: str = setting()
    weights: str | None = location(only=False)  # a file, a run folder, or BUNDLED and a name
    strict: bool = setting()
    layers: list[str] | None = setting()  # globs or re:REGEX, from the input up
    convention: str = choice("timm", "beit", "block", "strict")


@dataclass
class SimpleCnn(Model):
    channels: int = number(at_least=1)
    kernel_size: int = number(at_least=1)
    hidden: int = number(at_least=1)


@dataclass
class Mlp(Model):
    widths: list[int] = number(at_least=1)
    dropout: float = number(at_least=0, below=1)


@dataclass
class CifarResnet(Model):
    depth: int = choice(20, 32, 44, 56)


@dataclass
class LibraryModel(Model):
    """A network of torchvision or timm; `name` is the library's."""

    library: str = setting()
    args: dict[str, Any] = setting()
    pretrained: bool = setting()


@dataclass
class TorchvisionModel(LibraryModel):
    stem: str = choice("imagenet", "small")


@dataclass
class CustomModel(Model):
    """The user's own class; `library` is `custom`, so that `name` can be the network's."""

    library: str = setting()
    target: str = setting()
    args: dict[str, Any] = setting()
