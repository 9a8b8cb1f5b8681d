"""Ways of writing an override that Hydra has no good words for, and what overrides name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType

from lrexp.config.errors import BY_OPTION, ConfigError, did_you_mean, settings_of
from lrexp.config.schema import GROUPS, OPTIONS, TOP


def refuse_oddly_written(overrides: list[str], repository: ConfigRepository) -> None:
    """Raise a ConfigError for a way of writing an override that Hydra has no good words for."""
    for override in overrides:
        name, _, value = override.partition("=")
        group, given, place = name.lstrip("+~"), value, f"the command line: {override}"
        section, _, last = group.rpartition(".")
        chosen = group in GROUPS and group != "experiment"
        if not group:
            raise ConfigError("", f"{override}: cannot be read; write KEY=VALUE", place=place)
        of_group, _, elsewhere = group.partition("@")
        if of_group in GROUPS and elsewhere:
            problem, hint = "has its own place alone", f"write {of_group}={value}"
        elif re.match(r"hydra\.sweeper\.params(\.|$)", group):
            axis = group.removeprefix("hydra.sweeper.params").lstrip(".") or "seed"
            problem, hint = "cannot be set on a command line", f"write the axis itself: {axis}=A,B"
        elif name.startswith("~") and not chosen and last in (settings_of(section) or TOP):
            problem, hint = "cannot be removed, it has a value always", f"write {group}=VALUE"
        elif last == "library" and section in OPTIONS:
            problem, hint = BY_OPTION, f"write {section}={value}"
        elif group == "experiment" and value in ("", "null"):
            problem, hint = "is not one option", "leave it out, or choose one with experiment=NAME"
        elif chosen and name.startswith("~"):
            problem, given = "is a group, which cannot be removed", ""
            hint = f"choose another option with {group}=NAME"
        elif chosen and name.startswith("+"):
            problem, hint = "is there already, no + is needed", f"write {group}={value}"
        elif chosen and re.fullmatch(r"|null|\[.*\]|-?[\d.]+", value):
            options = repository.get_group_options(group, ObjectType.CONFIG)
            problem, hint = "is not one option", did_you_mean(value, options)
        else:
            continue
        raise ConfigError(group, problem, hint, given, place)


def dirname(swept: Sequence[str], how: Any) -> str:
    """What names the folder of a point: the overrides that not every point has.

    Args:
        swept: the overrides.
        how: hydra.job.config.override_dirname.
    """
    pairs = (override.lstrip("+~").partition("=") for override in swept)
    named = (f"{key}{how.kv_sep}{value}" for key, _, value in pairs if key not in how.exclude_keys)
    return str(how.item_sep).join(named)
