"""Weights from files and runs: what is in them, and what of it fits a model."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lrexp.config.errors import ConfigError, did_you_mean, first_line
from lrexp.config.schema.training import BUNDLED, LibraryModel, Model
from lrexp.folder.layout import BEST, CHECKPOINTS

log = logging.getLogger(__name__)

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
OF_RUN = Path(CHECKPOINTS) / BEST
STATE_KEYS = ("model", "state_dict", "model_state_dict")  # where checkpoints keep the state_dict
WRAPPERS = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before every name
SHOWN = 4  # names in a message, before the rest is counted


@dataclass(frozen=True)
class Weights:
    """Tensors by name, on the meta device when only their shapes were read."""

    key: str  # the setting that asked for them
    said: str  # what messages call them
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None  # that the head was trained on, if known


def save_weights(state: Mapping[str, Tensor], file: Path, class_names: tuple[str, ...]) -> None:
    """Write a model's state_dict, and which classes its head knows."""
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, file, metadata={"class_names": json.dumps(class_names)})


def load_weights(
    model: nn.Module,
    weights: str | Weights,
    class_names: tuple[str, ...],
    head_name: str | tuple[str, ...],
    strict: bool = True,
) -> set[str]:
    """Copy weights into a model, its head only if it was trained on the same classes.

    A first convolution for another number of channels is adapted (`adapted_to_channels`), numbers
    are cast to the model's type, and BatchNorm's counters of batches may be missing. Of a model on
    the meta device, which holds no values, nothing but shapes is read. What happened to which
    tensor goes to the log as one line.

    Args:
        model: filled in place.
        weights: `read_weights` takes it, or what it returned.
        class_names: of the data at hand. A head for other classes stays fresh; weights that do
            not say their classes are judged by the head's shape.
        head_name: dotted name of the model's classifier, or names.
        strict: False leaves out whatever does not fit, with a warning.

    Returns:
        The names of the parameters that were loaded.

    Raises:
        ConfigError: when the file cannot be read, does not fit outside the head, or nothing fits.
    """
    wanted = model.state_dict()
    meta = any(tensor.is_meta for tensor in wanted.values())
    source = weights if isinstance(weights, Weights) else read_weights(weights, header_only=meta)
    found, prefix = _without_wrappers(source.tensors, wanted)
    heads = (head_name,) if isinstance(head_name, str) else head_name
    in_head = tuple(f"{name}." for name in heads)
    adapted = _adapt_input(model, found, wanted)

    head = [name for name in wanted if name.startswith(in_head)]
    other_classes = source.class_names not in (None, class_names)
    if other_classes and not head:
        problem = "are for other classes, and which tensors those decide is not known"
        raise ConfigError(source.key, problem, given=source.said)
    if other_classes or any(
        name not in found or found[name].shape != wanted[name].shape for name in head
    ):
        wanted = {name: t for name, t in wanted.items() if name not in head}
        found = {name: t for name, t in found.items() if not name.startswith(in_head)}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    mismatched = [n for n in wanted if n in found and found[n].shape != wanted[n].shape]
    problems = {
        "missing": [n for n in wanted if n not in found and n not in counters],
        "unexpected": [n for n in found if n not in wanted],
        "mismatched": [
            f"{n} is {tuple(found[n].shape)}, the model wants {tuple(wanted[n].shape)}"
            for n in mismatched
        ],
    }
    fitting = {n: t for n, t in found.items() if n in wanted and n not in mismatched}
    said = "; ".join(f"{what} {_few(names)}" for what, names in problems.items() if names)
    if said and strict:
        hint = "model.strict=false loads what fits and leaves the rest fresh"
        raise ConfigError(source.key, "do not fit the model", f"{said}\n  {hint}", source.said)
    loaded = {name for name, _ in model.named_parameters() if name in fitting}
    if not loaded:
        hint = said or "the head alone would fit in shape, and it is for other classes"
        raise ConfigError(source.key, "none of the tensors fits the model", hint, source.said)
    if not meta:
        model.load_state_dict(fitting, strict=False)
    notes = [f"head fresh: {_few(head)}"] if head and head[0] not in fitting else []
    notes += [f"adapted to other channels: {_few(adapted)}"] if adapted else []
    notes += [f"prefix {prefix} left out of every name"] if prefix else []
    report = [f"{what} {_few(names) or 'none'}" for what, names in problems.items()]
    line = f"loaded {len(fitting)} tensors of {source.said}; {'; '.join([*report, *notes])}"
    log.log(logging.WARNING if said else logging.INFO, line)
    return loaded


