"""What the YAML file of an option says, with the files that it builds on, without Hydra."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lrexp.config.names import conf_folder
from lrexp.runs.reading import leads_out
from lrexp.runs.run import flat, read_yaml


def option_values(places: list[Path], group: str, option: str) -> dict[str, Any]:
    """The values of an option by dotted key: those of the files it builds on, then its own.

    Interpolations are as written. Empty where there is no such option.

    Args:
        places: folders in which it is looked for, the first that has it decides.
        group: such as lr_policy.
        option: the name of its file.
    """
    found = read_option(places, f"{group}/{option}")
    values: dict[str, Any] = {}
    order = found.pop("defaults", [])
    for entry in order if "_self_" in order else [*order, "_self_"]:
        if entry == "_self_":
            values |= flat(found)
        elif isinstance(entry, str) and entry.startswith("/"):
            other, _, name = entry.lstrip("/").partition("@")[0].rpartition("/")
            values |= option_values(places, other, name)
        elif isinstance(entry, str):
            values |= option_values(places, group, entry)
    return values


def read_option(places: list[Path], name: str) -> dict[str, Any]:
    """What the first file of that name in some folders holds; empty where there is none."""
    if not re.fullmatch(r"[\w-]+(/[\w.-]*[\w-])*", name):  # as an option is called
        return {}
    files = [place / f"{name}.yaml" for place in places]
    ours = conf_folder()  # of which an installer may have made links
    files = [file.resolve() if file.is_relative_to(ours) else file for file in files]
    found = (read_yaml(file) for file in files if not leads_out(file))
    return next((one for one in found if isinstance(one, dict)), {})
