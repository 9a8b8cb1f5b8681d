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

from lrexp.folder import SUMMARY
from lrexp.schema import GROUPS, MONITORS

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
    rows: tuple[Mapping[str, float], ...] = ()  # epoch, the monitor and the gap of every epoch
    total_s: float = math.nan
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


def in_short(chosen: Mapping[str, str | None]) -> str:
    """Overrides as people say them: `layerwise_decay decay=0.5 lr=0.1`.

    An option goes by its name alone, a setting by the last part of its key where no other ends so.
    """
    ends = [key.rpartition(".")[2] for key in chosen]
    words = []
    for key, value in chosen.items():
        if value is None:
            continue
        end = key.rpartition(".")[2]
        words.append(value if key in GROUPS else f"{end if ends.count(end) == 1 else key}={value}")
    return " ".join(words)


def rate_of(settings: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The learning rate to plot a run at, and whether its policy sets rates of its own.

    It is optimizer.lr, or the highest of the rates when every one of them is absolute: lr_low and
    lr_high both given, or rules with a rate for everything that trains.
    """
    low, high = settings.get("lr_policy.lr_low"), settings.get("lr_policy.lr_high")
    own = [rate for rate in (low, high) if _positive(rate)]
    if len(own) == 2:
        return max(map(float, own)), True
    rules = settings.get("lr_policy.rules")
    if isinstance(rules, list) and (ruled := _absolute_rates(rules)):
        return max(ruled), True
    rate = settings.get(RATE)
    return (float(rate), False) if _positive(rate) else (None, False)


def _absolute_rates(rules: Sequence[Any]) -> list[float]:
    """The rates of rules that leave nothing to the base rate; none where they do."""
    if not all(isinstance(rule, Mapping) for rule in rules):
        return []
    selected = {str(rule.get("match") or rule.get("layers")) for rule in rules}
    everything = bool(selected & {"*", "re:", "re:.*"}) or selected >= {"head", "backbone"}
    if not everything or not all(rule.get("lr") or rule.get("frozen") for rule in rules):
        return []
    return [float(rule["lr"]) for rule in rules if _positive(rule.get("lr"))]


def _positive(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value) and value > 0


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
        overrides = _read_yaml(folder / name / ".hydra" / "overrides.yaml")
        config = _read_yaml(folder / name / "config.yaml")
        yield {
            "num": num if distinct else place,
            "folder": name,
            "case": "",
            "same_as": None,
            "overrides": tuple(map(str, overrides)) if isinstance(overrides, list) else (),
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
    try:
        summary = json.loads((run / SUMMARY).read_text("utf-8"))
        status = str(summary["status"])
        best, test = _numbers(summary.get("best")), _numbers(summary.get("test"))
        timings = _numbers(summary.get("timings"))
        why = str(summary.get("error") or "").strip()
    except FileNotFoundError:
        if not (run / "metrics.jsonl").is_file():
            return SweepPoint(**row)
        status, best, test, timings, why = DAMAGED, {}, {}, {}, f"it has no {SUMMARY}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        status, best, test, timings = DAMAGED, {}, {}, {}
        why = f"{SUMMARY} cannot be read: {_said(error)}"
    rows, torn = _read_rows(run / "metrics.jsonl", monitor)
    if status not in KNOWN:
        status, why = DAMAGED, why or f"{SUMMARY} has the unknown status {status!r}"
    if status == FINISHED and not math.isfinite(best.get(monitor, math.nan)):
        status, why = DAMAGED, f"it finished without a number for {monitor}"
    if status == RUNNING:
        why = f"running, or killed after {_epochs(rows)}"
    elif status == INTERRUPTED:
        why = why or f"stopped after {_epochs(rows)}"
    elif status == DIVERGED:
        why = why or f"diverged after {_epochs(rows)}"
    elif torn and not why:
        why = f"{torn} rows of metrics.jsonl cannot be read"
    return SweepPoint(
        **row,
        status=status,
        why=(why.splitlines() or [""])[0],
        best=best,
        test=test,
        rows=rows,
        total_s=timings.get("total_s", math.nan),
        report=(run / "report.html").is_file(),
    )


def _read_rows(file: Path, monitor: str) -> tuple[tuple[dict[str, float], ...], int]:
    """Epoch, monitor and gap of every row that can be read, and how many cannot."""
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return (), 0
    rows, torn = {}, 0
    for line in lines:
        try:
            row = json.loads(line)
            epoch = int(row["epoch"])
            rows[epoch] = {
                "epoch": float(epoch),
                **{key: float(row[key]) for key in {monitor, GAP} if key in row},
            }
        except (ValueError, KeyError, TypeError):
            torn += bool(line.strip())
    return tuple(rows[epoch] for epoch in sorted(rows)), torn


def _epochs(rows: Sequence[Any]) -> str:
    return "1 epoch" if len(rows) == 1 else f"{len(rows)} epochs"


def _numbers(section: Any) -> dict[str, float]:
    """The numbers of a strict JSON object, "NaN" and the infinities too."""
    found = {}
    for key, value in (section or {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        try:
            found[key] = float(value)
        except ValueError:
            continue
    return found


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
