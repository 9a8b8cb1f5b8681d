"""The ranks of a run that is built, brought together before its first step."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer


def join(trainer: Trainer, going_on: bool) -> None:
    """Bring the ranks of a built run together, at the first one's state where the run goes on.

    Raises:
        UserError: when this rank has built another run than the first.
        RankFailedError: when another rank failed.
    """
    import torch

    ranks, experiment = trainer.ranks, trainer.experiment
    if not ranks.several:
        return
    if ranks.first:
        ranks.words.say("built", going_on)
    facts: dict[str, Any] = {
        "plan": experiment.plan.hash,
        "steps": len(experiment.schedule),
        "images": experiment.dataset.sizes,
    }
    ranks.join(experiment.device, facts)
    if not going_on:
        return
    stream = io.BytesIO()
    if ranks.first:
        torch.save(trainer.state(), stream)
    held, rows = ranks.from_first((stream.getvalue(), trainer.rows))
    if not ranks.first:  # what may have changed since, the first rank has judged
        state = torch.load(io.BytesIO(held), map_location=experiment.device, weights_only=True)
        trainer.load_state(state, allow_plan_change=True, allow_data_change=True)
        trainer.rows = rows
