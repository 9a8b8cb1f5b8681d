"""Where and as part of what a task runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrexp.build.data import Datasets
    from lrexp.runs.resume import Stopped


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
