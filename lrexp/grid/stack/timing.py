"""How fast points train, one by itself or several together, measured on a few of their steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.train.loop import Trainer

WARM_STEPS = 2
TIMED_STEPS = 4  # at least


def clones(trainer: Trainer, seeds: Sequence[int]) -> list[Trainer]:
    """Trainers like one that has not trained, one for every seed; all begin with its weights."""
    made = []
    for seed in seeds:
        model, optimizer = copy.deepcopy((trainer.experiment.model, trainer.experiment.optimizer))
        own = replace(trainer.experiment, model=model, optimizer=optimizer)
        made.append(Trainer(own, copy.copy(trainer.settings), trainer.batch_size, seed))
    return made


def steps_per_s(trainers: Sequence[Trainer], at_least_s: float) -> float:
    """Member-steps per second of one run by itself, or of several that train together.

    The better of two timings: what disturbs one makes it slower.

    Args:
        trainers: used up by it.
        at_least_s: what the timed steps of each timing take.
    """

    def timed(steps: int) -> float:
        """Seconds per step."""
        for trainer in trainers:
            trainer.epoch = trainer.step = 0
            trainer.settings.limit_train_batches = steps
        started = time.perf_counter()
        epoch()
        return (time.perf_counter() - started) / trainers[0].step

    if len(trainers) == 1:
        epoch, going = trainers[0].train_epoch, nullcontext()
    else:
        stack = StackedTrainer(trainers)
        epoch, going = stack.train_epoch, stack.stacked()
    with going:
        step_s, best = timed(WARM_STEPS), math.inf
        for _ in range(2):
            step_s = timed(max(TIMED_STEPS, round(at_least_s / min(step_s, best))))
            best = min(best, step_s)
    return len(trainers) / best
