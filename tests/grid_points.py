"""Composes the points of a grid as the command does, without running them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from composing import SETTING

from lrexp.grid.points.point import Point


@contextmanager
def composing() -> Iterator[Any]:
    """A function from the overrides of a command line with -m to its points."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import setup_globals

    version.setbase("1.3")
    setup_globals()
    from lrexp.session.composed import compose_points, find_equal_points

    def composed(*overrides: str, equal: bool = False) -> list[Point]:
        hydras = tuple(o for o in overrides if o.lstrip("+~").startswith("hydra"))
        loader = _loader(os.getcwd(), *hydras)
        loader._points.clear()  # which are named after what was swept
        request = _request(loader, *overrides)
        request.config.run_id = "abcdefgh"
        if not any(o.startswith("hydra.sweep.dir=") for o in overrides):
            request.config.hydra.sweep.dir = "sweep"
        points = compose_points(loader, request)
        if equal:
            find_equal_points(loader, request, points)
        return points

    yield composed
    GlobalHydra.instance().clear()


@cache
def _loader(*_depends_on: str) -> Any:
    """Shared by all grids of one folder with the same overrides of Hydra's own."""
    from lrexp.config.compose import CheckedLoader

    return CheckedLoader()


def _request(loader: Any, *overrides: str) -> Any:
    """As the command reads it. What Hydra makes of equal choices for all points, it makes once."""
    from lrexp.grid.points.cases import read_cases, take_cases
    from lrexp.session.request import read_request

    rest, cases = take_cases(overrides)
    if not all(SETTING.match(o) and not o.startswith("hydra") for o in rest):
        return read_request(loader, overrides)
    is_choice = loader.repository.group_exists
    chosen = [o for o in rest if is_choice(o.partition("=")[0]) and "," not in o]
    request = pickle.loads(_common(loader, *chosen))
    request.overrides = rest
    request.config.hydra.overrides.task = rest
    request.cases = read_cases(cases, loader.folders) if cases else None
    return request


@cache
def _common(loader: Any, *chosen: str) -> bytes:
    from lrexp.session.request import read_request

    return pickle.dumps(read_request(loader, chosen))
