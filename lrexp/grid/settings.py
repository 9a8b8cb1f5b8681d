"""The settings under `hydra.launcher`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from lrexp.config.errors import ConfigError, did_you_mean

EXECUTORS = ("auto", "serial", "stacked", "pool")
ONLY = ("failed",)
MOST_MEMBERS = 64  # their jobs are nested


@dataclass
class LauncherSettings:
    """How a grid is run."""

    executor: str = "auto"  # of EXECUTORS; auto: whichever is measured to be fastest
    members: int | None = None  # runs that train together at most; as many as fit in memory
    workers: int | None = None  # of the pool on the CPU; one per core
    gpus: list[int] | None = None  # of the pool; all there are
    jobs_per_gpu: int = 1  # workers of the pool on each GPU
    retries: int = 1  # of a point whose worker was killed or ran out of memory
    resume: str | None = None  # a sweep's folder, or latest: run what it has not finished
    only: str | None = None  # failed: of a resumed sweep run the failed points alone
    allow_changed_grid: bool = False  # resume although the grid is not the one that was started


# Overrides that say how points are run, in plain values: a resumed sweep runs on as it was.
OF_LAUNCHER = re.compile(
    r"hydra\.launcher\.(executor|members|workers|gpus|jobs_per_gpu|retries)=[\w\[\], ]+"
)
LEAST = {"members": 1, "workers": 1, "jobs_per_gpu": 1, "retries": 0}


def read_settings(launcher: Any) -> LauncherSettings:
    """The settings of a launcher, or of its section in the config.

    Raises:
        ConfigError: for one that cannot be used.
    """
    found = {field.name: getattr(launcher, field.name) for field in fields(LauncherSettings)}
    for name, allowed in (("executor", EXECUTORS), ("only", ONLY)):
        value = found[name]
        if value not in allowed and not (name == "only" and value is None):
            hint = did_you_mean(str(value), allowed)
            raise ConfigError(f"hydra.launcher.{name}", "is not one of the choices", hint, value)
    for name in ("only", "allow_changed_grid"):
        if found[name] and not found["resume"]:
            hint = "hydra.launcher.resume=SWEEP or latest"
            problem = "is for a sweep that is resumed"
            raise ConfigError(f"hydra.launcher.{name}", problem, hint, found[name])
    for name, least in LEAST.items():
        if found[name] is not None and found[name] < least:
            problem = "is too small"
            raise ConfigError(f"hydra.launcher.{name}", problem, f"at least {least}", found[name])
    if found["members"] is not None and found["members"] > MOST_MEMBERS:
        hint = f"at most {MOST_MEMBERS}"
        raise ConfigError("hydra.launcher.members", "is too large", hint, found["members"])
    gpus = found["gpus"]
    if gpus is not None:
        found["gpus"] = list(gpus)
        if not gpus or min(gpus) < 0 or len(set(gpus)) < len(gpus):
            problem = "is no list of different GPUs"
            raise ConfigError("hydra.launcher.gpus", problem, "such as [0,1]", found["gpus"])
    return LauncherSettings(**found)
