"""What a W&B run is opened with: names and settings, by config, environment and earlier files."""

from __future__ import annotations

import logging
import os
import shlex
import time
from pathlib import Path
from typing import Any

from lrexp.config.redact import redacted
from lrexp.config.schema.training import Wandb
from lrexp.folder.layout import ENVIRONMENT
from lrexp.record.recorders import RunInfo
from lrexp.record.wandb.agent import trial
from lrexp.record.wandb.client import NO_LOGIN, clean_tags, why_offline
from lrexp.record.wandb.file import run_record, runs_below
from lrexp.runs.run import content, json_object, read_overrides

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 300.0  # that long a server that could not be reached is not asked again
GROUPING = ("lr_policy", "model", "data", "optimizer", "scheduler")
# of environment.json: what a team asks when two runs differ; the machine's name is not in it
ORIGIN = (
    *("commit", "diff_hash", "code_hash", "lrexp", "packages", "python"),
    *("os", "device", "gpu", "cpu", "cpu_count", "threads"),
)

# server, and whether there is a key for it → time.monotonic() from which on it is asked again
_not_before: dict[str, float] = {}
_said: set[str] = set()  # variables of the user that are not followed


def id_of(info: RunInfo) -> str:
    """The W&B run's id: that of a run that goes on, the user's or an agent's, else lrexp's."""
    earlier = runs_below(info.folder) if info.earlier is not None else []
    given, agents = os.environ.get("WANDB_RUN_ID"), trial()
    if earlier:
        return run_record(earlier[-1]).run_id or info.run_id
    if info.sweep is None:
        return given or info.run_id
    if given and not agents:
        _say_once("WANDB_RUN_ID", "every point of a grid has an id of its own")
    return info.run_id


def arguments(settings: Wandb, job_type: str, info: RunInfo, own: Any) -> dict[str, Any]:
    """For `wandb.init`: the user's own variables win over the config.

    Args:
        settings: the config's.
        job_type: the task.
        info: of the run.
        own: the client's settings.
    """
    if os.environ.get("WANDB_DIR") and not trial():  # an agent always sets it
        _say_once("WANDB_DIR", "W&B's files lie in wandb/ of the run folder, where sync finds them")
    users_tags = os.environ.get("WANDB_TAGS")
    plain_names = {f"{group}.name": info.config[group]["name"] for group in GROUPING}
    tags = [*plain_names.values(), *(users_tags.split(",") if users_tags else settings.tags)]
    # the title without the id, which W&B shows by itself
    title = [word for word in info.title.split(" ") if not word.startswith("run_id=")]
    users_own = {  # W&B's own variables for what a run is called
        "group": ("WANDB_RUN_GROUP", settings.group or info.sweep),
        "name": ("WANDB_NAME", without_home(" ".join(title) or info.config["name"])),
        "notes": ("WANDB_NOTES", settings.notes),
        "job_type": ("WANDB_JOB_TYPE", job_type),
    }
    agents = trial() if info.sweep is None else None
    return {
        "project": None if own.project else settings.project,
        "entity": None if own.entity else settings.entity,
        **{k: None if os.environ.get(var) else v for k, (var, v) in users_own.items()},
        "tags": clean_tags(tags),
        "id": id_of(info),
        "dir": str(info.folder),
        "config": without_home(
            {
                **info.config,
                **plain_names,
                "config_id": info.config_id,
                **origin(info.folder),
                **(agents.chosen if agents else {}),
            }
        ),
        "reinit": "create_new",
        "resume": None if info.earlier is None else "allow",
    }


def as_recorded(file: Path) -> dict[str, Any]:
    """Of those arguments what an earlier file of the run says: it goes where it was to go."""
    told = run_record(file)
    return {
        "project": told.project or None,
        "entity": told.entity or None,
        "group": told.run_group or None,
        "name": told.display_name or None,
        "notes": told.notes or None,
        "job_type": told.job_type or None,
        "tags": list(told.tags),
        "id": told.run_id,
    }


def origin(folder: Path) -> dict[str, Any]:
    """What was typed, and what code and machine ran it, as far as the run folder says."""
    facts = content(folder / ENVIRONMENT, json_object, {}, [])
    environment = {key: facts[key] for key in ORIGIN if key in facts}
    typed = redacted(shlex.join(["lrexp", *read_overrides(folder)]))
    return {"command": typed, **({"environment": environment} if environment else {})}


def without_home(value: Any) -> Any:
    """Plain values with the user's home folder as `~` in every text of them."""
    if isinstance(value, dict):
        return {key: without_home(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(inner) for inner in value]
    home = os.path.expanduser("~")
    return value.replace(home, "~") if isinstance(value, str) and len(home) > 1 else value


def mode_of(asked: str, own: Any) -> str:
    """`online`, `offline` or `disabled`: by variable, config, the client's settings, the server."""
    users = os.environ.get("WANDB_MODE")
    if users:
        mode = users if users in ("offline", "disabled") else "online"
    else:
        mode = own.mode if asked == "auto" and own.mode in ("offline", "disabled") else asked
    if mode not in ("auto", "online"):
        return mode
    server = _server(own)
    if time.monotonic() < _not_before.get(server, 0):
        return "offline"
    why = why_offline()
    if why == NO_LOGIN and mode != "online":
        _not_before[server] = time.monotonic() + AGAIN_AFTER_S
    elif why:
        offline_from_now(own, why)
    return "offline" if why else "online"


def offline_from_now(own: Any, why: object) -> None:
    """Warn that the server cannot be reached, and leave it alone for a while."""
    _not_before[_server(own)] = time.monotonic() + AGAIN_AFTER_S
    log.warning("W&B cannot be reached, recording offline: %s", str(why).splitlines()[0])


def _server(own: Any) -> str:
    return f"{own.base_url} {'key' if os.environ.get('WANDB_API_KEY') else ''}"


def _say_once(variable: str, why: str) -> None:
    if variable not in _said:
        _said.add(variable)
        log.warning("%s is not followed: %s", variable, why)
