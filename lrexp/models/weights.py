"""Reading and writing weights: safetensors, with the class names the head was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lrexp.errors import ConfigError, did_you_mean
from lrexp.schema import BUNDLED

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


def save_weights(state: Mapping[str, Tensor], file: Path, class_names: tuple[str, ...]) -> None:
    """Write a model's state_dict, and which classes its head knows."""
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, file, metadata={"class_names": json.dumps(class_names)})


def load_weights(
    model: nn.Module,
    weights: str,
    class_names: tuple[str, ...],
    head_name: str | tuple[str, ...],
) -> set[str]:
    """Copy weights into a model, its head only if it was trained on the same classes.

    Of a model on the meta device, which holds no values, only the file's header is read.

    Args:
        model: filled in place.
        weights: a safetensors file, or `bundled:NAME`.
        class_names: of the data at hand. A head for other classes stays fresh; a file that does
            not say its classes is judged by the head's shape.
        head_name: dotted name of the model's classifier, or names.

    Returns:
        The names of the parameters that were loaded.

    Raises:
        ConfigError: when the file is no safetensors file, or does not fit outside the head.
    """
    path = _path_of(weights)
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            known_classes = json.loads((file.metadata() or {}).get("class_names", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            "model.weights", f"is no safetensors file: {error}", given=weights
        ) from error
    wanted = model.state_dict()
    heads = (head_name,) if isinstance(head_name, str) else head_name
    prefixes = tuple(f"{name}." for name in heads)
    head = {name for name in wanted if name.startswith(prefixes)}
    same_classes = known_classes is None or tuple(known_classes) == class_names
    if not same_classes or any(
        name not in found or found[name] != wanted[name].shape for name in head
    ):
        wanted = {name: t for name, t in wanted.items() if name not in head}
        found = {name: s for name, s in found.items() if not name.startswith(prefixes)}
    problems = [
        *(f"missing {name}" for name in wanted.keys() - found.keys()),
        *(f"unexpected {name}" for name in found.keys() - wanted.keys()),
        *(
            f"{name} is {found[name]}, the model wants {tuple(wanted[name].shape)}"
            for name in wanted.keys() & found.keys()
            if found[name] != wanted[name].shape
        ),
    ]
    if problems:
        raise ConfigError(
            "model.weights", "do not fit the model", "; ".join(sorted(problems)[:4]), weights
        )
    if not any(tensor.is_meta for tensor in wanted.values()):
        with torch.no_grad(), safe_open(path, "pt") as file:
            model.load_state_dict({n: file.get_tensor(n) for n in found}, strict=False)
    return {name for name, _ in model.named_parameters() if name in found}


def weights_fingerprint(weights: str | None) -> str | None:
    """16 hex digits over the bytes of a weights file; None without weights."""
    if not weights:
        return None
    return hashlib.blake2b(_path_of(weights).read_bytes(), digest_size=8).hexdigest()


def _path_of(weights: str) -> Path:
    if not weights.startswith(BUNDLED):
        return Path(weights).expanduser()
    name = weights.removeprefix(BUNDLED)
    file = BUNDLED_FOLDER / f"{name}.safetensors"
    if not file.is_file():
        shipped = [f"{BUNDLED}{f.stem}" for f in BUNDLED_FOLDER.glob("*.safetensors")]
        hint = did_you_mean(weights, shipped)
        raise ConfigError("model.weights", "nothing of that name ships with lrexp", hint, weights)
    return file
