"""Parts of the user's own: what a `target` names, imported from packages that are allowed.

A target is `package.module.name`, spelled alike in every group. Functions and arrays that a program
hands over as objects have targets, too: they are known to this program for as long as it uses them.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CellType, CodeType
from typing import Any

from lrexp.config.errors import ConfigError, UserError, did_you_mean, few
from lrexp.config.schema import Config
from lrexp.config.schema.training import METRICS
from lrexp.config.targets import check_args, check_target

_given: dict[str, Any] = {}  # target → what the program handed over
LIBRARIES = sys.stdlib_module_names | {"torch", "torchvision", "timm"}
IN_MEMORY = "in_memory"  # first part of the target of what no name leads to
_DATA = re.compile(r"in_memory\.(arrays|dataset)_[0-9a-f]{16}")


@contextmanager
def given(parts: Mapping[str, Any]) -> Iterator[None]:
    """Let targets mean these objects, which need no permission, until the block ends."""
    before = dict(_given)
    _given.update(parts)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


def handed_over() -> dict[str, Any]:
    """Target → object of what this program handed over, and no other program could get at."""
    return dict(_given)


def check_part(key: str, target: str) -> None:
    """Refuse a target that may not be imported; nothing is, here.

    Raises:
        ConfigError: when it was not handed over, and its package is not allowed.
    """
    if target in _given:
        return
    if target.startswith((f"{IN_MEMORY}.", "__main__.")):
        group = key.partition(".")[0]
        argument = {"lr_policy": "policy", "trainer": "metrics"}.get(group, group)
        problem = "is what a program handed over when it ran, and nobody else can find it"
        hint = (
            f"hand it over again: lrexp.run([...], {argument}=...); what an importable module holds"
            " can be named anywhere"
        )
        raise ConfigError(key, problem, hint, target)
    check_target(key, target)


def part(key: str, target: str) -> Any:
    """What a target means, imported now that its package is known to be allowed.

    Args:
        key: of the setting.
        target: package.module.name.

    Raises:
        ConfigError: when it may not be imported, cannot be, or there is no such name.
    """
    check_part(key, target)
    if target in _given:
        return _given[target]
    path, _, last = target.rpartition(".")
    try:
        module = importlib.import_module(path)
    except Exception as error:  # the user's code runs here
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = "install its package, or put the folder that holds it on PYTHONPATH"
        raise ConfigError(key, f"cannot be imported: {said}", hint, target) from error
    if last not in vars(module):
        made_here = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", path) == path
        ]
        raise ConfigError(key, f"{path} has no {last}", did_you_mean(last, made_here), target)
    found = vars(module)[last]
    _refuse_of_library(key, target, found)
    return found


def _refuse_of_library(key: str, target: str, found: Any) -> None:
    """Refuse what Python and torch are made of: some of their functions run what a file says.

    Networks and losses are classes of torch's, which are made and no more.
    """
    kinds = inspect.getmro(found) if inspect.isclass(found) else ()
    if any((k.__module__, k.__name__) == ("torch.nn.modules.module", "Module") for k in kinds):
        return
    roots = {target.partition(".")[0], str(getattr(found, "__module__", "")).partition(".")[0]}
    if theirs := sorted(root for root in roots if root in LIBRARIES):
        hint = "wrap it in a function of your own package, and name that"
        problem = f"is of {theirs[0]}, and no subclass of torch.nn.Module"
        raise ConfigError(key, problem, hint, target)


def called(
    key: str, target: str, function: Any, offered: Mapping[str, Any], args: Mapping[str, Any]
) -> Any:
    """What a part returns, called with `args` and with what its signature has of `offered`.

    Args:
        key: of the setting that names it.
        target: its name.
        function: the part.
        offered: what lrexp can give it, by name.
        args: of the setting beside it.

    Raises:
        ConfigError: when it cannot be called so, or raises something other than a UserError.
    """
    taken = taken_of(key, target, function, offered, args)
    try:
        return function(**taken, **args)
    except UserError:
        raise
    except Exception as error:  # the user's code runs here
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        names = ", ".join([*taken, *args]) or "no arguments"
        hint = f"it was called with {names}; what it may ask for by name: {', '.join(offered)}"
        hint = hint if offered else f"it was called with {names}"
        raise ConfigError(key, f"raised {said}", hint, target) from error


def taken_of(
    key: str, target: str, function: Any, offered: Mapping[str, Any], args: Mapping[str, Any]
) -> dict[str, Any]:
    """What a part's signature has of what is offered.

    Raises:
        ConfigError: when it is no function or class, or an argument is among what is offered.
    """
    if not callable(function):
        problem = f"is a {type(function).__name__}, no function and no class"
        raise ConfigError(key, problem, given=target)
    for name in args.keys() & offered.keys():
        place = f"{key.rpartition('.')[0]}.args.{name}"
        raise ConfigError(place, "is given by lrexp", "leave it out", args[name])
    try:
        wanted = inspect.signature(function).parameters
    except ValueError:  # of some functions written in C
        wanted = {}
    return {name: value for name, value in offered.items() if name in wanted}


def number_of(key: str, target: str, value: Any) -> float:
    """A number that a part returned, of Python, numpy or torch.

    Raises:
        ConfigError: when it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        problem = f"gave a {type(value).__name__} where a number is wanted"
        raise ConfigError(key, problem, given=target) from error


