"""A saved config as the ground that overrides are composed on, group options included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.conf import ConfigSourceInfo
from hydra.core.default_element import ResultDefault
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lrexp.config.check import check, check_values, schema_of
from lrexp.config.compose import CONFIG_NAME, CheckedLoader, hydra_aside, open_free_sections
from lrexp.config.errors import ConfigError, unknown_setting, wrong_type
from lrexp.config.names import RERUN_PROVIDER, shown_path
from lrexp.config.saved import refuse_writing
from lrexp.config.schema import GROUPS, OPTIONS, Config, option_of

SECTIONS = (*OPTIONS, "trainer")


class SavedLoader(CheckedLoader):
    """Composes as the command line does, with a saved config where conf/ has its defaults.

    A group that an override chooses (or an experiment file that one chooses) is composed from its
    YAML file, whose interpolations see the saved values of other sections; every other section is
    the saved one. An experiment's own values come after the saved ones, overrides after both. What
    the saved config knows nothing of, a setting newer than it, has the default of its option.

    Args:
        saved: plain values, of `lrexp.config.saved.read_saved_config`.
        file: that they come from, for messages.
        extra_folder: of the user's own YAML files.
    """

    def __init__(self, saved: dict[str, Any], file: Path, extra_folder: str | None = None):
        super().__init__(extra_folder)
        self.file = file
        self.saved = {key: value for key, value in saved.items() if key != "run_id"}
        self._chosen: set[str] = set()  # groups that overrides decide
        self._ground: DictConfig | None = None
        self.filled: dict[str, Any] = {}  # settings that are newer than the saved config

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *a: Any, **more: Any
    ) -> DictConfig:
        """Compose overrides on the saved config."""
        if self._ground is None:
            self._ground = self.ground()
        self._chosen = self._groups_chosen(overrides, run_mode)
        config = super().load_configuration(config_name, overrides, run_mode, *a, **more)
        source = ConfigSourceInfo(str(self.file), "file", RERUN_PROVIDER)
        with flag_override(config, ["struct", "readonly"], False):  # saved with Hydra's own files
            config.hydra.runtime.config_sources.append(source)
        return config

    def check(self, config: DictConfig, overrides: list[str]) -> None:
        """Raise a `ConfigError` that says where it came from if any setting cannot be used."""
        super().check(config, overrides)
        typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
        if "data" in self._chosen:  # then its root is that of a file in conf/
            typed.add("data.root")
        with self.placing(overrides), hydra_aside(config):
            refuse_writing(check_values(config), typed)

    def _groups_chosen(self, overrides: list[str], run_mode: RunMode) -> set[str]:
        """Groups that the overrides, or a file that they choose, take an option of."""
        names = [re.split("[@=]", override.lstrip("+~"))[0] for override in overrides]
        if not any(name in GROUPS or "/" in name for name in names) and len(self.folders) == 1:
            return set()  # conf/ alone, as it is
        try:
            found = self.compute_defaults_list(CONFIG_NAME, overrides, run_mode)
        except Exception:  # composing will say what is wrong
            return set()
        return set(found.overrides.override_choices) & set(SECTIONS)

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: Any
    ) -> DictConfig:
        ground = self._ground
        if ground is None:  # what the ground itself is made of
            return super()._compose_config_from_defaults_list(defaults=defaults, repo=repo)
        recipes = [d for d in defaults if (d.config_path or "").startswith("experiment/")]
        others = [d for d in defaults if d not in recipes]
        config = super()._compose_config_from_defaults_list(defaults=others, repo=repo)
        for key in ground:
            if key not in self._chosen:
                config[key] = ground[key]
        for recipe in recipes:
            own = super()._compose_config_from_defaults_list(defaults=[recipe], repo=repo)
            try:
                config.merge_with(own)
            except OmegaConfBaseException as error:
                said = f"In '{recipe.config_path}': {type(error).__name__}: {error}"
                raise ConfigCompositionException(said) from error
        open_free_sections(config)
        return config

    def ground(self) -> DictConfig:
        """The saved values in the schemas of their options.

        Raises:
            ConfigError: for a section or a value that today's schemas do not have.
        """
        saved, keys = self.saved, (*SECTIONS, "name", "seed")
        with self.placing_in_file():
            for key in keys:
                if key not in saved:
                    raise ConfigError(key, "is missing")
                if key in SECTIONS and not isinstance(saved[key], dict):
                    raise ConfigError(key, "is missing, or no section")
                if key in OPTIONS and option_of(saved[key]) in ("", "None", MISSING):
                    raise ConfigError(f"{key}.name", "is missing")
                if key in SECTIONS:
                    schema_of(key, saved[key])
        options = [f"{group}={option_of(saved[group])}" for group in OPTIONS]
        default = super().load_configuration(CONFIG_NAME, options, RunMode.RUN)
        ground = OmegaConf.create()
        for key in keys:
            with self.placing_in_file():
                try:
                    default.merge_with({key: saved[key]})
                except OmegaConfBaseException as error:
                    at = str(error.full_key or error.key or key)
                    if isinstance(error, ConfigAttributeError | ConfigKeyError):
                        schema = getattr(error, "object_type", None)
                        raise unknown_setting(at, schema=schema) from error
                    raise wrong_type(at, _at(saved, at)) from error
            ground[key] = default[key]
            self._note_filled(key, default[key], saved[key])
        return ground

    def _note_filled(self, key: str, section: Any, saved: Any) -> None:
        """Remember settings that the saved section, or one within, did not have."""
        if not OmegaConf.is_dict(section) or OmegaConf.get_type(section) is dict:
            return
        for name in section:
            if name not in saved:
                self.filled[f"{key}.{name}"] = section._get_node(name)
            else:
                self._note_filled(f"{key}.{name}", section._get_node(name), saved[name])

    def origin(self, key: str, overrides: list[str], file: str = "") -> tuple[str, object] | None:
        """Where a setting got its value: an override, else the saved config, else a file."""
        found = super().origin(key, overrides, file)
        section = key.partition(".")[0]
        if file or (found and found[0].startswith("the command line")) or section in self._chosen:
            return found
        recipe = found and f"{Path('/experiment/')}" in found[0]
        if recipe or section not in self.saved:
            return found
        value = _at(self.saved, key)
        return shown_path(self.file), "" if isinstance(value, dict) else value

    @contextmanager
    def placing_in_file(self) -> Iterator[None]:
        """Errors of settings say that they came from the saved config."""
        try:
            yield
        except ConfigError as error:
            error.place = error.place or shown_path(self.file)
            raise


def whole_config(saved: dict[str, Any], file: Path) -> Config:
    """A saved config, checked; what it knows nothing of has the default of its option.

    What it names, data and weights, need not be there any more.

    Args:
        saved: plain values, of `lrexp.config.saved.read_saved_config`.
        file: that they come from, for messages.

    Raises:
        ConfigError: for what cannot be used.
    """
    loader = SavedLoader(saved, file)
    config = loader.ground()
    config.run_id = saved.get("run_id")
    with loader.placing_in_file():
        return check(config, places=False)[1]


def _at(plain: Any, key: str) -> Any:
    """The value under a dotted key of plain values, or the empty string."""
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return ""
        plain = plain[part]
    return plain
