"""Hydra's repository of YAML files, which reads none that no config can be."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType

from lrexp.config.errors import ConfigError
from lrexp.config.names import conf_folder
from lrexp.config.saved import read_yaml_text, refuse_reading


class BoundedRepository(ConfigRepository):
    """Hydra's; a file that is not ours is of a config's size, and reads no secret."""

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundedRepository:
        """Hydra changes its copy by giving it other sources; these hold all schemas."""
        return copy.copy(self)

    def load_config(self, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source and source.scheme() == "file" and source.path != str(conf_folder()):
            file = Path(source.path) / source._normalize_file_name(config_path)
            text = read_yaml_text(file)
            with suppress(yaml.YAMLError):  # which Hydra says below
                node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
                if isinstance(node, yaml.SequenceNode):
                    raise ConfigError("", f"{file}: holds a list where settings belong")
                refuse_reading(node, file)
        found = super().load_config(config_path)
        if found and source and source.path.removeprefix("file://") == str(conf_folder()):
            found.is_schema_source = True  # no plugin's of the same name is merged into ours
        return found
