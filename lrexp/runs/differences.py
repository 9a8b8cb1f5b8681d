"""A run as its folder has it, and what differs between two. Reads files only, imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError, did_you_mean
from lrexp.config.saved import read_saved_config
from lrexp.folder.claim import in_use
from lrexp.folder.layout import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    LAST,
    LAYER_RUNS,
    LAYER_TEST,
    MULTIRUN,
    PLAN,
    SUMMARY,
)
from lrexp.plan.plan import Plan, read_plan
from lrexp.runs.run import content, flat, json_object, named_path, read_rows, read_summary

# in a run folder, and in the flat one of an artifact
WEIGHTS = (f"{CHECKPOINTS}/{LAST}", LAST, f"{CHECKPOINTS}/{BEST}", BEST)
Change = tuple[str, Any, Any]  # key, was, is


ABSENT = "(not there)"  # stands where a config has no such setting


@dataclass(frozen=True)
class SavedRun:
    """What is left of a run: a whole run folder, a downloaded artifact, or a config alone."""

    file: Path  # its config.yaml, absolute
    config: dict[str, Any]
    folder: Path | None = None  # None: the config came alone
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    plan: Plan | None = None

    @property
    def weights(self) -> Path | None:
        """The checkpoint of its last epoch, else of its best one."""
        if self.folder is None:
            return None
        return next((self.folder / w for w in WEIGHTS if (self.folder / w).is_file()), None)

    @property
    def stacked(self) -> bool:
        """Whether it was trained together with other runs, which rounds otherwise."""
        summary, went_on = self.summary, self.summary.get("resumed")
        before = went_on if isinstance(went_on, list) else []  # in an earlier part of it
        return (
            summary.get("executor") == "stacked"
            or number(summary.get("members")) > 1
            or any(isinstance(part, dict) and part.get("stacked") is True for part in before)
        )

    @property
    def status(self) -> str:
        """As its summary has it, but `killed` where that says `running` and nobody is at it.

        Of an artifact or a config alone it is `finished`.
        """
        status = printable(str(self.summary.get("status", "finished")))
        gone = status == "running" and self.folder is not None and not in_use(self.folder)
        return "killed" if gone else status

    @property
    def whole(self) -> bool:
        """Whether it came to its end."""
        return self.status in ("finished", "diverged")


def read_run(name: str) -> SavedRun:
    """The run that a command line means.

    Args:
        name: a run folder, the folder of a downloaded artifact, a config.yaml, or `latest`.

    Raises:
        UserError: when there is none, or its files cannot be read.
    """
    path = named_path(name)
    if not os.path.exists(path):
        hint = "give a run folder, a config.yaml, or latest"
        if name == "latest":
            hint = "there is no run in outputs/ here; go to where it is, or give its folder"
        elif name.startswith("latest/") and path.parent.is_dir():
            hint = did_you_mean(path.name, [p.name for p in path.parent.iterdir() if p.is_dir()])
        raise UserError(f"{name}: there is no such run\n  {hint}")
    path = path.resolve()
    folder = path if path.is_dir() else None
    file = path / CONFIG if folder else path
    if not file.is_file():
        points = sorted(p.parent.name for p in path.glob(f"*/{CONFIG}"))
        many = f" and {len(points) - 8} more" if len(points) > 8 else ""
        hint = "give a run folder, or a config.yaml"
        if (path / LAYER_TEST).is_file():
            hint = f"it is a test of layers: its runs are in {name}/{LAYER_RUNS}"
        if points:
            what = "a sweep" if (path / MULTIRUN).is_file() else "a folder of runs"
            hint = f"it is {what}: give one of them: {', '.join(points[:8])}{many}"
            hint += f"\n  such as {name}/{points[0]}"
        raise UserError(f"{path} has no {CONFIG}\n  {hint}")
    config = read_saved_config(file)
    run_id = config.get("run_id")
    if folder is None and file.name == CONFIG and run_id is not None:  # or just a file of that name
        folder = file.parent if read_summary(file.parent, []).get("run_id") == run_id else None
    if folder is None:
        return SavedRun(file, config)
    return SavedRun(
        file=file,
        config=config,
        folder=folder,
        summary=content(folder / SUMMARY, json_object, {}),
        environment=content(folder / ENVIRONMENT, json_object, {}),
        rows=read_rows(folder, []),
        plan=content(folder / PLAN, read_plan, None),
    )


def config_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Settings that differ."""
    ours, theirs = _comparable(was, now), _comparable(now, was)
    keys = dict.fromkeys([*ours, *theirs])
    both = ((key, ours.get(key, ABSENT), theirs.get(key, ABSENT)) for key in keys)
    return [(key, a, b) for key, a, b in both if repr(a) != repr(b)]


