"""Going on where a run in the same folder was stopped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import UserError, out_of_memory
from lrexp.folder.layout import BEST, CHECKPOINTS, CONFIG, ENVIRONMENT
from lrexp.runs.run import content, json_object, yaml_object

if TYPE_CHECKING:
    from lrexp.config.schema import Config
    from lrexp.runs.resume import Stopped
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)


def take_up(trainer: Trainer, config: Config, folder: Path, stopped: Stopped) -> list[str]:
    """Bring a trainer as far as the stopped run's state; to the start if it had saved none.

    Nothing is written.

    Args:
        trainer: that has not trained yet.
        config: it was built from.
        folder: of the run.
        stopped: what is known of it.

    Returns:
        Lines that say where it goes on, and what has changed.

    Raises:
        UserError: when there is nothing left to do, every state is damaged, plan or data are others
            than then, or a length of the policy would become another on the way.
    """
    from lrexp.build.rates import refuse_moved_lengths
    from lrexp.folder.checkpoint import load_last

    checkpoints = folder / CHECKPOINTS
    state = load_last(checkpoints, trainer.experiment.device)
    opening = ["resume from the start: no state was saved"]
    if state is not None:
        depth, images = trainer.experiment.layers.depth, len(trainer.experiment.dataset.train)
        saved = content(folder / CONFIG, yaml_object, {})
        refuse_moved_lengths(saved, config, depth, images)
        try:
            trainer.load_state(state, bool(stopped.changes), stopped.changed_data)
        except UserError:
            raise
        except Exception as error:  # whatever a state of something else leads to
            if out_of_memory(error):
                raise
            log.info("the state", exc_info=error)
            said = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"{checkpoints}: the state there is not of this run:"
                f" {type(error).__name__}: {said}\n  start a new run"
            ) from error
        opening = [f"resume from epoch {trainer.epoch}, step {trainer.step}"]
        steps = len(trainer.experiment.schedule)
        if trainer.step > steps:
            raise UserError(
                f"{folder} has trained {trainer.step} steps, and these settings end after"
                f" {steps}\n  give more trainer.epochs, or start a new run"
            )
    if stopped.status in ("finished", "diverged") and not trainer.goes_on:
        raise UserError(
            f"{folder} is {stopped.status} after epoch {trainer.epoch}\n"
            "  nothing is left to train; a larger trainer.epochs adds epochs"
        )
    return [*opening, *(f"change {line}" for line in stopped.changes)]


def restore_best(trainer: Trainer, folder: Path) -> None:
    """Make best.pt what the state says it is; without it the best epoch is one to come."""
    from lrexp.folder.checkpoint import load_checkpoint
    from lrexp.train.state import save_best

    checkpoints = folder / CHECKPOINTS
    for leftover in (*checkpoints.glob("*.tmp"), *folder.glob(".*.tmp")):
        leftover.unlink(missing_ok=True)  # of a killed program
    if not trainer.best.known:
        return
    save_best(trainer, checkpoints)
    try:
        found = load_checkpoint(checkpoints / BEST)["epoch"]
    except Exception as error:  # whatever a reader makes of bytes that nobody wrote
        log.info(BEST, exc_info=error)
        found = None
    if found != trainer.best.epoch:
        holds = f"of epoch {found}" if found is not None else "damaged or gone"
        log.warning(
            "checkpoints/best.pt is %s, not of epoch %d: the best epoch will be one of those to"
            " come",
            *(holds, trainer.best.epoch),
        )
        trainer.track.forget_best()


def changed_environment(folder: Path, facts: dict[str, Any]) -> list[str]:
    """What of code, packages, machine and data is not as the run in a folder began under."""
    from lrexp.runs.differences import change_lines, environment_changes

    before = content(folder / ENVIRONMENT, json_object, facts, [])  # damaged: nothing known
    return change_lines(environment_changes(before, facts))
