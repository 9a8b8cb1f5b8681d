"""The command: compose, check, claim the run folder, run. Heavy imports wait for the run."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lrexp.config.errors import ConfigError, Terminated, UserError, in_words
from lrexp.config.redact import redacted

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from lrexp.build.data import Datasets
    from lrexp.config.compose import CheckedLoader
    from lrexp.config.schema import Config
    from lrexp.folder.claim import Claim
    from lrexp.grid.points.point import Point
    from lrexp.grid.sweep import Request
    from lrexp.runs.resume import Stopped
    from lrexp.tasks.launch import Launch
    from lrexp.tasks.train import Training
    from lrexp.train.loop import Trainer


def main(argv: list[str] | None = None) -> int:
    """Run one command line; see `answer`."""
    return answer(_dispatch, argv)


def answer(dispatch: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Have a command line answered by `dispatch`, and say on the terminal what went wrong.

    Returns:
        Its exit code: 0 done (a diverged run too), 1 a run failed, 2 a mistake in the request,
        130 interrupted from the keyboard, 143 terminated.
    """
    argv = sys.argv[1:] if argv is None else argv
    return _guarded(lambda: dispatch(argv))


def continue_run(
    folder: Path, resolved: DictConfig, overrides: list[str], changed_data: bool = False
) -> int:
    """Go on with a stopped run in its folder, from its last checkpoint.

    Args:
        folder: of the run, absolute.
        resolved: its saved config with `overrides` on top, without a `hydra` section. What differs
            from the saved one is shown; what cannot change in a run is an error.
        overrides: as typed.
        changed_data: go on although data or first weights are others than the checkpoint's.

    Returns:
        The exit code, as `main`; every mistake has been said.
    """
    return _guarded(lambda: _continue(folder, resolved, overrides, changed_data))


def _guarded(run: Callable[[], int]) -> int:
    """The exit code of a command; what stopped it has been said."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # ± on a terminal without it is no reason to fail
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = os.environ.get("HYDRA_FULL_ERROR") == "1"  # of a log on a full disk
    try:
        return run()
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if stop := _stop_among(error):
            print("interrupted", file=sys.stderr)
            return 130 if isinstance(stop, KeyboardInterrupt) else 143
        return _report(error, 2 if isinstance(error, UserError) else 1)


def _stop_among(error: BaseException | None) -> BaseException | None:
    """The interruption that an error is or came from: what it cuts short may raise its own."""
    seen: set[int] = set()
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        if id(error) in seen:  # an error may be its own cause: `raise placed(error) from error`
            return None
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return error


def command() -> None:
    """Entry point of the installed `lrexp` command."""
    leave(main())


def leave(code: int) -> NoReturn:
    """End the program."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the output any more; Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _dispatch(argv: list[str]) -> int:
    if any(flag in argv for flag in ("-h", "--help")):
        from lrexp.commands.help import help_text

        print(help_text(argv), end="")
        return 0
    if "--version" in argv:
        from lrexp import __version__

        print(f"lrexp {__version__}")
        return 0

    from hydra._internal.utils import get_args_parser

    from lrexp.config.compose import CONFIG_NAME, CheckedLoader
    from lrexp.grid.points.cases import refuse_cases, take_cases

    parser = get_args_parser()
    parser.error = refuse_flags
    args = parser.parse_intermixed_args(argv)
    if args.experimental_rerun or args.config_path or args.config_name:
        raise UserError("--experimental-rerun, --config-path and --config-name are not supported")
    loader = CheckedLoader(args.config_dir)
    shown = args.hydra_help or args.info is not None or args.cfg
    with hydra_of(loader) as hydra:
        try:
            if shown and (without := take_cases(args.overrides)[0]) != args.overrides:
                if not args.multirun:
                    refuse_cases(args.overrides)
                args.overrides = without
            if args.shell_completion:
                hydra.shell_completion(CONFIG_NAME, args.overrides)
            elif args.hydra_help:
                hydra.hydra_help(CONFIG_NAME, parser, args)
            elif args.info is not None:
                hydra.show_info(args.info, CONFIG_NAME, args.overrides)
            elif args.cfg:
                hydra.show_cfg(CONFIG_NAME, args.overrides, args.cfg, args.package, args.resolve)
            elif args.multirun:
                return run_sweep_of(loader, args.overrides)
            else:
                return _single(loader, args.overrides)
        except Exception as error:  # what is only shown is composed by Hydra alone
            if isinstance(error, UserError) or not shown:
                raise
            raise loader.explain(error, args.overrides) from error
    return 0


