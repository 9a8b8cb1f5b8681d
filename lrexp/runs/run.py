"""Run folders as plain values, read here for everybody.

What is missing is empty, and what is damaged raises one error that names the file; for a report,
which shows what is left, both become a note instead. The strings that strict JSON has for
non-finite numbers are those numbers.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lrexp.config.errors import UserError
from lrexp.config.names import RERUN_PROVIDER
from lrexp.folder.layout import (
    CONFIG,
    ENVIRONMENT,
    HYDRA,
    HYDRA_CONFIG,
    LEADERBOARD,
    METRICS,
    MULTIRUN,
    OVERRIDES,
    PLAN,
    POINTS,
    SUMMARY,
)
from lrexp.plan.plan import Plan, read_plan
from lrexp.runs.reading import NotReadError, json_of, table_of, text_of, yaml_of

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# of summary.json, whatever of them it lacks
SECTIONS: dict[str, type] = {
    **dict.fromkeys(("best", "last", "test", "gap", "timings", "parameters", "data"), dict),
    **dict.fromkeys(("verdicts", "remarks", "worst_classes"), list),
}
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RecursionError, csv.Error, UserError)
T = TypeVar("T")


@dataclass
class Run:
    """What a run folder holds, as far as it can be read."""

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # one per epoch, numbers as floats
    config: dict[str, Any] = field(default_factory=dict)
    plan: Plan = field(default_factory=lambda: Plan(()))
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
    run.config = content(folder / CONFIG, yaml_object, run.config, note)
    run.plan = content(folder / PLAN, read_plan, run.plan, note)
    computes = flat(run.config).get("task.name") != "plan"
    told = note if computes else []
    run.environment = content(folder / ENVIRONMENT, json_object, run.environment, told)
    run.overrides = read_overrides(folder)
    return run


def read_summary(folder: Path, notes: list[str]) -> dict[str, Any]:
    """summary.json with every section; they are empty where it is missing or unreadable."""
    found = content(folder / SUMMARY, json_object, dict[str, Any](), notes)
    for section, kind in SECTIONS.items():
        if not isinstance(found.get(section), kind):
            found[section] = kind()
    listed = [one for one in found["verdicts"] if isinstance(one, dict)]
    found["verdicts"] = [one for one in listed if isinstance(one.get("kind"), str)]
    for section in ("leaks", "frozen_proof", "learning_proof"):
        if not isinstance(found.get(section), dict):
            found[section] = None
    return found


def read_rows(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """metrics.jsonl: a row per epoch. Lines that are no rows are left out and noted.

    The last line of a killed run may be no row; a run that went on may repeat an epoch, of which
    the last counts. A run that ended before its first epoch has no file.
    """
    rows, bad = dict[int, dict[str, Any]](), 0
    try:
        lines = text_of(folder / METRICS, errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        notes.append(f"{METRICS} cannot be read: {said}")
        return []
    for line in lines:
        try:
            row = numbers(json_of(line))
            row["epoch"] = int(row["epoch"])
            rows[row["epoch"]] = row
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            bad += 1
    if bad:
        notes.append(f"{METRICS}: {bad} of {len(lines)} lines cannot be read and are left out")
    return [rows[epoch] for epoch in sorted(rows)]


def read_overrides(folder: Path) -> list[str]:
    """What was typed after `lrexp`; empty when it is not known."""
    found = read_yaml(folder / HYDRA / OVERRIDES)
    return [str(one) for one in found] if isinstance(found, list) else []


def read_choices(folder: Path) -> tuple[dict[str, Any], list[Path], str]:
    """From .hydra/hydra.yaml: option by config group, folders of the user's own options, and the
    folder the command was given in; empty where they are not known."""
    file = folder / HYDRA / HYDRA_CONFIG
    try:
        runtime = read_yaml(file)["hydra"]["runtime"]
        return dict(runtime["choices"]), own_folders(file), str(runtime["cwd"])
    except (KeyError, TypeError, ValueError):
        return {}, [], ""


def own_folders(file: Path) -> list[Path]:
    """Folders of the user's own options, of a file that holds a `hydra` section."""
    return [path for provider, path in _sources(file) if provider not in ("main", RERUN_PROVIDER)]


