"""The settings under `hydra.launcher`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
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
    engine: str | None = None  # what runs points in programs of its own; chosen by hydra/launcher


@dataclass
class JoblibSettings(LauncherSettings):
    """`hydra/launcher=joblib`."""

    engine: str | None = "joblib"
    n_jobs: int = -1  # programs at a time; -1: one per core


@dataclass
class LocalJobSettings(LauncherSettings):
    """`hydra/launcher=submitit_local`: jobs as SLURM would have them, on this machine."""

    engine: str | None = "submitit_local"
    timeout_min: int = 60  # that a job may take
    signal_delay_s: int = 90  # that a job has to save its state, of these minutes
    gpus_per_node: int | None = None  # that each job has


@dataclass
class SlurmSettings(LocalJobSettings):
    """`hydra/launcher=slurm`: an array of jobs; null leaves a thing to the cluster's defaults."""

    engine: str | None = "slurm"
    max_num_timeout: int = 100  # a job that ran out of time goes on in another, so often
    partition: str | None = None  # as sbatch --partition
    account: str | None = None  # as sbatch --account
    qos: str | None = None  # as sbatch --qos
    constraint: str | None = None  # as sbatch --constraint
    exclude: str | None = None  # nodes, as sbatch --exclude
    cpus_per_task: int | None = None  # that each job has
    mem_gb: float | None = None  # that each job has
    array_parallelism: int = 256  # jobs of an array that may run at a time
    setup: list[str] | None = None  # shell commands before a job
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # other flags of sbatch


@dataclass
class RaySettings(LauncherSettings):
    """`hydra/launcher=ray`: points as tasks of a Ray cluster."""

    engine: str | None = "ray"
    address: str | None = None  # HOST:PORT or auto; null: $RAY_ADDRESS, or one of its own here
    num_cpus: float = 1  # that a task takes
    num_gpus: float = 0  # that a task takes


KINDS = {
    "lrexp": LauncherSettings,
    "joblib": JoblibSettings,
    "submitit_local": LocalJobSettings,
    "slurm": SlurmSettings,
    "ray": RaySettings,
}  # by the name of hydra/launcher

# What a resumed sweep does not keep: where it goes, and what would start programs.
_TYPED_ANEW = ("resume", "only", "restart", "allow_changed_grid", "engine", "address", "setup")
_KEPT = dict.fromkeys(
    f.name for kind in KINDS.values() for f in fields(kind) if f.name not in _TYPED_ANEW
)
_KEPT.pop("additional_parameters")
# Overrides that say how points are run, in plain values: a resumed sweep runs on as it was.
OF_LAUNCHER = re.compile(
    rf"(?:hydra/launcher)=({'|'.join(KINDS)})"
    rf"|hydra\.launcher\.({'|'.join(_KEPT)})=[\w\[\], .:&|-]+"
)
LEAST = {
    "members": 1,
    "workers": 1,
    "jobs_per_gpu": 1,
    "retries": 0,
    "timeout_min": 1,
    "signal_delay_s": 1,
    "max_num_timeout": 0,
    "array_parallelism": 1,
    "cpus_per_task": 1,
    "gpus_per_node": 0,
    "mem_gb": 0,
    "num_cpus": 0,
    "num_gpus": 0,
}


def read_settings(launcher: Any) -> LauncherSettings:
    """The settings of a launcher, or of its section in the config.

    Raises:
        ConfigError: for one that cannot be used.
    """
    engine = getattr(launcher, "engine", None)
    kind = KINDS["lrexp" if engine is None else engine]
    found: dict[str, Any] = {f.name: getattr(launcher, f.name) for f in fields(kind)}

    def refuse(name: str, problem: str, hint: str) -> NoReturn:
        raise ConfigError(f"hydra.launcher.{name}", problem, hint, found[name])

    for name, allowed in (("executor", EXECUTORS), ("only", ONLY)):
        if found[name] is not None and found[name] not in allowed:
            refuse(name, "is not one of the choices", did_you_mean(str(found[name]), allowed))
    if found["executor"] == "pool" and handed_over():
        problem = "starts programs of its own, which have no parts that were handed over as objects"
        refuse("executor", problem, "auto, serial and stacked run in this one")
    if engine and found["executor"] != "auto":
        hint = f"leave it out: members=N trains N points together in each job of {engine}"
        refuse("executor", "says how points run in this program", hint)
    if engine and handed_over():
        problem = "runs points in other programs, which have no parts that were handed over"
        refuse("engine", problem, "hydra/launcher=lrexp runs them in this one")
    for name in ("only", "restart", "allow_changed_grid"):
        if found[name] and not found["resume"]:
            hint = "hydra.launcher.resume=SWEEP or latest"
            refuse(name, "is for a sweep that is resumed", hint)
    for name, least in LEAST.items():
        if found.get(name) is not None and found[name] < least:
            refuse(name, "is too small", f"at least {least}")
    if found["members"] is not None and found["members"] > MOST_MEMBERS:
        refuse("members", "is too large", f"at most {MOST_MEMBERS}")
    if found.get("n_jobs") == 0:
        refuse("n_jobs", "leaves no program", "at least 1, or -1 for one per core")
    delay_s, minutes = found.get("signal_delay_s", 0), found.get("timeout_min", 1)
    if delay_s >= 60 * minutes:
        problem = f"leaves no time to train of timeout_min={minutes}"
        refuse("signal_delay_s", problem, f"less than {60 * minutes}")
    if found["gpus"] is not None:
        found["gpus"] = gpus = list(found["gpus"])
        if not gpus or min(gpus) < 0 or len(set(gpus)) < len(gpus):
            refuse("gpus", "is no list of different GPUs", "such as [0,1]")
    return kind(**found)
