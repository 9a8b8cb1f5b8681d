"""Trials asked for, trained as points of a sweep, and told; a study that was stopped goes on."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.schema import direction, meaning_of, says_nothing
from lrexp.folder.claim import in_use
from lrexp.folder.files import write_atomically
from lrexp.folder.layout import POINTS
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Point, Started, make_point, points_text, read_summary, title
from lrexp.grid.points.resume import UNDONE, free_to_run, set_aside
from lrexp.grid.search.settings import SECTION, OptunaSettings, read_search_settings
from lrexp.grid.search.space import Space, read_space
from lrexp.grid.search.study import (
    Trial,
    ask,
    check_sampler,
    counted,
    give_up,
    importance,
    is_begun,
    is_of_folder,
    note_asked,
    open_study,
    quiet,
    refuse_other_search,
    running,
    storage_place,
    take_over,
    tell,
)
from lrexp.grid.settings import EXECUTORS
from lrexp.runs.sweep import (
    DIVERGED,
    FINISHED,
    MISSING,
    REPEATED,
    SweepPoint,
    read_grid,
    swept_keys,
)

if TYPE_CHECKING:
    from optuna.study import Study

Say = Callable[[str], object]


@dataclass
class Search:
    """A sweep whose points are the runs of a study's trials."""

    settings: OptunaSettings
    space: Space
    config: DictConfig  # composed for the sweep as a whole
    loader: Any  # that composes points
    command: Sequence[str]  # overrides that ask for the same
    asked: Mapping[str, Any]  # what a study must have been begun with to go on
    say: Say
    started: Started | None = None  # the sweep that goes on
    board: Leaderboard = field(default_factory=lambda: Leaderboard(Path()))  # of its folder

    def run(self, launcher: Any) -> None:
        """Run trials until there are as many as were asked for; see `Leaderboard` for the rest.

        Raises:
            UserError: when the study cannot be had, or was begun otherwise, and when too many of a
                batch of trials failed.
        """
        with quiet():
            study = open_study(self.settings, self.board.folder)
            refuse_other_search(study, self.asked, self.settings, self.board.folder)
            note_asked(study, self.asked)
            if self.started:
                self.board.points = list(self.started.points)
                self.board.look_up(self.board.points)
            begun = self._begun(study)
            if there := counted(study):
                again = f", {len(begun)} of them to be finished" if begun else ""
                self.say(f"resume study {study.study_name}: {there} trials are there{again}")
            if begun and (missing := -there % self.settings.n_jobs):  # of a batch, being asked for
                begun |= self._ask(study, missing)
            try:
                while batch := begun or self._ask(study, self.settings.n_jobs):
                    self._train(batch, launcher)
                    self._tell(study, batch)
                    begun = {}
                if counted(study) < self.settings.n_trials:
                    self.say("note   every combination has been tried")
            finally:
                found = importance(study)
                self.board.importance = found and found.as_dict()
                if self.board.points:
                    self.board.write()

    def _begun(self, study: Study) -> dict[int, list[Point]]:
        """The runs of trials that this folder began with and that have no end, by their number.

        One that was asked for and not yet written down gets its runs now: a grid would not draw it
        again. Those of a program that was killed in another folder end here: with what they came
        to, or not at all, and then others take their place.
        """
        folder, begun = self.board.folder, dict[int, list[Point]]()
        known = len(self.board.points)
        for trial in running(study):
            place, points = Path(trial.folder), self._of_trial(trial.number)
            nobodys = self.settings.storage is None and not os.path.isdir(trial.folder)
            if points or nobodys or trial.folder == str(folder):
                if not self.space.holds(trial.params):
                    give_up(study, trial.number)
                    continue
                if nobodys:
                    take_over(study, trial.number, folder)
                again = self._again(trial, points) if points else self._points(trial)
                begun[trial.number] = again
            elif trial.folder and place.is_dir() and not in_use(place):
                there = read_grid(place, [])[1]
                left = [point for point in there if point.trial == trial.number]
                ended = {p.num: read_summary(place / p.folder) for p in there}
                ran = [ended[p.num if p.same_as is None else p.same_as] for p in left]
                if left and all(of_run["status"] not in UNDONE for of_run in ran):
                    tell(study, trial.number, self._worth(left, ended))
                else:
                    give_up(study, trial.number)
        if len(self.board.points) > known:
            self._write_points()
        return begun

    def _of_trial(self, number: int) -> list[Point]:
        return [point for point in self.board.points if point.trial == number]

    def _ask(self, study: Study, most: int) -> dict[int, list[Point]]:
        """The runs of a batch of new trials, written down before any of them begins."""
        count = min(self.settings.n_trials - counted(study), most)
        trials = ask(study, count, self.settings, self.space, self.board.folder)
        batch = {trial.number: self._points(trial) for trial in trials}
        new = [point for points in batch.values() for point in points]
        if new:
            self._write_points()
        return batch

    def _points(self, trial: Trial) -> list[Point]:
        """The runs of a new trial, a point each; one that an earlier trial has runs as that one."""
        made = []
        for overrides in self.space.overrides(trial.params):
            num = 1 + max((point.num for point in self.board.points), default=-1)
            point = self._composed(num, overrides)
            alike = (p for p in self.board.points if p.same_as is None and not p.former)
            twin = next((p for p in alike if p.overrides == overrides), None)
            if twin is not None:
                point.same_as = twin.num
                keys = swept_keys([*self.board.points, point])
                self.say(f"equal  {num} {title(point, keys)} trains as {twin.num} does: runs once")
            point.trial = trial.number
            self.board.points.append(point)
            made.append(point)
        return made

    def _again(self, trial: Trial, points: Sequence[Point]) -> list[Point]:
        """The runs of a trial that were begun, composed anew under their numbers and folders."""
        made = []
        for point, overrides in zip(points, self.space.overrides(trial.params), strict=False):
            new = self._composed(point.num, overrides)
            new.same_as, new.trial = point.same_as, point.trial
            self.board.points[self.board.points.index(point)] = new
            made.append(new)
        return made

    def _composed(self, num: int, overrides: Sequence[str]) -> Point:
        return make_point(num, overrides, self.loader.load_sweep_config(self.config, [*overrides]))

    def _write_points(self) -> None:
        write_atomically(
            self.board.folder / POINTS, points_text(self.board.points, list(self.command))
        )

    def _train(self, batch: Mapping[int, Sequence[Point]], launcher: Any) -> None:
        """Train what of a batch has no result: numbers that follow on each other together."""
        todo = [
            point
            for points in batch.values()
            for point in points
            if point.same_as is None and self.board.status(point.num) in UNDONE
        ]
        if self.started:
            engine = getattr(getattr(launcher, "settings", None), "engine", None)
            for point in free_to_run(todo, self.board.folder, engine):
                set_aside(self.board.folder, point)
                self.board.read(point)  # a launcher that is not ours does not take what comes
        for _, some in itertools.groupby(enumerate(todo), lambda one: one[1].num - one[0]):
            part = [point for _, point in some]
            launcher.launch([p.overrides for p in part], initial_job_idx=part[0].num)
            if any(self.board.status(point.num) == MISSING for point in part):
                self.board.look_up(part)  # of a launcher that is not ours
            self._settle(launcher, part)

    def _settle(self, launcher: Any, ran: Sequence[Point]) -> None:
        """Once auto has chosen one executor for a batch, later ones are not timed again."""
        settings: Any = getattr(launcher, "settings", None)  # of our launcher
        ends = [read_summary(self.board.folder / point.folder) for point in ran]
        chosen = {(end.get("executor"), end.get("members", 1) > 1) for end in ends}
        if settings and settings.executor == "auto" and len(chosen) == 1 and len(ran) > 1:
            executor, together = chosen.pop()
            if executor in EXECUTORS and (executor, together) != ("pool", True):
                settings.executor = executor

    def _tell(self, study: Study, batch: Mapping[int, Sequence[Point]]) -> None:
        """Tell a batch of trials; the mean over its repetitions is the value of a trial.

        Raises:
            UserError: when more of them failed than may.
        """
        lost, ended = 0, {point.num: self.board.summary(point.num) for point in self.board.points}
        for number, points in batch.items():
            value = self._worth(points, ended)
            lost += value is None
            tell(study, number, value)
        most = self.settings.max_failure_rate
        if lost > most * len(batch):
            setting = f"{SECTION}.max_failure_rate={most:g}"
            raise UserError(f"{lost} of {len(batch)} trials failed: more than {setting}")

    def _worth(
        self, points: Sequence[Point | SweepPoint], ended: Mapping[int, Mapping[str, Any]]
    ) -> float | None:
        """A trial's value: the mean of the monitor's best, the worst there is where one diverged.

        None where one failed, or has no number. Summaries go by number of the point.
        """
        monitor, found = self.config.trainer.monitor, list[float]()
        for point in points:
            of_run = ended[point.num if point.same_as is None else point.same_as]
            if of_run["status"] == DIVERGED:
                found.append(math.inf if direction(monitor) == "min" else -math.inf)
            elif of_run["status"] == FINISHED:
                found.append(float(of_run["best"].get(monitor, math.nan)))
            else:
                return None
        return None if not found or any(map(math.isnan, found)) else sum(found) / len(found)


