"""The folder of a sweep as plain values: its points, however they ended, and what was swept.

Whatever is missing, damaged or unfinished is a status with a reason, never an error.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lrexp.config.schema import MONITORS
from lrexp.folder.layout import SUMMARY
from lrexp.runs.run import read_overrides, read_rows, read_summary

POINTS = "points.json"
SEED, RATE, POLICY = "seed", "optimizer.lr", "lr_policy"
GAP = "gap/loss"

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
INTERRUPTED, RUNNING = "interrupted", "running"
MISSING = "missing"  # has never started
DAMAGED = "damaged"  # has run, and left no result that can be read
EQUAL = "equal"  # trains like an earlier point and runs there alone
STATUSES = (FINISHED, DIVERGED, FAILED, INTERRUPTED, RUNNING, DAMAGED, MISSING)
KNOWN = {FINISHED, DIVERGED, FAILED, INTERRUPTED, RUNNING}

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where there


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep, as far as its files say."""

    num: int
    folder: str  # its name below the sweep's
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # dotted key → value
    case: str = ""
    same_as: int | None = None
    status: str = MISSING
    why: str = ""  # what went wrong, one line
    best: Mapping[str, float] = field(default_factory=dict)  # the row of the best epoch
    test: Mapping[str, float] = field(default_factory=dict)
    rows: tuple[Mapping[str, float], ...] = ()  # epoch and monitor
    took_s: float = math.nan  # its share of the time when it trained together with others
    report: bool = False  # whether its own report lies in its folder

    @property
    def chosen(self) -> dict[str, str]:
        """Override by key."""
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in pairs}

    @property
    def seed(self) -> Any:
        """Of the run; None where its settings are not known."""
        return self.settings.get(SEED)

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
    ranks: tuple[tuple[int, ...], ...] = ()  # leaderboard.json: points of its rows, best first
    resumable: bool = False  # the launcher can go on with it
    notes: tuple[str, ...] = ()  # what could not be read

    @property
    def sign(self) -> int:
        """1 where less is better, -1 where more is."""
        return 1 if MONITORS.get(self.monitor, "min") == "min" else -1

    @property
    def tried(self) -> tuple[SweepPoint, ...]:
        """The points that stand for themselves: none that runs as an earlier one."""
        return tuple(point for point in self.points if point.same_as is None)

    @property
    def unfinished(self) -> tuple[SweepPoint, ...]:
        """The points that should have finished and have not."""
        return tuple(point for point in self.tried if point.status != FINISHED)


def read_sweep(folder: Path) -> Sweep:
    """Everything a sweep report shows, from the files of a sweep's folder.

    The grid is taken from points.json; without one, from the run folders found.
    """
    notes: list[str] = []
    command, rows = _read_grid(folder, notes)
    resumable = bool(rows)
    if not rows:
        rows = list(_found_runs(folder))
    command = command or _multirun_command(folder)
    monitors = {str(row["settings"].get("trainer.monitor", "val/loss")) for row in rows}
    monitor = monitors.pop() if len(monitors) == 1 else "val/loss"
    if monitors:
        notes.append("the points have different trainer.monitor: this page compares val/loss")
    points = [_read_point(folder, row, monitor) for row in rows]
    points.sort(key=lambda point: point.num)
    ranks = _read_ranks(folder, notes) if points else ()
    return Sweep(folder, tuple(points), monitor, command, ranks, resumable, tuple(notes))


def swept_keys(points: Sequence[SweepPoint]) -> list[str]:
    """The keys whose override differs between points, in the order of the command."""
    chosen = [point.chosen for point in points]
    keys = dict.fromkeys(key for one in chosen for key in one)
    return [key for key in keys if len({one.get(key) for one in chosen}) > 1]


