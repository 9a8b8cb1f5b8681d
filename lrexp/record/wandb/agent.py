"""A trial of a W&B sweep: what its agent tells the program, and what it is told in the end.

A single run is the trial's own run. In a grid every point has a run of its own, and the trial's run
gets what came of the grid: the value that the sweep optimises.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrexp.record.wandb.client import AGENTS, missing, prepared, why_offline
from lrexp.runs.run import read_yaml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One trial, as the agent names it."""

    sweep_id: str
    run_id: str
    chosen: dict[str, Any]  # the settings that the sweep chose, by its own keys


def trial() -> Trial | None:
    """The trial that this program is, if an agent started it."""
    sweep_id, run_id, file = (os.environ.get(name) for name in AGENTS)
    if not (sweep_id and run_id):
        return None
    found = read_yaml(Path(file)) if file else None
    named = found.items() if isinstance(found, Mapping) else ()
    chosen = {k: v["value"] for k, v in named if isinstance(v, Mapping) and "value" in v}
    return Trial(sweep_id, run_id, chosen)


def tell_agent(folder: Path, board: Mapping[str, Any]) -> None:
    """Give the trial's run what came of a grid; that it cannot be had is a warning.

    Args:
        folder: of the grid.
        board: its leaderboard. The best configuration's mean over seeds is the trial's value.
    """
    told = trial()
    if told is None:
        return
    import wandb

    monitor, rows = board["monitor"], board["configurations"]
    done = [row for row in rows if row["status"]["finished"]]
    key, summary = "status", {"status": "finished" if done else "failed", "grid": folder.name}
    if done:
        best = done[0]
        summary |= {f"best/{monitor}": best[monitor]["mean"], "seeds": best[monitor]["n"]}
        summary |= {f"best/{monitor}_std": best[monitor]["std"], **best["settings"]}
    try:
        own = prepared()
        if why := why_offline():
            raise ConnectionError(why)
        run = wandb.init(
            id=told.run_id,
            project=own.project,
            entity=own.entity,
            group=os.environ.get("WANDB_RUN_GROUP") or folder.name,
            job_type="grid",
            dir=str(folder),
            config=told.chosen,
            mode="online",
            reinit="create_new",
            resume="allow",
            settings=wandb.Settings(sweep_id=told.sweep_id, x_disable_stats=True),
        )
        run.summary.update(summary)
        run.finish(exit_code=0 if done else 1)
        if lacks := missing(run, 0, key, summary[key]):
            raise ConnectionError(lacks)
    except Exception as error:
        log.warning("W&B's sweep was not told what came of the grid: %s", error)
