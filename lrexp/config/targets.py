"""What Hydra itself would import or call because a config says so, and what of that is allowed.

A YAML file beside ours (`--config-dir`, an experiment) may come from somebody else. Its `hydra`
section must not be a way to run code: a callback, a logging handler, a plugin.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, flag_override
from omegaconf.errors import OmegaConfBaseException

from lrexp.config.errors import ConfigError
from lrexp.config.variables import check_settable

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
STARTING = ("setup", "python", "srun_args", "additional_parameters")  # of launchers to a cluster
PLAIN = re.compile(  # interpolations that are text or a number, whatever a file says
    r"\$\{(?:seed|name|run_id|hydra\.(?:job|sweep|run|runtime)"
    r"\.(?:name|num|id|dir|subdir|cwd|output_dir)|oc\.env:[^${}]*|now:[^${}]*)\}"
)
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}
LOG_FILE = re.compile(  # every part that is interpolated is a name of ours, or checked itself
    r"\$\{hydra\.runtime\.output_dir\}/"
    r"(?:\$\{hydra\.job\.name\}\.log|[A-Za-z0-9_-][A-Za-z0-9._-]*\.log)"
)


def check_hydra_section(section: Mapping[str, Any], typed: Collection[str] = ()) -> None:
    """Refuse a `hydra` section that would import, call or write what it should not.

    Args:
        section: plain values, interpolations as they are written.
        typed: keys that the command line gives, for which some is allowed that is not for files.

    Raises:
        ConfigError: for the first key that may not be.
    """
    groups = ("launcher", "sweeper", "job_logging", "hydra_logging", "callbacks", "job", "sweep")
    found = {name: section.get(name) or {} for name in groups}
    for name, value in found.items():
        if not isinstance(value, Mapping):  # an interpolation, or nonsense
            raise ConfigError(f"hydra.{name}", "must be written out", given=value)
    for name, callback in found["callbacks"].items():
        _check_callback(f"hydra.callbacks.{name}", callback)
    for group in ("launcher", "sweeper"):
        _check_plugin(f"hydra.{group}", found[group], typed)
    for group in ("job_logging", "hydra_logging"):
        for key, value in values_below(f"hydra.{group}", found[group]):
            _check_logging(key, value)
    for key in ("env_copy", "env_set"):
        check_settable(f"hydra.job.{key}", found["job"].get(key))
    subdir = section.get("output_subdir")
    if subdir is not None and not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", str(subdir)):
        hint = "such as .hydra, or null for none"
        raise ConfigError("hydra.output_subdir", "must be a folder name", hint, subdir)
    check_subdir(str(found["sweep"].get("subdir")))


def check_subdir(subdir: str) -> None:
    """Refuse a folder of a point that is not below its sweep's."""
    if ".." in re.split(r"[/\\]", subdir) or os.path.isabs(subdir) or "\0" in subdir:
        problem = "leads out of the sweep's folder"
        raise ConfigError("hydra.sweep.subdir", problem, given=subdir)


def check_folder_of_point(hydra: DictConfig) -> None:
    """Refuse a point whose folder leads out of its sweep's, with what is interpolated in it."""
    job: Any = hydra.job
    with flag_override(hydra, ["struct", "readonly"], False):
        num, name = (job._get_node(key)._value() for key in ("num", "id"))  # not known yet
        job.num, job.id = 0, "0"
        try:
            check_subdir(str(hydra.sweep.subdir))
        except OmegaConfBaseException as error:
            said = str(error).splitlines()[0]
            raise ConfigError("hydra.sweep.subdir", f"cannot be resolved: {said}") from error
        finally:
            job.num, job.id = num, name


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


def check_args(key: str, value: Any) -> None:
    """Refuse what would have arguments of a library import or call something."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        at = f"{key}.{name}" if isinstance(value, dict) else f"{key}[{name}]"
        if str(name).startswith("_") and str(name).endswith("_"):
            raise ConfigError(at, "arguments are plain values", given=inner)
        if isinstance(inner, dict | list):
            check_args(at, inner)


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


def _check_plugin(key: str, plugin: Any, typed: Collection[str]) -> None:
    """Plugins that are installed, made of plain values, and no program of a file's own."""
    for at, value in values_below(key, plugin):
        last = at.rpartition(".")[2]
        if last in STARTING and value and not any(at.startswith(one) for one in typed):
            problem = "is run with every job, and no file may say what"
            raise ConfigError(at, problem, "give it on the command line", value)
        if last != "_target_":
            left = PLAIN.sub("", value) if isinstance(value, str) else ""
            if "${" in left or (left != value and ".params." in at):
                hint = "allowed are ${oc.env:NAME}, ${now:...}, ${seed} and folders of hydra"
                raise ConfigError(at, "is interpolated", hint, value)
            continue
        allowed = PLUGINS if at == f"{key}._target_" else (*PLUGINS, *IN_PLUGINS)
        if not str(value).startswith(allowed):
            group = key.replace(".", "/")
            hint = f"choose an installed plugin with {group}=NAME"
            raise ConfigError(at, "is no plugin of Hydra", hint, value)


def _check_logging(key: str, value: Any) -> None:
    """A logging section may open streams and files of the run; it makes nothing else.

    What is interpolated would be looked at before it is known, so but for a file's name nothing is.
    """
    last = key.rpartition(".")[2]
    if isinstance(value, Mapping) and "." in value:
        raise ConfigError(key, "sets attributes of what logs, which no config may")
    if last in ("()", "class") and value not in LOGGING_CLASSES:
        hint = f"allowed: {', '.join(sorted(LOGGING_CLASSES))}"
        raise ConfigError(key, "logs in a way that is not allowed", hint, value)
    if last == "style" and value != "%":  # others reach into the objects of a message
        raise ConfigError(key, "is no style that is allowed", "allowed: %", value)
    if last == "filename":
        if not LOG_FILE.fullmatch(str(value)):
            hint = "write ${hydra.runtime.output_dir}/NAME.log"
            raise ConfigError(key, "would log outside of the run's folder", hint, value)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(key, "is interpolated, and only a filename may be", given=value)
    if isinstance(value, str) and re.match(r"(ext|cfg)://", value) and value not in STREAMS:
        hint = f"allowed: {', '.join(sorted(STREAMS))}"
        raise ConfigError(key, "is no stream", hint, value)


def values_below(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Everything below a section under its dotted key, sections included."""
    yield prefix, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from values_below(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from values_below(f"{prefix}[{i}]", inner)
