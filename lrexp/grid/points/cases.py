"""Conditional grids: a YAML file of cases, each with axes of its own.

    layerwise_decay:                 a case; its name is free
      lr_policy: layerwise_decay     one value
      lr_policy.decay: [0.6, 0.8]    an axis: a list of values, a list as one value is nested

Every case is crossed with the axes of the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, SequenceNode

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.config.saved import read_yaml_text, refuse_reading

GROUP = "cases"


@dataclass(frozen=True)
class Cases:
    """The cases of one file."""

    name: str  # as it was asked for
    file: Path
    axes: dict[str, list[str]]  # case → overrides, an axis as KEY=VALUE,VALUE
    text: str  # of the file

    def place(self, case: str) -> str:
        """A case for a message, in the file as a user would type it."""
        relative = os.path.relpath(self.file)
        return f"{self.file if relative.startswith('..') else relative}, case {case}"


def take_cases(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides without `cases=NAME`, and the name.

    Raises:
        ConfigError: when it is given more than once, or without a name.
    """
    given = [o for o in overrides if re.match(r"\+*cases(=|$)", o)]
    rest = [o for o in overrides if o not in given]
    if not given:
        return rest, None
    name = re.sub(r"""^(['"])(.*)\1$""", r"\2", given[0].partition("=")[2])  # Hydra's quotes
    if len(given) > 1 or not name or "," in name or name == "null":
        problem = "is one file of cases" if name else "names no file of cases"
        raise ConfigError(GROUP, problem, "write cases=NAME or cases=FILE.yaml", " ".join(given))
    return rest, name


def refuse_cases(overrides: Sequence[str]) -> None:
    """Raise ConfigError when cases are given where one run is asked for."""
    if name := take_cases(overrides)[1]:
        raise ConfigError(GROUP, "several cases for one run", "add -m", name, "the command line")


def read_cases(name: str, folders: Sequence[Path]) -> Cases:
    """The cases of a file: a path ending in .yaml, or its name in `cases/` of one of the folders.

    Raises:
        ConfigError: when there is no such file or it is not a table of cases.
    """
    if name.endswith((".yaml", ".yml")):
        file = Path(name).expanduser()
        if not file.is_file():
            raise ConfigError(GROUP, "there is no such file", given=name)
    else:
        found = {p.stem: p for f in reversed(folders) for p in (f / GROUP).glob("*.yaml")}
        if name not in found:
            hint = f"{did_you_mean(name, found)}; or a path that ends in .yaml"
            raise ConfigError(GROUP, "there is no such file", hint, name)
        file = found[name]
    try:
        text = read_yaml_text(file)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # of dates that are none, for example
        raise UserError(f"{file}: {' '.join(str(error).split())}") from error
    hint = "write NAME: {KEY: VALUE, KEY: [VALUE, VALUE]}"
    if not isinstance(content, dict) or not content:
        raise ConfigError("", f"{file}: holds no cases", hint)
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    _refuse_twice(file, node)
    refuse_reading(node, file)
    axes = {}
    for case, settings in content.items():
        if not isinstance(settings, dict) or not settings:
            raise ConfigError("", f"{file}, case {case}: holds no settings", hint)
        axes[str(case)] = [_override(file, case, key, value) for key, value in settings.items()]
    return Cases(name, file, axes, text)


def made_cases(file: Path, axes: Mapping[str, Sequence[str]]) -> Cases:
    """Cases that no user wrote, for a file that is not there yet: its text reads back as they are.

    Args:
        file: where they will stand.
        axes: case → overrides as Hydra reads them, an axis as KEY=VALUE,VALUE; of a key that is
            there twice the last counts.
    """
    named = {
        case: {key: value for key, _, value in (override.partition("=") for override in overrides)}
        for case, overrides in axes.items()
    }
    text = yaml.safe_dump(named, sort_keys=False, allow_unicode=True, width=10**6)
    read = {case: [f"{key}={value}" for key, value in some.items()] for case, some in named.items()}
    return Cases(str(file), file, read, text)


