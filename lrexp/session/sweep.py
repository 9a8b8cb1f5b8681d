"""A command line with -m: every point composed and checked, the folder claimed, the points run."""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import OmegaConf

from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.errors import ConfigError, RunFailedError, UserError
from lrexp.config.names import new_run_id, shown_path
from lrexp.config.quoting import pasted
from lrexp.config.recompose import SavedLoader
from lrexp.config.redact import redacted
from lrexp.config.schema import direction
from lrexp.config.sources import sources_text
from lrexp.folder.claim import Claim, link_latest, wait_until_left
from lrexp.folder.files import write_atomically
from lrexp.folder.layout import (
    CASES,
    MULTIRUN,
    OF_SWEEP,
    RERUN,
    SOURCES,
    STUDY,
    WANDB,
    names_of_run,
)
from lrexp.grid.jobs import Session
from lrexp.grid.launcher import run_points
from lrexp.grid.leaderboard import WIDTH, Leaderboard, leaderboard_lines
from lrexp.grid.points.cases import GROUP, overruled
from lrexp.grid.points.point import (
    POINTS,
    Point,
    Started,
    points_text,
    read_points,
    title,
)
from lrexp.grid.points.resume import (
    UNDONE,
    free_to_run,
    from_last_epoch,
    make_ready,
)
from lrexp.grid.search.search import Search, prepare_search, refuse_pickled
from lrexp.grid.settings import LauncherSettings
from lrexp.record.wandb.agent import tell_agent
from lrexp.report.sweep.exploration import explore
from lrexp.runs.reading import leads_out
from lrexp.runs.sweep import FAILED, read_sweep, swept_keys
from lrexp.session.best_runs import record_best
from lrexp.session.budget import budget_lines, noise_for
from lrexp.session.composed import all_are, compose_points, find_equal_points, known_points
from lrexp.session.points import Points
from lrexp.session.request import Request, read_request
from lrexp.train.signals import signals_stop

log = logging.getLogger(__name__)

SWEEP_DIR = "hydra.sweep.dir"
AS_IT_GOES = "is for a grid, and this sweeper chooses points as it goes"
ENDING_S = 60.0  # that workers of a killed sweep may take to save what they run
Say = Callable[[str], object]  # takes a line for whoever waits for the sweep


@dataclass(frozen=True)
class Around:
    """What is done around a sweep, by whoever asks for one."""

    say: Say  # is told what people should know before, and what came of it in the end
    check: Callable[[Sequence[Point]], object] = lambda points: None  # before there is a folder
    begin: Callable[[], object] = lambda: None  # once it is claimed, before anything is trained
    close: Callable[[Leaderboard], Sequence[str]] = lambda board: _closing_lines(board)
    # of a part of something larger, which shows what came of it and is itself the latest: what was
    # said so far
    said: set[str] | None = None


def run_sweep(loader: CheckedLoader, overrides: Sequence[str], say: Say) -> Leaderboard:
    """Compose and check every point, then run them in the sweep's folder; what came of each.

    `say` is told what people should know before, and what came of it in the end.

    Raises:
        UserError: for a mistake that is found before the sweep has a folder.
        RunFailedError: when the sweep as a whole failed; a point that did stops nothing.
    """
    return run_request(read_request(loader, overrides), Around(say))


def run_request(request: Request, around: Around) -> Leaderboard:
    """Run what was asked for: see `run_sweep`."""
    config, started, loader = request.config, request.started, request.loader
    say = around.say
    config.run_id = config.run_id or new_run_id()
    resumed, points, began = started is not None, [], time.perf_counter()
    folder = started.folder if started else loader.folder(config, SWEEP_DIR, request.overrides)
    config.hydra.sweep.dir = str(folder)
    callbacks = Callbacks(config)
    context = HydraContext(config_loader=loader, callbacks=callbacks)
    task = Points(folder)
    task.said = around.said
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=task
    )
    names: Sequence[str] = OF_SWEEP
    if _makes_grids(sweeper):
        request.sources = sources_text(loader, config, request.texts)
        points = compose_points(loader, request, known_points(request))
        asked = [config.trainer.resume, *(p.settings.get("trainer.resume") for p in points)]
        if "auto" in asked and not resumed:  # points never go on by themselves
            hint = "hydra.launcher.resume=SWEEP, or latest, goes on with a grid"
            raise ConfigError("trainer.resume", "is for single runs", hint, "auto")
        of_point = names_of_run(config.hydra)
        names = [*OF_SWEEP, *(f"{p.folder}/{name}" for p in points for name in of_point)]
        Claim(folder, resumed, names).undo()  # before torch is imported
        find_equal_points(loader, request, points)
        around.check(points)
    elif request.searches:
        search = task.search = prepared(request, folder, say)
        resumed, names = search.started is not None, [*OF_SWEEP, STUDY]
    else:
        refuse_for_chooser(request)
    noise, composing_s = None, time.perf_counter() - began
    if points and all_are(points, "plan"):
        noise = noise_for(points)
    claim, board = Claim(folder, resumed, names), Leaderboard(folder)
    if around.said is None:
        link_latest(folder)
    callbacks.on_multirun_start(config=config, config_name=CONFIG_NAME)
    try:
        around.begin()
        with signals_stop() as task.asked:
            session = Session(context, task, folder=folder)
            _run(request, points, sweeper, session, board, say)
            if noise:
                how = request.settings if request.ours else LauncherSettings("serial")
                session = replace(session, settings=how)
                say("\n".join(budget_lines(points, session, noise, composing_s)))
            record_best(board, say)
            if any(point.settings.get("logger.name") == "wandb" for point in board.points):
                tell_agent(folder, board.board())
    except Exception as error:
        raise RunFailedError(error) from error
    finally:
        task.close()
        claim.release()
        callbacks.on_multirun_end(config=config, config_name=CONFIG_NAME)
        with suppress(OSError):
            say("\n".join(around.close(board)))
    return board


