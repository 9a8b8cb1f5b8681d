"""What belongs to the whole program, and that no test or fixture may leave changed."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def nothing_changed() -> Iterator[None]:
    """Give back the working folder, the environment, logging's handlers, torch's flags, Hydra."""
    cwd, environment = os.getcwd(), dict(os.environ)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h) is logging.FileHandler]:
        root.removeHandler(handler)  # of a run that a fixture of many tests has trained
        handler.close()
    handlers, level = root.handlers[:], root.level
    torch = _torch_state()
    try:
        yield
    finally:
        os.chdir(cwd)
        if os.environ != environment:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
        root.setLevel(level)
        _restore_torch(torch)
        if (module := sys.modules.get("hydra.core.global_hydra")) is not None:
            module.GlobalHydra.instance().clear()


def _torch_state() -> tuple[int, bool] | None:
    if (torch := sys.modules.get("torch")) is None:
        return None
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()


def _restore_torch(before: tuple[int, bool] | None) -> None:
    now = _torch_state()
    if now is None:
        return
    torch = sys.modules["torch"]
    threads, deterministic = before or (int(os.environ["OMP_NUM_THREADS"]), False)
    if now[0] != threads:
        torch.set_num_threads(threads)
    if now[1] != deterministic:
        torch.use_deterministic_algorithms(deterministic)


class _Imports(list[str]):
    """Names of the modules that are looked for, as a finder that finds none."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern

    def find_spec(self, name: str, *_: object) -> None:
        if re.match(self._pattern, name):
            self.append(name)


@contextmanager
def imports_anew(pattern: str) -> Iterator[list[str]]:
    """Names of matching modules that are imported within, as in a program that has none of them.

    Those that were there are there again at the end.
    """
    looked_for = _Imports(pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "meta_path", [looked_for, *sys.meta_path])
        there = {name: sys.modules.pop(name) for name in [*sys.modules] if re.match(pattern, name)}
        try:
            yield looked_for
        finally:
            for name in [name for name in sys.modules if re.match(pattern, name)]:
                del sys.modules[name]
            sys.modules.update(there)
