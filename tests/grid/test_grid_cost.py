"""What points would take is said from a few of their steps and epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_points import composing

from lrexp.grid.cost import Cost, cost
from lrexp.grid.jobs import Session
from lrexp.grid.points.point import Point
from lrexp.grid.settings import LauncherSettings
from lrexp.session.points import Points
from lrexp.train.loop import Trainer

BUILT_S, EVALUATED_S = 100.0, 10.0
HEAD_S, ALL_S = 1.0, 3.0  # a step in the first two of six epochs, and after
LP_FT = ("experiment=smoke", "trainer.device=cpu", "data.leak_check=skip", "lr_policy=lp_ft")


@pytest.fixture(scope="module")
def points() -> Iterator[list[Point]]:
    with composing() as composed:
        yield composed(*LP_FT, "trainer.epochs=6", "seed=0,1", equal=True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, points: list[Point]) -> Callable[[str], Cost]:
    """What both points take with an executor, on a clock that only building, steps and evaluation
    move; a class of its own counts epochs as every member of a stack does."""
    from lrexp.tasks import train

    now = {"s": 0.0}
    monkeypatch.setattr("time.perf_counter", lambda: now["s"])

    def slow(owner: Any, name: str, seconds: Callable[..., float]) -> None:
        original = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            now["s"] += seconds(*arguments)
            return original(*arguments)

        monkeypatch.setattr(owner, name, timed)

    slow(train, "build_trainer", lambda *_: BUILT_S)
    slow(Trainer, "_evaluated", lambda *_: EVALUATED_S)
    slow(Trainer, "set_rates", lambda trainer, _: HEAD_S if trainer.epoch <= 2 else ALL_S)

    def found(executor: str) -> Cost:
        settings = LauncherSettings(executor=executor)
        return cost(copy.deepcopy(points), Session(None, Points(), settings))  # type: ignore[arg-type]

    return found


def test_a_run_is_its_building_its_epochs_and_the_steps_of_every_phase(
    taken: Callable[[str], Cost],
) -> None:
    found = taken("serial")
    alone_s = BUILT_S + 6 * 2 * EVALUATED_S + 4 * (2 * HEAD_S + 4 * ALL_S)
    assert found.run_s == pytest.approx(alone_s)
    assert found.total_s == pytest.approx(2 * alone_s)
    assert (found.points, found.way) == (2, "serial")


def test_points_that_train_together_share_their_evaluation(taken: Callable[[str], Cost]) -> None:
    found = taken("stacked")  # whose steps are one after the other here, and evaluation is free
    assert found.way == "stacked, 2 together"
    assert found.total_s == pytest.approx(2 * (BUILT_S + 4 * (2 * HEAD_S + 4 * ALL_S)))


def test_nothing_is_left_behind(
    taken: Callable[[str], Cost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken("serial")
    assert not list(tmp_path.iterdir())
