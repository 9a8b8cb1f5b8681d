"""From policies to a conclusion in one folder: ladders of rates, then looks at fresh seeds."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import RunFailedError, UserError
from lrexp.config.names import shown_path
from lrexp.folder.claim import Claim, link_latest
from lrexp.folder.files import strict_json, write_atomically
from lrexp.folder.layout import CONFIRMED, EXPLORED, OF_WHICH, PROTOCOL, STEPS, WANDB
from lrexp.grid.points.point import Point
from lrexp.grid.settings import EXECUTORS
from lrexp.judge.comparison import Images, Scores
from lrexp.judge.concluding import conclude, metric_of, scores_of
from lrexp.judge.conclusion import Conclusion
from lrexp.judge.contenders import Contender, contenders
from lrexp.judge.ladders import Ladder, tries_words
from lrexp.runs.run import content, is_sweep, named_folder, read_summary
from lrexp.runs.scores import Tried, read_tried
from lrexp.runs.sweep import ENDED, FAILED, SweepPoint, read_grid, read_sweep
from lrexp.session.others import refuse_downloads, refuse_other_tries, refuse_others
from lrexp.session.procedure import (
    Procedure,
    Reached,
    ladder_axes,
    on_ladders,
    proceed,
    read_procedure,
)
from lrexp.session.sweep import Around, Say
from lrexp.session.trials import Trials, failures, problems_only, train_cases, train_trials
from lrexp.session.which_folder import (
    has_runs,
    of_cases,
    of_ladders,
    runs_ended,
    steps_of,
)
from lrexp.session.which_lines import (
    climbed_lines,
    looked_lines,
    opening_lines,
    progress_line,
    shown_time,
)
from lrexp.session.which_search import search


@dataclass(frozen=True)
class Answer:
    """What it came to."""

    folder: Path
    conclusion: Conclusion
    page: Path

    @property
    def offline(self) -> bool:
        """Whether W&B kept runs here that it can upload."""
        return any(self.folder.glob(f"*/*/{WANDB}/offline-run-*"))


Show = Callable[[Path, Conclusion], Path]  # keeps a conclusion in its folder, as a page and files


def begin_which(
    loader: CheckedLoader, folder: Path, plan: Procedure, say: Say, show: Show
) -> Answer:
    """Carry a procedure out in a folder of its own.

    Raises:
        UserError: for a mistake that is found before anything is trained; the folder is not there
            then.
        RunFailedError: when runs could not be trained.
    """
    claim = Claim(folder, names=OF_WHICH)
    bench = _Folders(folder, plan, loader, say)

    def begin() -> None:
        bench.begin = lambda: None  # every grid of the ladders calls it
        write_atomically(folder / PROTOCOL, plan.text())
        link_latest(folder)
        for line in opening_lines(plan, folder):
            say(line)

    bench.begin = begin
    try:
        return _carry_out(bench, show)
    finally:
        if (folder / PROTOCOL).is_file():
            claim.release()
        else:
            claim.undo()


def resume_which(name: str, say: Say, show: Show) -> Answer:
    """Go on with a procedure in its folder, as it was begun.

    Raises:
        UserError: where there is none; and as `begin_which` does.
    """
    folder = named_folder(name)
    plan = read_procedure(folder) if (folder / EXPLORED).is_dir() else None
    if plan is None:
        raise UserError(
            f"{shown_path(folder)} is no folder of lrexp which: it has no {PROTOCOL}, or no"
            f" {EXPLORED}/"
        )
    refuse_others(folder, plan)
    claim = Claim(folder, resumed=True, names=OF_WHICH)
    say(f"resume {shown_path(folder)}: what is done is read, and the rest trained")
    try:
        loader = CheckedLoader(plan.config_dir)
        return _carry_out(_Folders(folder, plan, loader, say, resumed=True), show)
    finally:
        claim.release()


def _carry_out(bench: _Folders, show: Show) -> Answer:
    """Go from step to step; whatever stops it leaves the best sentence so far."""
    plan, say, folder = bench.plan, bench.say, bench.folder
    best: Answer | None = None
    said = ""
    try:
        for reached in proceed(plan, bench):
            if not reached.compared:
                lines = climbed_lines(reached, plan)
                said = lines[-1]
            else:
                found = bench.conclusion(reached)
                best = Answer(folder, found, show(folder, found))
                lines, said = looked_lines(reached), found.sentence
            for line in lines:
                say(line)
            if not reached.finished:
                say(progress_line(reached, plan, bench.seconds_per_run))
    except BaseException:
        if (folder / PROTOCOL).is_file():
            with suppress(OSError):
                say(f"so far {said}" if said else "so far nothing is known")
                say(f"go on  lrexp which --resume {shlex.quote(shown_path(folder))}")
        raise
    assert best is not None
    return best


@dataclass
class _Folders:
    """The runs of a procedure, in two sweeps of its folder. See `procedure.Bench`."""

    folder: Path
    plan: Procedure
    loader: CheckedLoader
    say: Say
    begin: Callable[[], object] = lambda: None
    resumed: bool = False  # others may have written what is in the folder
    said: set[str] = field(default_factory=set)  # on the terminal

    def climb(self, ladders: Sequence[Ladder]) -> Sequence[Contender]:
        """See `Bench`."""
        if self.plan.drawn is not None:
            return search(self.plan, lambda: read_sweep(self.folder / EXPLORED), self._train)
        folder, plan = self.folder / EXPLORED, self.plan
        found = of_ladders(folder, ladders)
        count = len(plan.seeds) * sum(one.tries for one in ladders)
        if len(found) < count or any(point.status not in ENDED for point in found):
            self._train_tries(ladder_axes(replace(plan, ladders=tuple(ladders))))
            found = of_ladders(folder, ladders)
        try:
            best = contenders(replace(read_sweep(folder), points=tuple(found)))[0]
        except UserError as error:  # too few have a run that finished
            raise RunFailedError(error) from error
        return on_ladders(best, ladders)

    def _train(self, axes: Mapping[str, Sequence[str]]) -> Sequence[SweepPoint]:
        """The runs of cases, of which those that are not there yet are trained."""
        found = of_cases(self.folder / EXPLORED, axes)
        if found is None:
            self._train_tries(axes)
            found = of_cases(self.folder / EXPLORED, axes, whole=False)
        return found or []

    def _train_tries(self, axes: Mapping[str, Sequence[str]]) -> None:
        folder, common = self.folder / EXPLORED, [*self._how(), *self.plan.overrides]
        around = Around(
            problems_only(self.say), self._refuse_tried, self.begin, failures, self.said
        )
        with self._timed("rates", folder):
            train_cases(self.loader, folder, axes, common, around)

    def _refuse_tried(self, points: Sequence[Point]) -> None:
        """Raise UserError when a ladder would not go on with the settings that it was begun with,
        or would write elsewhere."""
        refuse_other_tries(points, read_grid(self.folder / EXPLORED, [])[1])
        if self.resumed:
            refuse_downloads(points)

    def compare(
        self, contenders: Sequence[Contender], seeds: Mapping[str, Sequence[int]]
    ) -> tuple[Mapping[str, Scores], Images]:
        """See `Bench`."""
        folder = self.folder / CONFIRMED
        if not has_runs(folder, seeds):
            trials = Trials(
                folder,
                {one.name: one.asked for one in contenders},
                seeds,
                self._how(),
                {one.name: one.ran_with for one in contenders if one.ran_with},
            )
            with self._timed("comparison", folder):
                train_trials(self.loader, trials, problems_only(self.say), said=self.said)
        tried = read_tried(folder)
        if not has_runs(folder, seeds) and tried.undone:
            one = tried.undone[0]
            said = UserError(
                f"nothing more is concluded: {len(tried.undone)} runs have no result, such as"
                f" {shown_path(folder / one.folder)}: {one.why or one.status}"
            )
            failed = any(point.status == FAILED for point in tried.undone)
            raise RunFailedError(said) if failed else said
        scores: dict[str, Scores] = {}
        images = Images()
        for one in contenders:
            mine, images = scores_of(tried, [one.name], self.metric(tried), seeds[one.name])
            scores |= mine
        return scores, images

    def affordable(self, runs: int) -> float:
        """See `Bench`. A budget in minutes is counted in runs of the pace so far."""
        plan, pace = self.plan, self.seconds_per_run
        if plan.minutes is not None and not math.isnan(pace):
            spent = sum(step["seconds"] for step in self.steps)
            return runs + max(0.0, 60 * plan.minutes - spent) / pace
        return math.inf if plan.budget is None else plan.budget

    def metric(self, tried: Tried) -> str:
        """What the verdict is on."""
        return metric_of(tried.classes, self.plan.metric)

    def conclusion(self, reached: Reached) -> Conclusion:
        """What it has come to so far."""
        plan, tried = self.plan, read_tried(self.folder / CONFIRMED)
        return conclude(
            tried,
            reached.contenders,
            plan.baseline,
            self.metric(tried),
            plan.margin,
            compared=reached.compared,
            seeds=reached.seeds,
            looks=plan.looks,
            remarks=[*tries_words(reached.ladders), *plan.notes, *reached.notes],
            before=("--config-dir", plan.config_dir) if plan.config_dir else (),
            cost=self.cost(),
            finished=reached.finished,
        )

    def cost(self) -> list[tuple[str, str]]:
        """Runs, what they come to in single runs, and the time on the clock."""
        parts = [
            [p.took_s for p in read_sweep(self.folder / name).tried if math.isfinite(p.took_s)]
            for name in (EXPLORED, CONFIRMED)
        ]
        took = sorted(one for part in parts for one in part)
        if not took:
            return []
        median = took[len(took) // 2]
        seconds = sum(step["seconds"] for step in self.steps)
        return [
            ("runs", f"{len(took)} ({len(parts[0])} for rates, {len(parts[1])} compared)"),
            ("single-run equivalents", f"{sum(took) / median:.0f} of {median:.2g} s"),
            ("time", shown_time(seconds)),
        ]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What was trained so far, and how long it took."""
        return content(self.folder / STEPS, steps_of, [])

    @property
    def seconds_per_run(self) -> float:
        """On the clock, so far; NaN before anything was trained."""
        runs = sum(step["runs"] for step in self.steps)
        return sum(step["seconds"] for step in self.steps) / runs if runs else math.nan

    def _timed(self, name: str, sweep: Path) -> _Timed:
        return _Timed(self, name, sweep)

    def _how(self) -> list[str]:
        """Overrides of the launcher: once an executor was chosen, it stays."""
        how = list(self.plan.how)
        if any(one.startswith("hydra.launcher.executor=") for one in how):
            return how
        points = read_sweep(self.folder / EXPLORED).tried if self._there(EXPLORED) else ()
        ran = [read_summary(self.folder / EXPLORED / p.folder, []) for p in points]
        chosen = {
            "auto"
            if one.get("executor") == "pool" and one.get("members", 1) != 1
            else str(one.get("executor"))
            for one in ran
            if one.get("executor")
        }
        if len(chosen) == 1 and chosen <= {*EXECUTORS}:  # not the name of an engine
            how.append(f"hydra.launcher.executor={chosen.pop()}")
        return how

    def _there(self, name: str) -> bool:
        return is_sweep(self.folder / name)


class _Timed:
    """Notes in steps.json how many runs were trained within it, and how long that took."""

    def __init__(self, bench: _Folders, name: str, sweep: Path):
        self.bench, self.name, self.sweep = bench, name, sweep

    def __enter__(self) -> None:
        self.before, self.started = runs_ended(self.sweep), time.monotonic()

    def __exit__(self, *_: object) -> None:
        runs = runs_ended(self.sweep) - self.before
        if runs > 0:
            seconds = round(time.monotonic() - self.started, 3)
            step = {"step": self.name, "runs": runs, "seconds": seconds}
            text = strict_json([*self.bench.steps, step], indent=1) + "\n"
            with suppress(OSError):
                write_atomically(self.bench.folder / STEPS, text)
