"""The checks a config passes before anything is built, and what identifies it.

`check` turns what Hydra composed into a `Config` of plain values or one clear error. Imports
nothing that takes time.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lrexp.config.checks import (
    check_limits,
    check_place,
    check_together,
    plan_file,
    weights_source,
)
from lrexp.config.errors import ConfigError, did_you_mean, unknown_setting, wrong_type
from lrexp.config.parts import check_parts, own_monitors
from lrexp.config.policy_checks import check_policy
from lrexp.config.schema import (
    GROUPS,
    OPTIONS,
    Config,
    meaning_of,
    option_of,
    schemas_of,
    settings_where,
)
from lrexp.config.schema.training import BUNDLED
from lrexp.config.targets import check_args


def check(composed: DictConfig, places: bool = True) -> tuple[DictConfig, Config]:
    """Resolve a composed config and check every value against its schema.

    Args:
        composed: without a `hydra` section.
        places: whether the files and folders that settings name must be there, and parts of the
            user's own but the network.

    Returns:
        The same config without interpolations, and as a `Config` of plain dataclasses.

    Raises:
        ConfigError: for the first setting that cannot be used.
    """
    config, checked, moved = _checked(composed, places)
    typed = OmegaConf.structured(Config)
    for key, value in checked.items():
        typed[key] = value
    for key, path in moved.items():
        OmegaConf.update(typed, key, path)
    return typed, config


def check_values(composed: DictConfig) -> Config:
    """What `check` returns second, in a fraction of its time: what a grid asks of every point."""
    return _checked(composed, places=True)[0]


def _checked(composed: DictConfig, places: bool) -> tuple[Config, dict[str, Any], dict[str, str]]:
    """See `check`: the `Config`, what a typed config is made of, and the paths in it to change."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):
            raise ConfigError(missing[1], "has no value", f"give {missing[1]}=...") from error
        key = str(error.full_key or "")
        raise ConfigError(key, f"cannot be resolved: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    known: dict[str, _Known] = {}
    for key, value in plain.items():
        try:
            known[str(key)] = _known(str(key), value)
        except ConfigKeyError as error:
            raise unknown_setting(str(key), value) from error
        except OmegaConfBaseException as error:
            raise wrong_type(str(error.full_key or key), value) from error
    absent = [f.name for f in fields(Config) if f.name not in known]
    _refuse_missing([*absent, *(name for one in known.values() for name in one.missing)])
    config = Config(**{key: pickle.loads(one.plain) for key, one in known.items()})
    check_limits("", config, own_monitors(config.trainer.metrics))
    for key, path in _paths(config, "only", "maybe", "plan").items():
        try:
            Path(path).expanduser()
        except RuntimeError as error:
            raise ConfigError(key, "names the home folder of nobody here", given=path) from error
    check_together(config)
    check_parts(config, all_of_them=places)
    if places:
        check_place(config.data)
    check_policy(config)
    weights, against = config.model.weights, getattr(config.task, "against", None)
    moved: dict[str, str] = {}
    if places and weights and not weights.startswith(BUNDLED):
        moved["model.weights"] = config.model.weights = weights_source(weights)
    if places and against is not None:
        moved["task.against"] = config.task.against = portable_path(plan_file(against))
    for key, path in path_settings(config).items():
        moved[key] = portable_path(path)
        section, _, name = key.partition(".")
        inside, _, of_set = name.partition(".")
        if of_set:
            getattr(getattr(config, section), inside)[of_set] = moved[key]
        else:
            setattr(getattr(config, section), name, moved[key])
    return config, {key: one.typed for key, one in known.items()}, moved


def checked_section(group: str, section: Mapping[str, Any]) -> Any:
    """A group's section of plain values by itself, as its option's plain dataclass.

    Raises:
        ConfigError: for the first setting that its schema does not have or allow.
    """
    known = _known(group, section)
    _refuse_missing(known.missing)
    checked = pickle.loads(known.plain)
    check_limits(f"{group}.", checked)
    return checked


def _refuse_missing(names: Iterable[str]) -> None:
    if missing := min(names, default=""):
        hint = "give it, or begin the file with an option of ours: defaults: [OPTION, _self_]"
        raise ConfigError(missing, "has no value", hint)


def config_id(config: DictConfig) -> str:
    """12 hex digits that equal configs share whatever their seed, name, logger and checkpoints.

    What is no part of it says so in its schema, as do neutral values, which are left out of it: a
    setting that is new gives no older config another id. A saved config has the numbers that
    `data.normalize` came to, and the same id all the same.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    kept = _counting("", plain)
    normalize = kept["data"]["normalize"]
    if isinstance(normalize, dict) and normalize.get("chosen"):  # numbers found by that choice
        kept["data"] |= {"normalize": normalize["chosen"]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _counting(prefix: str, section: dict[Any, Any]) -> dict[Any, Any]:
    """What of a section config_id is made of, down to the settings of groups."""
    kept, schema = {}, schema_of(prefix[:-1], section) if prefix else Config
    neutral = {f.name: f.metadata.get("neutral", MISSING) for f in fields(schema)}
    for name, value in section.items():
        if meaning_of(f"{prefix}{name}").identity and value != neutral.get(name, MISSING):
            deeper = not prefix and isinstance(value, dict)
            kept[name] = _counting(f"{name}.", value) if deeper else value
    return kept


def path_settings(config: Config) -> dict[str, str]:
    """The settings that name a file or folder, by their dotted key.

    Those that may be other names as well count when there is such a file.
    """
    maybe = _paths(config, "maybe").items()
    there = {key: path for key, path in maybe if Path(path).expanduser().exists()}
    return _paths(config, "only") | there


def _paths(config: Config, *kinds: str) -> dict[str, str]:
    """Settings whose schema says that they are paths of such kinds, each of an eval set's too."""
    found: dict[str, str] = {}
    for key in (key for kind in kinds for key in _keys_of_paths(kind)):
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name, None)
        if isinstance(value, dict):
            found |= {f"{key}.{name}": path for name, path in value.items()}
        elif value:
            found[key] = value
    return found


