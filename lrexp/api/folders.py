"""`lrexp.load` and `lrexp.results`: folders of runs and sweeps as objects and tables."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.api.shown import run_shown, sweep_shown
from lrexp.config.errors import UserError
from lrexp.config.names import shown_path
from lrexp.config.parts import given
from lrexp.folder.layout import POINTS_TABLE
from lrexp.grid.leaderboard import leaderboard_lines, points_csv
from lrexp.plan.plan import Plan
from lrexp.runs import run as folders
from lrexp.runs.reading import table_of
from lrexp.runs.sweep import FINISHED, read_leaderboard, read_sweep
from lrexp.runs.sweep import Sweep as Read

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from lrexp.use.trained import Trained


@dataclass(frozen=True, repr=False)
class Run:
    """A run's folder. Its files are read once, when something of them is first asked for.

    In a notebook it is shown with its headline, figures and curves.

    Args:
        folder: absolute.
        parts: target → object of what it was trained with that no name leads to.
    """

    folder: Path
    parts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def _read(self) -> folders.Run:
        return folders.read_run(self.folder)

    @property
    def status(self) -> str:
        """finished, diverged, failed, interrupted, or running."""
        return self._read.status

    @property
    def config(self) -> Mapping[str, Any]:
        """config.yaml: what really ran, no interpolation left."""
        return self._read.config

    @property
    def plan(self) -> Plan:
        """Who learned how fast: a row per parameter."""
        return self._read.plan

    @property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl, a row per epoch: `pandas.DataFrame(run.rows)`."""
        return self._read.rows

    @property
    def summary(self) -> Mapping[str, Any]:
        """summary.json: status, best, last, test, gap, verdicts and more."""
        return self._read.summary

    @property
    def best(self) -> Mapping[str, Any]:
        """The row of the best epoch, by trainer.monitor; empty where no epoch was finished."""
        return self.summary["best"]

    @property
    def notes(self) -> list[str]:
        """What could not be read, and what it means."""
        return self._read.notes

    @cached_property
    def trained(self) -> Trained:
        """Network, transform, class names and `scores`, on the best device there is.

        Raises:
            UserError: when the folder holds no weights that can be used.
        """
        from lrexp.session.guest import as_guest
        from lrexp.use.trained import load_trained

        with as_guest(), given(self.parts):  # its config is composed anew
            return load_trained(self.folder)

    @property
    def model(self) -> nn.Module:
        """The network with its best weights, in eval mode: (B, C, H, W) → logits (B, classes)."""
        return self.trained.model

    @property
    def transform(self) -> Callable[[Any], Any]:
        """What makes of images what the network takes: (B, C, H, W) float32, as in the run."""
        return self.trained.transform

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""
        return self.trained.class_names

    def __repr__(self) -> str:
        monitor = (self.config.get("trainer") or {}).get("monitor", "val/loss")
        told = ""
        if monitor in self.best:
            told = f", {monitor} {self.best[monitor]:.4g} in epoch {self.best.get('epoch')}"
        return f"<Run {self.status}{told}: {shown_path(self.folder)}>"

    def _repr_html_(self) -> str:
        return run_shown(self._read)


@dataclass(frozen=True, repr=False)
class Sweep:
    """A sweep's folder. Its files are read once, when something of them is first asked for.

    In a notebook it is shown with its headline, rates and leaderboard.

    Args:
        folder: absolute.
        parts: as of `Run`.
    """

    folder: Path
    parts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def _read(self) -> Read:
        return read_sweep(self.folder)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the points that have begun, by number."""
        begun = (self.folder / point.folder for point in self._read.tried)
        return tuple(Run(folder, self.parts) for folder in begun if folders.is_run(folder))

    @cached_property
    def leaderboard(self) -> Mapping[str, Any]:
        """leaderboard.json: the configurations, best first, and what they are sorted by."""
        board = read_leaderboard(self.folder)
        if board is None:
            raise UserError(f"{shown_path(self.folder)} has no leaderboard")
        return board

    @cached_property
    def results(self) -> pd.DataFrame:
        """See `lrexp.results`."""
        import pandas as pd

        # without the file, as of a sweep that was killed early, from what its folders say
        unwritten = points_csv(self._read.points, self._read.monitor)
        rows = table_of(folders.content(self.folder / POINTS_TABLE, str, unwritten))
        columns = rows[0] if rows else ["folder"]
        found = pd.DataFrame({name: _numbers([row[name] for row in rows]) for name in columns})
        found["folder"] = [str(self.folder / name) for name in found["folder"]]
        return found

    @property
    def best(self) -> Run:
        """Of the leading configuration, the run with the best value of trainer.monitor.

        Raises:
            UserError: when none has finished.
        """
        of_first = next((row["points"] for row in self.leaderboard["configurations"]), [])
        ended = [p for p in self._read.points if p.num in of_first and p.status == FINISHED]
        monitor, sign = self._read.monitor, self._read.sign
        if not ended:
            raise UserError(f"{shown_path(self.folder)} has no run that finished")
        first = min(ended, key=lambda point: sign * point.best[monitor])
        return Run(self.folder / first.folder, self.parts)

    def __repr__(self) -> str:
        return f"<Sweep of {len(self._read.points)} points: {shown_path(self.folder)}>"

    def __str__(self) -> str:
        return "\n".join(leaderboard_lines(self.leaderboard))

    def _repr_html_(self) -> str:
        return sweep_shown(self._read)


def _numbers(cells: list[str]) -> list[Any]:
    """A column as whole numbers or floats where all cells are such; what is empty is NaN.

    >>> _numbers(["1", "2"]), _numbers(["1", ""]), _numbers(["1", "a"])
    ([1, 2], [1.0, nan], ['1', 'a'])
    """
    for kind in (int, float):
        with suppress(ValueError):
            return [kind(cell or ("nan" if kind is float else "")) for cell in cells]
    return [cell or math.nan for cell in cells]


def load(run: str | os.PathLike[str]) -> Run:
    """A run's folder as an object, with its network.

    Args:
        run: its folder, or `latest`.

    Raises:
        UserError: when there is no such run.
    """
    folder = folders.named_folder(os.fspath(run))
    if folders.is_sweep(folder):
        raise UserError(f"{run} is the folder of a sweep: lrexp.results reads it")
    if not folders.is_run(folder):
        raise UserError(f"{run} holds no run")
    return Run(folder)


def results(sweep: str | os.PathLike[str] | Sweep) -> pd.DataFrame:
    """A row per point of a sweep, by number, as in its points.csv; NaN where nothing is known.

    Columns: `point`, `case`, the swept settings, `seed`, `data.seed`, `status`, `best_epoch`, at
    that epoch trainer.monitor, `val/loss`, `val/accuracy`, `gap/...` and `test/...`, at the last
    one `overfit/...`, then `took_s`, `verdicts`, `former`, `same_as` and `folder`, which
    `lrexp.load` takes.

    Args:
        sweep: its folder, or `latest`, or what `lrexp.sweep` returned.

    Raises:
        UserError: when there is no such sweep.
    """
    if isinstance(sweep, Sweep):
        return sweep.results.copy()
    folder = folders.named_folder(os.fspath(sweep))
    if not folders.is_sweep(folder):
        raise UserError(f"{sweep} is no folder of a sweep: lrexp.load reads a run's")
    return Sweep(folder).results