def prepare_search(
    config: DictConfig,
    loader: Any,
    axes: Sequence[str],
    command: Sequence[str],
    started: Started | None,
    folder: Path,
    say: Say,
) -> Search:
    """A search, checked before its sweep has a folder; a run of it is composed for a look.

    Raises:
        UserError: for what cannot be used.
    """
    settings = read_search_settings(config)
    space = read_space(axes, loader)
    check_sampler(settings, space)
    place = storage_place(settings, folder)
    if place and not place.parent.is_dir() and place.parent != folder:
        problem = "is in a folder that is not there"
        raise ConfigError(f"{SECTION}.storage", problem, given=str(settings.storage))
    if started and started.points and place and not place.exists():
        problem = "the study of this sweep is not in its folder"
        raise ConfigError(f"{SECTION}.storage", problem, "give the storage that it was begun with")
    asked = asked_of(config, loader, space)
    with quiet():
        study = open_study(settings, folder) if is_begun(settings, folder) else None
        if study:
            refuse_other_search(study, asked, settings, folder)
        if started and not _goes_on(study, started, place):
            problem = "is not the study of this folder's points"
            hint = "give another hydra.sweep.dir"
            raise ConfigError(f"{SECTION}.study_name", problem, hint, settings.study_name)
    for note in space.notes():
        say(f"note   {note}")
    return Search(settings, space, config, loader, command, asked, say, started)


