"""A run's twin: the same run, but that its weights are moved by as little as rounding moves them.

How far the two get apart is what rounding alone does to the run. Where they stay together, another
machine, or training in company, cannot lead the run elsewhere; where they part, nothing can tell
such a difference from one of the training itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from lrexp.config.schema import Config
from lrexp.folder.layout import CHECKPOINTS
from lrexp.judge.epoch import Row
from lrexp.tasks.train import build_trainer

MOVED = 1e-7  # of every weight, up or down: about the distance of two numbers in float32


def train_twin(config: Config, folder: Path, until: int | None = None) -> list[Row]:
    """Train a run's twin; its checkpoints go to the folder, and nothing is recorded.

    Weights are moved before every step, since a run rounds at every step, and large steps wipe out
    what was before them.

    Args:
        config: of the run.
        folder: takes its checkpoints.
        until: the epoch to stop after; None: the last one.

    Returns:
        Its rows.
    """
    trainer = build_trainer(config, None)
    random = torch.Generator(trainer.experiment.device).manual_seed(0)
    set_rates = trainer.set_rates

    def move_too(step: int) -> None:
        set_rates(step)
        move(trainer.experiment.model, random)

    class Ending:
        def row(self, row: Row) -> None:
            if until is not None and row["epoch"] >= until:
                raise _FarEnough

    trainer.set_rates = move_too
    with suppress(_FarEnough):
        trainer.run(Ending(), folder / CHECKPOINTS)
    return trainer.rows


@torch.no_grad()
def move(model: nn.Module, random: torch.Generator) -> None:
    """Move every weight that trains now by `MOVED` of itself, up or down."""
    for weight in model.parameters():
        if weight.requires_grad:
            up = torch.empty_like(weight).bernoulli_(0.5, generator=random)
            weight.mul_(up.mul_(2 * MOVED).add_(1 - MOVED))


class _FarEnough(BaseException):
    """The last epoch that was asked for is recorded."""
