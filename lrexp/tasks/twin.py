"""A run's twin: the same run, but that its weights are moved by as little as rounding moves them.

How far the two get apart is what rounding alone does to the run. Where they stay together, another
machine, or training in company, cannot lead the run elsewhere; where they part, nothing can tell
such a difference from one of the training itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from lrexp.config.schema import Config
from lrexp.folder.layout import CHECKPOINTS
from lrexp.judge.epoch import Row
from lrexp.tasks.train import build_trainer
from lrexp.train.loop import Trainer

MOVED = 1e-7  # of every weight, up or down: about the distance of two numbers in float32


def train_twin(config: Config, folder: Path, until: int | None = None) -> list[Row]:
    """Train a run's twin; its checkpoints go to the folder, and nothing is recorded.

    Weights are moved before the first epoch and after every one, since a run rounds at every step.

    Args:
        config: of the run.
        folder: takes its checkpoints.
        until: the epoch to stop after; None: the last one.

    Returns:
        Its rows.
    """
    trainer = build_trainer(config, None)
    random = torch.Generator().manual_seed(0)
    move(trainer, random)

    class Moving:
        def row(self, row: Row) -> None:
            if until is not None and row["epoch"] >= until:
                raise _FarEnough
            move(trainer, random)

    with suppress(_FarEnough):
        trainer.run(Moving(), folder / CHECKPOINTS)
    return trainer.rows


@torch.no_grad()
def move(trainer: Trainer, random: torch.Generator) -> None:
    """Move every weight that trains in the coming epoch by `MOVED` of itself, up or down."""
    weights = dict(trainer.experiment.model.named_parameters())
    for row in trainer.experiment.plan.rows:
        if row.trains_after(trainer.epoch):
            weight = weights[row.name]
            up = torch.randint(0, 2, weight.shape, generator=random).to(weight)
            weight.mul_(1 + MOVED * (2 * up - 1))


class _FarEnough(BaseException):
    """The last epoch that was asked for is recorded."""
