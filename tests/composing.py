"""Configs as a command line composes them, with the work shared that several have in common."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig

from lrexp.config.check import check
from lrexp.config.compose import (
    CONFIG_NAME,
    CheckedLoader,
    without_hydra,
)
from lrexp.config.grammar import refuse_oddly_written

SETTING = re.compile(r"([A-Za-z_][\w.]*)=")


def read_once(folder: Path) -> None:
    """Let Hydra read and merge the files of a folder, its own and schemas once in this program."""
    Plugins.instance()  # imports them, and stores their schemas
    kept = Kept(str(folder))
    load: Any = ConfigRepository.load_config
    merge: Any = ConfigLoaderImpl._compose_config_from_defaults_list

    def loaded(self: Any, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        return kept.of([source], config_path, lambda: load(self, config_path))

    def merged(self: Any, defaults: list[Any], repo: Any) -> Any:
        files = str([(one.config_path, one.package, one.is_self, one.primary) for one in defaults])
        return kept.of(repo.get_sources(), files, lambda: merge(self, defaults=defaults, repo=repo))

    ConfigRepository.load_config = loaded
    ConfigLoaderImpl._compose_config_from_defaults_list = merged
    no_map_without_interpolations()


class Kept:
    """What was made of files that do not change while the tests run, for whoever asks again."""

    def __init__(self, folder: str) -> None:
        self._folder, self._made = folder, dict[tuple[str, ...], bytes]()
        store: Any = ConfigStore.store

        def stored(its: Any, *arguments: Any, **named: Any) -> None:
            self._made.clear()  # of other schemas, perhaps
            store(its, *arguments, **named)

        ConfigStore.store = stored

    def of(self, sources: list[Any], asked: str, make: Callable[[], Any]) -> Any:
        """The caller's own; made anew where a source is a folder that a test may write to."""
        if any(one is None or self._may_change(one) for one in sources):
            return make()
        key = (*(f"{one.scheme()}:{one.provider}:{one.path}" for one in sources), asked)
        if key not in self._made:
            self._made[key] = pickle.dumps(make())
        return pickle.loads(self._made[key])

    def _may_change(self, source: Any) -> bool:
        return source.scheme() == "file" and source.path != self._folder


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
