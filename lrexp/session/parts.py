"""Parts of an experiment that are given as Python objects instead of options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lrexp.config.errors import UserError


@contextmanager
def given_parts(parts: Mapping[str, Any]) -> Iterator[list[str]]:
    """The overrides that choose parts given as objects, which can be found in it meanwhile.

    Raises:
        UserError: for what is no part of an experiment.
    """
    for name in parts:
        raise UserError(
            f'{name}=...: there is no such argument; settings are overrides: ["seed=1"]'
        )
    yield []
