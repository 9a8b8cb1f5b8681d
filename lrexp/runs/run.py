"""Run folders as plain values. What is damaged or missing becomes a note, never an exception."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lrexp.folder.layout import SUMMARY

STATUSES = ("running", "finished", "diverged", "failed", "interrupted")
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
T = TypeVar("T")


@dataclass(frozen=True)
class PlanRow:
    """One parameter's part of the plan, as plan.csv has it."""

    name: str
    shape: tuple[int, ...]
    layer: int
    layer_name: str
    group: str
    head: bool
    source: str
    lr_scale: float
    weight_decay: float
    trainable_from: int
    trainable_until: int | None
    g: str
    measured: str

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def frozen(self) -> bool:
        """True when the parameter never trains."""
        return self.trainable_until is not None and self.trainable_until <= self.trainable_from


@dataclass
class Run:
    """What a run folder holds, as far as it can be read."""

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # one per epoch, numbers as floats
    config: dict[str, Any] = field(default_factory=dict)
    plan: list[PlanRow] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be read, and what it means

    @property
    def status(self) -> str:
        """As summary.json has it; `running` says only that nobody has written another yet."""
        return str(self.summary.get("status") or "unknown")


def read_run(folder: Path) -> Run:
    """A run folder as values, and notes on what it lacks."""
    run = Run(folder)
    note = run.notes
    run.summary = read_summary(folder, note)
    run.rows = read_rows(folder, note)
    run.config = _read(folder / "config.yaml", _yaml_object, {}, note)
    run.plan = _read(folder / "plan.csv", _plan, [], note)
    run.environment = _read(folder / "environment.json", _json_object, {}, note)
    run.overrides = read_overrides(folder)
    return run


def read_summary(folder: Path, notes: list[str]) -> dict[str, Any]:
    """summary.json with numbers as numbers, "NaN" and the infinities too; empty when unreadable."""
    found = _read(folder / SUMMARY, _json_object, {}, notes)
    for section in ("best", "last", "test", "gap", "timings", "parameters", "data"):
        if not isinstance(found.get(section), dict):
            found[section] = {}
    for section in ("leaks", "frozen_proof"):
        if not isinstance(found.get(section), dict):
            found[section] = None
    for section in ("verdicts", "worst_classes"):
        if not isinstance(found.get(section), list):
            found[section] = []
    return found


def read_rows(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """metrics.jsonl: a row per epoch. Lines that are no JSON are left out and noted."""
    file = folder / "metrics.jsonl"
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []  # a run that ended before its first epoch
    except OSError as error:
        notes.append(f"metrics.jsonl cannot be read: {error.strerror}")
        return []
    rows, bad = [], 0
    for line in lines:
        try:
            row = _numbers(json.loads(line))
            row["epoch"] = int(row["epoch"])
        except (ValueError, KeyError, TypeError, OverflowError):
            bad += 1
            continue
        rows.append(row)
    if bad:
        notes.append(f"metrics.jsonl: {bad} of {len(lines)} lines cannot be read and are left out")
    by_epoch = {
        row["epoch"]: row for row in rows
    }  # a continued run may repeat one: the last counts
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def read_overrides(folder: Path) -> list[str]:
    """What was typed after `python -m lrexp`; empty when it is not known."""
    found = _read(folder / ".hydra" / "overrides.yaml", _yaml, [], [])
    return [str(one) for one in found] if isinstance(found, list) else []


def read_choices(folder: Path) -> tuple[dict[str, Any], list[Path], str]:
    """From .hydra/hydra.yaml: option by config group, folders of the user's own options, and the
    folder the command was given in; empty where they are not known."""
    found = read_yaml(folder / ".hydra" / "hydra.yaml")
    try:
        runtime = found["hydra"]["runtime"]
        own = [
            Path(source["path"])
            for source in runtime["config_sources"]
            if source["schema"] == "file" and source["provider"] != "main"
        ]
        return dict(runtime["choices"]), own, str(runtime["cwd"])
    except (KeyError, TypeError, ValueError):
        return {}, [], ""


def read_yaml(file: Path) -> Any:
    """What a YAML file holds; None when it is missing or unreadable."""
    return _read(file, _yaml, None, [])


def read_table(file: Path, notes: list[str]) -> list[dict[str, str]]:
    """A CSV file as rows by heading; empty when it is missing or unreadable."""
    if not file.exists():
        return []
    return _read(file, lambda text: list(csv.DictReader(text.splitlines())), [], notes)


def is_sweep(folder: Path) -> bool:
    """Whether the folder is that of a grid."""
    marks = ("points.json", "leaderboard.json", "multirun.yaml")
    return any((folder / name).exists() for name in marks)


def is_run(folder: Path) -> bool:
    """Whether the folder is that of a run."""
    return any((folder / name).exists() for name in (SUMMARY, "metrics.jsonl", "config.yaml"))


def _read(file: Path, parse: Callable[[str], T], otherwise: T, notes: list[str]) -> T:
    try:
        return parse(file.read_text("utf-8"))
    except FileNotFoundError:
        notes.append(f"{file.name} is missing")
    except OSError as error:
        notes.append(f"{file.name} cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, csv.Error):
        notes.append(f"{file.name} is damaged and was left out")
    return otherwise


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return _numbers(found)


def _yaml(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _yaml_object(text: str) -> dict[str, Any]:
    found = _yaml(text)
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    return found


def _plan(text: str) -> list[PlanRow]:
    return [
        PlanRow(
            name=row["name"],
            shape=tuple(int(size) for size in row["shape"].split("x") if size),
            layer=int(row["layer"]),
            layer_name=row["layer_name"],
            group=row["group"],
            head=row["head"] == "true",
            source=row["source"],
            lr_scale=float(row["lr_scale"]),
            weight_decay=float(row["weight_decay"]),
            trainable_from=int(row["trainable_from"]),
            trainable_until=int(row["trainable_until"]) if row["trainable_until"] else None,
            g=row["g"],
            measured=row["measured"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


def _numbers(value: Any) -> Any:
    """The strings that stand for non-finite numbers as those numbers."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return NON_FINITE.get(value, value) if isinstance(value, str) else value
