"""Recorders: they write down what a run did. None of them can stop it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What recorders know of a run when it starts."""

    folder: Path
    run_id: str
    title: str  # readable: what was overridden, or the experiment's name
    sweep: str | None  # the sweep's folder name, for a point of a grid
    config: dict[str, Any]  # resolved, plain values
    config_id: str
    steps: int
    monitor: str
    opening: list[str]  # lines that say what is about to be trained
    ends_by: str = "trainer.epochs"  # the setting that says how long training is
    # rows of the epochs before, when a run goes on from its checkpoint; None for one that begins
    earlier: list[dict[str, float]] | None = None


R = TypeVar("R")  # takes a `row` per epoch, and the summary to `finish`


class Recorders:
    """Several recorders as one. The first failure of each is a warning, and its last word."""

    def __init__(self) -> None:
        self._working: list[Any] = []

    def add(self, name: str, make: Callable[[], R]) -> R | None:
        """Start a recorder; None, and a warning, when it cannot start."""
        try:
            recorder = make()
        except Exception as error:
            _warn(name, "does not record this run", error)
            return None
        self._working.append(recorder)
        return recorder

    def row(self, row: dict[str, float]) -> None:
        """Hand an epoch's metrics to every recorder that still works."""
        self._each("row", row)

    def finish(self, summary: dict[str, Any]) -> None:
        """Hand over the summary; what still works may close its files and connections."""
        self._each("finish", summary)

    def _each(self, method: str, argument: dict[str, Any]) -> None:
        for recorder in list(self._working):
            try:
                getattr(recorder, method)(argument)
            except Exception as error:
                self._working.remove(recorder)
                _warn(type(recorder).__name__, "stopped recording, the run goes on", error)


def _warn(name: str, what: str, error: Exception) -> None:
    log.warning("%s %s: %s", name, what, error)
    log.info("%s", name, exc_info=error)  # the file alone shows the traceback