# What explains best that numbers differ, the likeliest first; older records have another order.
CAUSES = (
    *(
        "fingerprints",
        "parts",
        "code_hash",
        "commit",
        "diff_hash",
        "lrexp",
        "device",
        "gpu",
    ),
    *("threads", "world_size", "backend"),
    *("packages", "cpu", "cpu_capability", "flags", "variables", "gpu_driver", "cuda", "cudnn"),
    *("python", "os", "cpu_count"),
)


def environment_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What was recorded of code, packages, machine and data in both and differs, causes first."""
    found = []
    for section in (key for key in CAUSES if key in was and key in now):  # else nothing is known
        ours, theirs = flat({section: was[section]}), flat({section: now[section]})
        pairs = [(k, ours.get(k), theirs.get(k)) for k in dict.fromkeys([*ours, *theirs])]
        found += [(k, a or None, b or None) for k, a, b in pairs if (a or None) != (b or None)]
    return [(k, a and a[:10], b and b[:10]) if k == "commit" else (k, a, b) for k, a, b in found]


@dataclass(frozen=True)
class CurveDifference:
    """Where one metric of two runs differs."""

    metric: str
    largest: float  # |b − a|; infinite when only one of them is a finite number
    epoch: int  # where it is largest
    was: float
    now: float
    first_epoch: int  # where it differs for the first time


def curve_differences(
    was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[CurveDifference]:
    """Every metric that differs in an epoch both have, largest relative difference first.

    Equal means equal bit for bit; what was measured of speed (`perf/`) is left out. A metric that
    only one of the rows has counts as NaN in the other.
    """
    by_epoch = {row["epoch"]: row for row in now}
    pairs = [(row, by_epoch[row["epoch"]]) for row in was if row["epoch"] in by_epoch]
    found: list[CurveDifference] = []
    for metric in dict.fromkeys(key for pair in pairs for row in pair for key in row):
        cells = [(a["epoch"], number(a.get(metric)), number(b.get(metric))) for a, b in pairs]
        apart = [
            (abs(b - a) if math.isfinite(a) and math.isfinite(b) else math.inf, epoch, a, b)
            for epoch, a, b in cells
            if repr(a) != repr(b)  # NaN is NaN here
        ]
        if apart and not metric.startswith("perf/"):
            largest, epoch, a, b = max(apart, key=lambda one: one[0])
            found.append(CurveDifference(metric, largest, epoch, a, b, first_epoch=apart[0][1]))
    return sorted(found, key=_relative, reverse=True)


def _relative(difference: CurveDifference) -> float:
    if not math.isfinite(difference.largest):
        return math.inf
    return difference.largest / (abs(difference.was) + abs(difference.now) or 1.0)


def lone_epochs(
    was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """Epochs that only the first of two runs has, and those that only the second has."""
    ours, theirs = ([row["epoch"] for row in rows] for rows in (was, now))
    return [e for e in ours if e not in theirs], [e for e in theirs if e not in ours]


def number(value: Any) -> float:
    """A cell of metrics.jsonl or summary.json as a number: "NaN" and None are NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
    except OverflowError:  # a whole number beyond any float
        return math.inf if value > 0 else -math.inf


def printable(text: str) -> str:
    """The text without what a terminal would take for a command: others may have written it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


WHOLE = 10_000  # characters of a value that is not to be cut, for all that one writes


def shown(value: Any, width: int = 48) -> str:
    """A setting's value on one line, long ones cut in the middle."""
    text = "null" if value is None else str(value)
    if isinstance(value, bool):
        text = str(value).lower()
    text = printable(" ".join(text.split()))
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"


def change_lines(changes: Sequence[Change], most: int = 40, width: int = 48) -> list[str]:
    """`key: was → is` for each of so many changes, values cut to `width` characters."""
    lines = [
        f"{printable(key)}: {shown(was, width)} → {shown(now, width)}"
        for key, was, now in changes[:most]
    ]
    left = len(changes) - most
    return [*lines, f"and {left} more"] if left > 0 else lines


def _comparable(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key; `data.normalize` as chosen, where the other config has it like that.

    That of a plan, or of a run that is to begin, has it so; that of a run has the numbers.
    """
    found, key = flat(config), "data.normalize"
    if f"{key}.chosen" in found and isinstance(flat(other).get(key), str):
        chosen = found[f"{key}.chosen"]
        found = {k: v for k, v in found.items() if not k.startswith(f"{key}.")} | {key: chosen}
    return found
