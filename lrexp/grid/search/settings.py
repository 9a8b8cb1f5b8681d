"""The settings under `hydra.sweeper` of a sweep that Optuna chooses the points of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.schema import direction

SECTION = "hydra.sweeper"
# option of hydra/sweeper/sampler → class in optuna.samplers
SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "qmc": "QMCSampler",
    "grid": "GridSampler",
}
LEAST = {"n_trials": 1, "n_jobs": 1}
# Overrides that a sweep goes on with when it is not asked for again, in plain values; none is a
# place: a folder may come from somebody else.
OF_SEARCH = re.compile(
    r"(?:hydra/sweeper)=optuna|hydra/sweeper/sampler=\w+"
    r"|hydra\.sweeper\.(n_trials|n_jobs|direction|study_name|max_failure_rate)=[\w.+-]+"
    r"|\+?hydra\.sweeper\.sampler\.\w+=[\w.+-]+"
)


@dataclass
class OptunaSettings:
    """How trials are chosen. What each means stands in conf/hydra/sweeper/optuna.yaml."""

    n_trials: int = 20
    n_jobs: int = 4
    direction: str | None = None
    storage: str | None = None
    study_name: str | None = None
    max_failure_rate: float = 1.0
    params: dict[str, Any] | None = None
    sampler: dict[str, Any] = field(default_factory=dict)


def read_search_settings(config: DictConfig) -> OptunaSettings:
    """The settings of a composed sweep.

    Raises:
        ConfigError: for one that cannot be used, and a direction that seeks the worst value.
    """
    plain: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    found = OptunaSettings(**{f.name: plain[f.name] for f in fields(OptunaSettings)})
    for name, least in LEAST.items():
        if getattr(found, name) < least:
            raise _refused(name, "is too small", f"at least {least}", getattr(found, name))
    if not 0 <= found.max_failure_rate <= 1:
        given = found.max_failure_rate
        raise _refused("max_failure_rate", "is no share of trials", "from 0 to 1", given)
    wanted, monitor = f"{direction(config.trainer.monitor)}imize", config.trainer.monitor
    if found.direction not in (None, wanted):
        key = f"{SECTION}.direction"
        problem = f"looks for the worst value of trainer.monitor={monitor}"
        if found.direction not in ("minimize", "maximize"):
            problem = f"is no direction; trainer.monitor={monitor} is best where it is"
            problem += " lowest" if wanted == "minimize" else " highest"
        raise ConfigError(key, problem, f"write {key}={wanted}, or leave it out", found.direction)
    name = str(found.sampler.get("name", ""))
    if name not in SAMPLERS:
        key = "hydra/sweeper/sampler"
        raise ConfigError(key, "is no sampler that is known", did_you_mean(name, SAMPLERS), name)
    found.direction = wanted
    return found


def _refused(name: str, problem: str, hint: str, given: object) -> ConfigError:
    return ConfigError(f"{SECTION}.{name}", problem, hint, given)
