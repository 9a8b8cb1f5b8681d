"""What a run folder says about going on with it: how its run ended, and what has changed since.

Imports nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.schema import meaning_of
from lrexp.folder.claim import resume_command
from lrexp.folder.layout import CHECKPOINTS, CONFIG, MULTIRUN, SUMMARY
from lrexp.runs.run import content, flat, json_object, yaml_object

DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped, and how it is to go on."""

    run_id: str
    status: str  # as its summary has it; `running` was killed
    changes: list[str] = field(default_factory=list)  # settings, a line each
    changed_data: bool = False  # go on although data or first weights are others than then
    resumed: list[dict[str, Any]] = field(default_factory=list)  # when it went on before


def stopped_run(folder: Path, changed_data: bool = False) -> Stopped | None:
    """The run in a folder; None when there is none.

    Raises:
        UserError: when the folder holds a sweep, or its summary cannot be read.
    """
    if (folder / MULTIRUN).exists():
        raise UserError(f"{folder} holds a sweep, not a run\n  hydra.launcher.resume goes on there")
    began = (folder / CONFIG).exists() or (folder / CHECKPOINTS).exists()
    if not began or not (folder / SUMMARY).exists():  # stopped before it had written anything
        return None
    try:
        summary = content(folder / SUMMARY, json_object, dict[str, Any]())
        run_id, status = str(summary["run_id"]), str(summary["status"])
        resumed = list(summary.get("resumed", []))
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder / SUMMARY} cannot be read: {error}") from None
    return Stopped(run_id, status, changed_data=changed_data, resumed=resumed)


def changes_since(folder: Path, now: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from the run's own: dotted key → (then, now).

    Args:
        folder: of the run.
        now: a checked config.

    Raises:
        UserError: when the folder's config.yaml cannot be read.
    """
    saved = content(folder / CONFIG, yaml_object, None)
    if saved is None:
        raise UserError(f"{folder / CONFIG} cannot be read: it is missing")
    before, after = _settings(saved), _settings(OmegaConf.to_container(now, resolve=True))
    return {
        key: (before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and meaning_of(key).resume != "ignored"
    }


def refuse_what_must_stay(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise a ConfigError for the first change that a run cannot go on under."""
    for key, (was, now) in changes.items():
        if meaning_of(key).resume == "stays":
            problem = f"cannot change in a run that goes on; it was {_shown(was)}"
            hint = "leave it as it was, or start a new run"
            raise ConfigError(key, problem, hint, _shown(now))


def refuse_any(folder: Path, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise a UserError that lists the changes and how to go on under them, if there are any."""
    if changes:
        lines = "\n  ".join(change_lines(changes))
        overrides = " ".join(f"{key}={_shown(now)}" for key, (_, now) in changes.items())
        raise UserError(
            f"{folder} holds a run of other settings:\n  {lines}\n"
            f"  to go on under new ones: {resume_command(folder)} {overrides}\n"
            "  to start a new run: choose another hydra.run.dir"
        )


def change_lines(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """`trainer.epochs: 15 → 30`, a line per setting."""
    return [f"{key}: {_shown(was)} → {_shown(now)}" for key, (was, now) in changes.items()]


def _settings(config: Any) -> dict[str, Any]:
    """Every setting by its dotted key; of `data.normalize` the choice that led to its numbers."""
    found, key = flat(config), "data.normalize"
    if chosen := found.get(f"{key}.chosen"):
        found = {k: v for k, v in found.items() if not k.startswith(f"{key}.")} | {key: chosen}
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