def _goes_on(study: Study | None, started: Started, place: Path | None) -> bool:
    """Whether the points of a sweep are trials of a study, which is kept at a place."""
    if study is None:
        return not started.points
    numbers = [point.trial for point in started.points if point.trial is not None]
    beside = place is not None and place.parent == started.folder  # and may be a copy with it
    return beside or is_of_folder(study, started.folder, numbers)


def refuse_pickled(search: Search, folder: Path, typed: Sequence[str]) -> None:
    """Raise ConfigError where a study's pickles would be read and nobody typed that they may be."""
    key, name = "hydra/sweeper/sampler", "cmaes"
    if search.settings.sampler["name"] != name or f"{key}={name}" in typed:
        return
    with quiet():
        if is_begun(search.settings, folder):
            problem = "goes on from a state that is pickled in the study, and could run any program"
            hint = f"where the study is your own, type {key}={name} with the command"
            raise ConfigError(key, problem, hint, name)


def asked_of(config: DictConfig, loader: Any, space: Space) -> dict[str, Any]:
    """What a search asks for, in plain values: what is open, and the settings of its runs.

    Of a run with the first of every choice all of them, of another choice what it has otherwise: a
    file of options that was changed is noticed whichever choice it belongs to.

    Raises:
        UserError: for the first run that cannot be used.
    """
    own = {one.key.lstrip("+") for one in space.searched}
    own |= {one.partition("=")[0] for one in space.repeated[0]}
    (_, first), *others = [
        (chosen, {key: value for key, value in point.settings.items() if _matters(key, value, own)})
        for chosen, point in _looked_at(config, loader, space)
    ]
    asked = dict(first)
    for chosen, other in others:
        asked |= {
            f"{key} with {chosen}": other.get(key)
            for key in {**first, **other}
            if first.get(key) != other.get(key)
        }
    asked |= {one.key: one.text.replace(" ", "") for one in space.searched}
    return asked | {"repetitions": [" ".join(some) for some in space.repeated]}


def _matters(key: str, value: Any, own: Collection[str]) -> bool:
    """Whether a setting tells one search from another, which sets its own trial by trial."""
    told = meaning_of(key).identity or key in (*REPEATED, "trainer.monitor")
    return key not in own and told and not says_nothing(key, value)


def _looked_at(config: DictConfig, loader: Any, space: Space) -> list[tuple[str, Point]]:
    """A run of the search, composed; and others with both ends of every interval, and every choice.

    Each of these with the override that it has instead of the first.

    Raises:
        UserError: for the first that cannot be used.
    """
    ends = [one.ends for one in space.searched]
    first = [some[0] for some in ends]
    tried = [("", first)]
    for at, some in enumerate(ends):
        tried += ((end, [*first[:at], end, *first[at + 1 :]]) for end in some[1:])
    found = []
    for chosen, some in tried:
        overrides = [*space.fixed, *some, *space.repeated[0]]
        composed = loader.load_sweep_config(config, overrides)
        found.append((chosen, make_point(0, overrides, composed)))
    return found