def _makes_grids(sweeper: Any) -> bool:
    """Whether it is Hydra's own sweeper, whose grid is known before anything has run."""
    # by name: Hydra loads its plugins anew as it starts, so an earlier import has another class
    made_of = {(kind.__module__, kind.__qualname__) for kind in type(sweeper).__mro__}
    return ("hydra._internal.core_plugins.basic_sweeper", "BasicSweeper") in made_of


def prepared(request: Request, folder: Path, say: Say) -> Search:
    """The search that is asked for, or that goes on in its folder, checked.

    Raises:
        UserError: for what it cannot use.
    """
    if request.cases:
        raise ConfigError(GROUP, AS_IT_GOES, "leave out hydra/sweeper")
    for key in ("only", "allow_changed_grid") if request.ours else ():
        if given := getattr(request.settings, key):
            raise ConfigError(f"hydra.launcher.{key}", AS_IT_GOES, "leave it out", given)
    for name in (STUDY, f"{STUDY}-journal", f"{STUDY}-wal"):
        if leads_out(folder / name, folder):
            raise UserError(f"{folder / name} is a link that leads out of the sweep's folder")
    started = request.started
    if started is None and any((folder / name).is_file() for name in (POINTS, STUDY)):
        started = read_points(folder) if (folder / POINTS).is_file() else Started(folder, [], [])
    command = [*request.how, *request.command]
    search = prepare_search(
        request.config, request.loader, request.axes, command, started, folder, say
    )
    refuse_pickled(search, folder, request.typed)
    return search


def refuse_for_chooser(request: Request) -> None:
    """Raise a ConfigError for what does not go with a sweeper that chooses points as it goes."""
    config, problem = request.config, AS_IT_GOES
    if request.cases:
        raise ConfigError(GROUP, problem, "leave out hydra/sweeper")
    hint = "it may go on by itself; hydra/sweeper=optuna goes on with this"
    if resume := config.hydra.launcher.get("resume"):
        raise ConfigError("hydra.launcher.resume", problem, hint, resume)
    monitor, key = config.trainer.monitor, "hydra.sweeper.direction"
    given = OmegaConf.select(config, key)  # Optuna's and Ax's; a list has one for each of several
    given = getattr(given, "name", given)
    wanted = f"{direction(monitor)}imize"
    if isinstance(given, str) and given.endswith("imize") and given != wanted:
        problem = f"looks for the worst value of trainer.monitor={monitor}"
        raise ConfigError(key, problem, f"write {key}={wanted}", given)


def _run(
    request: Request,
    points: Sequence[Point],
    sweeper: Any,
    session: Session,
    board: Leaderboard,
    say: Say,
) -> None:
    """Run the points in the sweep's folder, or let the sweeper choose them.

    The board is up to date however this ends.
    """
    setup_globals()
    if not _makes_grids(sweeper):
        _write_command(board.folder, request)
        if search := session.task.search:
            search.board = board
            if search.started:
                _wait_for_workers(board.folder)
        session.task.board = board  # who launches them finds it there: where a sweeper keeps its
        try:
            sweeper.sweep(arguments=request.task)  # launcher is its own affair
        finally:
            board.write()
        return
    launcher: Any = sweeper.launcher
    nums = {point.num for point in points}
    former = request.started.points if request.started else []
    board.points = [*points, *(point for point in former if point.num not in nums)]
    board.points.sort(key=lambda point: point.num)
    _write_grid(board.folder, board.points, request)
    if request.ours:
        if request.started:
            _wait_for_workers(board.folder)
        board.look_up(board.points)
        if any(not p.composed and board.status(p.num) in UNDONE for p in points):
            raise UserError("results went away meanwhile; resume the sweep once more")
        todo = _todo(request, points, board, say)
        run_points(todo, replace(session, settings=request.settings), board)
        return
    size = sweeper.max_batch_size or len(points)
    if size < 1:
        raise ConfigError("hydra.sweeper.max_batch_size", "is too small", "at least 1", size)
    try:
        for first in range(0, len(points), size):
            batch = points[first : first + size]
            try:
                ended = launcher.launch([p.overrides for p in batch], initial_job_idx=first)
            finally:  # exceptions are in their summaries
                board.look_up(batch)
            for returned in ended:
                if returned.status != JobStatus.COMPLETED:
                    failed = f"failed  {' '.join(returned.overrides)}: {returned._return_value}"
                    say(redacted(failed))
    finally:
        board.write()


