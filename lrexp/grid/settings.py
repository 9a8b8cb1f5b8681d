"""The settings under `hydra.launcher`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.parts import handed_over

EXECUTORS = ("auto", "serial", "stacked", "pool")
ONLY = ("failed",)
MOST_MEMBERS = 64  # their jobs are nested


@dataclass
class LauncherSettings:
    """How a grid is run."""

    executor: str = "auto"  # how points are run; auto: whichever is measured to be fastest
    members: int | None = None  # runs that train together at most; as many as fit in memory
    workers: int | None = None  # of the pool on the CPU; one per core
    gpus: list[int] | None = None  # of the pool; all there are
    jobs_per_gpu: int = 1  # workers of the pool on each GPU
    retries: int = 1  # of a point whose worker was killed or ran out of memory
    resume: str | None = None  # a sweep's folder, or latest: run what it has not finished
    only: str | None = None  # failed: of a resumed sweep run the failed points alone
    restart: bool = False  # of a resumed sweep run stopped points anew, not from their last epoch
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

    def refuse(name: str, problem: str, hint: str) -> NoReturn:
        raise ConfigError(f"hydra.launcher.{name}", problem, hint, found[name])

    for name, allowed in (("executor", EXECUTORS), ("only", ONLY)):
        if found[name] is not None and found[name] not in allowed:
            refuse(name, "is not one of the choices", did_you_mean(str(found[name]), allowed))
    if found["executor"] == "pool" and handed_over():
        problem = "starts programs of its own, which have no parts that were handed over as objects"
        refuse("executor", problem, "auto, serial and stacked run in this one")
    for name in ("only", "restart", "allow_changed_grid"):
        if found[name] and not found["resume"]:
            hint = "hydra.launcher.resume=SWEEP or latest"
            refuse(name, "is for a sweep that is resumed", hint)
    for name, least in LEAST.items():
        if found[name] is not None and found[name] < least:
            refuse(name, "is too small", f"at least {least}")
    if found["members"] is not None and found["members"] > MOST_MEMBERS:
        refuse("members", "is too large", f"at most {MOST_MEMBERS}")
    if found["gpus"] is not None:
        found["gpus"] = gpus = list(found["gpus"])
        if not gpus or min(gpus) < 0 or len(set(gpus)) < len(gpus):
            refuse("gpus", "is no list of different GPUs", "such as [0,1]")
    return LauncherSettings(**found)