@contextmanager
def hydra_of(loader: CheckedLoader) -> Iterator[Hydra]:
    """Hydra, set up for one command line."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    version.setbase("1.3")
    GlobalHydra.instance().clear()
    hydra = Hydra("lrexp", loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def _single(loader: CheckedLoader, given: list[str]) -> int:
    from hydra.types import RunMode

    from lrexp.config.compose import CONFIG_NAME
    from lrexp.grid.points.cases import refuse_cases, take_cases

    overrides, _ = take_cases(given)
    config = loader.load_configuration(CONFIG_NAME, overrides, RunMode.RUN)
    if config.hydra.mode == RunMode.MULTIRUN:
        return run_sweep_of(loader, given)
    refuse_cases(given)
    for override in overrides:
        if override.startswith(("hydra.launcher.", "hydra/launcher=", "hydra/sweeper=")):
            key, _, value = override.partition("=")
            raise ConfigError(key, "is for grids", "add -m", value)
    return run_single(loader, config, overrides)


def run_single(
    loader: CheckedLoader, config: DictConfig, overrides: list[str], until: int | None = None
) -> int:
    """Check a composed config, claim its run folder, and run it there.

    Args:
        loader: that composed it.
        config: as composed; its hydra.run.dir is the run folder afterwards.
        overrides: of the command line.
        until: the epoch to stop after; None: the last one.

    Returns:
        The exit code.

    Raises:
        UserError: for a mistake that is found before anything was built.
    """
    from lrexp.config.names import new_run_id
    from lrexp.folder.claim import Claim

    loader.check(config, overrides)
    may_go_on = config.trainer.resume == "auto" and config.task.name == "train"
    given = config.run_id
    config.run_id = fresh = given or new_run_id()  # names the folder
    claim = Claim(loader.folder(config, "hydra.run.dir", overrides), resumed=may_go_on)
    config.run_id, stopped = given, None
    if may_go_on:
        try:
            stopped = _same_run(claim.folder, config)
        except UserError:
            claim.release()
            raise
        if stopped and stopped.status in ("finished", "diverged"):
            claim.release()
            print(f"{claim.folder} holds this run, and it is {stopped.status}: nothing to do")
            return 0
    config.run_id = stopped.run_id if stopped else fresh
    return _run(loader, config, overrides, claim, stopped, until)


def _same_run(folder: Path, composed: DictConfig) -> Stopped | None:
    """The run of the same settings that a folder holds, None when it holds none.

    Raises:
        UserError: when it holds something else.
    """
    from lrexp.config.check import check
    from lrexp.config.compose import without_hydra
    from lrexp.runs.resume import changes_since, refuse_any, stopped_run

    stopped = stopped_run(folder)
    if stopped is not None:
        refuse_any(folder, changes_since(folder, check(without_hydra(composed))[0]))
        if composed.run_id not in (None, stopped.run_id):
            raise UserError(f"{folder} holds run {stopped.run_id}, not {composed.run_id}")
    return stopped


def _continue(folder: Path, resolved: DictConfig, overrides: list[str], changed_data: bool) -> int:
    from dataclasses import replace

    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from lrexp.config.check import check
    from lrexp.config.compose import CONFIG_NAME, CheckedLoader
    from lrexp.folder.claim import Claim
    from lrexp.runs.resume import change_lines, changes_since, refuse_what_must_stay, stopped_run

    if not folder.is_dir() or (stopped := stopped_run(folder, changed_data)) is None:
        raise UserError(f"{folder} holds no run that could go on")
    resolved = check(resolved)[0]
    if resolved.task.name != "train":
        raise UserError(f"{folder} holds a plan, which has nothing to go on with")
    changes = changes_since(folder, resolved)
    refuse_what_must_stay(changes)
    stopped = replace(stopped, changes=change_lines(changes))
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    loader = CheckedLoader()
    try:
        composed = loader.load_configuration(CONFIG_NAME, [], RunMode.RUN)
        config = OmegaConf.create({**resolved, "run_id": stopped.run_id, "hydra": composed.hydra})
        config.hydra.overrides.task = overrides
        return _run(loader, config, overrides, Claim(folder, resumed=True), stopped)
    finally:
        GlobalHydra.instance().clear()


def _run(
    loader: CheckedLoader,
    config: DictConfig,
    overrides: list[str],
    claim: Claim,
    stopped: Stopped | None,
    until: int | None = None,
) -> int:
    """Run one config in a claimed folder, or go on there with the run that was stopped."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import run_job
    from hydra.types import HydraContext

    from lrexp.config.compose import CONFIG_NAME
    from lrexp.folder.layout import SUMMARY

    config.hydra.run.dir = str(claim.folder)
    if stopped:
        config.hydra.output_subdir = None  # .hydra/ stays as the run's start wrote it
    before = _state_of(claim.folder / SUMMARY)
    try:
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=CONFIG_NAME)
        done = run_job(
            task_function=partial(_job, stopped=stopped, until=until),
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
    if isinstance(error := done._return_value, Exception):
        if isinstance(error, ConfigError) and not error.place:
            error = loader.placed(error, overrides)
        mistake = isinstance(error, UserError) and not started
        return _report(error, 2 if mistake else 1)
    return 0


def _state_of(file: Path) -> tuple[int, int] | None:
    """What changes with every writing of a file; None when there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def run_sweep_of(loader: CheckedLoader, overrides: list[str]) -> int:
    """Compose and check every point, then run them in the sweep's folder."""
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    from lrexp.config.compose import CONFIG_NAME
    from lrexp.config.names import new_run_id
    from lrexp.folder.claim import Claim, link_latest
    from lrexp.grid.leaderboard import Leaderboard
    from lrexp.grid.sweep import (
        closing_lines,
        compose_points,
        find_equal_points,
        read_request,
        report_lines,
        run_sweep,
    )
    from lrexp.train.signals import signals_stop

    request = read_request(loader, CONFIG_NAME, overrides, loader.folders)
    config = request.config
    config.run_id = config.run_id or new_run_id()
    folder = request.folder or loader.folder(config, "hydra.sweep.dir", request.overrides)
    config.hydra.sweep.dir = str(folder)
    callbacks = Callbacks(config)
    context, task = HydraContext(config_loader=loader, callbacks=callbacks), _Points()
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=task
    )
    points: list[Point] = []
    if isinstance(sweeper, BasicSweeper):
        points = compose_points(loader, request)
        _refuse_going_on(request, points)
        Claim(folder, resumed=request.started is not None).undo()  # before torch is imported
        find_equal_points(loader, request, points)
    elif request.cases or request.started:
        key = "cases" if request.cases else "hydra.launcher.resume"
        problem = "is for a grid, and this sweeper chooses points as it goes"
        raise ConfigError(key, problem, "leave out hydra/sweeper")
    claim, board = Claim(folder, resumed=request.started is not None), Leaderboard(folder)
    link_latest(folder)
    callbacks.on_multirun_start(config=config, config_name=CONFIG_NAME)
    try:
        with signals_stop() as task.asked:
            run_sweep(request, points, sweeper, context, task, board)
    except Exception as error:
        return _report(error, 1)
    finally:
        claim.release()
        callbacks.on_multirun_end(config=config, config_name=CONFIG_NAME)
        with suppress(OSError):
            print("\n".join([*closing_lines(board), *report_lines(board)]))
    return 1 if board.with_status("failed") else 0


