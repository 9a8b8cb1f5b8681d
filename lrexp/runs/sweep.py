"""The folder of a sweep as plain values: its points, however they ended, and what was swept.

Whatever is missing, damaged or unfinished is a status with a reason, never an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lrexp.config.errors import UserError
from lrexp.config.names import shown_path
from lrexp.config.schema import direction
from lrexp.config.targets import check_subdir
from lrexp.folder.layout import (
    CONFIG,
    LEADERBOARD,
    MULTIRUN,
    POINTS,
    REPORT,
    RERUN,
    SOURCES,
    SUMMARY,
)
from lrexp.runs.reading import json_of, leads_out
from lrexp.runs.run import (
    content,
    flat,
    is_run,
    json_object,
    own_folders,
    read_overrides,
    read_rows,
    read_summary,
    read_yaml,
)

SEED, RATE, POLICY = "seed", "optimizer.lr", "lr_policy"
DATA_SEED = "data.seed"
REPEATED = (SEED, DATA_SEED)  # what tells repetitions of one configuration apart
GAP = "gap/loss"

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
ENDED = (FINISHED, DIVERGED, FAILED)
INTERRUPTED, RUNNING = "interrupted", "running"
MISSING = "missing"  # has never started
DAMAGED = "damaged"  # has run, and left no result that can be read
EQUAL = "equal"  # trains like an earlier point and runs there alone
SLOW = 2000  # points that take seconds to read
STATUSES = (FINISHED, DIVERGED, FAILED, INTERRUPTED, RUNNING, DAMAGED, MISSING)


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep, as far as its files say."""

    num: int
    folder: str  # its name below the sweep's
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # dotted key → value
    case: str = ""
    same_as: int | None = None  # number of an earlier point that trains alike: runs in its place
    former: bool = False  # a changed grid went on without it
    trial: int | None = None  # of a search: the number of the trial that it is a run of
    status: str = MISSING
    why: str = ""  # what went wrong, one line
    best: Mapping[str, float] = field(default_factory=dict)  # the row of the best epoch
    test: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)  # the row of the last epoch
    kinds: tuple[str, ...] = ()  # of its verdicts
    rows: tuple[Mapping[str, float], ...] = ()  # epoch and monitor
    remarks: tuple[str, ...] = ()  # what it was told before its first step
    took_s: float = math.nan  # its share of the time when it trained together with others
    report: bool = False  # whether its own report lies in its folder

    @cached_property
    def chosen(self) -> dict[str, str]:
        """Override by key."""
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in pairs}

    @property
    def seed(self) -> Any:
        """Of the run; None where its settings are not known."""
        return self.settings.get(SEED)

    @property
    def repetition(self) -> tuple[Any, Any]:
        """Seed and data.seed of the run: repetitions of two configurations are paired by both."""
        seed, of_data = (self.settings.get(key, self.chosen.get(key)) for key in REPEATED)
        return seed, of_data

    @property
    def policy(self) -> str:
        """The learning-rate policy's name."""
        name = self.settings.get("lr_policy.name") or self.chosen.get(POLICY)
        return str(name) if name else "unknown policy"


@dataclass(frozen=True)
class Sweep:
    """What a sweep's folder holds."""

    folder: Path
    points: tuple[SweepPoint, ...]  # by number
    monitor: str  # what decided which epoch of a run is its best
    command: tuple[str, ...] = ()  # overrides that ask for the same grid; empty: not known
    before: tuple[str, ...] = ()  # words in front of them: a saved config, folders of options
    resumable: bool = False  # the launcher can go on with it
    notes: tuple[str, ...] = ()  # what could not be read

    @property
    def sign(self) -> int:
        """1 where less is better, -1 where more is."""
        return 1 if direction(self.monitor) == "min" else -1

    @property
    def tried(self) -> tuple[SweepPoint, ...]:
        """The points that stand for themselves: none that runs as an earlier one."""
        return tuple(point for point in self.points if point.same_as is None)

    @property
    def unfinished(self) -> tuple[SweepPoint, ...]:
        """The points that should have finished and have not."""
        return tuple(point for point in self.tried if point.status != FINISHED)


def read_sweep(folder: Path, say: Callable[[str], object] = lambda line: None) -> Sweep:
    """Everything a sweep report shows, from the files of a sweep's folder.

    The grid is taken from points.json; without one, from the run folders found. `say` is told of so
    many points that they take a while.
    """
    notes: list[str] = []
    command, planned = read_grid(folder, notes)
    resumable = bool(planned)
    planned = planned or _found_runs(folder)
    if len(planned) > SLOW:
        say(f"read   {len(planned):,} points of {shown_path(folder)}")
    command = command or _multirun_command(folder)
    monitor, several = common_monitor([point.settings for point in planned])
    if several:
        notes.append("the points have different trainer.monitor: this page compares val/loss")
    points = sorted((_read_point(folder, p, monitor) for p in planned), key=lambda p: p.num)
    before = _words_before(folder)
    return Sweep(folder, tuple(points), monitor, command, before, resumable, tuple(notes))


