"""Files of weights, our own and others': the tensors in one, or why it cannot be read."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lrexp.config.errors import ConfigError, few, out_of_memory
from lrexp.folder.checkpoint import refuse_expanded, refuse_packed

# Under which keys checkpoints keep the network, best first: what trains before its average.
STATE_KEYS = (
    *("model", "state_dict", "model_state_dict", "net", "network", "module", "weights", "params"),
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict"),
)
DEEPEST = 3  # dictionaries in dictionaries that are looked into
AGAIN = "copy or download it again"

Keys = tuple[str, ...]  # that lead to a dictionary, () at the top


def read_file(
    path: Path, given: str, header_only: bool
) -> tuple[dict[str, Tensor], tuple[str, ...] | None, str]:
    """The tensors of a safetensors file or checkpoint, its classes if known, and what to say of it.

    Of a checkpoint it is the state_dict alone, or one in nested dictionaries (see `chosen`).

    Args:
        path: of the file.
        given: what the user wrote for it.
        header_only: names and shapes alone, on the meta device.

    Raises:
        ConfigError: when it cannot be opened, is damaged or something else, or holds objects that
            are no tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ConfigError("model.weights", f"cannot be read: {error}", given=given) from error
    is_safetensors = start[8:9] == b"{"  # after the length of the header
    if start.startswith((b"PK", b"\x80")) and not is_safetensors:  # torch.save: zip or pickle
        return _read_checkpoint(path, given, header_only)
    if not is_safetensors:
        raise ConfigError("model.weights", *_something_else(start), given)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {
                name: torch.empty(file.get_slice(name).get_shape(), device="meta")
                if header_only
                else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError, ValueError) as error:
        problem = f"is a damaged or incomplete safetensors file ({_size(path)})"
        raise ConfigError("model.weights", problem, AGAIN, given) from error
    try:
        class_names = _names(json.loads(metadata.get("class_names", "null")))
    except (ValueError, RecursionError):  # somebody else's, in words of their own
        class_names = None
    return tensors, class_names, ""


def _read_checkpoint(
    path: Path, given: str, header_only: bool
) -> tuple[dict[str, Tensor], tuple[str, ...] | None, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            refuse_packed(path)
            content = torch.load(
                path, map_location="meta" if header_only else "cpu", weights_only=True
            )
    except Exception as error:  # unpickling raises what it likes
        if out_of_memory(error):
            raise
        raise ConfigError("model.weights", *why_refused(path, error), given) from error
    states = dict(_states(content, lambda value: isinstance(value, Tensor)))
    keys = chosen(list(states))
    try:
        refuse_expanded(states.get(keys) if keys is not None else None)
    except ValueError as error:
        raise ConfigError("model.weights", str(error), AGAIN, given) from error
    if keys is None:
        held = (
            few(map(_printable, content)) if isinstance(content, dict) else type(content).__name__
        )
        hint = f"a state_dict, alone or under one of {', '.join(STATE_KEYS)}; it holds {held}"
        raise ConfigError("model.weights", "holds no state_dict", hint, given)
    others = [".".join(map(_printable, other)) for other in states if other != keys]
    note = f"taken from {'.'.join(keys)}, not from {few(others)}" if others and keys else ""
    class_names = content.get("class_names") if isinstance(content, dict) else None
    return states[keys], _names(class_names), note


def chosen(states: list[Keys]) -> Keys | None:
    """Which of the dictionaries of tensors in a checkpoint is the network's.

    The one under the first of `STATE_KEYS`, or the only one there is; None when nothing tells.
    """

    def rank(keys: Keys) -> int:
        return max((STATE_KEYS.index(k) for k in keys if k in STATE_KEYS), default=len(STATE_KEYS))

    best = min(states, key=lambda keys: (rank(keys), len(keys)), default=None)
    known = best == () or (best is not None and rank(best) < len(STATE_KEYS))
    return best if known or len(states) == 1 else None


def _states(
    content: Any, is_tensor: Callable[[Any], bool], keys: Keys = ()
) -> Iterator[tuple[Keys, Any]]:
    """Dictionaries of tensors alone in nested ones, and the keys that lead there."""
    if not isinstance(content, dict) or not content:
        return
    if all(isinstance(name, str) and is_tensor(value) for name, value in content.items()):
        yield keys, content
    elif len(keys) < DEEPEST:
        for name, value in content.items():
            if isinstance(name, str):
                yield from _states(value, is_tensor, (*keys, name))


def why_refused(path: Path, error: BaseException) -> tuple[str, str]:
    """Why torch.load(weights_only=True) would not read a file: problem and hint, in our words."""
    if str(error).startswith("it is packed"):
        return "is packed, and torch.save packs nothing", AGAIN
    if classes := _classes(path, error):
        problem = (
            f"holds objects beside tensors, of {few(map(_printable, classes), 4)}; they are not"
            " loaded, as that could run code"
        )
        return problem, f"if you trust whom it is from: {_conversion(path)}"
    damaged = f"is a damaged or incomplete checkpoint of torch.save ({_size(path)})", AGAIN
    if not zipfile.is_zipfile(path):
        if re.search("magic number|Unsupported operand", str(error)):
            return "is a pickle, but none that torch.save wrote, or it is damaged", ""
        return damaged
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except Exception:  # of a damaged one zipfile raises what it likes
        return damaged
    if "constants.pkl" in names:
        convert = _python(f"torch.jit.load({_quoted(path)}).state_dict()")
        return "is a TorchScript program, not its weights", f"convert it: {convert}"
    if "data.pkl" not in names:
        return "is a zip archive, but none that torch.save wrote", ""
    return f"is damaged, or holds what only pickle could read ({_size(path)})", AGAIN


def _classes(path: Path, error: BaseException) -> list[str]:
    """Classes and functions that a checkpoint names and weights_only refuses."""
    named = re.findall(r"GLOBAL (\S+) was not an allowed", str(error))
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) or named
    except Exception:  # the old format, or one that is damaged
        return named
    return sorted(named, key=lambda name: (name.startswith(("torch.", "numpy")), name))