def _refuse_going_on(request: Request, points: list[Point]) -> None:
    """Refuse trainer.resume=auto in a grid that is begun: its points never go on by themselves."""
    asked = [request.config.trainer.resume, *(p.settings.get("trainer.resume") for p in points)]
    if "auto" in asked and not request.started:
        hint = "hydra.launcher.resume=SWEEP, or latest, goes on with a grid"
        raise ConfigError("trainer.resume", "is for single runs", hint, "auto")


class _Points:
    """The task of a sweep's points. Those that run in one program share their data."""

    def __init__(self) -> None:
        self.datasets: Datasets | None = None  # from the first point on
        self.view: Any = None  # lrexp.grid.live.GridView, while our launcher runs
        self.executor = "serial"  # of lrexp.grid.executors
        self.asked: list[type[BaseException]] = []  # signals that want the sweep to stop

    def __call__(self, composed: DictConfig) -> float:
        return _job(composed, self)

    def open(self, composed: DictConfig, asked: list[type[BaseException]]) -> Training:
        """A point's run, built but not trained; see `lrexp.tasks.train.open_training`."""
        from lrexp.tasks.train import open_training

        return open_training(*_checked(composed, self), asked)

    def trainer(self, composed: DictConfig) -> Trainer:
        """What would train a point, outside of any run."""
        from lrexp.tasks.train import build_trainer

        return build_trainer(_read(composed), self.shared_data())

    def load_data(self, composed: DictConfig) -> None:
        """Read a point's data for those to come. That they cannot be had, its run will say."""
        from lrexp.build.experiment import choose_device

        config = _read(composed)
        with suppress(Exception):
            self.shared_data().get(config, choose_device(config.trainer.device))

    def for_worker(self) -> _Points:
        """The same for a worker program, with the data that lie in memory."""
        points = _Points()
        points.executor, points.datasets = "pool", self.shared_data().in_memory()
        return points

    def shared_data(self) -> Datasets:
        """The data of the points so far."""
        from lrexp.build.data import Datasets

        if self.datasets is None:
            self.datasets = Datasets()
        return self.datasets