@cache
def _keys_of_paths(kind: str) -> list[str]:
    return settings_where(path=kind)


def portable_path(path: str) -> str:
    """The absolute form of a path, with the user's home folder written as `~`."""
    absolute = Path(os.path.abspath(Path(path).expanduser()))
    home = Path.home()
    return f"~/{absolute.relative_to(home)}" if absolute.is_relative_to(home) else str(absolute)


@dataclass(frozen=True)
class _Known:
    """A value of the top or a whole section, checked against its schema by itself."""

    typed: Any  # a DictConfig of a section; a config takes a copy of it
    missing: list[str]  # dotted keys
    plain: bytes  # the pickled dataclass of a section, which its owner may change


_KNOWN: dict[tuple[str, str], _Known] = {}  # points of a grid share most sections


def _known(key: str, value: Any) -> _Known:
    """Checked, or as it was the last time."""
    of = (key, repr(value))
    if of not in _KNOWN:
        if len(_KNOWN) >= 1000:
            _KNOWN.clear()
        _KNOWN[of] = _look_at(key, value)
    return _KNOWN[of]


def _look_at(key: str, value: Any) -> _Known:
    if key not in GROUPS:
        top = OmegaConf.structured(Config)
        top[key] = value
        typed = top._get_node(key)._value()
        return _Known(typed, [key] if typed == MISSING else [], pickle.dumps(typed))
    typed = _typed(key, value, schema_of(key, value))
    missing = [f"{key}.{name}" for name in OmegaConf.missing_keys(typed)]
    plain = b"" if missing else pickle.dumps(OmegaConf.to_object(typed))
    return _Known(typed, missing, plain)


def schema_of(group: str, section: Any) -> type:
    """The schema of the option that a section belongs to, when there is one."""
    if not isinstance(section, dict):
        given = "" if section == MISSING else section
        raise ConfigError(group, f"is a group: choose an option with {group}=NAME", given=given)
    if group == "trainer":
        return schemas_of(group)[0]
    option, options = option_of(section), OPTIONS[group]
    if option in ("", "None", MISSING):
        hint = f"begin the file with defaults: [OPTION, _self_]; options: {', '.join(options)}"
        raise ConfigError(f"{group}.name", "has no value", hint)
    if option not in options:
        key = f"{group}.library" if "library" in section else f"{group}.name"
        raise ConfigError(key, "there is no such option", did_you_mean(option, options), option)
    return options[option].schema


def _typed(group: str, section: dict[Any, Any], schema: type) -> DictConfig:
    _check_keys(group, section, schema)
    typed = OmegaConf.structured(schema)
    for key, value in section.items():
        if value == MISSING:
            raise ConfigError(f"{group}.{key}", "has no value", f"give {group}.{key}=...")
        if key == "args" and isinstance(value, dict):
            check_args(f"{group}.args", value)
        of_text = get_type_hints(schema)[key] in (list[str], list[str] | None)
        if of_text and isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise wrong_type(f"{group}.{key}", value)  # OmegaConf would turn anything into text
        try:
            typed = OmegaConf.merge(typed, {key: value})
        except OmegaConfBaseException as error:
            raise wrong_type(f"{group}.{error.full_key or key}", value) from error
    assert isinstance(typed, DictConfig)
    return typed


def _check_keys(prefix: str, section: Any, schema: type) -> None:
    """Refuse keys the schema does not have, in lists of rules too, under their full name."""
    hints = get_type_hints(schema)
    for key, value in section.items():
        if key not in hints:
            raise unknown_setting(f"{prefix}.{key}", value, schema)
        inner = (get_args(hints[key]) or (hints[key],))[0]
        if isinstance(inner, type) and is_dataclass(inner):
            for i, item in enumerate(value if isinstance(value, list) else [value]):
                place = f"{prefix}.{key}[{i}]" if isinstance(value, list) else f"{prefix}.{key}"
                if not isinstance(item, dict):
                    raise wrong_type(f"{prefix}.{key}", value)
                _check_keys(place, item, inner)