def common_monitor(settings: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """What decides in all runs of these settings, and whether they differ in it: then val/loss."""
    monitors = {str(one.get("trainer.monitor", "val/loss")) for one in settings}
    return monitors.pop() if len(monitors) == 1 else "val/loss", len(monitors) > 1


class Chosen(Protocol):
    """Whatever was asked for by overrides."""

    @property
    def chosen(self) -> Mapping[str, str]:
        """Override by key."""
        ...


def swept_keys(points: Sequence[SweepPoint | Chosen]) -> list[str]:
    """The keys whose override differs between points, in the order of the command."""
    chosen = [point.chosen for point in points]
    keys = dict.fromkeys(key for one in chosen for key in one)
    return [key for key in keys if len({one.get(key) for one in chosen}) > 1]


def rate_of(settings: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The learning rate to plot a run at, and whether its policy sets rates of its own.

    It is optimizer.lr, or the highest of the rates when every one of them is absolute: lr_high is
    given, which the others follow, or rules with a rate for everything that trains.
    """
    if high := finite(settings.get("lr_policy.lr_high")):
        return high, True
    rules = settings.get("lr_policy.rules")
    if isinstance(rules, list) and (ruled := _absolute_rates(rules)):
        return max(ruled), True
    rate = finite(settings.get(RATE))
    return (rate, False) if rate and rate > 0 else (None, False)


def _absolute_rates(rules: Sequence[Any]) -> list[float]:
    """The rates of rules that leave nothing to the base rate; none where they do."""
    if not all(isinstance(rule, Mapping) for rule in rules):
        return []
    selected = {str(rule.get("match") or rule.get("layers")) for rule in rules}
    everything = bool(selected & {"*", "re:", "re:.*"}) or selected >= {"head", "backbone"}
    if not everything or not all(rule.get("lr") or rule.get("frozen") for rule in rules):
        return []
    return [rate for rule in rules if (rate := finite(rule.get("lr"))) and rate > 0]


def finite(value: Any) -> float | None:
    """A setting's value as a number; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_grid(folder: Path, notes: list[str]) -> tuple[tuple[str, ...], list[SweepPoint]]:
    """Command and points as points.json has them; both empty when there is none.

    A line that makes no sense is left out and noted.
    """
    try:
        saved = content(folder / POINTS, json_of, None)
        if saved is None:
            return (), []
        command, first, listed = saved["command"], dict(saved["first"]), list(saved["points"])
        if not isinstance(command, list) or not all(isinstance(one, str) for one in command):
            raise TypeError("its command is no list of overrides")
    except (UserError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{POINTS} cannot be read ({_said(error)}): the points are the folders found")
        return (), []
    points = []
    for row in listed:
        try:
            points.append(_planned(row, first))
        except (KeyError, TypeError, ValueError, UserError) as error:
            notes.append(f"a point of {POINTS} cannot be read: {_said(error)}")
    if len({point.num for point in points}) < len(points):
        notes.append(f"{POINTS} has a number twice: the points are the folders found")
        return (), []
    nums = {point.num for point in points if point.same_as is None}
    lone = [p if p.same_as in nums else replace(p, same_as=None) for p in points]
    return tuple(command), lone


def read_sources(folder: Path) -> str:
    """What sources.txt of a sweep says; nothing where it cannot be read."""
    return content(folder / SOURCES, str, "")


def _planned(row: Mapping[str, Any], first: Mapping[str, Any]) -> SweepPoint:
    """A point as its line has it: against the settings of the first one."""
    if type(row["num"]) is not int or not isinstance(row["folder"], str):
        raise TypeError("a point needs a number and a folder")
    check_subdir(row["folder"])
    lacks = set(row["lacks"])
    settings = {key: value for key, value in first.items() if key not in lacks}
    return SweepPoint(
        num=row["num"],
        folder=row["folder"],
        overrides=tuple(map(str, row["overrides"])),
        settings=settings | dict(row["differs"]),
        case=str(row["case"]),
        same_as=None if row["same_as"] is None else int(row["same_as"]),
        former=bool(row.get("former")),  # not there in a sweep that is older than former points
        trial=None if row.get("trial") is None else int(row["trial"]),
    )


def _found_runs(folder: Path) -> list[SweepPoint]:
    """Points from the run folders themselves, for a sweep without points.json."""
    found = [run for run in folder.glob("*") if is_run(run) and not leads_out(run)]
    numbers = [int(m[0]) if (m := re.match(r"\d+", run.name)) else -1 for run in found]
    distinct = len({num for num in numbers if num >= 0}) == len(found)
    return [
        SweepPoint(
            num=num if distinct else place,
            folder=run.name,
            overrides=tuple(read_overrides(run)),
            settings=flat(read_yaml(run / CONFIG)),
        )
        for place, (num, run) in enumerate(sorted(zip(numbers, found, strict=True)))
    ]


def _multirun_command(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(map(str, read_yaml(folder / MULTIRUN)["hydra"]["overrides"]["task"]))
    except (KeyError, TypeError):
        return ()


def _words_before(folder: Path) -> tuple[str, ...]:
    rerun = ("rerun", shown_path(folder / RERUN)) if (folder / RERUN).is_file() else ()
    own = own_folders(folder / MULTIRUN)
    return (*rerun, *(word for path in own for word in ("--config-dir", str(path))))


def read_leaderboard(folder: Path) -> dict[str, Any] | None:
    """leaderboard.json of a sweep; None when there is none.

    Raises:
        UserError: when it cannot be read, or holds no `monitor` or list of `configurations`.
    """
    board = content(folder / LEADERBOARD, json_object, None)
    if board is not None and not (
        isinstance(board.get("configurations"), list) and "monitor" in board
    ):
        raise UserError(f"{folder / LEADERBOARD} cannot be read: it holds no configurations")
    return board


def _read_point(folder: Path, point: SweepPoint, monitor: str) -> SweepPoint:
    """A point with what its own folder says."""
    if point.same_as is not None:
        return replace(point, status=EQUAL, why=f"trains as point {point.same_as} does")
    run = folder / point.folder
    if leads_out(run, folder):
        why = "its folder is a link that leads out of the sweep's"
        return replace(point, status=DAMAGED, why=why)
    said, unread = list[str](), list[str]()
    rows, summary = read_rows(run, said), read_summary(run, unread)
    if not (run / SUMMARY).exists() and not rows:
        return point
    status, why = status_of(summary, monitor)
    best = numbers_of(summary["best"])
    epochs = "1 epoch" if len(rows) == 1 else f"{len(rows)} epochs"
    if unread:
        status, why = DAMAGED, unread[0]
    elif status == RUNNING:
        why = f"running, or killed after {epochs}"
    elif status in (INTERRUPTED, DIVERGED):
        why = why or f"{'stopped' if status == INTERRUPTED else 'diverged'} after {epochs}"
    return replace(
        point,
        status=status,
        why=(why or " ".join(said)).splitlines()[0] if why or said else "",
        best=best,
        test=numbers_of(summary["test"]),
        last=numbers_of(summary["last"]),
        kinds=kinds_of(summary),
        remarks=tuple(map(str, summary["remarks"])),
        rows=tuple(numbers_of({key: one.get(key) for key in ("epoch", monitor)}) for one in rows),
        took_s=took_of(summary),
        report=(run / REPORT).is_file(),
    )


def status_of(summary: Mapping[str, Any], monitor: str | None) -> tuple[str, str]:
    """How a point that has run ended by its summary, and what went wrong.

    It is damaged when it finished without a number for what decides; a plan, whose monitor is None,
    has none.
    """
    status, why = str(summary.get("status")), str(summary.get("error") or "").strip()
    if status not in set(STATUSES) - {DAMAGED, MISSING}:
        return DAMAGED, f"{SUMMARY} has the unknown status {status!r}"
    best = numbers_of(summary.get("best"))
    if status == FINISHED and monitor and not math.isfinite(best.get(monitor, math.nan)):
        return DAMAGED, f"it finished without a number for {monitor}"
    return status, why


def took_of(summary: Mapping[str, Any]) -> float:
    """Seconds that a run took, its share where it trained together with others; NaN: not known."""
    times, members = numbers_of(summary.get("timings")), summary.get("members")
    took, train = (times.get(key, math.nan) for key in ("total_s", "train_s"))
    if isinstance(members, int) and members > 1:  # each has the training time of the whole stack
        return took - train + train / members
    return took


def kinds_of(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a run's verdicts, as far as they can be read."""
    listed = summary.get("verdicts") or ()
    return tuple(str(one["kind"]) for one in listed if isinstance(one, Mapping) and "kind" in one)


def numbers_of(section: Any) -> dict[str, float]:
    """The numbers of a section, non-finite ones too; none where there is no section."""
    return {
        str(key): float(value)
        for key, value in (section.items() if isinstance(section, Mapping) else ())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _said(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [""])[0] or type(cause).__name__
