"""What to write when Hydra cannot read a word of the command line."""

from __future__ import annotations

import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lrexp.config.schema import meaning_of

PLACES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.launcher.resume")  # Hydra's own paths


def unreadable(override: str) -> str:
    """Why, and how a path is quoted: `=`, brackets and the like in a value are Hydra's own signs.

    >>> unreadable("model.weights=epoch=3.ckpt").partition("; ")[2]
    'write \\'model.weights="epoch=3.ckpt"\\''
    """
    if readable(override) != override:
        return f"Hydra has other uses for a sign in it; write {pasted(override)}"
    return "cannot be read; write KEY=VALUE, and quote what the shell or Hydra would split"


def readable(override: str) -> str:
    """An override with its path in quotes where Hydra needs them; any other as it is.

    >>> readable("data.path=a(1).csv"), readable("data.path=a.csv")
    ('data.path="a(1).csv"', 'data.path=a.csv')
    """
    key, _, value = override.partition("=")
    if (key.lstrip("+") in PLACES or meaning_of(key.lstrip("+")).path) and not is_read(override):
        items = ('"' + item.replace('"', '\\"') + '"' for item in value.split(","))
        quoted = f"{key}={','.join(items)}"
        return quoted if is_read(quoted) else override
    return override


def pasted(override: str) -> str:
    """An override as it is typed into a shell.

    >>> print(pasted("data.path=a(1).csv"), pasted("seed=1"))
    'data.path="a(1).csv"' seed=1
    """
    return shlex.quote(readable(override))


def is_read(override: str) -> bool:
    """Whether Hydra can read a word of the command line."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True