def _conversion(path: Path) -> str:
    """How to get the weights of a checkpoint with objects in it into a file without."""
    content, loaded = _outline(path), f"torch.load({_quoted(path)}, weights_only=False)"
    items = content.items() if isinstance(content, dict) else ()
    states = [keys for keys, _ in _states(content, _is_tensor)]
    networks = [(key,) for key, value in items if key in STATE_KEYS and _is_object(value)]
    if _is_object(content):
        return _python(f"{loaded}.state_dict()")
    if keys := chosen(states) or chosen(networks):
        found = "".join(f"[{_quoted(key)}]" for key in keys)
        return _python(f"{loaded}{found}{'' if states else '.state_dict()'}")
    if any(_is_tensor(value) for _, value in items):
        return _python(f"{{n: t for n, t in {loaded}.items() if torch.is_tensor(t)}}")
    return "load it with what wrote it, and save its state_dict alone"


def _python(state: str) -> str:
    code = f'import torch; torch.save({state}, "weights.pt")'
    return f"python -c {shlex.quote(code)}"


def _quoted(text: object) -> str:
    return json.dumps(str(text), ensure_ascii=False)


class _Object:
    """Stands for whatever a pickle would make; takes its state and forgets it."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


class _Dict(dict[Any, Any]):
    """An OrderedDict, which may have attributes."""


class _Outline(pickle.Unpickler):
    """Reads how a pickle is built, and imports and calls nothing that it names."""

    def find_class(self, module: str, name: str) -> Any:
        return _Dict if name == "OrderedDict" else type(name, (_Object,), {})

    def persistent_load(self, pid: Any) -> Any:
        return pid[1] if pid[0] == "module" else None  # a class with its source, or a storage


def _is_tensor(value: Any) -> bool:
    return type(value).__name__.startswith("_rebuild")  # torch's functions that make tensors


def _is_object(value: Any) -> bool:
    return isinstance(value, _Object) and not _is_tensor(value)


def _outline(path: Path) -> Any:
    """The content of a checkpoint as dictionaries and stand-ins; None when it cannot be told."""

    def read(file: BinaryIO, pickles: int) -> Any:
        *_, last = (_Outline(file).load() for _ in range(pickles))
        return last

    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return read(file, 4)  # after a magic number, a version and sizes of the machine
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if Path(name).name == "data.pkl")
            with archive.open(name) as file:
                return read(file, 1)  # type: ignore[arg-type]
    except Exception:  # it is damaged as well
        return None


def _something_else(start: bytes) -> tuple[str, str]:
    """What a file is that begins like neither kind of weights: problem and hint."""
    if not start:
        return "is empty", AGAIN
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file it stands for", "git lfs pull fetches that"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        hint = "its address is that of a page, or asks to log in; download the file itself"
        return "is a web page, not weights", hint
    return "is neither a safetensors file nor a checkpoint of torch.save", ""


def _names(class_names: Any) -> tuple[str, ...] | None:
    named = isinstance(class_names, list) and all(isinstance(n, str) for n in class_names)
    return tuple(class_names) if named and class_names else None


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _printable(name: object) -> str:
    """A name out of a file, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(name))[:100]
