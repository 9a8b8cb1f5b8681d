"""What a run's config changes: against the YAML files of the options it chose, without Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lrexp.config.names import conf_folder
from lrexp.runs.options import option_values, read_option
from lrexp.runs.run import flat

MISSING = object()


class Change(NamedTuple):
    """A setting that is not what its option's file says."""

    key: str
    default: Any
    value: Any


def changes(
    config: Mapping[str, Any], choices: Mapping[str, Any], folders: list[Path] | None = None
) -> tuple[list[Change], list[Change]]:
    """What was chosen and set differently from conf/.

    Values that were worked out (interpolations, sizes taken from the data) are no changes.

    Args:
        config: resolved, of the run.
        choices: option by group, as `.hydra/hydra.yaml` lists them.
        folders: where options are looked for, before lrexp's own conf/.

    Returns:
        Options by group, against those of conf/config.yaml, and values by key, against the chosen
        options' own.
    """
    places = [*(folders or []), conf_folder()]
    root = read_option(places, "config")
    usual: dict[str, Any] = {}
    for entry in root.get("defaults", []):
        usual |= entry if isinstance(entry, dict) else {}
    known = {group: choices[group] for group in ("experiment", *usual) if group in choices}
    chosen = [
        Change(group, usual.get(group), option)
        for group, option in known.items()
        if option != usual.get(group)
    ]
    settings: list[Change] = []
    for group, option in known.items():
        section, stated = config.get(group), option_values(places, group, str(option))
        if not stated or group == "experiment" or not isinstance(section, dict):
            continue
        found = flat(section)
        for key in dict.fromkeys([*stated, *found]):
            default, value = stated.get(key, MISSING), found.get(key, MISSING)
            if _differs(default, value, key, section):
                default = None if default is MISSING else default
                settings.append(Change(f"{group}.{key}", default, value))
    settings += [
        Change(key, root[key], config.get(key))
        for key in ("name", "seed")
        if key in root and not _is_reference(root[key]) and config.get(key) != root[key]
    ]
    return chosen, settings


def _differs(default: Any, value: Any, key: str, section: Mapping[str, Any]) -> bool:
    if _is_reference(default) or value is MISSING:
        return False
    if key.startswith("normalize"):  # the numbers that a word such as `auto` came to
        numbers = section.get("normalize")
        return not (isinstance(numbers, dict) and "chosen" in numbers) and default != value
    if default is MISSING or default is None:
        # what the file leaves open: said by the data, unless it is a free argument
        return value is not None and (default is None or "." in key)
    return default != value


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and "${" in value
