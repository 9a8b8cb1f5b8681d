"""Data of a function of the user's own: arrays, names of files, or a Dataset of Hugging Face."""

from __future__ import annotations

from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.config.parts import called, part
from lrexp.data.source import Source
from lrexp.data.sources.arrays import from_arrays
from lrexp.data.sources.hf import from_parts
from lrexp.data.sources.hf_tables import parts_of
from lrexp.data.sources.labels import checked

KEY = "data.target"


def custom_data(
    name: str, target: str, args: dict[str, Any], channels: int, group_by: str | None
) -> Source:
    """What the function `target` returns: a Source, a Dataset, or what `from_arrays` takes.

    Args:
        name: what messages call it.
        target: dotted name of the function.
        args: of the function, by name.
        channels: 1 (grey) or 3 (RGB), which images of files and of a Dataset are converted to.
        group_by: a column of a Dataset.

    Raises:
        UserError: when it cannot be had, or is no set of labelled images.
    """
    found = called(KEY, target, part(KEY, target), {}, args)
    if type(found).__module__.startswith("datasets."):
        columns: dict[str, str | None] = {
            "image_column": None,
            "label_column": None,
            "group_by": group_by,
        }
        splits: dict[str, str | None] = {f"{one}_split": None for one in ("train", "val", "test")}
        return from_parts(name, parts_of(found, name), splits, columns, channels)
    if group_by is not None:
        hint = "give groups beside images and labels"
        raise ConfigError("data.group_by", "arrays have no columns", hint, group_by)
    return checked(found, name) if isinstance(found, Source) else from_arrays(name, found, channels)
