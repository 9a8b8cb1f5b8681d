"""What Hydra itself would import or call because a config says so, and what of that is allowed.

A YAML file beside ours (`--config-dir`, an experiment) may come from somebody else. Its `hydra`
section must not be a way to run code: a callback, a logging handler, a plugin.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.config.redact import is_secret_name

ALLOW_TARGETS = "LREXP_ALLOW_TARGETS"  # packages of the user whose classes a config may name
PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # of hydra/launcher, hydra/sweeper
IN_PLUGINS = ("optuna.samplers.",)  # what a plugin's own settings may name besides
LOGGING_CLASSES = {
    "logging.StreamHandler",
    "logging.FileHandler",
    "logging.NullHandler",
    "logging.handlers.RotatingFileHandler",
    "logging.handlers.TimedRotatingFileHandler",
    "logging.Formatter",
    "colorlog.ColoredFormatter",
    "lrexp.config.redact.RedactingFormatter",
}
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}
RUN_FOLDER = "${hydra.runtime.output_dir}/"
# Variables that decide what a program imports or may import, besides PYTHON*, LD_* and HYDRA_*.
DECIDING = {ALLOW_TARGETS, "PATH", "HOME"}


def check_hydra_section(section: Mapping[str, Any]) -> None:
    """Refuse a `hydra` section that would import, call or write what it should not.

    Args:
        section: plain values, interpolations as they are written.

    Raises:
        ConfigError: for the first key that may not be.
    """
    for name, callback in (section.get("callbacks") or {}).items():
        _check_callback(f"hydra.callbacks.{name}", callback)
    for group in ("launcher", "sweeper"):
        _check_plugin(f"hydra.{group}", section.get(group))
    for group in ("job_logging", "hydra_logging"):
        for key, value in values_below(f"hydra.{group}", section.get(group)):
            _check_logging(key, value)
    job = section.get("job") or {}
    for name in job.get("env_set") or {}:
        _check_variable(f"hydra.job.env_set.{name}", str(name))
    subdir = section.get("output_subdir")
    if subdir is not None and not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", str(subdir)):
        hint = "such as .hydra, or null for none"
        raise ConfigError("hydra.output_subdir", "must be a folder name", hint, subdir)
    if ".." in re.split(r"[/\\]", written := str((section.get("sweep") or {}).get("subdir"))):
        problem = "leads out of the sweep's folder"
        raise ConfigError("hydra.sweep.subdir", problem, given=written)


def check_target(key: str, target: str) -> None:
    """Refuse to import a name whose package the environment does not allow.

    Raises:
        ConfigError: unless the name is `package.module.Class` below one of the packages, separated
            by commas, in the environment variable LREXP_ALLOW_TARGETS.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        raise ConfigError(key, "is no name of a class", "such as mypkg.nets.Net", target)
    allowed = [p.strip() for p in os.environ.get(ALLOW_TARGETS, "").split(",") if p.strip()]
    if not any(target.startswith(f"{package}.") for package in allowed):
        package = target.partition(".")[0]
        hint = f"set the environment variable {ALLOW_TARGETS}={','.join([*allowed, package])}"
        raise ConfigError(key, "is in a package that is not allowed", hint, target)


def check_search_path(folders: Any) -> None:
    """Refuse packages in hydra.searchpath that would be imported without being allowed."""
    for i, folder in enumerate(folders if isinstance(folders, Sequence) else []):
        if str(folder).startswith("pkg://"):
            package = str(folder).removeprefix("pkg://").strip("/").replace("/", ".")
            check_target(f"hydra.searchpath[{i}]", f"{package}.conf")


def _check_callback(key: str, callback: Any) -> None:
    """A callback is a class of Hydra's kind in an allowed package, its arguments plain values."""
    target = callback.get("_target_") if isinstance(callback, Mapping) else None
    if not isinstance(target, str):
        raise ConfigError(key, "is no callback", "it needs a _target_", callback or "")
    check_target(f"{key}._target_", target)
    for at, _ in values_below(key, callback):
        if re.fullmatch(r"_\w*_", last := at.rpartition(".")[2]) and at != f"{key}._target_":
            raise ConfigError(at, f"{last}: arguments of a callback are plain values")
    from hydra.experimental.callback import Callback

    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # the user's code runs here
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{key}._target_", f"cannot be imported: {said}", given=target) from error
    if not inspect.isclass(found) or not issubclass(found, Callback):
        problem = "is no subclass of hydra.experimental.callback.Callback"
        raise ConfigError(f"{key}._target_", problem, given=target)


def _check_plugin(key: str, plugin: Any) -> None:
    for at, value in values_below(key, plugin):
        if at.rpartition(".")[2] != "_target_":
            continue
        allowed = PLUGINS if at == f"{key}._target_" else (*PLUGINS, *IN_PLUGINS)
        if not str(value).startswith(allowed):
            group = key.replace(".", "/")
            hint = f"choose an installed plugin with {group}=NAME"
            raise ConfigError(at, "is no plugin of Hydra", hint, value)


def _check_logging(key: str, value: Any) -> None:
    """A logging section may open streams and files of the run; it makes nothing else."""
    last = key.rpartition(".")[2]
    if last in ("()", "class") and value not in LOGGING_CLASSES:
        hint = f"allowed: {', '.join(sorted(LOGGING_CLASSES))}"
        raise ConfigError(key, "logs in a way that is not allowed", hint, value)
    if isinstance(value, str) and re.match(r"(ext|cfg)://", value) and value not in STREAMS:
        hint = f"allowed: {', '.join(sorted(STREAMS))}"
        raise ConfigError(key, "is no stream", hint, value)
    if last == "filename":
        name = str(value).removeprefix(RUN_FOLDER)
        parts = re.split(r"[/\\]", name)
        if name == str(value) or ".." in parts or not all(parts) or "${oc" in name:
            hint = f"write {RUN_FOLDER}NAME"
            raise ConfigError(key, "would log outside of the run's folder", hint, value)


def _check_variable(key: str, name: str) -> None:
    if is_secret_name(name):
        problem = "holds a secret, which would be saved with the run"
        raise ConfigError(key, problem, "set it in the shell instead")
    if name in DECIDING or name.startswith(("PYTHON", "LD_", "DYLD_", "HYDRA_", "LREXP_")):
        raise ConfigError(key, "decides what is run, and no config may set it", "use the shell")


def values_below(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Everything below a section under its dotted key, sections included."""
    yield prefix, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from values_below(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from values_below(f"{prefix}[{i}]", inner)
