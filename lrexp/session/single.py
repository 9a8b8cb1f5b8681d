"""One run: its config checked, its folder claimed, its task run there, or gone on with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader, without_hydra
from lrexp.config.errors import ConfigError, RunFailedError, UserError
from lrexp.config.names import new_run_id
from lrexp.config.schema import OPTIONS, option_of
from lrexp.folder.claim import Claim
from lrexp.folder.layout import SUMMARY, names_of_run
from lrexp.grid.points.cases import refuse_cases, take_cases
from lrexp.runs.differences import WHOLE, change_lines
from lrexp.runs.resume import (
    DONE,
    Stopped,
    began,
    changes_since,
    refuse_any,
    refuse_what_must_stay,
    stopped_run,
)
from lrexp.session.hydra import hydra_of
from lrexp.session.points import job
from lrexp.session.ranks import follow_first


@dataclass(frozen=True)
class Ran:
    """A run that has come to its end."""

    folder: Path
    value: float | None = None  # the best monitored one; None when nothing was run
    before: str = ""  # its status, where the folder held it already and it was over


def compose_single(loader: CheckedLoader, overrides: list[str]) -> DictConfig:
    """Compose overrides for a single run, unless `hydra.mode` in what they choose says a grid.

    Raises:
        UserError: for what cannot be composed, or means something in a grid alone.
    """
    config = loader.load_configuration(CONFIG_NAME, take_cases(overrides)[0], RunMode.RUN)
    if config.hydra.mode == RunMode.MULTIRUN:
        return config
    refuse_cases(overrides)
    for override in () if trains_a_grid(config) else overrides:
        if override.startswith(("hydra.launcher.", "hydra/launcher=", "hydra/sweeper=")):
            key, _, value = override.partition("=")
            raise ConfigError(key, "is for grids", "add -m", value)
    return config


def trains_a_grid(config: DictConfig) -> bool:
    """Whether the task trains runs of its own, and is no single run: see `Option.grid`."""
    option = OPTIONS["task"].get(option_of(config.task))
    return option is not None and option.grid


def run_single(
    loader: CheckedLoader, config: DictConfig, overrides: list[str], until: int | None = None
) -> Ran:
    """Check a composed config, claim its run folder, and run it there.

    Args:
        loader: that composed it.
        config: as composed; its hydra.run.dir is the run folder afterwards.
        overrides: of the command line.
        until: the epoch to stop after; None: the last one.

    Raises:
        UserError: for a mistake that is found before anything was built.
        RunFailedError: when it had begun.
    """
    loader.check(config, overrides)
    if trains_a_grid(config):
        hint = "give it on a command line of its own"
        raise ConfigError("task", "trains runs of its own", hint, config.task.name)
    follow_first(config)
    may_go_on = config.trainer.resume == "auto" and config.task.name == "train"
    given = config.run_id
    config.run_id = fresh = given or new_run_id()  # names the folder
    folder = loader.folder(config, "hydra.run.dir", overrides)
    claim = Claim(folder, resumed=may_go_on, names=names_of_run(config.hydra))
    config.run_id, stopped = given, None
    if may_go_on:
        try:
            stopped = stopped_run(claim.folder)
            if stopped:
                now = check(without_hydra(config))[0]
                refuse_any(claim.folder, changes_since(claim.folder, now))
                if given not in (None, stopped.run_id):
                    raise UserError(f"{claim.folder} holds run {stopped.run_id}, not {given}")
        except UserError:
            claim.release()
            raise
        if not stopped and not began(claim.folder):
            claim.refuse_taken()
        if stopped and stopped.status in DONE:
            claim.release()
            return Ran(claim.folder, before=stopped.status)
    config.run_id = stopped.run_id if stopped else fresh
    return _run(loader, config, overrides, claim, stopped, until)


def continue_run(
    folder: Path, resolved: DictConfig, overrides: list[str], changed_data: bool = False
) -> Ran:
    """Go on with a stopped run in its folder, from its last checkpoint.

    Args:
        folder: of the run, absolute.
        resolved: its saved config with `overrides` on top, without a `hydra` section. What differs
            from the saved one is shown; what cannot change in a run is an error.
        overrides: as typed.
        changed_data: go on although data or first weights are others than the checkpoint's.

    Raises:
        UserError: when there is no run that could go on, or not like this.
        RunFailedError: when it had gone on.
    """
    follow_first(resolved)
    if not folder.is_dir() or (stopped := stopped_run(folder, changed_data)) is None:
        raise UserError(f"{folder} holds no run that could go on")
    resolved = check(resolved)[0]
    if resolved.task.name != "train":
        raise UserError(f"{folder} holds a {resolved.task.name}, which has nothing to go on with")
    changes = changes_since(folder, resolved)
    refuse_what_must_stay(changes)
    stopped = replace(stopped, changes=change_lines(changes, len(changes), WHOLE))
    loader = CheckedLoader()
    with hydra_of(loader):
        composed = loader.load_configuration(CONFIG_NAME, [], RunMode.RUN)
        config = OmegaConf.create({**resolved, "run_id": stopped.run_id, "hydra": composed.hydra})
        config.hydra.overrides.task = overrides
        return _run(loader, config, overrides, Claim(folder, resumed=True), stopped)


def _run(
    loader: CheckedLoader,
    config: DictConfig,
    overrides: list[str],
    claim: Claim,
    stopped: Stopped | None,
    until: int | None = None,
) -> Ran:
    """Run one config in a claimed folder, or go on there with the run that was stopped."""
    config.hydra.run.dir = str(claim.folder)
    if stopped:
        config.hydra.output_subdir = None  # .hydra/ stays as the run's start wrote it
    before = _state_of(claim.folder / SUMMARY)
    try:
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=CONFIG_NAME)
        done = run_job(
            task_function=partial(job, stopped=stopped, until=until),
            config=config,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(config_loader=loader, callbacks=callbacks),
        )
        callbacks.on_run_end(config=config, config_name=CONFIG_NAME, job_return=done)
    finally:
        gone = not claim.folder.is_dir()  # somebody removed it
        started = gone or _state_of(claim.folder / SUMMARY) != before
        if started or stopped:
            claim.release()
        else:
            claim.undo()
    error = done._return_value
    if not isinstance(error, Exception):
        return Ran(claim.folder, error)
    if isinstance(error, ConfigError) and not error.place:
        error = loader.placed(error, overrides)
    if started:
        raise RunFailedError(error) from error
    raise error


def _state_of(file: Path) -> tuple[int, int] | None:
    """What changes with every writing of a file; None when there is none."""
    found = file.stat() if file.is_file() else None
    return found and (found.st_ino, found.st_mtime_ns)
