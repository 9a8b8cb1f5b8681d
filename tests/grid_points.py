"""Composes the points of a grid as the command does, without running them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lrexp.grid.points.point import Point


@contextmanager
def composing() -> Iterator[Any]:
    """A function from the overrides of a command line with -m to its points."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import setup_globals

    from lrexp.config.compose import CheckedLoader

    version.setbase("1.3")
    setup_globals()
    loader = CheckedLoader()
    from lrexp.session.request import read_request
    from lrexp.session.sweep import compose_points, find_equal_points

    def composed(*overrides: str, equal: bool = False) -> list[Point]:
        request = read_request(loader, overrides)
        request.config.run_id = "abcdefgh"
        if not any(o.startswith("hydra.sweep.dir=") for o in overrides):
            request.config.hydra.sweep.dir = "sweep"
        points = compose_points(loader, request)
        if equal:
            find_equal_points(loader, request, points)
        return points

    yield composed
    GlobalHydra.instance().clear()
