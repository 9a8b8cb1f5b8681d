"""One run by several processes that torchrun started: the first speaks for all, others follow."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lrexp.config.check import check
from lrexp.config.compose import without_hydra
from lrexp.config.errors import ConfigError
from lrexp.config.launched import world_size

if TYPE_CHECKING:
    from lrexp.train.ranks import Ranks


@functools.cache
def ranks_here() -> Ranks | None:
    """This process and the others that torchrun started with it; None where it is alone."""
    if world_size() == 1:
        return None
    from lrexp.train.ranks import ranks_of_torchrun

    return ranks_of_torchrun()


def follow_first(config: DictConfig) -> None:
    """Train a config with the first rank, whose run it is; nothing to do for that one.

    Raises:
        ConfigError: when it is no training.
        Followed: on the other ranks, once there is nothing left for them to do.
    """
    if world_size() == 1:
        return
    if config.task.name != "train":
        hint = "leave torchrun out"
        raise ConfigError("task", "is no training, and torchrun is for one", hint, config.task.name)
    ranks = ranks_here()
    if ranks is not None and not ranks.first:
        from lrexp.tasks.following import follow

        plain = without_hydra(config) if "hydra" in config else config
        follow(check(plain)[1], ranks)
