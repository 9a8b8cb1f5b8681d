"""What `task=` chooses."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from lrexp.config.schema import Config
from lrexp.tasks.launch import Launch
from lrexp.tasks.plan import plan
from lrexp.tasks.train import train

TASKS: dict[str, Callable[[DictConfig, Config, Launch], float]] = {"train": train, "plan": plan}
