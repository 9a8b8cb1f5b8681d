"""Hydra's loader with our checks in it: YAML files and overrides in, a checked config out.

Whatever is wrong is said as one `ConfigError` that names the override or file it came from.
"""

from __future__ import annotations

import copy
import os
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_search_path import SearchPathQuery
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from lrexp.config import GROUPS, check, mistake, store_schemas
from lrexp.errors import ConfigError, did_you_mean
from lrexp.folder import conf_folder, new_run_id, point_name

CONFIG_NAME = "config"


class CheckedLoader(ConfigLoaderImpl):
    """Composes and checks. A point of a sweep is composed once, however often it is asked for."""

    def __init__(self, extra_folder: str | None = None):
        store_schemas()
        path = ConfigSearchPathImpl()
        path.append("hydra", "pkg://hydra.conf")
        path.append("main", f"file://{conf_folder()}")
        path.append("schema", "structured://")
        if extra_folder is not None:
            if not os.path.isdir(extra_folder):
                raise ConfigError("", f"--config-dir {extra_folder}: there is no such folder")
            folder = f"file://{os.path.abspath(extra_folder)}"
            path.prepend("command-line", folder, SearchPathQuery(provider="main"))
        super().__init__(path)
        self._points: dict[tuple[str, ...], DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose, and give the run an id. Checking waits until a config is a single run's."""
        try:
            config = self._load_configuration_impl(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except (HydraException, OmegaConfBaseException) as error:
            raise self._explain(error, overrides) from error
        if not config.run_id:
            config.run_id = new_run_id()
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """One checked point: in the sweep's folder, under a name made of what was swept."""
        key = tuple(sweep_overrides)
        if key not in self._points:
            point = super().load_sweep_config(master_config, sweep_overrides)
            common = set(OmegaConf.to_container(master_config.hydra.overrides.task))  # type: ignore[arg-type]
            swept = [override for override in sweep_overrides if override not in common]
            with flag_override(point, ["struct", "readonly"], False):
                point.hydra.sweep.dir = master_config.hydra.sweep.dir
                point.hydra.job.override_dirname = point_name(swept)
            self.check(point, sweep_overrides)
            self._points[key] = point
        point = copy.deepcopy(self._points[key])
        point.run_id = new_run_id()
        return point

    def check(self, config: DictConfig, overrides: list[str]) -> None:
        """Raise a `ConfigError` that says where it came from if any setting cannot be used."""
        plain = copy.copy(config)
        with flag_override(plain, ["struct", "readonly"], False):
            del plain["hydra"]
        try:
            check(plain)
        except ConfigError as error:
            raise self._placed(error, overrides) from error

    def _explain(self, error: Exception, overrides: list[str]) -> ConfigError:
        """Hydra's and OmegaConf's exceptions as one message of ours."""
        if isinstance(error, MissingConfigException) and error.missing_cfg_file:
            group, _, option = error.missing_cfg_file.rpartition("/")
            hint = did_you_mean(option, error.options or [])
            return self._placed(
                ConfigError(group, "there is no such option", hint, option), overrides
            )
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, OmegaConfBaseException):
            inner = inner.__cause__ or inner.__context__
        said = str(error)
        if isinstance(inner, OmegaConfBaseException) and (inner.full_key or inner.key):
            key = str(inner.full_key or inner.key)
            if type(inner).__name__ in ("InterpolationKeyError", "InterpolationResolutionError"):
                return self._placed(ConfigError(key, str(inner).splitlines()[0]), overrides)
            file = said.split("'")[1] if said.startswith("In '") else ""
            return self._placed(mistake(key), overrides, file)
        if "Could not override" in said:
            return self._placed(mistake(said.split("'")[1].split("@")[0]), overrides)
        culprit = [o for o in overrides if o in said]
        place = "the command line" if culprit else ""
        return ConfigError("", " ".join(said.split("\n")), place=place)

    def _placed(self, error: ConfigError, overrides: list[str], file: str = "") -> ConfigError:
        """The same error with the override or file that gave the value, and the value itself."""
        found = self._origin(error.key, overrides, file)
        if found is not None:
            error.place, given = found
            error.given = given if error.given == "" else error.given
        return error

    def _origin(self, key: str, overrides: list[str], file: str = "") -> tuple[str, object] | None:
        """Where a setting got its value, the last word first, and what was written there."""
        for override in reversed(overrides):
            name, _, value = override.lstrip("+~").partition("=")
            if not file and (name == key or key.startswith((f"{name}.", f"{name}["))):
                inside = name != key
                return f"the command line: {override}", "" if inside else value
        plain = [o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] in GROUPS]
        for name in ([], plain):  # a bad group choice must not hide the rest
            try:
                defaults = self.compute_defaults_list(CONFIG_NAME, name, RunMode.RUN).defaults
            except (HydraException, OmegaConfBaseException):
                continue
            chosen = defaults
        for default in reversed(chosen):
            path = default.config_path
            if path is None or path.startswith(("hydra/", "schema/")) or (file and path != file):
                continue
            loaded = self.repository.load_config(path)
            assert loaded is not None
            content: Any = OmegaConf.create()
            OmegaConf.update(content, default.package or "", loaded.config) if default.package else None
            content = content if default.package else loaded.config
            value = _written_at(content, key)
            if value is not None:
                source = loaded.path.removeprefix("file://")
                place = os.path.relpath(os.path.join(source, f"{path}.yaml"))
                return place, "" if isinstance(value, DictConfig) else value
        return None


def _written_at(content: DictConfig, key: str) -> Any:
    """The value under a dotted key as the file has it, a list for one of its items, or None."""
    with flag_override(content, "struct", False):
        node: Any = content
        for part in key.replace("[", ".[").split("."):
            if part.startswith("["):
                return node
            if not isinstance(node, DictConfig) or part not in node:
                return None
            node = node._get_node(part)
        return node if isinstance(node, DictConfig) else getattr(node, "_value", lambda: node)()
