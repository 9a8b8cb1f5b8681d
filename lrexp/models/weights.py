"""Weights from files and runs: what is in them, and what of it fits a model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.schema.training import BUNDLED, LibraryModel, Model
from lrexp.folder.layout import BEST, CHECKPOINTS
from lrexp.models.weight_files import read_file

log = logging.getLogger(__name__)

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
OF_RUN = Path(CHECKPOINTS) / BEST
SHOWN = 4  # names in a message, before the rest is counted


@dataclass(frozen=True)
class Weights:
    """Tensors by name, on the meta device when only their shapes were read."""

    key: str  # the setting that asked for them
    said: str  # what messages call them
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None  # that the head was trained on, if known
    note: str = ""  # what the log says of where they were found


def save_weights(
    state: Mapping[str, Tensor],
    file: Path,
    class_names: tuple[str, ...],
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Write a model's state_dict, which classes its head knows, and perhaps mean and std."""
    # one of two names of a tensor gets a copy: the format knows no sharing
    tensors, seen = dict[str, Tensor](), set[int]()
    for name, tensor in state.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    metadata = {"class_names": json.dumps(class_names)}
    if normalization:
        metadata |= dict(zip(("mean", "std"), map(json.dumps, normalization), strict=True))
    save_file(tensors, file, metadata=metadata)


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
    found, prefix = _without_prefix(source.tensors, wanted)
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
    loaded = {name for name, _ in model.named_parameters() if name in fitting}
    if not loaded:
        hint = said or "the head alone would fit in shape, and it is for other classes"
        raise ConfigError(source.key, "none of the tensors fits the model", hint, source.said)
    if said and strict:
        hint = f"model.strict=false loads the {len(fitting)} tensors that fit, and no others"
        raise ConfigError(source.key, "do not fit the model", f"{said}\n  {hint}", source.said)
    if not meta:
        model.load_state_dict(fitting, strict=False)
    notes = [f"head fresh: {_few(head)}"] if head and head[0] not in fitting else []
    notes += [f"adapted to other channels: {_few(adapted)}"] if adapted else []
    notes += [source.note] if source.note else []
    notes += [f"prefix {prefix} left out of every name"] if prefix else []
    report = [f"{what} {_few(names) or 'none'}" for what, names in problems.items()]
    line = f"loaded {len(fitting)} tensors of {source.said}; {'; '.join([*report, *notes])}"
    guessed = prefix or source.note
    log.log(logging.WARNING if said or guessed else logging.INFO, line)
    return loaded


def read_weights(weights: str, header_only: bool = False) -> Weights:
    """The tensors that a setting of model.weights names.

    Args:
        weights: a safetensors file; a checkpoint that torch.load reads with weights_only=True, a
            plain state_dict or one in nested dictionaries; a run folder, whose best weights are
            meant; or `bundled:NAME`.
        header_only: read names and shapes alone.

    Raises:
        ConfigError: when there is no such file or it holds no weights.
    """
    tensors, class_names, note = read_file(weights_path(weights), weights, header_only)
    return Weights("model.weights", weights, tensors, class_names, note)


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


def _without_prefix(
    tensors: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors under the model's names, and the prefix that each of them had beyond those.

    Wrappers (DataParallel's `module.`, torch.compile's `_orig_mod.`, a trainer's `model.`) put one
    before every name, and may have tensors of their own beside (`n_averaged`). Of the prefixes
    that all dotted names share it is the one without which the most names are the model's, the
    shortest on ties.
    """
    wanted = set(wanted)
    parts = zip(*(name.split(".")[:-1] for name in tensors if "." in name), strict=False)
    shared = [part for part, *_ in takewhile(lambda at: len({*at}) == 1, parts)]
    prefixes = ["".join(f"{part}." for part in shared[:i]) for i in range(len(shared) + 1)]

    def fitting(prefix: str) -> int:
        return sum(name.removeprefix(prefix) in wanted for name in tensors)

    prefix = max(prefixes, key=fitting)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix


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
