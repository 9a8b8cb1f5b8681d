"""What a run folder says about going on with it: how its run ended, and what has changed since.

Imports nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.schema import meaning_of, says_nothing
from lrexp.folder.claim import resume_command
from lrexp.folder.layout import CHECKPOINTS, CONFIG, MULTIRUN, SUMMARY, WANDB
from lrexp.runs.differences import (
    ABSENT,
    WHOLE,
    Change,
    change_lines,
    config_changes,
    number,
    shown,
)
from lrexp.runs.reading import refuse_links
from lrexp.runs.run import content, json_object, read_summary, yaml_object

DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped, and how it is to go on."""

    run_id: str
    status: str  # as its summary has it; `running` was killed
    changes: list[str] = field(default_factory=list)  # settings, a line each
    changed_data: bool = False  # go on although data or first weights are others than then
    resumed: list[dict[str, Any]] = field(default_factory=list)  # when it went on before
    stacked: bool = False  # it was trained together with other runs, which rounds otherwise


def stopped_run(folder: Path, changed_data: bool = False) -> Stopped | None:
    """The run in a folder; None when there is none.

    Raises:
        UserError: when the folder holds a sweep, or its summary cannot be read.
    """
    if (folder / MULTIRUN).exists():
        raise UserError(f"{folder} holds a sweep, not a run\n  hydra.launcher.resume goes on there")
    refuse_links(folder, but=WANDB)  # where the client of a killed run left a link to its log
    began = (folder / CONFIG).exists() or (folder / CHECKPOINTS).exists()
    if not began or not (folder / SUMMARY).exists():  # stopped before it had written anything
        return None
    try:
        summary = content(folder / SUMMARY, json_object, dict[str, Any]())
        run_id, status = str(summary["run_id"]), str(summary["status"])
        resumed = list(summary.get("resumed", []))
        stacked = number(summary.get("members")) > 1
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder / SUMMARY} cannot be read: {error}") from None
    return Stopped(run_id, status, changed_data=changed_data, resumed=resumed, stacked=stacked)


def began(folder: Path) -> bool:
    """Whether a run of ours was stopped there before it had written its config."""
    summary = read_summary(folder, [])
    return {"run_id", "status", "config_id"} <= summary.keys() and not (folder / CONFIG).exists()


def changes_since(folder: Path, config: DictConfig) -> list[Change]:
    """Settings that differ from the run's own, but for those that may change at will.

    Args:
        folder: of the run.
        config: checked.

    Raises:
        UserError: when the folder's config.yaml cannot be read.
    """
    saved = content(folder / CONFIG, yaml_object, None)
    if saved is None:
        raise UserError(f"{folder / CONFIG} cannot be read: it is missing")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return [
        (key, was, now)
        for key, was, now in config_changes(saved, plain)
        if meaning_of(key).resume != "ignored"
        # an older run lacks new settings
        and not all(one == ABSENT or says_nothing(key, one) for one in (was, now))
    ]


def refuse_what_must_stay(changes: Sequence[Change]) -> None:
    """Raise a ConfigError for the first change that a run cannot go on under."""
    for key, was, now in changes:
        if meaning_of(key).resume == "stays":
            problem = f"cannot change in a run that goes on; it was {shown(was, WHOLE)}"
            hint = "leave it as it was, or start a new run"
            raise ConfigError(key, problem, hint, shown(now, WHOLE))


def refuse_any(folder: Path, changes: Sequence[Change]) -> None:
    """Raise a UserError that lists the changes and how to go on under them, if there are any."""
    if changes:
        lines = "\n  ".join(change_lines(changes, len(changes), WHOLE))
        new = (
            (key, shown(now, WHOLE).replace(" ", "")) for key, _, now in changes if now != ABSENT
        )
        raise UserError(
            f"{folder} holds a run of other settings:\n  {lines}\n"
            f"  to go on under new ones: {resume_command(folder)} {' '.join(map('='.join, new))}\n"
            "  to start a new run: choose another hydra.run.dir"
        )