def source_hashes(targets: Iterable[str]) -> dict[str, str]:
    """By module 16 hex digits of the file that its parts are written in, or of a notebook's text.

    Nothing of what has neither. What was not imported yet is not imported.
    """
    texts: dict[str, dict[str, bytes]] = {}
    for target in targets:
        path, _, last = target.rpartition(".")
        held = vars(sys.modules[path]).get(last) if path in sys.modules else None
        held = _given.get(target, held)
        held = getattr(held, "func", held)  # of a partial
        held = held if inspect.isclass(held) or inspect.isroutine(held) else type(held)
        if _DATA.fullmatch(target) or held is type(None):
            continue
        for source in _file_of, _text_of:
            with suppress(TypeError, OSError):
                name, text = source(held)
                texts.setdefault(getattr(held, "__module__", path), {})[name] = text
                break
    return {
        module: hashlib.sha256(b"\0".join(text for _, text in sorted(of.items()))).hexdigest()[:16]
        for module, of in texts.items()
    }


def _file_of(held: Any) -> tuple[str, bytes]:
    file = str(inspect.getsourcefile(held))
    return file, Path(file).read_bytes()


def _text_of(held: Any) -> tuple[str, bytes]:
    return held.__qualname__, inspect.getsource(held).encode()


def target_of(function: Callable[..., Any]) -> str:
    """The target that a function or class has by where it is written.

    What is made within a function, by `partial` or by a class is told from others by its code and
    its values: it is known to the program alone that hands it over.

    >>> target_of(target_of)
    'lrexp.config.parts.target_of'
    """
    named = function if hasattr(function, "__qualname__") else type(_inner(function))
    if named is function and _is_found_by_name(function):
        return f"{named.__module__}.{named.__qualname__}"
    named = _inner(function) if hasattr(_inner(function), "__qualname__") else named
    digest = hashlib.sha256(repr([*_made_of(function, frozenset())]).encode()).hexdigest()[:8]
    last = named.__qualname__.rpartition(".")[2].strip("<>")
    return f"{IN_MEMORY}.{last}_{digest}"


def _inner(function: Any) -> Any:
    return getattr(function, "func", function)  # of a partial


def _is_found_by_name(held: Any) -> bool:
    """Whether a module has it under its own name."""
    module = vars(sys.modules.get(str(held.__module__), object))
    return module.get(held.__qualname__) is held


