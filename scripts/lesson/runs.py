"""The cases of a lesson, trained as one grid through the session of `lrexp -m`, and read back."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lesson.judging import Measured, against

from lrexp.config.compose import CheckedLoader
from lrexp.folder.layout import CHECKPOINTS, LAST, PREDICTIONS
from lrexp.judge.comparison import Images, Scores
from lrexp.judge.concluding import ACCURACY, scores_of
from lrexp.judge.crossed import crossed
from lrexp.runs.predictions import Predictions, read_predictions
from lrexp.runs.run import Run, read_run
from lrexp.runs.scores import read_tried
from lrexp.runs.sweep import DIVERGED, FINISHED, SweepPoint, read_sweep
from lrexp.session.sweep import Around
from lrexp.session.trials import train_cases

HOW = ("logger=none", "trainer.device=cpu", "trainer.threads=1", "hydra.launcher.executor=stacked")


class Grid:
    """The runs of a lesson: a case has a run per seed, all cases the same seeds."""

    def __init__(self, folder: Path, seeds: Sequence[int], data: Path | None = None) -> None:
        self.folder, self.seeds = folder, tuple(seeds)
        self.data = data  # folder of images that were made for it
        self._runs = dict[str, list[Run]]()

    @cached_property
    def _points(self) -> dict[tuple[str, Any], SweepPoint]:
        """By case and seed what ran, or ran in its place.

        Raises:
            SystemExit: when a run has no result.
        """
        sweep = read_sweep(self.folder)
        by_num = {point.num: point for point in sweep.points}
        found = {}
        for point in (one for one in sweep.points if not one.former):
            ran = by_num[point.same_as] if point.same_as is not None else point
            if ran.status not in (FINISHED, DIVERGED):
                raise SystemExit(f"{self.folder / ran.folder} is {ran.status}: {ran.why}")
            found[point.case, point.seed] = ran
        return found

    @cached_property
    def _tried(self) -> Any:
        return read_tried(self.folder)

    def runs(self, case: str) -> list[Run]:
        """The runs of a case, by seed."""
        if case not in self._runs:
            folders = [self._points[case, seed].folder for seed in self.seeds]
            self._runs[case] = [read_run(self.folder / folder) for folder in folders]
        return self._runs[case]

    def numbers(self, case: str, of: Callable[[Run], float]) -> np.ndarray:
        """(S,) a number of every run."""
        return np.array([of(run) for run in self.runs(case)], dtype=np.float64)

    def last(self, case: str, key: str) -> np.ndarray:
        """(S,) a metric at the last epoch."""
        return self.numbers(case, lambda run: run.rows[-1][key])

    def curves(self, case: str, key: str) -> list[list[float]]:
        """A metric by epoch, of every run."""
        return [[row[key] for row in run.rows] for run in self.runs(case)]

    def weights(self, case: str, file: str = LAST) -> list[dict[str, Any]]:
        """The state_dict that every run has kept."""
        from lrexp.folder.checkpoint import load_checkpoint

        return [load_checkpoint(r.folder / CHECKPOINTS / file)["model"] for r in self.runs(case)]

    def predictions(self, case: str, split: str) -> list[Predictions]:
        """What every run's best weights say of a split's images."""
        found = [read_predictions(run.folder / PREDICTIONS, split) for run in self.runs(case)]
        return [one for one in found if one is not None]

    def scores(self, *cases: str, seeds: Sequence[int] = ()) -> tuple[dict[str, Scores], Images]:
        """Which test images each got right, a row per seed; a guess where it fell to guessing."""
        return scores_of(self._tried, cases, ACCURACY, seeds or self.seeds)

    def accuracy(self, case: str, base: str | float, seeds: Sequence[int] = ()) -> Measured:
        """On test images, over seeds and images at once: a case against another, or a share."""
        names = [case, base] if isinstance(base, str) else [case]
        scores, images = self.scores(*names, seeds=seeds)
        right = scores[case].right
        if not isinstance(base, str):
            said = f"test accuracy {100 * right.mean():.1f} %, from {100 * base:.0f}"
            return Measured(against(crossed(right, images.clusters), base), said)
        other = scores[base].right
        said = f"test accuracy {100 * right.mean():.1f} against {100 * other.mean():.1f} %"
        return Measured(crossed(right - other, images.clusters), said)


def train(
    folder: Path, lesson: str, cases: Mapping[str, str], seeds: Sequence[int], *more: str
) -> Grid:
    """Train what the folder has no result of yet.

    Args:
        folder: of the grid.
        lesson: its YAML file in conf/experiment/lessons.
        cases: name → overrides, as they are typed.
        seeds: of every case.
        more: overrides that all have.
    """
    axis = f"seed={','.join(map(str, seeds))}"
    axes = {case: [*shlex.split(overrides), axis] for case, overrides in cases.items()}
    common, said = [f"experiment=lessons/{lesson}", *HOW, *more], list[str]()
    with contextlib.redirect_stdout(io.StringIO()):
        train_cases(CheckedLoader(), folder, axes, common, Around(said.append))
    return Grid(folder, seeds)


def composed(lesson: str, *overrides: str) -> Any:
    """The checked config of a run of a lesson, that is not trained here."""
    from hydra.types import RunMode

    from lrexp.config.check import check
    from lrexp.config.compose import CONFIG_NAME, without_hydra
    from lrexp.session.hydra import hydra_of

    loader = CheckedLoader()
    with hydra_of(loader):
        asked = [f"experiment=lessons/{lesson}", "trainer.device=cpu", "trainer.threads=1"]
        config = loader.load_configuration(CONFIG_NAME, [*asked, *overrides], RunMode.RUN)
        return check(without_hydra(config))[1]
