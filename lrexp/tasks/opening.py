"""What a run writes and tells before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.schema import Config
from lrexp.folder.layout import CONFIG, HYDRA, OVERRIDES, PLAN, SCHEDULE
from lrexp.tasks.launch import Launch
from lrexp.tasks.summary import verdicts_of

if TYPE_CHECKING:
    from lrexp.record.recorders import RunInfo
    from lrexp.train.experiment import Experiment
    from lrexp.train.loop import Trainer


def with_normalization(resolved: DictConfig, dataset: Any) -> DictConfig:
    """The config with the numbers that `data.normalize` came to, and the choice that led there."""
    given = resolved.data.normalize
    if isinstance(given, DictConfig):
        return resolved
    found = {"mean": dataset.mean, "std": dataset.std, "chosen": given}
    OmegaConf.update(resolved, "data.normalize", found, force_add=True)
    return resolved


def write_plans(resolved: DictConfig, experiment: Experiment, launch: Launch) -> None:
    """The config, the plan and, of a single run, the rates step by step."""
    from lrexp.folder.files import write_atomically
    from lrexp.plan.preview import planned_rates

    write_atomically(launch.folder / CONFIG, OmegaConf.to_yaml(resolved))
    write_atomically(launch.folder / PLAN, experiment.plan.to_csv())
    if experiment.schedule and not launch.sweep:  # for the report's curves step by step
        schedule = planned_rates(
            *(experiment.plan, experiment.base_lr, experiment.schedule), experiment.steps_per_epoch
        )
        write_atomically(launch.folder / SCHEDULE, schedule)


def environment_of(experiment: Experiment) -> dict[str, Any]:
    """What the run runs under, with fingerprints of its files."""
    import torch

    from lrexp.folder.environment import environment
    from lrexp.train.state import fingerprints

    return environment(experiment.device, torch.get_num_threads(), fingerprints(experiment))


def known_at_start(trainer: Trainer) -> dict[str, Any]:
    """What summary.json has of a run before its first step."""
    from lrexp.plan.preview import parameter_counts

    experiment, data = trainer.experiment, trainer.experiment.dataset
    return {
        "verdicts": verdicts_of(trainer),
        "plan_hash": experiment.plan.hash,
        "device": str(experiment.device),
        "parameters": parameter_counts(experiment.plan),
        "leaks": None if data.leaks is None else data.leaks.as_dict(),
        "data": {
            "images": data.sizes,
            "left_out": data.left_out,
            "unlabeled": data.unlabeled,
            "converted": data.converted,
        },
    }


def run_info(
    resolved: DictConfig,
    config: Config,
    launch: Launch,
    trainer: Trainer,
    config_id: str,
    resumed: list[str],
) -> RunInfo:
    """What recorders are told of a run.

    Args:
        resolved: the config as it is saved.
        config: the same, checked.
        launch: where it runs.
        trainer: what trains it.
        config_id: of the config.
        resumed: lines that say what it goes on from.
    """
    from lrexp.models.weights import weights_name
    from lrexp.record.console import opening_lines
    from lrexp.record.recorders import RunInfo

    experiment = trainer.experiment
    plain: Any = OmegaConf.to_container(resolved)
    return RunInfo(
        folder=launch.folder,
        run_id=str(config.run_id),
        title=launch.title or " ".join(_first_overrides(launch)) or config.name,
        sweep=launch.sweep,
        config=plain,
        config_id=config_id,
        steps=len(experiment.schedule),
        monitor=config.trainer.monitor,
        opening=[
            *opening_lines(
                config.model.name,
                weights_name(config.model),
                config.data.name,
                experiment.plan,
                experiment.base_lr,
                experiment.dataset.sizes,
                _data_lines(experiment.dataset),
            ),
            *resumed,
        ],
        earlier=list(trainer.rows) if launch.stopped else None,
    )


def _first_overrides(launch: Launch) -> list[str]:
    """Those that the run was started with, if it goes on: its title stays."""
    from lrexp.runs.run import read_overrides

    known = launch.stopped is not None and (launch.folder / HYDRA / OVERRIDES).is_file()
    return read_overrides(launch.folder) if known else launch.overrides


def _data_lines(dataset: Any) -> list[str]:
    """What people should know about the images before they train on them."""
    leaks = dataset.leaks.lines() if dataset.leaks else []
    return [*(f"note   {note}" for note in dataset.notes), *(f"leaks  {line}" for line in leaks)]
