"""Trainers of composed configs, and who listens to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lrexp.build.experiment import build
from lrexp.judge.epoch import Row
from lrexp.train.experiment import Experiment
from lrexp.train.loop import Trainer


class Silent:
    """Records nothing."""

    def row(self, row: Row) -> None: ...


class Watch:
    """Calls a function after every epoch, when its row is recorded."""

    def __init__(self, look: Callable[[Row], object]):
        self._look = look

    def row(self, row: Row) -> None:
        self._look(row)


def trainer_of(config: Any, experiment: Experiment | None = None) -> Trainer:
    """A trainer that has not trained yet, of an experiment other than the config's if given."""
    built = build(config) if experiment is None else experiment
    return Trainer(built, config.trainer, config.data.batch_size, config.seed)
