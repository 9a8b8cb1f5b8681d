"""summary.json: what it begins with, what a run comes to, and how a failure reads in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lrexp.config.check import config_id
from lrexp.config.errors import OutOfMemoryError, UserError, in_words, out_of_memory
from lrexp.config.redact import redacted
from lrexp.config.schema import Config
from lrexp.folder.claim import resume_command
from lrexp.folder.files import write_summary
from lrexp.folder.layout import CHECKPOINTS, LAST
from lrexp.judge.kinds.facts import facts_of
from lrexp.judge.verdicts import verdicts

if TYPE_CHECKING:
    from lrexp.tasks.opening import Launch
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)


def blank_summary(resolved: DictConfig, config: Config, launch: Launch) -> dict[str, Any]:
    """summary.json of a run that has just started."""
    return {
        "status": "running",
        "run_id": config.run_id,
        "name": config.name,
        "seed": config.seed,
        "config_id": config_id(resolved),
        "best": {},
        "last": {},
        "test": {},
        "worst_classes": [],
        "leaks": None,
        "data": {},
        "gap": {},
        "overfit": None,
        "stopped_by": None,  # a kind of trainer.stop_on, or trainer.patience
        "verdicts": [],
        "remarks": [],  # on data, plan and schedule, a sentence each, as they were told
        "plan_hash": None,
        "frozen_proof": None,
        "learning_proof": None,
        "weights_hash": None,  # of the last epoch
        "executor": launch.executor,
        "members": 1,
        "world_size": 1,  # processes that train it together
        "backend": None,  # what exchanges their numbers
        "device": None,
        "timings": {},
        "parameters": {},
        "error": None,
    }


def failure(error: Exception) -> dict[str, Any]:
    """What the summary says of a run that failed."""
    return {"status": "failed", "error": redacted(in_words(error))}


def write(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json; that it cannot be written is a warning."""
    try:
        write_summary(folder, summary)
    except OSError as error:
        log.warning("summary.json could not be written: %s", error)


def results(trainer: Trainer, summary: Mapping[str, Any], ended: bool = False) -> dict[str, Any]:
    """Best and last row, the gap in both, overfitting, and verdicts.

    Args:
        trainer: of the run.
        summary: what is known so far of its data and leaks.
        ended: whether its training came to its end.
    """
    rows, best_epoch = trainer.rows, trainer.best.epoch
    best = next((row for row in rows if row["epoch"] == best_epoch), {})
    last = rows[-1] if rows else {}
    known = {**summary, "best": best}
    facts = facts_of(rows, known, trainer.track.monitor, trainer.experiment.plan, ended)
    keys = ("loss", "loss_se", "loss_chance_se", "accuracy")
    return {
        "best": best,
        "last": last,
        "gap": {
            moment: {key: row[f"gap/{key}"] for key in keys if f"gap/{key}" in row}
            for moment, row in (("best", best), ("last", last))
            if row
        },
        "stopped_by": (ended and trainer.stopped_by) or None,
        "overfit": facts.overfit and facts.overfit.as_dict(),
        "verdicts": verdicts(facts),
    }


def as_people_read_it(
    error: Exception, trainer: Trainer, config: Config, folder: Path
) -> Exception:
    """An error that says what to do when memory or disk ran out; others as they are."""
    if out_of_memory(error):
        said = (str(error).splitlines() or [type(error).__name__])[0]
        key, size = "trainer.eval_batch_size", config.trainer.eval_batch_size
        where = f"evaluating epoch {trainer.epoch}"
        if trainer.current and trainer.current.seen is None:
            key, size = "data.batch_size", config.data.batch_size
            where = f"step {trainer.step + 1} (epoch {trainer.epoch})"
        hint = f"set {key}={size // 2}" if size > 1 else "take a smaller network or images"
        return OutOfMemoryError(f"out of memory in {where} with {key}={size}: {said}\n  {hint}")
    checkpoints = folder / CHECKPOINTS
    if isinstance(error, OSError) and str(checkpoints) in str(error.filename):
        name = Path(str(error.filename)).name
        kept = (checkpoints / LAST).exists()
        saved = f"once that is mended: {resume_command(folder)}"
        saved = saved if kept else "no state was saved before"
        return UserError(f"{CHECKPOINTS}/{name}: {error.strerror}\n  {saved}")
    return error
