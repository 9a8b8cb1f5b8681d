"""What settings of a model must be together, and which weights and classes they mean."""

from __future__ import annotations

from pathlib import Path

from lrexp.config.errors import ConfigError
from lrexp.config.limits import check_regex
from lrexp.config.names import BEST, CHECKPOINTS
from lrexp.config.schema.model import BUNDLED, CustomModel, LibraryModel, Model
from lrexp.config.targets import check_target


def check_model(model: Model) -> None:
    """Raise a ConfigError for the first setting that cannot be used."""
    _check_layers(model)
    if model.weights and not model.weights.startswith(BUNDLED):
        weights_source(model.weights)
    if isinstance(model, LibraryModel) and model.pretrained and model.weights:
        hint = "keep one of them"
        raise ConfigError("model.pretrained", "and model.weights are both given", hint, True)
    if isinstance(model, CustomModel):
        check_target("model.target", model.target)


def weights_source(weights: str) -> str:
    """The file or run folder that model.weights means, other than a bundled one."""
    path = Path(weights).expanduser()
    if weights == "latest" and not path.exists():
        path = Path("outputs/latest").resolve()
    if path.is_dir() and not (path / CHECKPOINTS / BEST).is_file():
        points = sorted(str(p.parent.parent) for p in path.glob(f"*/{CHECKPOINTS}/{BEST}"))
        hint = "a plan has none, nor a run that diverged in its first epoch; give another run"
        hint = f"give one of its runs: {', '.join(points[:8])}" if points else hint
        problem = f"{path} has no checkpoints/best.pt"
        raise ConfigError("model.weights", problem, hint, weights)
    if not path.exists():
        hint = "there is no run in outputs/" if weights == "latest" else ""
        raise ConfigError("model.weights", "there is no such file or run", hint, weights)
    return str(path)


def _check_layers(model: Model) -> None:
    if model.layers is None:
        return
    if model.convention in ("beit", "block"):
        hint = "leave out one of them, or take strict"
        problem = "states an order of layers, and so does model.layers"
        raise ConfigError("model.convention", problem, hint, model.convention)
    if not model.layers:
        raise ConfigError("model.layers", "names no layer", "null: the order is found")
    for i, pattern in enumerate(model.layers):
        if pattern.startswith("re:"):
            check_regex(f"model.layers[{i}]", pattern)