def was_rerun(folder: Path) -> bool:
    """Whether a run was made from a saved config: what was typed beside that is not all of it."""
    return RERUN_PROVIDER in dict(_sources(folder / HYDRA / HYDRA_CONFIG))


def _sources(file: Path) -> list[tuple[str, Path]]:
    """Where the config came from: provider and file or folder."""
    try:
        found = read_yaml(file)["hydra"]["runtime"]["config_sources"]
        return [(str(s["provider"]), Path(s["path"])) for s in found if s["schema"] == "file"]
    except (KeyError, TypeError, ValueError):
        return []


def read_yaml(file: Path) -> Any:
    """What a YAML file holds; None when it is missing or unreadable."""
    return content(file, yaml_of, None, [])


def read_table(file: Path, notes: list[str]) -> list[dict[str, str]]:
    """A CSV file as rows by heading; empty when it is missing or unreadable."""
    if not file.exists():
        return []
    return content(file, table_of, [], notes)


def named_path(name: str) -> Path:
    """The path that a word on a command line means.

    `latest` is the newest run or sweep, `latest/NAME` what is in it, unless there is such a path.
    """
    path = Path(name)
    with suppress(RuntimeError):  # nobody has that home folder: then nothing is there
        path = path.expanduser()
    newest = path.parts[:1] == ("latest",) and not os.path.exists(path)
    return Path("outputs") / path if newest else path


def named_folder(name: str) -> Path:
    """The folder that is meant, absolute.

    Raises:
        UserError: when there is none.
    """
    path = named_path(name)
    if not os.path.isdir(path):
        raise UserError(f"there is no folder {name}\n  give that of a run or a sweep, or `latest`")
    return path.resolve()


def is_sweep(folder: Path) -> bool:
    """Whether the folder is that of a grid."""
    return any((folder / name).exists() for name in (POINTS, LEADERBOARD, MULTIRUN))


def is_run(folder: Path) -> bool:
    """Whether the folder is that of a run."""
    return any((folder / name).exists() for name in (SUMMARY, METRICS, CONFIG))


def content(
    file: Path, parse: Callable[[str], T], otherwise: T, notes: list[str] | None = None
) -> T:
    """What a file holds; `otherwise` when there is no such file.

    Args:
        file: to read.
        parse: makes something of its text.
        otherwise: stands for what is not there.
        notes: takes a line on what is missing or damaged, which is then no error.

    Raises:
        UserError: when it cannot be read, or `parse` cannot make anything of its text.
    """
    try:
        return parse(text_of(file))
    except FileNotFoundError:
        said = "is missing"
    except UNREADABLE as error:
        if notes is None:
            cause = str(error) or type(error).__name__
            raise UserError(f"{file} cannot be read: {cause}") from error
        said = "is damaged and was left out"
        if isinstance(error, OSError | NotReadError):
            said = f"cannot be read: {getattr(error, 'strerror', error)}"
    if notes is not None:
        notes.append(f"{file.name} {said}")
    return otherwise


def json_object(text: str) -> dict[str, Any]:
    """The object that a JSON text holds, with non-finite numbers as numbers; else a ValueError."""
    return numbers(_settings(json_of(text)))


def yaml_object(text: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; else a ValueError."""
    return _settings(yaml_of(text))


def _settings(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("it holds no settings")
    return found


def numbers(value: Any) -> Any:
    """The strings that stand for non-finite numbers as those numbers, wherever they are."""
    if isinstance(value, dict):
        return {key: numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [numbers(inner) for inner in value]
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; lists and empty mappings are values."""
    if not isinstance(section, Mapping) or (not section and prefix):
        return {prefix: section} if prefix else {}
    pairs = ((f"{prefix}.{key}" if prefix else str(key), inner) for key, inner in section.items())
    return {key: value for at, inner in pairs for key, value in flat(inner, at).items()}
