"""W&B runs made of run folders: what a run recorded is told again to the same recorder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from lrexp.config.schema.training import Wandb
from lrexp.record.recorders import Recorders, RunInfo
from lrexp.record.wandb.file import has_ended, runs_below
from lrexp.record.wandb.recorder import WandbRecorder
from lrexp.runs.run import Run, read_run

# of runs that were recorded before there were these settings
EARLIER = {"details": "auto", "points": "all"}


def saved_settings(run: Run) -> Wandb:
    """A run's own settings of W&B."""
    saved = EARLIER | run.config["logger"]
    return Wandb(**{field.name: saved[field.name] for field in fields(Wandb)})


def saved_info(run: Run, sweep: str | None, title: str = "") -> RunInfo:
    """What a recorder is told of a run that is over.

    Args:
        run: as it was read.
        sweep: name of the folder of the grid that it is a point of.
        title: what W&B shows; empty: the experiment's name.
    """
    return RunInfo(
        folder=run.folder,
        run_id=str(run.summary.get("run_id")),
        title=title,
        sweep=sweep,
        config=run.config,
        config_id=str(run.summary.get("config_id")),
        steps=0,
        monitor=run.config["trainer"]["monitor"],
        opening=[],
        earlier=run.rows,
    )


def has_run(folder: Path) -> bool:
    """Whether a run folder holds a W&B run that was brought to its end."""
    return any(map(has_ended, runs_below(folder)))


def record_saved(folder: Path, sweep: str, title: str) -> None:
    """Give a point of a grid the W&B run that it would have had, with every row at its step.

    What keeps it from being recorded is a warning. A run that was begun goes on.
    """
    recorders, run = Recorders(), read_run(folder)
    recorders.add(
        "W&B",
        lambda: WandbRecorder(saved_settings(run), "train", saved_info(run, sweep, title)),
    )
    recorders.finish(run.summary)
