"""Where a run takes place, and what it writes and tells before its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.schema import Config
from lrexp.folder.files import write_atomically
from lrexp.folder.layout import CONFIG, HYDRA, OVERRIDES, PLAN, SCHEDULE
from lrexp.judge.settings import ends_training, monitor_notes
from lrexp.plan.preview import parameter_counts, planned_rates, went_on
from lrexp.record.recorders import RunInfo
from lrexp.runs.run import content, read_overrides
from lrexp.tasks.summary import results

if TYPE_CHECKING:
    from lrexp.build.data import Datasets
    from lrexp.runs.resume import Stopped
    from lrexp.train.experiment import Experiment
    from lrexp.train.loop import Trainer
    from lrexp.train.ramp import TrainsEpochs
    from lrexp.train.ranks import Ranks


@dataclass(frozen=True)
class Launch:
    """Where and as part of what a task runs."""

    folder: Path  # claimed and there
    overrides: list[str]
    title: str  # readable name of a point, empty for a single run
    sweep: str | None  # name of the sweep's folder
    datasets: Datasets | None = None  # of the points before
    executor: str = "serial"  # of lrexp.grid.executors
    # what takes a point's rows for the terminal: (RunInfo, steps done so far) → recorder
    terminal: Callable[[Any, Callable[[], int]], Any] | None = None
    stopped: Stopped | None = None  # the run in the folder that goes on
    planned: set[str] | None = None  # config_ids of a sweep whose plan was shown
    # makes one of trainers, which trains them together, or says that it cannot: None
    together: Callable[[Sequence[Trainer]], TrainsEpochs | None] | None = None
    until: int | None = None  # stop after this epoch, and leave the rest to whoever goes on
    ranks: Ranks | None = None  # the processes that train it together


def with_normalization(resolved: DictConfig, dataset: Any) -> DictConfig:
    """The config with the numbers that `data.normalize` came to, and the choice that led there."""
    given = resolved.data.normalize
    if not isinstance(given, DictConfig):
        found = {"mean": dataset.mean, "std": dataset.std, "chosen": given}
        OmegaConf.update(resolved, "data.normalize", found, force_add=True)
    return resolved


def write_plans(resolved: DictConfig, experiment: Experiment, launch: Launch, done: int) -> None:
    """The config, the plan and, of a single run, the rates step by step.

    Of the steps `done` by a run that goes on, schedule.csv says what it said when they were
    trained. Where it did not, as of a point of a grid, there is none.
    """
    write_atomically(launch.folder / CONFIG, OmegaConf.to_yaml(resolved))
    write_atomically(launch.folder / PLAN, experiment.plan.to_csv())
    if experiment.schedule and not launch.sweep:  # for the report's curves step by step
        schedule = planned_rates(
            *(experiment.plan, experiment.base_lr, experiment.schedule), experiment.steps_per_epoch
        )
        if done:
            parse = partial(went_on, coming=schedule, done=done)
            schedule = content(launch.folder / SCHEDULE, parse, "", [])
        if schedule:
            write_atomically(launch.folder / SCHEDULE, schedule)


def known_at_start(trainer: Trainer, config: Config) -> dict[str, Any]:
    """What summary.json has of a run before its first step."""
    experiment, data = trainer.experiment, trainer.experiment.dataset
    classes = _class_facts(trainer)
    ranks = trainer.ranks
    known = {
        "world_size": ranks.world,
        "backend": ranks.backend,
        "remarks": [*_notes(trainer, classes, config), *experiment.remarks],
        "plan_hash": experiment.plan.hash,
        "device": str(experiment.device),
        "parameters": parameter_counts(experiment.plan),
        "leaks": None if data.leaks is None else data.leaks.as_dict(),
        "data": {
            "images": data.sizes,
            "left_out": data.left_out,
            "unlabeled": data.unlabeled,
            "converted": data.converted,
            "samples": {name: vars(sample) for name, sample in trainer.samples.items()},
            "guess_loss": trainer.guess_loss,  # of validation, by the training set's class shares
            "classes": classes,
        },
    }
    return known | {"verdicts": results(trainer, known)["verdicts"]}


def _notes(trainer: Trainer, classes: dict[str, Any], config: Config) -> list[str]:
    """How images were read, what their classes mean for an accuracy, and monitors that mislead."""
    from lrexp.judge.classes import classes_in_words

    read = trainer.experiment.dataset.notes
    return [*read, *classes_in_words(classes, vars(config.loss)), *monitor_notes(config)]


def _class_facts(trainer: Trainer) -> dict[str, Any]:
    from lrexp.judge.classes import class_facts

    data = trainer.experiment.dataset
    splits = {"train": data.train, "val": data.val, "test": data.test}
    labels = {name: split.labels.cpu().numpy() for name, split in splits.items() if split}
    return class_facts(labels, data.class_names)


def run_info(
    resolved: DictConfig,
    config: Config,
    launch: Launch,
    trainer: Trainer,
    summary: dict[str, Any],
    resumed: list[str],
) -> RunInfo:
    """What recorders are told of a run; `resumed` says what it goes on from.

    Args:
        summary: what is known at its start.
    """
    from lrexp.models.weights import weights_name
    from lrexp.record.console import opening_lines

    experiment, data = trainer.experiment, trainer.experiment.dataset
    begun = launch.stopped is not None and (launch.folder / HYDRA / OVERRIDES).is_file()
    typed = read_overrides(launch.folder) if begun else launch.overrides  # its title stays
    plain: Any = OmegaConf.to_container(resolved)
    said = {*experiment.remarks}  # as warnings, when they were found
    notes = [note for note in summary["remarks"] if note not in said]
    told = [f"note   {note}" for note in [*notes, experiment.layers.note] if note]
    if (ranks := trainer.ranks).several:
        told.append(f"ranks  {ranks.world} processes train it together ({ranks.backend})")
    told += [f"leaks  {line}" for line in (data.leaks.lines() if data.leaks is not None else [])]
    opening = opening_lines(
        config.model.name,
        weights_name(config.model),
        config.data.name,
        experiment.plan,
        experiment.base_lr,
        data.sizes,
        told,
    )
    return RunInfo(
        folder=launch.folder,
        run_id=str(config.run_id),
        title=launch.title or " ".join(typed) or config.name,
        sweep=launch.sweep,
        config=plain,
        config_id=summary["config_id"],
        steps=len(experiment.schedule),
        monitor=config.trainer.monitor,
        opening=[*opening, *resumed],
        ends_by=ends_training(config.trainer, experiment.steps_per_epoch),
        earlier=list(trainer.rows) if launch.stopped else None,
    )