def read_weights(weights: str, header_only: bool = False) -> Weights:
    """The tensors that a setting of model.weights names.

    Args:
        weights: a safetensors file; a checkpoint that torch.load reads with weights_only=True, a
            plain state_dict or one under "model", "state_dict" or "model_state_dict"; a run
            folder, whose best weights are meant; or `bundled:NAME`.
        header_only: read names and shapes alone.

    Raises:
        ConfigError: when there is no such file or it holds no weights.
    """
    path = weights_path(weights)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ConfigError("model.weights", f"cannot be read: {error}", given=weights) from error
    is_safetensors = start[8:] == b"{"  # after the length of the header
    if start.startswith((b"PK", b"\x80")) and not is_safetensors:  # torch.save: zip or pickle
        return _read_checkpoint(path, weights, header_only)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {
                name: torch.empty(file.get_slice(name).get_shape(), device="meta")
                if header_only
                else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
            class_names = json.loads(metadata.get("class_names", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        problem = f"is neither a safetensors file nor a checkpoint of torch.save: {error}"
        raise ConfigError("model.weights", problem, given=weights) from error
    return Weights("model.weights", weights, tensors, class_names and tuple(class_names))


def _read_checkpoint(path: Path, weights: str, header_only: bool) -> Weights:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            content = torch.load(
                path, map_location="meta" if header_only else "cpu", weights_only=True
            )
    except Exception as error:  # unpickling raises what it likes
        problem = f"cannot be read with torch.load(weights_only=True): {first_line(error)}"
        hint = "save it anew with torch.save(model.state_dict(), FILE), or as safetensors"
        raise ConfigError("model.weights", problem, hint, weights) from error
    inner: dict[str, Any] = content if isinstance(content, dict) else {}
    class_names: Any = inner.get("class_names")
    if not _is_state(inner):
        held = [inner[key] for key in STATE_KEYS if _is_state(inner.get(key))]
        if not held:
            keys = ", ".join(map(str, list(inner)[:8])) or type(content).__name__
            hint = f"a state_dict, alone or under {', '.join(STATE_KEYS)}; it holds {keys}"
            raise ConfigError("model.weights", "holds no state_dict", hint, weights)
        inner = held[0]
    named = isinstance(class_names, list) and all(isinstance(n, str) for n in class_names)
    known = tuple(map(str, class_names)) if named else None
    return Weights("model.weights", weights, inner, known)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def adapted_to_channels(kernel: Tensor, channels: int) -> Tensor:
    """A first convolution's kernel for another number of input channels.

    For one channel it is summed over the inputs, which computes what the network would on that
    image repeated in every channel. Otherwise kernel'[:, c] = kernel[:, c mod I] · I / channels,
    which keeps the size of what comes out.

    Args:
        kernel: (O, I, h, w).
        channels: inputs of the result, (O, channels, h, w) of the same type.

    Source: timm.models.adapt_input_conv.
    """
    inputs = kernel.shape[1]
    if channels == 1:
        return kernel.float().sum(1, keepdim=True).to(kernel.dtype)
    tiled = kernel.float().repeat(1, -(-channels // inputs), 1, 1)[:, :channels]
    return (tiled * (inputs / channels)).to(kernel.dtype)


def _adapt_input(
    model: nn.Module, found: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> list[str]:
    """Make first convolutions fit the model's channels, in place; which those are."""
    cfg: Any = getattr(model, "default_cfg", {})
    named = cfg.get("first_conv") if isinstance(cfg, dict) else None
    first = (n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    adapted = []
    for module in [named] if isinstance(named, str) else named or [next(first, "")]:
        name = f"{module}.weight"
        if name not in found or name not in wanted or found[name].ndim != 4:
            continue
        (o, i, *kernel), (outputs, inputs, *size) = found[name].shape, wanted[name].shape
        if i != inputs and (o, kernel) == (outputs, size):
            found[name] = adapted_to_channels(found[name], inputs)
            adapted.append(name)
    return adapted


def _without_wrappers(
    tensors: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors under the names of the bare model, and the prefix that all of them had."""
    found, prefix, wanted = dict(tensors), "", list(wanted)
    while wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in found)), None):
        if any(name.startswith(wrapper) for name in wanted):
            break
        found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
        prefix += wrapper
    return found, prefix


def _few(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def weights_fingerprint(weights: str | Path | None) -> str | None:
    """16 hex digits over the bytes of a weights file; None without weights."""
    if not weights:
        return None
    path = weights if isinstance(weights, Path) else weights_path(weights)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def weights_name(model: Model) -> str | None:
    """What a run's first lines call the weights that a model starts from; None when random."""
    if isinstance(model, LibraryModel) and model.pretrained:
        return f"{model.library}'s pretrained {model.name}"
    return model.weights


def weights_path(weights: str) -> Path:
    """The file that a setting of model.weights names."""
    if not weights.startswith(BUNDLED):
        path = Path(weights).expanduser()
        return path / OF_RUN if path.is_dir() else path
    name = weights.removeprefix(BUNDLED)
    file = BUNDLED_FOLDER / f"{name}.safetensors"
    if not file.is_file():
        shipped = [f"{BUNDLED}{f.stem}" for f in BUNDLED_FOLDER.glob("*.safetensors")]
        hint = did_you_mean(weights, shipped)
        raise ConfigError("model.weights", "nothing of that name ships with lrexp", hint, weights)
    return file
