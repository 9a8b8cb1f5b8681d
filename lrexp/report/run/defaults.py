"""What a run's config changes: against the YAML files of the options it chose, without Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrexp.config.names import conf_folder
from lrexp.runs.run import flat, read_yaml

GROUPS = (
    "experiment", "model", "data", "loss", "optimizer", "lr_policy", "scheduler", "trainer",
    "logger", "task",
)  # fmt: skip
MISSING = object()


@dataclass(frozen=True)
class Change:
    """A setting that is not what its option's file says."""

    key: str
    default: Any
    value: Any


@dataclass(frozen=True)
class Changes:
    """How a run differs from the default one."""

    choices: list[Change]  # options by group, against those of conf/config.yaml
    settings: list[Change]  # values by key, against the chosen options' own


def changes(
    config: Mapping[str, Any], choices: Mapping[str, Any], folders: list[Path] | None = None
) -> Changes:
    """What was chosen and set differently from conf/.

    Values that were worked out (interpolations, sizes taken from the data) are no changes.

    Args:
        config: resolved, of the run.
        choices: option by group, as `.hydra/hydra.yaml` lists them.
        folders: where options are looked for, before lrexp's own conf/.
    """
    places = [*(folders or []), conf_folder()]
    root = _load(places, "config") or {}
    usual = {
        str(group): option
        for entry in root.get("defaults", [])
        if isinstance(entry, dict)
        for group, option in entry.items()
    }
    known = {group: choices[group] for group in GROUPS if group in choices}
    chosen = [
        Change(group, usual.get(group), option)
        for group, option in known.items()
        if option != usual.get(group)
    ]
    settings: list[Change] = []
    for group, option in known.items():
        section = config.get(group)
        if not isinstance(section, dict) or group == "experiment":
            continue
        stated = flat(_option(places, group, str(option)))
        if not stated:
            continue
        found = flat(section)
        for key in dict.fromkeys([*stated, *found]):
            default, value = stated.get(key, MISSING), found.get(key, MISSING)
            if _differs(default, value, key, section):
                settings.append(
                    Change(
                        f"{group}.{key}",
                        None if default is MISSING else default,
                        None if value is MISSING else value,
                    )
                )
    for key in ("name", "seed"):
        if key in root and not _is_reference(root[key]) and config.get(key) != root[key]:
            settings.append(Change(key, root[key], config.get(key)))
    return Changes(chosen, settings)


def _differs(default: Any, value: Any, key: str, section: Mapping[str, Any]) -> bool:
    if _is_reference(default) or value is MISSING:
        return False
    if key.startswith("normalize"):  # the numbers that a word such as `auto` came to
        normalize = section.get("normalize")
        worked_out = isinstance(normalize, dict) and "chosen" in normalize
        return not worked_out and default != value
    if default is MISSING or default is None:
        # what the file leaves open: said by the data, unless it is a free argument
        return value is not None and (default is None or "." in key)
    return default != value


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _option(places: list[Path], group: str, option: str, depth: int = 0) -> dict[str, Any]:
    """The values of an option: those of the files it builds on, then its own."""
    found = _load(places, f"{group}/{option}")
    if found is None or depth > 8:
        return {}
    values: dict[str, Any] = {}
    own = {key: value for key, value in found.items() if key != "defaults"}
    order = found.get("defaults", [])
    for entry in order if "_self_" in order else [*order, "_self_"]:
        if entry == "_self_":
            values = _merged(values, own)
        elif isinstance(entry, str) and entry.startswith("/"):
            other, _, name = entry.lstrip("/").partition("@")[0].rpartition("/")
            values = _merged(values, _option(places, other, name, depth + 1))
        elif isinstance(entry, str):
            values = _merged(values, _option(places, group, entry, depth + 1))
    return values


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        inner = both.get(key)
        both[key] = (
            _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return both


def _load(places: list[Path], name: str) -> dict[str, Any] | None:
    for place in places:
        found = read_yaml(place / f"{name}.yaml")
        if isinstance(found, dict):
            return found
    return None
