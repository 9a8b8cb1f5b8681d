"""What a value must be by itself: within the limits and choices of its field, a pattern, plain."""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from typing import Any

from lrexp.config.errors import ConfigError, did_you_mean


def check_limits(prefix: str, section: Any) -> None:
    """Raise a ConfigError for the first value of a section that its field does not allow."""
    for setting in fields(section):
        key, value = f"{prefix}{setting.name}", getattr(section, setting.name)
        if is_dataclass(value):
            check_limits(f"{key}.", value)
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for i, item in enumerate(value):
                check_limits(f"{key}[{i}].", item)
        elif value is not None:
            _check_value(key, value, setting.metadata)


def _check_value(key: str, value: Any, metadata: Any) -> None:
    allowed = metadata.get("allowed")
    if allowed and value not in allowed:
        hint = did_you_mean(str(value), map(str, allowed))
        if key.endswith(".monitor") and str(value).startswith("test/"):
            hint = f"selection never looks at test; allowed: {', '.join(sorted(allowed))}"
        raise ConfigError(key, "is not one of the choices", hint, value)
    limits = {
        name: limit for name, limit in metadata.get("limits", {}).items() if limit is not None
    }
    if "limits" not in metadata:
        return
    words = " and ".join(f"{name} {limit:g}" for name, limit in limits.items())
    for item in value if isinstance(value, list) else [value]:
        holds = {
            "above": lambda limit, item=item: item > limit,
            "at least": lambda limit, item=item: item >= limit,
            "below": lambda limit, item=item: item < limit,
            "at most": lambda limit, item=item: item <= limit,
        }
        if not finite(item) or not all(holds[name](limit) for name, limit in limits.items()):
            kind = "" if finite(item) and words else "a finite number "
            raise ConfigError(key, f"must be {kind}{words}".rstrip(), given=value)


def finite(value: float) -> bool:
    """Whether a number is finite as a float, too."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def check_regex(key: str, pattern: str) -> None:
    """Raise a ConfigError unless the pattern, after `re:`, is a regular expression."""
    try:
        re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(key, f"is no regular expression: {error}", given=pattern) from error


def check_args(key: str, value: Any) -> None:
    """Refuse what would have arguments of a library import or call something."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        at = f"{key}.{name}" if isinstance(value, dict) else f"{key}[{name}]"
        if str(name).startswith("_") and str(name).endswith("_"):
            raise ConfigError(at, "arguments are plain values", given=inner)
        if isinstance(inner, dict | list):
            check_args(at, inner)
