"""Going on where a run in the same folder was stopped."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import UserError, out_of_memory
from lrexp.folder.layout import BEST, CHECKPOINTS, CONFIG, ENVIRONMENT
from lrexp.judge.settings import ends_training
from lrexp.judge.words import HELPS
from lrexp.runs.differences import change_lines, environment_changes
from lrexp.runs.run import content, json_object, read_rows, yaml_object

if TYPE_CHECKING:
    from lrexp.config.schema import Config
    from lrexp.runs.resume import Stopped
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

JUMP = 0.05  # of a rate


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
            rows = read_rows(folder, [])
            trainer.load_state(state, bool(stopped.changes), stopped.changed_data, rows)
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
        steps, experiment = len(trainer.experiment.schedule), trainer.experiment
        ends_by = ends_training(trainer.settings, experiment.steps_per_epoch)
        if trainer.step > steps:
            raise UserError(
                f"{folder} has trained {trainer.step} steps, and these settings end after"
                f" {steps}\n  give a larger {ends_by}, or start a new run"
            )
        if stopped.status in ("finished", "diverged") and not trainer.goes_on:
            raise UserError(
                f"{folder} is {stopped.status} after epoch {trainer.epoch}, step {trainer.step}\n"
                f"  nothing is left to train; {_what_helps(trainer, ends_by)}"
            )
    opening += [f"change {line}" for line in stopped.changes]
    return opening + rate_jump(trainer)


def _what_helps(trainer: Trainer, ends_by: str) -> str:
    """What goes on with a run that has come to its end."""
    settings = trainer.settings
    if trainer.diverged:
        return f"nothing goes on from there: start a new run; {HELPS}"
    if trainer.stopped_by == "collapsed":
        return "it was stopped as it collapsed: 'trainer.stop_on=[]' goes on all the same"
    if trainer.step < len(trainer.experiment.schedule):
        kept = f"no better {settings.monitor} for trainer.patience={settings.patience} epochs"
        return f"it was stopped by {kept}: a larger one, or null, goes on"
    if ends_by == "trainer.epochs":
        return "a larger trainer.epochs adds epochs"
    most = f"trainer.max_steps={settings.max_steps}"
    if ends_by == "trainer.max_steps":
        return f"{most} ended it: a larger one, or null, adds steps"
    return f"trainer.epochs={settings.epochs} and {most} both end it there: larger ones add steps"


def rate_jump(trainer: Trainer) -> list[str]:
    """A line that says how far a rate jumps, where the steps so far had another schedule.

    They had when the schedule goes by the length of training, which is another now, or is another
    itself. Only a jump that can be seen is said: `JUMP` or more, of the larger rate.
    """
    step, experiment = trainer.step, trainer.experiment
    if not trainer.factors_then or step >= len(experiment.schedule):
        return []
    now, then = trainer.factors(step - 1), trainer.factors_then
    groups = [g for g in experiment.optimizer.param_groups if g["name"] in then]
    last = [group["lr"] for group in groups]
    trainer.set_rates(step)
    jumps = [
        (max(was, group["lr"]), was, group["lr"], group)
        for was, group in zip(last, groups, strict=True)
        if not math.isclose(now[group["name"]], then[group["name"]], rel_tol=1e-6)
        and not math.isclose(was, group["lr"], rel_tol=JUMP)
    ]
    for was, group in zip(last, groups, strict=True):
        group["lr"] = was
    if not jumps:
        return []
    _, was, coming, group = max(jumps, key=lambda jump: jump[0])
    level = was / group["lr_scale"] if group["lr_scale"] else was
    return [
        f"rates  jump: {group['name']} was trained last at {was:.3g} and goes on at {coming:.3g},"
        f" for the schedule is drawn anew over {len(experiment.schedule):,} steps."
        f" scheduler=constant optimizer.lr={level:.3g} goes on without a jump, a new run has the"
        " whole schedule"
    ]


def restore_best(trainer: Trainer, folder: Path) -> None:
    """Make best.pt what the state says it is; without it the best epoch is one to come."""
    from lrexp.train.state import save_best

    save_best(trainer, folder / CHECKPOINTS)
    if lost := _lost_best(trainer, folder):
        log.warning("%s: the best epoch will be one of those to come", lost)
        trainer.track.forget_best()


def refuse_lost_best(trainer: Trainer, folder: Path) -> None:
    """Raise a UserError where best.pt is not what the state says, and is not saved anew."""
    if trainer.best.epoch != trainer.epoch and (lost := _lost_best(trainer, folder)):
        raise UserError(lost)


def _lost_best(trainer: Trainer, folder: Path) -> str:
    """What is wrong with best.pt, if the trainer has had a best epoch."""
    from lrexp.folder.checkpoint import load_checkpoint

    if not trainer.best.known:
        return ""
    try:
        found = load_checkpoint(folder / CHECKPOINTS / BEST)["epoch"]
    except Exception as error:  # whatever a reader makes of bytes that nobody wrote
        log.info(BEST, exc_info=error)
        found = None
    if found == trainer.best.epoch:
        return ""
    holds = f"of epoch {found}" if found is not None else "damaged or gone"
    return f"checkpoints/best.pt is {holds}, not of epoch {trainer.best.epoch}"


def changed_environment(folder: Path, facts: dict[str, Any]) -> list[str]:
    """What of code, packages, machine and data is not as the run in a folder began under."""
    before = content(folder / ENVIRONMENT, json_object, facts, [])  # damaged: nothing known
    return change_lines(environment_changes(before, facts))
