"""The folders of `lrexp which`: which of their runs count, and what stops it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confirmed_runs import write_confirmed
from synthetic_sweep import outcome, went_wrong, write_sweep
from test_procedure import MadeUp, procedure

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import RunFailedError, UserError
from lrexp.grid.points.point import Point
from lrexp.judge.ladders import Ladder
from lrexp.session import which
from lrexp.session.procedure import Procedure
from lrexp.session.which import begin_which
from lrexp.session.which_folder import of_ladders

LADDERS = [Ladder(policy, middle=0.05, each_side=1) for policy in ("uniform", "mine")]


def explored(folder: Path, epochs: int = 2) -> Path:
    """Ladders of which `mine` is a file of the user's own that sets layerwise_decay."""
    points = [
        {"case": one.policy, "lr_policy": one.policy, "optimizer.lr": rate, "seed": 0}
        for one in LADDERS
        for rate in one.rates
    ]
    names = {"uniform": "uniform", "mine": "layerwise_decay"}

    def more(chosen: dict[str, Any]) -> dict[str, Any]:
        return {"lr_policy.name": names[chosen["lr_policy"]], "trainer.epochs": epochs}

    return write_sweep(folder, {}, lambda c: outcome(c["optimizer.lr"]), points=points, more=more)


def bench(folder: Path, plan: Procedure) -> Any:
    return which._Folders(folder, plan, CheckedLoader(), lambda line: None)


def plan_of(seeds: tuple[int, ...] = (0,)) -> Procedure:
    return procedure("uniform", "mine", seeds=seeds, ladders=tuple(LADDERS))


def test_a_policy_of_ones_own_file_is_called_as_it_was_asked_for(tmp_path: Path) -> None:
    explored(tmp_path / "explored")
    best = bench(tmp_path, plan_of()).climb(LADDERS)
    assert [(one.name, one.rate, one.edge) for one in best] == [
        ("uniform", 0.016, "lower"),
        ("mine", 0.016, "lower"),
    ]
    assert best[1].add == "optimizer.lr=0.005"


def test_points_that_a_changed_grid_went_on_without_are_no_tries(tmp_path: Path) -> None:
    folder = explored(tmp_path)
    assert len(of_ladders(folder, LADDERS)) == 6
    file = folder / "points.json"
    file.write_text(
        file.read_text().replace('"same_as": null', '"same_as": null, "former": true', 2)
    )
    assert [point.num for point in of_ladders(folder, LADDERS)] == [2, 3, 4, 5]


def test_a_ladder_does_not_go_on_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explored(tmp_path / "explored", epochs=3)

    def train(loader: object, folder: Path, axes: object, common: object, around: Any) -> None:
        overrides = ["lr_policy=uniform", "optimizer.lr=0.05", "seed=1"]
        around.check([Point(6, overrides, {"trainer.epochs": 2}, "6", b"", "uniform")])

    monkeypatch.setattr(which, "train_cases", train)
    with pytest.raises(UserError, match="is no longer the configuration that was run"):
        bench(tmp_path, plan_of(seeds=(0, 1))).climb(LADDERS)


@pytest.mark.parametrize(("ended", "error"), [("failed", RunFailedError), ("missing", UserError)])
def test_a_run_that_failed_is_no_mistake_in_the_words(
    ended: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(plan_of(), fresh=(1000, 1001), looks=(2,))
    explored(tmp_path / "explored")
    best = bench(tmp_path, plan).climb(LADDERS)
    right = {one.name: np.ones((2, 9), bool) for one in best}
    write_confirmed(tmp_path / "confirmed", right, np.arange(9) % 3, lost={("mine", 1001): ended})
    monkeypatch.setattr(which, "train_trials", lambda *given, **more: None)
    with pytest.raises(error, match="nothing more is concluded"):
        bench(tmp_path, plan).compare(best, dict.fromkeys(right, plan.fresh))


def test_where_no_run_finished_runs_failed_and_no_word_was_wrong(tmp_path: Path) -> None:
    points = [
        {"case": one.policy, "lr_policy": one.policy, "optimizer.lr": rate, "seed": 0}
        for one in LADDERS
        for rate in one.rates
    ]
    write_sweep(tmp_path / "explored", {}, lambda c: went_wrong("failed", "why"), points=points)
    with pytest.raises(RunFailedError, match="nothing to confirm"):
        bench(tmp_path, plan_of()).climb(LADDERS)


def test_it_begins_once_however_many_grids_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()

    def carried_out(bench: Any, show: object) -> Any:
        bench.begin()
        (tmp_path / "w" / "protocol.json").write_text("kept")
        bench.begin()

    monkeypatch.setattr(which, "_carry_out", carried_out)
    begin_which(
        CheckedLoader(), tmp_path / "w", plan_of(), said.append, lambda folder, found: folder
    )
    assert len([line for line in said if line.startswith("which ")]) == 1
    assert (tmp_path / "w" / "protocol.json").read_text() == "kept"


def test_a_policy_that_never_finished_is_named() -> None:
    names = ("uniform", "other", "lost")
    plan = procedure(*names)
    made_up = MadeUp(dict.fromkeys(names, 0.05), dict.fromkeys(names, 0.6), fails=("lost",))
    for reached in which.proceed(plan, made_up):
        notes = " ".join(reached.notes)
        assert "none of its runs finished at any rate tried: lost." in notes
