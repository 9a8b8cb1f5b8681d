"""Configs as a command line composes them, with the work shared that several have in common."""

from __future__ import annotations

import os
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig

from lrexp.config.check import check
from lrexp.config.compose import (
    CONFIG_NAME,
    CheckedLoader,
    refuse_oddly_written,
    without_hydra,
)

SETTING = re.compile(r"([A-Za-z_][\w.]*)=")


def read_once(*folders: Path) -> None:
    """Let Hydra parse files of these folders once in this program."""
    Plugins.instance()  # which are the sources
    source: Any = SourcesRegistry.instance().types["file"]
    load, read = source.load_config, dict[tuple[str, str, str], bytes]()
    paths = {str(folder) for folder in folders}

    def loaded(self: Any, config_path: str) -> Any:
        if self.path.removeprefix("file://") not in paths:
            return load(self, config_path)
        key = (self.path, self.provider, config_path)
        if key not in read:
            read[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(read[key])

    source.load_config = loaded
    merge_once({f"file://{path}" for path in paths})
    no_map_without_interpolations()


def merge_once(addresses: set[str]) -> None:
    """Let Hydra merge equal lists of files once where all that are read lie in these folders."""
    composing: Any = ConfigLoaderImpl._compose_config_from_defaults_list
    merged = dict[tuple[Any, ...], bytes]()

    def composed(self: Any, defaults: list[Any], repo: Any) -> Any:
        sources = [(source.scheme(), source.path) for source in repo.get_sources()]
        if any(scheme == "file" and f"file://{path}" not in addresses for scheme, path in sources):
            return composing(self, defaults=defaults, repo=repo)
        files = [(one.config_path, one.package, one.is_self, one.primary) for one in defaults]
        key = (*sources, "", *files)
        if key not in merged:
            merged[key] = pickle.dumps(composing(self, defaults=defaults, repo=repo))
        return pickle.loads(merged[key])

    ConfigLoaderImpl._compose_config_from_defaults_list = composed
    store = ConfigStore.store

    def stored(self: Any, *arguments: Any, **named: Any) -> None:
        merged.clear()  # made of other schemas, perhaps
        store(self, *arguments, **named)

    ConfigStore.store = stored


def no_map_without_interpolations() -> None:
    """Let Hydra make what `${...}` in a list of defaults may name only for a list that has one.

    It makes that of every file, which is a quarter of what composing costs.
    """
    making: Any = defaults_list._create_interpolation_map

    def made(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        if any(default.is_interpolation() for default in defaults):
            return making(overrides, defaults, self_added)
        return None

    defaults_list._create_interpolation_map = made


class Composer:
    """Composes what one command line asks for. Equal lists of overrides are composed once.

    Those that choose the same options share what Hydra makes of these, as the points of a sweep
    do; on that the settings are written.
    """

    def __init__(self) -> None:
        version.setbase("1.3")
        setup_globals()
        self._loader = CheckedLoader()
        self._bases: dict[tuple[str, ...], bytes] = {}
        self._configs: dict[tuple[str, ...], bytes] = {}

    def config(self, *overrides: str) -> Any:
        """The checked config of plain dataclasses; nobody else has it.

        Raises:
            ConfigError: as the command line says it.
        """
        setting = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("LREXP_")]
        key = (os.getcwd(), *setting, "", *overrides)  # what a config may depend on
        if key not in self._configs:
            self._configs[key] = pickle.dumps(self._composed(overrides))
        return pickle.loads(self._configs[key])

    def _composed(self, overrides: tuple[str, ...]) -> object:
        is_plain = [SETTING.match(o) and not o.startswith("hydra") for o in overrides]
        if all(is_plain):
            shared = None
            with suppress(Exception):  # Hydra's own way knows the words
                shared = self._shared(overrides)
            if shared is not None:
                return check(shared)[1]
        config = self._loader.load_configuration(CONFIG_NAME, list(overrides), RunMode.RUN)
        return check(without_hydra(config))[1]

    def _shared(self, overrides: tuple[str, ...]) -> DictConfig:
        is_choice = self._loader.repository.group_exists
        refuse_oddly_written(list(overrides), self._loader.repository)
        choices = [o for o in overrides if is_choice(o.partition("=")[0])]
        settings = [o for o in overrides if o not in choices]
        if tuple(choices) not in self._bases:
            base = self._loader.load_configuration(CONFIG_NAME, choices, RunMode.RUN)
            self._bases[tuple(choices)] = pickle.dumps(without_hydra(base))
        config: DictConfig = pickle.loads(self._bases[tuple(choices)])
        parsed = OverridesParser.create().parse_overrides(settings)
        self._loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        self._loader._apply_overrides_to_config(parsed, config)
        self._loader._refuse_secrets(config)
        return config
