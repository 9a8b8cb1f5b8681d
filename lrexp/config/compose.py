"""Hydra's loader with our checks in it: YAML files and overrides in, a checked config out.

Whatever is wrong is said as one `ConfigError` that names the override or file it came from.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, errors, flag_override

from lrexp.config.check import check_values, path_settings
from lrexp.config.errors import (
    BY_OPTION,
    ConfigError,
    no_option,
)
from lrexp.config.grammar import dirname, refuse_oddly_written
from lrexp.config.meant import option_words
from lrexp.config.names import CONFIG_NAME as CONFIG_NAME
from lrexp.config.names import conf_folder, new_run_id, point_name
from lrexp.config.origins import explained, name_of, origin
from lrexp.config.redact import secret_in
from lrexp.config.repository import BoundedRepository
from lrexp.config.schema import GROUPS, OPTIONS, store_schemas
from lrexp.config.targets import (
    check_folder_of_point,
    check_hydra_section,
    check_search_path,
    values_below,
)

SAMPLER = "hydra.sweeper.sampler"  # any argument of a sampler; the search says what it takes

# At import, so that they are there too in the worker processes of other launchers.
store_schemas()
OmegaConf.register_new_resolver("lrexp.point_name", point_name, replace=True)


class CheckedLoader(ConfigLoaderImpl):
    """Composes and checks. A point of a sweep is composed once, however often it is asked for."""

    def __init__(self, extra_folder: str | None = None):
        path = create_config_search_path(str(conf_folder()))
        self.folders = [conf_folder()]  # of YAML files, the user's own first
        if extra_folder is not None:
            if not os.path.isdir(extra_folder):
                raise ConfigError("", f"--config-dir {extra_folder}: there is no such folder")
            folder = f"file://{os.path.abspath(extra_folder)}"
            self.folders.insert(0, Path(extra_folder))
            path.prepend("command-line", folder, SearchPathQuery(provider="main"))
        super().__init__(path)
        self.repository = BoundedRepository(path)
        self._points: dict[tuple[str, ...], bytes] = {}  # pickled
        self._bases: dict[tuple[str, ...], bytes] = {}
        self._commons: dict[tuple[str, ...], set[str]] = {}
        self._overrides: dict[str, Override] = {}  # parsed

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *a: Any, **more: Any
    ) -> DictConfig:
        """Compose. Checking waits until a config is a single run's: see `check`."""
        refuse_oddly_written(overrides, self.repository)
        try:
            config = self._load_configuration_impl(config_name, overrides, run_mode, *a, **more)
        except ConfigError:
            raise
        except Exception as error:  # Hydra raises ValueError and others for bad input too
            raise explained(self, error, overrides) from error
        section: Any = OmegaConf.to_container(config.hydra, resolve=False)
        with self.placing(overrides):
            check_hydra_section(section, [o.lstrip("+~").partition("=")[0] for o in overrides])
        self._refuse_secrets(OmegaConf.to_container(config, resolve=False))
        return config

    def _refuse_secrets(self, plain: Any) -> None:
        """Refuse a config that holds what it must not be saved with. The value is not shown."""
        values = [(key, str(v)) for key, v in values_below("", plain) if isinstance(v, str)]
        if secret_in("\n".join(value for _, value in values)):
            for key, value in values:
                if secret := secret_in(value):
                    problem = f"holds {secret}, which would be saved with the run"
                    raise ConfigError(key, problem, "leave it in the environment")

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Any], repo: Any
    ) -> None:
        """Folders of YAML files that a config adds; packages among them would be imported."""
        given = [o.value() for o in parsed_overrides if o.get_key_element() == "hydra.searchpath"]
        loaded = repo.load_config(config_name) if config_name else None
        if loaded is not None and isinstance(loaded.config, DictConfig):
            given.append(OmegaConf.select(loaded.config, "hydra.searchpath"))
        for folders in given:
            check_search_path(folders)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """One checked point: in the sweep's folder, under a name made of what was swept."""
        key = tuple(sweep_overrides)
        if key not in self._points:
            point = self._composed_point(master_config, sweep_overrides)
            common = self._common(tuple(master_config.hydra.overrides.task))
            swept = [override for override in sweep_overrides if override not in common]
            with flag_override(point, ["struct", "readonly"], False):
                point.hydra.sweep.dir = master_config.hydra.sweep.dir
                how = point.hydra.job.config.override_dirname
                point.hydra.job.override_dirname = dirname(swept, how)
            self.check(point, sweep_overrides)
            with self.placing(sweep_overrides):
                check_folder_of_point(point.hydra)
            self._points[key] = pickle.dumps(point)
        else:
            point = pickle.loads(self._points[key])  # several times faster than a deep copy
        point.run_id = new_run_id()
        return point

    def _common(self, typed: tuple[str, ...]) -> set[str]:
        """Overrides that every point has, as they were typed and as Hydra's sweeper writes them."""
        if typed not in self._commons:
            parsed = OverridesParser.create(config_loader=self).parse_overrides(list(typed))
            single = [override for override in parsed if not override.is_sweep_override()]
            written = {f"{o.get_key_element()}={o.get_value_element_as_str()}" for o in single}
            self._commons[typed] = written | set(typed)
        return self._commons[typed]

    def _composed_point(self, master_config: DictConfig, overrides: list[str]) -> DictConfig:
        """As Hydra composes it. Points that choose the same options share that part of the work."""
        settings, choices = [], []
        for override in overrides:
            named = re.match(r"([A-Za-z_][\w.]*)=", override)
            if not named or named[1].startswith("hydra."):  # added, removed, moved: Hydra's own way
                return super().load_sweep_config(master_config, overrides)
            is_choice = self.repository.group_exists(named[1])
            (choices if is_choice else settings).append(override)
        refuse_oddly_written(overrides, self.repository)
        if tuple(choices) not in self._bases:
            base = super().load_sweep_config(master_config, choices)
            self._bases[tuple(choices)] = pickle.dumps(base)
        point: DictConfig = pickle.loads(self._bases[tuple(choices)])
        try:
            parsed = [self._parsed(setting) for setting in settings]
            self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
            self._apply_overrides_to_config(parsed, point)
        except Exception as error:
            raise explained(self, error, overrides) from error
        point.hydra.overrides.task = overrides
        return point

    def _parsed(self, override: str) -> Override:
        """One that Hydra has parsed: points of a grid share most of theirs."""
        if override not in self._overrides:
            (self._overrides[override],) = OverridesParser.create().parse_overrides([override])
        return self._overrides[override]

    def _compose_config_from_defaults_list(self, *arguments: Any, **named: Any) -> DictConfig:
        """Composed, with sections of any keys (`args`, `eval_sets`) free to take new ones."""
        config = super()._compose_config_from_defaults_list(*arguments, **named)
        open_free_sections(config)
        return config

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        *a: Any,
        **k: Any,
    ) -> list[str]:
        """Options and groups for shell completion, without our schemas.

        Options in a folder of a group of ours are options of that group: `lessons/too_high`.
        """
        found = super().get_group_options(group_name, results_filter, *a, **k)
        if group_name not in GROUPS:
            return found if group_name else [name for name in found if name != "schema"]
        if results_filter != ObjectType.CONFIG:
            return []
        folders = super().get_group_options(group_name, ObjectType.GROUP, *a, **k)
        for folder in folders:
            inside = super().get_group_options(f"{group_name}/{folder}", results_filter, *a, **k)
            found += [f"{folder}/{name}" for name in inside]
        return found

    def check(self, config: DictConfig, overrides: list[str]) -> None:
        """Raise a `ConfigError` that says where it came from if any setting cannot be used."""
        with self.placing(overrides):
            for override in overrides:
                name, _, value = override.lstrip("+~").partition("=")
                section, _, last = name.rpartition(".")
                if last == "name" and section in OPTIONS and "library" not in config[section]:
                    words = option_words(section, value)
                    hint = f"write {' '.join(words)}" if words else f"write {section}=NAME; "
                    if not words:
                        hint += no_option(section, value, self.get_group_options(section)).hint
                    raise ConfigError(name, BY_OPTION, hint, value)
            job = config.hydra.job.name
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", job):
                raise ConfigError("hydra.job.name", "must be a file name", given=job)
            with hydra_aside(config):
                checked = check_values(config)
        self._refuse_secrets(asdict(checked))
        for key, path in path_settings(checked).items():  # absolute, wherever the job runs
            OmegaConf.update(config, key, path)

    def folder(self, config: DictConfig, key: str, overrides: list[str]) -> Path:
        """The folder under a key such as hydra.run.dir, absolute.

        Raises:
            ConfigError: when it is empty or cannot be resolved.
        """
        with self.placing(overrides):
            try:
                name = OmegaConf.select(config, key)
                if not str(name or "").strip():
                    raise ConfigError(key, "names no folder")
                return Path(name).expanduser().resolve()
            except errors.OmegaConfBaseException as error:
                said = str(error).splitlines()[0]
                raise ConfigError(key, f"cannot be resolved: {said}") from error
            except RuntimeError as error:
                problem = "names the home folder of nobody here"
                raise ConfigError(key, problem, given=OmegaConf.select(config, key)) from error

    @contextmanager
    def placing(self, overrides: list[str]) -> Iterator[None]:
        """Errors of settings say where these came from."""
        try:
            yield
        except ConfigError as error:
            self.placed(error, overrides)
            raise

    def placed(self, error: ConfigError, overrides: list[str], file: str = "") -> ConfigError:
        """The same error with the override or file that gave the value, and the value itself."""
        if found := self.origin(error.key, overrides, file):
            error.place, error.given = found[0], found[1] if error.given == "" else error.given
        for preset in (o for o in overrides if o.startswith("experiment=")):
            if error.problem == "has no value":  # left to whoever chooses the preset
                error.hint += f" beside {preset}, whose file begins with the whole command"
                error.place = name_of(self, preset.replace("=", "/"))
        return error

    def origin(self, key: str, overrides: list[str], file: str = "") -> tuple[str, object] | None:
        """Where a setting got its value, the last word first, and what was written there."""
        return origin(self, key, overrides, file)


def without_hydra(composed: DictConfig) -> DictConfig:
    """A composed config without Hydra's own section; the one given keeps it."""
    with hydra_aside(composed):
        return copy.copy(composed)


@contextmanager
def hydra_aside(composed: DictConfig) -> Iterator[None]:
    """Hydra's own section is not there meanwhile, for interpolations too: a copy costs more."""
    content = vars(composed)["_content"]
    vars(composed)["_content"] = {k: node for k, node in content.items() if k != "hydra"}
    try:
        yield
    finally:
        vars(composed)["_content"] = content


def open_free_sections(config: DictConfig) -> None:
    """Let sections of any keys (`args`, `eval_sets`) take new ones."""
    free = ("data.columns", "data.eval_sets", "data.normalize", "trainer.metrics", SAMPLER)
    for at in (*free, *(f"{group}.args" for group in OPTIONS)):
        section = OmegaConf.select(config, at)
        if isinstance(section, DictConfig):
            OmegaConf.set_struct(section, False)