def rate_of(settings: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The learning rate to plot a run at, and whether its policy sets rates of its own.

    It is optimizer.lr, or the highest of the rates when every one of them is absolute: lr_low and
    lr_high both given, or rules with a rate for everything that trains.
    """
    low, high = (finite(settings.get(f"lr_policy.lr_{end}")) for end in ("low", "high"))
    if low and high:
        return max(low, high), True
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


def _read_grid(folder: Path, notes: list[str]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Command and points as points.json has them; a line that makes no sense is left out."""
    try:
        saved = json.loads((folder / POINTS).read_text("utf-8"))
        command, first = tuple(map(str, saved["command"])), dict(saved["first"])
        listed = list(saved["points"])
    except FileNotFoundError:
        return (), []
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{POINTS} cannot be read ({_said(error)}): the points are the folders found")
        return (), []
    rows = []
    for row in listed:
        try:
            lacks = set(row["lacks"])
            settings = {key: value for key, value in first.items() if key not in lacks}
            rows.append(
                {
                    "num": int(row["num"]),
                    "folder": str(row["folder"]),
                    "case": str(row["case"]),
                    "same_as": None if row["same_as"] is None else int(row["same_as"]),
                    "overrides": tuple(map(str, row["overrides"])),
                    "settings": settings | dict(row["differs"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            notes.append(f"a point of {POINTS} cannot be read: {_said(error)}")
    nums = {row["num"] for row in rows}
    for row in rows:
        if row["same_as"] not in nums:
            row["same_as"] = None
    return command, rows


def _found_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """Points from the run folders themselves, for a sweep without points.json."""
    marks = (SUMMARY, "metrics.jsonl", "config.yaml")
    found = [f for f in _subfolders(folder) if any((folder / f / mark).is_file() for mark in marks)]
    numbered = [(int(m[0]) if (m := re.match(r"\d+", name)) else -1, name) for name in found]
    taken = {num for num, _ in numbered if num >= 0}
    distinct = len(taken) == len(found)
    for place, (num, name) in enumerate(sorted(numbered)):
        config = _read_yaml(folder / name / "config.yaml")
        yield {
            "num": num if distinct else place,
            "folder": name,
            "case": "",
            "same_as": None,
            "overrides": tuple(read_overrides(folder / name)),
            "settings": dict(_flat(config)) if isinstance(config, dict) else {},
        }


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []


def _multirun_command(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(map(str, _read_yaml(folder / "multirun.yaml")["hydra"]["overrides"]["task"]))
    except (KeyError, TypeError):
        return ()


def _read_ranks(folder: Path, notes: list[str]) -> tuple[tuple[int, ...], ...]:
    try:
        board = json.loads((folder / "leaderboard.json").read_text("utf-8"))
        return tuple(tuple(map(int, row["points"])) for row in board["configurations"])
    except FileNotFoundError:
        notes.append("there is no leaderboard.json: ranks are those of the runs' summaries")
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"leaderboard.json cannot be read ({_said(error)})"
        notes.append(f"{said}: ranks are those of the runs' summaries")
    return ()


def _read_point(folder: Path, row: Mapping[str, Any], monitor: str) -> SweepPoint:
    """One point, from its line of the grid and its own folder."""
    if row["same_as"] is not None:
        return SweepPoint(**row, status=EQUAL, why=f"trains as point {row['same_as']} does")
    run = folder / row["folder"]
    said: list[str] = []
    rows = read_rows(run, said)
    unread: list[str] = []
    summary = read_summary(run, unread)
    if not (run / SUMMARY).exists() and not rows:
        return SweepPoint(**row)
    status, why = str(summary.get("status")), str(summary.get("error") or "").strip()
    best = _numbers(summary["best"])
    if unread or status not in KNOWN:
        why = unread[0] if unread else f"{SUMMARY} has the unknown status {status!r}"
        status = DAMAGED
    elif status == FINISHED and not math.isfinite(best.get(monitor, math.nan)):
        status, why = DAMAGED, f"it finished without a number for {monitor}"
    elif status == RUNNING:
        why = f"running, or killed after {_epochs(rows)}"
    elif status in (INTERRUPTED, DIVERGED):
        word = "stopped" if status == INTERRUPTED else "diverged"
        why = why or f"{word} after {_epochs(rows)}"
    return SweepPoint(
        **row,
        status=status,
        why=(why or " ".join(said)).splitlines()[0] if why or said else "",
        best=best,
        test=_numbers(summary["test"]),
        rows=tuple(_numbers({key: one.get(key) for key in ("epoch", monitor)}) for one in rows),
        took_s=_took(summary),
        report=(run / "report.html").is_file(),
    )


def _took(summary: Mapping[str, Any]) -> float:
    """Seconds for one point: a stack's members each have the whole stack's training time."""
    timings, members = _numbers(summary["timings"]), summary.get("members")
    total, train = (timings.get(key, math.nan) for key in ("total_s", "train_s"))
    if not isinstance(members, int) or members < 2:
        return total
    return total - train + train / members


def _epochs(rows: Sequence[Any]) -> str:
    return "1 epoch" if len(rows) == 1 else f"{len(rows)} epochs"


def _numbers(section: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a section, non-finite ones too."""
    return {
        key: float(value)
        for key, value in section.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.load(file.read_text("utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key; lists are values."""
    for key, value in section.items():
        at = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{at}.")
        else:
            yield at, value


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