def _made_of(held: Any, within: frozenset[int]) -> Iterator[Any]:
    """What tells a function, or an object and what is nested in it, from others: plain values.

    Alike in every program; of objects in objects their class alone.

    Args:
        held: the object.
        within: ids of what it is nested in.
    """
    if id(held) in within:
        return
    inside = within | {id(held)}
    parts: Iterable[Any] = ()
    if isinstance(held, int | float | complex | str | bytes | None):
        yield held
    elif isinstance(held, Mapping):
        parts = (part for pair in held.items() for part in pair)
    elif isinstance(held, list | tuple):
        yield len(held)
        parts = held
    elif isinstance(held, set | frozenset):
        yield sorted(repr([*_made_of(part, inside)]) for part in held)
    elif isinstance(held, CodeType):
        yield held.co_code, held.co_names, held.co_varnames
        parts = held.co_consts
    elif hasattr(held, "shape") and hasattr(held, "dtype"):  # arrays and tensors
        yield str(held.dtype), tuple(held.shape), hashlib.sha256(_bytes(held)).hexdigest()
    elif hasattr(held, "__qualname__") and (inspect.isclass(held) or _is_found_by_name(held)):
        yield held.__module__, held.__qualname__
    else:
        named = held if hasattr(held, "__qualname__") else type(held)
        yield named.__module__, named.__qualname__, getattr(held, "_fingerprint", None)
        fields = "__code__", "__defaults__", "__kwdefaults__", "func", "args", "keywords"
        parts = [getattr(held, field, None) for field in fields]
        cells = getattr(held, "__closure__", None) or ()
        parts += [cell.cell_contents for cell in cells if cell != CellType()]
        if inspect.ismethod(held):
            parts += [type(held.__self__), getattr(held.__self__, "__dict__", {})]
        if not within or hasattr(held, "_buffers"):  # a loss of torch's has others in it
            parts.append(getattr(held, "__dict__", {}))
    for part in parts:
        yield from _made_of(part, inside)


def _bytes(array: Any) -> bytes:
    """Of a numpy array, or of a torch tensor anywhere."""
    if not hasattr(array, "detach"):
        return array.tobytes()
    import torch

    return array.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()


def targets_in(config: Config) -> dict[str, str]:
    """Setting → target of every part that a config names."""
    found = {
        f"{group}.target": section.target
        for group, section in vars(config).items()
        if isinstance(getattr(section, "target", None), str)
    }
    for name, metric in config.trainer.metrics.items():
        found[f"trainer.metrics.{name}"] = metric_target(name, metric)[0]
    return found


def metric_target(name: str, metric: Any) -> tuple[str, dict[str, Any]]:
    """Target and arguments of a metric: `NAME: package.module.name`, or {target: ..., args: {}}.

    Raises:
        ConfigError: when it is written in another way.
    """
    key = f"trainer.metrics.{name}"
    written = {"target": metric} if isinstance(metric, str) else metric
    if not isinstance(written, dict) or not isinstance(written.get("target"), str):
        hint = f"write {key}=package.module.function, or {{target: ..., args: {{}}}}"
        raise ConfigError(key, "names no function", hint, metric)
    if others := written.keys() - {"target", "args"}:
        raise ConfigError(f"{key}.{min(others)}", "is no setting", "allowed: target, args")
    args = written.get("args", {})
    if not isinstance(args, dict):
        raise ConfigError(f"{key}.args", "must be settings in braces", given=few(str(args), 40, ""))
    return written["target"], args


def own_monitors(metrics: Any) -> list[str]:
    """What trainer.monitor may be besides, by the metrics of the user's own."""
    splits = ("val", "train_eval")
    return [f"{split}/{name}" for split in splits for name in (metrics or {})]


def check_parts(config: Config, all_of_them: bool = True) -> None:
    """Refuse metrics that cannot be recorded, and parts that may not be imported.

    Args:
        config: checked so far.
        all_of_them: else the network alone must be one that may be imported.
    """
    for name, metric in config.trainer.metrics.items():
        key = f"trainer.metrics.{name}"
        if name in METRICS:
            raise ConfigError(key, "is measured anyway; choose another name")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith("_se"):
            problem = "must be named with small letters, digits and '_', not ending with _se"
            raise ConfigError(key, problem)
        check_args(f"{key}.args", metric_target(name, metric)[1])
    for key, target in targets_in(config).items():
        if all_of_them or key == "model.target":
            check_part(key, target)
