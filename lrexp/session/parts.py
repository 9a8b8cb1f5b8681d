"""Parts of an experiment that are given as Python objects instead of options."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np

from lrexp.config.errors import UserError, did_you_mean
from lrexp.config.parts import IN_MEMORY, given, target_of
from lrexp.data.sources.arrays import on_cpu

# argument → config group
GROUPS = {
    "model": "model",
    "data": "data",
    "policy": "lr_policy",
    "scheduler": "scheduler",
    "loss": "loss",
}


@contextmanager
def given_parts(parts: Mapping[str, Any]) -> Iterator[list[str]]:
    """The overrides that choose parts given as objects, which can be found in it meanwhile.

    Each is what the option `custom` of its group takes by name: a class or a function, of `data`
    also what such a function would return, and of `metrics` functions by name.

    Raises:
        UserError: for what is no part of an experiment.
    """
    chosen, held = list[str](), dict[str, Any]()
    for name, value in parts.items():
        if name == "metrics":
            for key, one in _metrics(value).items():
                target = target_of(one)
                if held.get(target, one) is not one:  # told apart by what no digest sees
                    target += f"_{key}"
                chosen.append(f"trainer.metrics.{key}={target}")
                held[target] = one
        elif name in GROUPS:
            group, (target, part, called) = GROUPS[name], _part(name, value)
            chosen += [f"{group}=custom", f"{group}.target={target}", f"{group}.name={called}"]
            held[target] = part
        else:
            hint = 'settings are overrides: ["seed=1"]'
            if name in GROUPS.values():
                hint = did_you_mean("policy", ["policy"])
            raise UserError(f"{name}=...: there is no such argument\n  {hint}")
    with given(held):
        yield chosen


def _part(name: str, value: Any) -> tuple[str, Any, str]:
    """Target of an object, what it means, and what tables call it."""
    if name == "data" and not callable(value):
        digest, kind = hashlib.sha256(), "arrays"
        if type(value).__module__.startswith("datasets."):
            kind = "dataset"
        _add(digest, value)
        called = f"{kind}_{digest.hexdigest()[:16]}"
        return f"{IN_MEMORY}.{called}", lambda: value, called[:-8]
    if not callable(value) or (name == "model" and not inspect.isroutine(value) and _made(value)):
        problem = f"{name}=... is a {type(value).__name__}, and a function or class is wanted"
        hint = "a network is made anew for the data from the seed: give its class"
        raise UserError(f"{problem}\n  {hint}" if name == "model" else problem)
    target = target_of(value)
    called = re.sub(r"\W+", "_", target.rpartition(".")[2]).strip("_") or name
    return target, value, called


def _made(value: Any) -> bool:
    """Whether it is an object that a class of the user's made, and no function in disguise."""
    return not inspect.isclass(value) and hasattr(value, "parameters")


def _metrics(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(map(callable, value.values())):
        raise UserError("metrics=... are functions by name: {'kappa': function}")
    return value


def _add(digest: Any, value: Any) -> None:
    """Take data into a digest, by content."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            digest.update(f"{key}:".encode())
            _add(digest, inner)
    elif fingerprint := getattr(value, "_fingerprint", None):  # of a Dataset
        digest.update(str(fingerprint).encode())
    elif isinstance(value, list | tuple) and value and isinstance(value[0], str | PurePath):
        digest.update("\0".join(map(str, value)).encode())
    elif isinstance(value, tuple | list) and len(value) <= 3:
        for inner in value:
            _add(digest, inner)
    else:
        try:
            array = np.asarray(on_cpu(value))
        except ValueError:  # the data room says what is wrong with it
            array = np.empty(0)
        array = array.astype(str) if array.dtype == object else array
        digest.update(
            f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        )
