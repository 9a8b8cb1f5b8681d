"""How fast points train, one by itself or several together, measured on a few of their steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.train.loop import Trainer

WARM_STEPS = 2
TIMED_STEPS = 4  # at least


def clones(trainer: Trainer, seeds: Sequence[int]) -> list[Trainer]:
    """Trainers like one that has not trained, one for every seed; all begin with its weights."""
    return [_clone(trainer, seed) for seed in seeds]


def _clone(trainer: Trainer, seed: int) -> Trainer:
    experiment = trainer.experiment
    model, optimizer = copy.deepcopy((experiment.model, experiment.optimizer))
    settings = copy.copy(trainer.settings)
    own = replace(experiment, model=model, optimizer=optimizer)
    return Trainer(own, settings, trainer.batch_size, seed)


def serial_steps_per_s(trainer: Trainer, at_least_s: float) -> float:
    """Steps per second of one run by itself.

    Args:
        trainer: used up by it.
        at_least_s: what the timed steps take.
    """
    return _steps_per_s([trainer], trainer.train_epoch, at_least_s)


def stacked_steps_per_s(trainers: Sequence[Trainer], at_least_s: float) -> float:
    """Member-steps per second of runs that train together.

    Args:
        trainers: used up by it.
        at_least_s: what the timed steps take.
    """
    stack = StackedTrainer(trainers)
    with stack.stacked():
        return _steps_per_s(trainers, stack.train_epoch, at_least_s)


def _steps_per_s(
    trainers: Sequence[Trainer], epoch: Callable[[], object], at_least_s: float
) -> float:
    """Member-steps per second, the better of two timings: what disturbs one makes it slower."""

    def timed(steps: int) -> float:
        """Seconds per step."""
        for trainer in trainers:
            trainer.epoch = trainer.step = 0
            trainer.settings.limit_train_batches = steps
        started = time.perf_counter()
        epoch()
        return (time.perf_counter() - started) / trainers[0].step

    step_s = timed(WARM_STEPS)
    best = math.inf
    for _ in range(2):
        step_s = timed(max(TIMED_STEPS, round(at_least_s / min(step_s, best))))
        best = min(best, step_s)
    return len(trainers) / best
