"""Configs from files that others may have written: read as plain data, or refused.

A saved config holds values and nothing else. Nothing is resolved, imported, called or written
here, and what a file may cost to read is bounded before any of it is turned into objects.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrexp.config.checks import check_name
from lrexp.config.errors import ConfigError, unknown_setting
from lrexp.config.names import CONFIG
from lrexp.config.schema import Config, chosen_option
from lrexp.config.schema.training import TorchvisionSet
from lrexp.config.targets import values_below
from lrexp.config.variables import check_read

MAX_BYTES = 256 * 1024  # of a YAML file; a config of ours has two thousand
MAX_VALUES = 20_000  # after every alias is written out
MAX_DEPTH = 30


def read_saved_config(path: str | Path) -> dict[str, Any]:
    """The config of a run as it was saved: plain values under the names of our groups.

    Types, limits and the existence of files are not looked at: `config.check.check` does that, once
    overrides have been applied.

    Args:
        path: a config.yaml, or a folder that holds one.

    Raises:
        ConfigError: when it cannot be read, is larger or deeper than any config, or holds what no
            saved config has: anchors, tags, interpolations, a defaults list, a `hydra` section, a
            `_target_` or another name for Hydra, settings that we do not have, control characters,
            or a name that leads out of the run's folder. `place` is the file.
    """
    file = Path(path).expanduser()
    file = file / CONFIG if file.is_dir() else file
    text = read_yaml_text(file, plain=True)
    try:
        return _saved(text)
    except ConfigError as error:
        error.place = str(file)
        raise


def refuse_writing(config: Config, typed: Collection[str]) -> None:
    """Refuse a saved config that would write outside of its run's folder.

    Args:
        config: checked, overrides applied.
        typed: the keys that the user gave anew, such as `data.root`, for whom that is allowed.

    Raises:
        ConfigError: when a data set would be downloaded into a folder that the file alone names.
    """
    data = config.data
    if not isinstance(data, TorchvisionSet) or not data.download or "data.root" in typed:
        return
    if not (Path(data.root).expanduser() / chosen_option("data", data).folder).is_dir():
        hint = "give the folder yourself: " + shlex.quote(f"data.root={data.root}")
        problem = f"has no {data.name}, and a saved config may not choose where to download it"
        raise ConfigError("data.root", problem, hint, data.root)


def read_yaml_text(file: Path, plain: bool = False) -> str:
    """The text of a YAML file, once it is known to be of a size that can be read.

    Args:
        file: to read.
        plain: refuse anchors, tags and several documents as well.

    Raises:
        ConfigError: when there is no such file, it is no text in UTF-8, or is too large, too deep,
            or too large with its aliases written out; when `plain`, also when it is no YAML.
    """
    if file.exists() and not file.is_file():  # a pipe or a device would be read for ever
        raise ConfigError("", f"{file}: is no file")
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError("", f"{file}: cannot be read: {said}") from error
    if len(content) > MAX_BYTES:
        problem = f"is larger than {MAX_BYTES // 1024} KiB, which no config is"
        raise ConfigError("", f"{file}: {problem}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("", f"{file}: is no text in UTF-8: {error}") from error
    try:
        bound_yaml(text, plain)
    except yaml.YAMLError as error:
        if plain:  # else whoever reads the text says so in its own words
            said = " ".join(str(error).split())
            raise ConfigError("", f"{file}: is no YAML: {said[:200]}") from error
    except ConfigError as error:
        raise ConfigError("", f"{file}: {error.problem}") from error
    return text


def refuse_reading(node: Any, file: Path, key: str = "") -> None:
    """Refuse a file, as YAML's nodes, that would read what no file may of the environment."""
    if isinstance(node, yaml.ScalarNode):
        try:
            check_read(_printable(key), node.value)
        except ConfigError as error:
            error.place, error.given = str(file), _printable(node.value)
            raise
    elif isinstance(node, yaml.MappingNode):
        for name, inner in node.value:
            named = str(name.value) if isinstance(name, yaml.ScalarNode) else "?"
            refuse_reading(name, file, key)
            refuse_reading(inner, file, f"{key}.{named}" if key else named)
    elif isinstance(node, yaml.SequenceNode):
        for i, inner in enumerate(node.value):
            refuse_reading(inner, file, f"{key}[{i}]")


def bound_yaml(text: str, plain: bool = False) -> None:
    """Walk over a text's events, which costs no more than its length, and refuse what is large.

    Raises:
        ConfigError: for what is too deep or too much; when `plain`, for anchors and tags.
        yaml.YAMLError: when it is no YAML.
    """
    sizes: dict[str, int] = {}  # of what an anchor stands for
    opened: list[tuple[str | None, int]] = []  # anchor and values so far, of what is not closed yet
    documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"line {event.start_mark.line + 1}"
        anchor, size = getattr(event, "anchor", None), 0
        if plain and (anchor or getattr(event, "tag", None)):
            raise ConfigError("", f"{where}: anchors and tags are in no saved config")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, 1))
            if len(opened) > MAX_DEPTH:
                raise ConfigError("", f"{where}: is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, MAX_VALUES)  # inside of itself it has no end
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        if anchor and size:
            sizes[anchor] = size
        if size and opened:
            opened[-1] = opened[-1][0], opened[-1][1] + size
        if size > MAX_VALUES or (opened and opened[-1][1] > MAX_VALUES):
            raise ConfigError("", f"{where}: more than {MAX_VALUES} values, aliases written out")
    if plain and documents != 1:
        raise ConfigError("", f"{documents} documents where one config belongs")


def _saved(text: str) -> dict[str, Any]:
    """The values of a text whose size is known to be bounded."""
    if not text.lstrip().startswith(("{", "[")) and ":" not in text:  # OmegaConf makes it a key
        raise ConfigError("", "holds no settings")
    try:
        loaded = OmegaConf.create(text)
        content: Any = OmegaConf.to_container(loaded, resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError("", f"is no config: {said[:200]}") from error
    if not isinstance(content, dict):
        raise ConfigError("", "holds no settings")
    if "hydra" in content:
        hint = "remove it; what Hydra does is decided here, not by a saved config"
        raise ConfigError("hydra", "is a section that no saved config has", hint)
    if "defaults" in content:
        hint = "a run's folder has the config that ran, in config.yaml"
        raise ConfigError("defaults", "has yet to be composed, this is no saved config", hint)
    for key, value in values_below("", content):
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str):
                raise ConfigError(key or str(name), f"has the key {name!r}, which is no name")
        _refuse_value(key, value)
    for key, value in content.items():
        if key not in Config.__dataclass_fields__:
            raise unknown_setting(key, value if isinstance(value, str) else "")
    check_name(content.get("name"))
    return content


def _refuse_value(key: str, value: Any) -> None:
    """Refuse a value that is more than data."""
    last = key.rpartition(".")[2]
    if re.fullmatch(r"_\w*_", last):
        hint = "a saved config names our own options, and nothing to import or to call"
        raise ConfigError(_printable(key), "is no setting", hint, _printable(value))
    for text in (key, value):
        if not isinstance(text, str):
            continue
        if "${" in text:
            hint = "write the value itself; a run's folder has it in config.yaml"
            problem = "is an interpolation, and a saved config has none"
            raise ConfigError(_printable(key), problem, hint, _printable(value))
        if not text.isprintable() and re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text):
            raise ConfigError(_printable(key), "has control characters", given=_printable(value))
    if value == "???":
        raise ConfigError(_printable(key), "has no value")


def _printable(value: Any) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
