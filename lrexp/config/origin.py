"""Where a setting got its value, and Hydra's exceptions in words that say so."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from hydra.core.default_element import ResultDefault
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, flag_override
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.mistakes import unknown_setting, wrong_type
from lrexp.config.names import CONFIG_NAME
from lrexp.config.schema import GROUPS, Config, Rule

if TYPE_CHECKING:
    from lrexp.config.compose import CheckedLoader


def explained(loader: CheckedLoader, error: Exception, overrides: list[str]) -> ConfigError:
    """Hydra's and OmegaConf's exceptions as one message of ours."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        hint = did_you_mean(option, error.options or [])
        return loader.placed(
            ConfigError(group, "there is no such option", hint, option),
            overrides,
            _chooser(loader, group, option, overrides),
        )
    if isinstance(error, OverrideParseException):
        problem = "cannot be read; write KEY=VALUE, and quote what the shell or Hydra would split"
        return ConfigError("", f"{error.override}: {problem}", place="the command line")
    said = str(error)
    if "Ambiguous value" in said or "requires --multirun" in said:
        hint = "add -m to run one after the other; a list is written [a,b]"
        override = next((o for o in overrides if o in said), "")
        return ConfigError(
            "", f"{override}: several values for one run", hint, place="the command line"
        )
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, OmegaConfBaseException):
        inner = inner.__cause__ or inner.__context__
    key = str((inner.full_key or inner.key or "") if inner else "")
    if not key and (named := re.search(r"Could not override '([^'@]+)", said)):
        key = named[1]
    if "Unexpected type for root" in said:
        override = next((o for o in overrides if o.startswith("hydra.")), "")
        problem = "lies below an empty setting; put a + in front to add it"
        name, _, value = override.partition("=")
        return ConfigError(name, problem, given=value, place=f"the command line: {override}")
    if not key:
        return ConfigError("", " ".join(said.split()), place=f"the command line: {overrides}")
    named = re.match(r"In '([^']+)'", said)
    file = named[1] if named else ""
    if isinstance(inner, InterpolationKeyError | InterpolationResolutionError):
        return loader.placed(ConfigError(key, str(inner).splitlines()[0]), overrides)
    schema = getattr(inner, "object_type", None)
    if schema is Rule and "." not in key:
        key = f"lr_policy.rules[].{key}"
    if isinstance(inner, ConfigKeyError | ConfigAttributeError) or inner is None:
        return loader.placed(unknown_setting(key, schema=schema or Config), overrides, file)
    if key.startswith("hydra."):
        return loader.placed(ConfigError(key, str(inner).splitlines()[0]), overrides, file)
    _, given = loader.origin(key, overrides, file) or ("", "")
    return loader.placed(wrong_type(key, given), overrides, file)


def origin(
    loader: CheckedLoader, key: str, overrides: list[str], file: str = ""
) -> tuple[str, object] | None:
    """Where a setting got its value, the last word first, and what was written there."""
    for override in () if file else reversed(overrides):
        name, _, value = override.lstrip("+~").partition("=")
        if name in GROUPS and name != key and not value.startswith("{"):
            continue  # chose a file, which is named below
        name = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", name)
        if name == key:
            return f"the command line: {override}", value
        if key.startswith((f"{name}.", f"{name}[")) or name.startswith(f"{key}."):
            return f"the command line: {override}", ""
    chosen = None
    files = _files(loader, overrides)
    if file and not any(default.config_path == file for default in files):
        return _name_of(loader, file), ""
    for default in reversed(files):
        path = default.config_path or ""
        if path.startswith(("hydra/", "schema/")) or (file and path != file):
            continue
        loaded = loader.repository.load_config(path)
        assert loaded is not None
        assert isinstance(loaded.config, DictConfig)
        package = f"{default.package}." if default.package else ""
        if not key.startswith(package):
            continue
        value = _written_at(loaded.config, key.removeprefix(package))
        if value is not None or path == file:
            given = "" if value is None or isinstance(value, DictConfig) else value
            return _name_of(loader, path), given
        if package and chosen is None:
            chosen = _name_of(loader, path)
    return (chosen, "") if chosen else None


def _chooser(loader: CheckedLoader, group: str, option: str, overrides: list[str]) -> str:
    """The config path of a file among the overrides whose defaults choose an option."""
    for override in overrides:
        name, _, value = override.partition("=")
        loaded = loader.repository.load_config(f"{name}/{value}") if name in GROUPS else None
        for default in (loaded.defaults_list or []) if loaded else []:
            chosen = getattr(default, "group", ""), getattr(default, "value", "")
            if chosen[0].strip("/") == group and chosen[1] == option:
                return f"{name}/{value}"
    return ""


def _name_of(loader: CheckedLoader, path: str) -> str:
    """The YAML file of a config path, relative to here."""
    loaded = loader.repository.load_config(path)
    assert loaded is not None
    return os.path.relpath(os.path.join(loaded.path.removeprefix("file://"), f"{path}.yaml"))


def _files(loader: CheckedLoader, overrides: list[str]) -> list[ResultDefault]:
    """The YAML files of a composition; those of the default run when a choice is wrong."""
    choices = [o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] in GROUPS]
    for chosen in (choices, []):
        try:
            return loader.compute_defaults_list(CONFIG_NAME, chosen, RunMode.RUN).defaults
        except Exception:  # a wrong choice, already on its way to the user
            continue
    return []


def _written_at(content: DictConfig, key: str) -> Any:
    """The value under a dotted key as the file has it, a list for one of its items, or None."""
    with flag_override(content, "struct", False):
        node: Any = content
        for part in key.replace("[", ".[").split("."):
            if part.startswith("["):
                return node
            if not isinstance(node, DictConfig) or part not in node:
                return None
            node = node._get_node(part)
        return node if isinstance(node, DictConfig) else getattr(node, "_value", lambda: node)()
