"""What settings come to in a run: which of them ends training, and monitors that select badly."""

from __future__ import annotations

from lrexp.config.schema import Config
from lrexp.config.schema.training import Trainer

# kind of metric → what it makes of trainer.monitor, and of scheduler.monitor
POOR = {
    "gap": (
        "the gap is smallest where least was learned, so it selects the least trained epoch",
        "the gap grows as the network learns, so the rate falls while it still does",
    ),
    "overfit": (
        "it is 0 in epoch 1 and never below, so epoch 1 is always the best",
        "it is 0 in epoch 1 and never below, so the rate falls whatever is learned",
    ),
    "train": (
        "it is measured on images that were trained on, so it selects the most overfitted epoch",
        "it is measured on images that were trained on and may get better while the network"
        " overfits, so the rate falls late",
    ),
}
POOR["train_eval"] = POOR["train"]


def monitor_notes(config: Config) -> list[str]:
    """A sentence for every monitor that a run can follow but hardly anybody wants to."""
    monitors = (config.trainer.monitor, getattr(config.scheduler, "monitor", ""))
    notes = []
    for i, (section, monitor) in enumerate(zip(("trainer", "scheduler"), monitors, strict=True)):
        if kind := POOR.get(monitor.partition("/")[0]):
            notes.append(f"{section}.monitor={monitor}: {kind[i]}; val/loss is the usual choice")
    return notes


def ends_training(trainer: Trainer, steps_per_epoch: int) -> str:
    """The setting that says how long training is; both in words where either would end it."""
    epochs, most = trainer.epochs * steps_per_epoch, trainer.max_steps
    if most is None or most > epochs:
        return "trainer.epochs"
    return "trainer.max_steps" if most < epochs else "trainer.epochs and trainer.max_steps"
