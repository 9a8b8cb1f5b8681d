"""Hydra, set up for one command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import version
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from lrexp.config.compose import CheckedLoader


@contextmanager
def hydra_of(loader: CheckedLoader) -> Iterator[Hydra]:
    """Hydra with our loader in it; every command line has one of its own."""
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    hydra = Hydra("lrexp", loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        yield hydra
    finally:
        GlobalHydra.instance().clear()