def _wait_for_workers(folder: Path) -> None:
    """Raise UserError when those of the sweep that was stopped do not end soon."""
    if not wait_until_left(folder, ENDING_S):
        said = "workers of the sweep that was stopped are still at it; end them"
        raise UserError(f"{folder}: {said}")


def _todo(
    request: Request, points: Sequence[Point], board: Leaderboard, say: Say
) -> Sequence[Point]:
    """The points to run, whose folders are free; says what people should know before."""
    undone = (FAILED,) if request.settings.only else UNDONE
    todo = [p for p in points if p.same_as is None and board.status(p.num) in undone]
    for line in overruled(request.cases, request.axes) if request.cases else ():
        say(f"note   {line}")
    keys, equal = swept_keys(points), [p for p in points if p.same_as is not None]
    for twin in equal:
        say(f"equal  {twin.num} {title(twin, keys)} trains as {twin.same_as} does: runs once")
    if request.started:
        for point, why in board.damaged(todo):
            say(f"note   {point.folder}: {why}; the point runs anew")
        settings = request.settings
        free = free_to_run(todo, board.folder, settings.engine)
        going_on = make_ready(
            board.folder, free, board.status, say, settings.restart, settings.engine
        )
        counts = [f"{len(points) - len(todo) - len(equal)} points are done"]
        if going_on:
            counts.append(f"{going_on} {from_last_epoch(going_on)}")
        say(f"resume {', '.join(counts)}, {len(todo) - going_on} to run")
    return todo


def _write_command(folder: Path, request: Request) -> None:
    """multirun.yaml: the config that all points have in common, and what was asked for."""
    saved = request.config.copy()
    saved.hydra.overrides.task = request.command
    OmegaConf.save(saved, folder / MULTIRUN)
    if isinstance(request.loader, SavedLoader):
        write_atomically(folder / RERUN, OmegaConf.to_yaml(request.loader.saved))


def _write_grid(folder: Path, points: Sequence[Point], request: Request) -> None:
    """What a sweep folder says about its grid before a point has run."""
    _write_command(folder, request)
    if request.cases:
        write_atomically(folder / CASES, request.cases.text)
    write_atomically(folder / POINTS, points_text(points, [*request.how, *request.command]))
    # which points train alike is known of our launcher's alone
    write_atomically(folder / SOURCES, request.sources if request.ours else "")


def _closing_lines(board: Leaderboard) -> list[str]:
    """The last lines of a sweep: the leaderboard, what failed, where everything is; its report."""
    lines, folder = [], board.folder
    shown = shown_path(folder)
    typed = shlex.quote(shown)
    ranked = board.points and all_are(board.points, "train")
    if ranked:
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        lines += ["", *leaderboard_lines(board.board(), width=width)]
    told = len(lines)
    for point, error in board.failed():
        lines.append(f"failed {point.folder}: {error}")
    asked = [point for point in board.points if not point.former]
    undone = [p for p in asked if p.same_as is None and board.status(p.num) in UNDONE]
    if undone and (folder / POINTS).is_file():
        count = f"{len(undone)} of {len(asked)} points have no result"
        again = pasted(f"hydra.launcher.resume={shown}")
        lines.append(f"{count}; run them with: lrexp -m {again}")
    kept = ((folder / point.folder / WANDB).glob("offline-run-*") for point in board.points)
    if any(next(found, None) for found in kept):
        lines.append(f"wandb  offline; upload with: lrexp sync {typed}")
    lines.append(f"sweep  {shown}")
    if ranked:
        from lrexp.report.sweep.headline import one_line
        from lrexp.report.sweep.page import write_explored

        try:
            explored = explore(read_sweep(folder))
            if said := one_line(explored):
                lines.insert(told, said)
            lines.append(f"report {shown_path(write_explored(explored))}")
        except Exception as error:  # the sweep itself is done
            log.info("report of %s", folder, exc_info=error)
            said = f"{type(error).__name__}: {error}"
            lines.append(f"warning: the report could not be written: {said}")
    return lines
