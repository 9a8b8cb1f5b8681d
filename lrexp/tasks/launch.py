"""Where a task runs, and the summary it begins with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lrexp.config.check import config_id
from lrexp.config.errors import in_words
from lrexp.config.redact import redacted
from lrexp.config.schema import Config

if TYPE_CHECKING:
    from lrexp.build.data import Datasets
    from lrexp.runs.resume import Stopped

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """Where and as part of what a task runs."""

    folder: Path  # claimed and there
    overrides: list[str]
    title: str  # readable name of a point, empty for a single run
    sweep: str | None  # name of the sweep's folder
    datasets: Datasets | None = None  # of the points before
    executor: str = "serial"  # of lrexp.grid.executors
    # what takes a point's rows for the terminal: (RunInfo, steps done so far) → recorder
    terminal: Callable[[Any, Callable[[], int]], Any] | None = None
    stopped: Stopped | None = None  # the run in the folder that goes on
    until: int | None = None  # stop after this epoch, and leave the rest to whoever goes on


def blank_summary(resolved: DictConfig, config: Config, launch: Launch) -> dict[str, Any]:
    """summary.json of a run that has just started."""
    return {
        "status": "running",
        "run_id": config.run_id,
        "name": config.name,
        "seed": config.seed,
        "config_id": config_id(resolved),
        "best": {},
        "last": {},
        "test": {},
        "worst_classes": [],
        "leaks": None,
        "data": {},
        "gap": {},
        "verdicts": [],
        "plan_hash": None,
        "frozen_proof": None,
        "weights_hash": None,  # of the last epoch
        "executor": launch.executor,
        "members": 1,
        "device": None,
        "timings": {},
        "parameters": {},
        "error": None,
    }


def failure(error: Exception) -> dict[str, Any]:
    """What the summary says of a run that failed."""
    return {"status": "failed", "error": redacted(in_words(error))}


def write(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json; that it cannot be written is a warning."""
    from lrexp.folder.files import write_summary

    try:
        write_summary(folder, summary)
    except OSError as error:
        log.warning("summary.json could not be written: %s", error)