def cross(cases: Cases | None, common: Sequence[str], loader: Any) -> list[tuple[str, list[str]]]:
    """Every point of a grid as (case, overrides); the case is empty where there are none.

    The axes of a case vary slowest, then those of the command line in their order. A setting that
    a case makes itself is not crossed with the command line's: see `overruled`.

    Raises:
        ConfigError: when an axis cannot be read.
    """
    if cases is None:
        return [("", overrides) for overrides in _product(common, loader)]
    points = []
    for case, axes in cases.axes.items():
        own = {_key(axis) for axis in axes}
        others = [o for o in common if _key(o) not in own]
        try:
            points += [(case, overrides) for overrides in _product([*axes, *others], loader)]
        except ConfigError as error:
            raise in_case(error, case, cases) from error
        except Exception as error:
            problem = f"an axis cannot be read: {str(error).splitlines()[0]}"
            raise ConfigError("", f"{cases.place(case)}: {problem}") from error
    return points


def overruled(cases: Cases, common: Sequence[str]) -> list[str]:
    """A line per override of the command line that a case makes otherwise."""
    given = {_key(o): o for o in common}
    return [
        f"case {case} has {axis}: {given[_key(axis)]} is for the other cases"
        for case, axes in cases.axes.items()
        for axis in axes
        if given.get(_key(axis), axis) != axis
    ]


def in_case(error: ConfigError, case: str, cases: Cases | None) -> ConfigError:
    """The same error, placed in the file of cases when it is about one of the case's overrides."""
    if cases is None:
        return error
    place, override = cases.place(case), error.place.removeprefix("the command line: ")
    if override.partition("=")[0] in {axis.partition("=")[0] for axis in cases.axes[case]}:
        error.place = f"{place}: {override}"
    else:
        error.place = f"{error.place}; in {place}" if error.place else place
    return error


def _product(arguments: Sequence[str], loader: Any) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            key, _, value = str(override.input_line).partition("=")
            problem, hint = "is no list of values", "write A,B,C or range(START,STOP,STEP)"
            place = f"the command line: {override.input_line}"
            raise ConfigError(key, problem, hint, value, place)
    return BasicSweeper.split_arguments(parsed, None)[0]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _refuse_twice(file: Path, node: Any) -> None:
    """Raise ConfigError for a name that is given twice: YAML would drop the first one unsaid."""
    if isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_twice(file, item)
    if isinstance(node, MappingNode):
        names = [key.value for key, _ in node.value]
        for i, (key, inner) in enumerate(node.value):
            if key.value in names[:i]:
                line = key.start_mark.line + 1
                raise ConfigError("", f"{file}, line {line}: {key.value} is there twice")
            _refuse_twice(file, inner)


def _override(file: Path, case: str, key: Any, value: Any) -> str:
    """One setting of a case as Hydra reads it on a command line."""
    if not isinstance(key, str) or not re.fullmatch(r"[+]{0,2}[A-Za-z_][\w./@-]*", key):
        raise ConfigError("", f"{file}, case {case}: {key!r} is no setting")
    if re.match(r"hydra([./@]|$)", key.lstrip("+")) or key.lstrip("+") == GROUP:
        raise ConfigError("", f"{file}, case {case}: {key} belongs to the command line")
    if isinstance(value, list):
        if not value:
            raise ConfigError("", f"{file}, case {case}: {key} is an empty list of values")
        return f"{key}={','.join(map(_written, value))}"
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    """A value as Hydra's grammar has it; text is left as it is typed where Hydra can read it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(inner)}" for key, inner in value.items()) + "}"
    return _readable(value) if isinstance(value, str) else str(value)


def _readable(text: str) -> str:
    """Text in quotes where Hydra cannot read it without: `re:(a|b)`, letters beyond ASCII."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    if re.fullmatch(r"[A-Za-z0-9_.:/@+ -]*", text) or re.match(r"\w*\(|['\"\[{]", text):
        return text  # plain, or Hydra's own syntax, whose mistakes are its user's to see
    try:
        OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return QuotedString(text, Quote.single).with_quotes()
    return text
