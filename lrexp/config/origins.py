"""Where a setting of a composed config comes from, and Hydra's errors in words of ours."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hydra.core.default_element import ResultDefault
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, errors, flag_override

from lrexp.config.errors import (
    ADD_M,
    SEVERAL,
    ConfigError,
    no_option,
    unknown_setting,
    wrong_type,
)
from lrexp.config.names import CONFIG_NAME
from lrexp.config.quoting import unreadable
from lrexp.config.schema import GROUPS, Rule

if TYPE_CHECKING:
    from lrexp.config.compose import CheckedLoader


def explained(loader: CheckedLoader, error: Exception, overrides: list[str]) -> ConfigError:
    """Hydra's and OmegaConf's exceptions as one message of ours."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = error.options or []
        if (ours := group.partition("/")[0]) in GROUPS:  # its folders hold options of it as well
            group, option = ours, f"{group}/{option}".removeprefix(f"{ours}/")
            options = loader.get_group_options(group)
        problem = no_option(group, option, options)
        return loader.placed(problem, overrides, _chooser(loader, group, option, overrides))
    if isinstance(error, OverrideParseException):
        problem = f"{error.override}: {unreadable(error.override)}"
        return ConfigError("", problem, place="the command line")
    said = str(error)
    if "Ambiguous value" in said or "requires --multirun" in said:
        hint = f"{ADD_M}; a list is written '[a,b]'"
        override = next((o for o in overrides if o in said), "")
        problem = f"{override}: {SEVERAL}"
        return ConfigError("", problem, hint, place="the command line")
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, errors.OmegaConfBaseException):
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
    if isinstance(inner, errors.InterpolationKeyError | errors.InterpolationResolutionError):
        return loader.placed(ConfigError(key, str(inner).splitlines()[0]), overrides)
    schema = getattr(inner, "object_type", None)
    if schema is Rule and "." not in key:
        key = f"lr_policy.rules[].{key}"
    if isinstance(inner, errors.ConfigKeyError | errors.ConfigAttributeError) or inner is None:
        return loader.placed(unknown_setting(key, schema=schema), overrides, file)
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
        return name_of(loader, file), ""
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
            return name_of(loader, path), given
        if package and chosen is None:
            chosen = name_of(loader, path)
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


def name_of(loader: CheckedLoader, path: str) -> str:
    """The YAML file of a config path, relative to here."""
    loaded = loader.repository.load_config(path)
    assert loaded is not None
    return os.path.relpath(os.path.join(loaded.path.removeprefix("file://"), f"{path}.yaml"))


def _files(loader: CheckedLoader, overrides: list[str]) -> list[ResultDefault]:
    """The YAML files of a composition; those of the default run when a choice is wrong."""
    choices = [o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] in GROUPS]
    for chosen in (choices, []):
        with suppress(Exception):  # a wrong choice, already on its way to the user
            return loader.compute_defaults_list(CONFIG_NAME, chosen, RunMode.RUN).defaults
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
