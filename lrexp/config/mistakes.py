"""What is wrong with a setting, in the user's words: unknown names and values of the wrong type."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from lrexp.config.errors import ConfigError, nearest
from lrexp.config.schema import GROUPS, OPTIONS, TOP, Config, schemas_of

OTHERS_SETTING = "in the option chosen"  # of a setting that other options have
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def wrong_type(key: str, value: Any = "") -> ConfigError:
    """The error for a value its schema refuses, which says what would be right."""
    hint = ""
    if key == "optimizer.lr" and str(value).startswith("["):
        hint = "different rates for different layers: lr_policy=per_layer with lr_policy.rules"
    problem = "may not be empty" if value is None else f"must be {_type_in_words(key)}"
    return ConfigError(key, problem, hint, value)


def unknown_setting(key: str, value: Any = "", schema: type = Config) -> ConfigError:
    """The error for a key that `schema` does not have, with the setting that was meant."""
    section, _, last = key.rpartition(".")
    own = [f.name for f in fields(schema)] if is_dataclass(schema) else settings_of(section)
    problem = "there is no such setting"
    options = OPTIONS.get(section, {}).items()
    owners = [name for name, option in options if last in get_type_hints(option.schema)]
    if owners:
        hint = f"it belongs to {' and '.join(f'{section}={o}' for o in owners)}"
        return ConfigError(key, f"{problem} {OTHERS_SETTING}", hint, value)
    groups = ("trainer", *GROUPS)  # epochs are the trainer's before any policy's
    everywhere = [f"{group}.{name}" for group in groups for name in settings_of(group)]
    own_dotted = [f"{section}.{name}" if section else name for name in own]
    match = nearest(key, own_dotted) or nearest(key, [*TOP, *everywhere])
    allowed = (
        f"settings of {section}: {', '.join(sorted(own))}"
        if section
        else (f"groups and settings: {', '.join(TOP)}")
    )
    return ConfigError(
        key, problem, f"did you mean {match}? {allowed}" if match else allowed, value
    )


def settings_of(section: str) -> list[str]:
    """Names under a section over all its options: of `optimizer`, lr, momentum, betas and so on."""
    return sorted({f.name for schema in schemas_of(section) for f in fields(schema)})


def _type_in_words(key: str) -> str:
    section, _, last = key.rpartition(".")
    name, indexed = re.subn(r"\[\d*\]$", "", last)
    if not section and name in GROUPS:
        return f"an option of the group: {name}=NAME"
    hints = (h[name] for h in map(get_type_hints, schemas_of(section)) if name in h)
    hint = next(hints, str)  # a key that users name themselves holds a path
    if get_origin(hint) is dict:
        return "settings in braces, such as {eps: 1e-6}"
    if get_origin(hint) is not list:  # X, or X | None
        hint = next((kind for kind in get_args(hint) if kind is not type(None)), hint)
    if get_origin(hint) is not list:
        return _WORDS.get(hint, "settings in braces, such as {scale: 0.1}")
    item = get_args(hint)[0]
    if item is Any:
        return "a list of labels or names"
    if item not in _WORDS:
        what = "settings in braces" if indexed else "a list of rules"
        return f"{what}, such as {{match: 'conv.*', scale: 0.1}}"
    return _WORDS[item] if indexed else f"a list, each item {_WORDS[item]}"