def _read(composed: DictConfig) -> Config:
    """A composed point as it is read."""
    from omegaconf import flag_override

    from lrexp.config.check import check

    with flag_override(composed, ["struct", "readonly"], False):
        del composed["hydra"]
    return check(composed)[1]


def _job(
    composed: DictConfig,
    points: _Points | None = None,
    stopped: Stopped | None = None,
    until: int | None = None,
) -> float:
    """What Hydra runs: one checked config in one run folder. Returns the best monitored value."""
    from lrexp.config.schema import chosen_option, load

    resolved, config, launch = _checked(composed, points, stopped, until)
    return load(chosen_option("task", config.task).make)(resolved, config, launch)


def _checked(
    composed: DictConfig,
    points: _Points | None,
    stopped: Stopped | None = None,
    until: int | None = None,
) -> tuple[DictConfig, Config, Launch]:
    """A config as it is saved and as it is read, and where it runs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from lrexp.config.check import check
    from lrexp.tasks.launch import Launch

    hydra: Any = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN
    resolved, config = check(composed)
    return (
        resolved,
        config,
        Launch(
            folder=Path(hydra.runtime.output_dir),
            overrides=list(OmegaConf.to_container(hydra.overrides.task)),  # type: ignore[arg-type]
            title=hydra.job.override_dirname.replace(",", " ") if in_sweep else "",
            sweep=Path(hydra.sweep.dir).name if in_sweep else None,
            datasets=points and points.shared_data(),
            executor=points.executor if points else "serial",
            terminal=partial(points.view.recorder, hydra.job.num)
            if points and points.view
            else None,
            stopped=stopped,
            until=until,
        ),
    )


def refuse_flags(message: str) -> NoReturn:
    raise UserError(f"{message}\n  lrexp --help and lrexp --hydra-help list the flags")


def _report(error: BaseException, code: int) -> int:
    """Say what went wrong on the terminal; returns the exit code that goes with it."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    elif isinstance(error, UserError):
        print(f"error: {redacted(str(error))}", file=sys.stderr)
    else:
        print(f"error: {redacted(in_words(error))}", file=sys.stderr)
        print("  set HYDRA_FULL_ERROR=1 to see where it came from", file=sys.stderr)
    return code


if __name__ == "__main__":
    command()
