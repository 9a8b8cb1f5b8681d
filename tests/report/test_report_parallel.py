"""Parallel coordinates of a sweep over more than two settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.judge.ranking import configurations
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.page import sweep_page
from lrexp.report.sweep.parallel import parallel_figure
from lrexp.report.sweep.styles import line_names, line_styles
from lrexp.runs.sweep import read_sweep

THREE = {
    "lr_policy": ["uniform", "lp_ft"],
    "optimizer.lr": [0.01, 0.1, 1.0],
    "optimizer": ["sgd", "adamw"],
}


def three_settings(chosen: dict[str, Any]) -> dict[str, Any]:
    if chosen["optimizer.lr"] == 1.0 and chosen["lr_policy"] == "lp_ft":
        return went_wrong("diverged")
    return outcome(0.5 + chosen["optimizer.lr"] + (chosen["optimizer"] == "sgd"))


def test_all_settings_stand_on_axes_of_their_own_beside_what_they_come_to(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "s", THREE, three_settings))
    ranked = configurations(sweep)
    figure = parallel_figure(sweep, ranked)
    assert figure is not None
    assert [a.label for a in figure.axes] == ["lr policy", "learning rate", "optimizer", "val/loss"]
    policy, rate, _, worth = figure.axes
    assert rate.ticks == [
        (0.0, "0.01"),
        (pytest.approx(0.5), "0.1"),  # decades: by the logarithm
        (1.0, "1"),
    ]
    assert policy.ticks == [(0.0, "lp_ft"), (1.0, "uniform")]  # as in the command, from the top
    assert worth.ticks[0] == (0.0, "–")  # of those that diverged
    assert len(figure.lines) == len(ranked) == 12
    styles = line_styles(sweep, ranked)
    for line, one in zip(figure.lines, ranked, strict=True):
        assert line.colour == styles[line_names(sweep, ranked)[one.rank]][0]
        assert line.best == (one is ranked[0])
        assert (line.texts[3] == "–") == (one.worth.n == 0) == (line.places[3] == 0.0)
        ticks = [{text: at for at, text in axis.ticks}[line.texts[i]]
                 for i, axis in enumerate(figure.axes[:3])]  # fmt: skip
        assert line.places[:3] == pytest.approx(ticks, abs=0.03)
    assert len({line.places[0] for line in figure.lines}) == 12  # beside each other


def test_two_settings_have_a_map_and_no_axes_of_their_own(tmp_path: Path) -> None:
    two = {key: THREE[key] for key in ("lr_policy", "optimizer.lr")}
    sweep = read_sweep(write_sweep(tmp_path / "s", two | {"seed": [0, 1]}, lambda _: outcome(1.0)))
    assert parallel_figure(sweep, configurations(sweep)) is None


def test_a_setting_that_some_lack_has_a_place_for_those(tmp_path: Path) -> None:
    points = [{"lr_policy": "uniform", "optimizer.lr": lr, "optimizer": o, "case": f"{lr}{o}"}
              for lr in (0.1, 0.2) for o in ("sgd", "adamw")]  # fmt: skip
    del points[0]["optimizer.lr"], points[3]["optimizer"]
    points = [{**one, "model.dropout": 0.1 * i} for i, one in enumerate(points)]
    made = write_sweep(tmp_path / "s", {}, lambda _: outcome(1.0), points=points)
    sweep = read_sweep(made)
    figure = parallel_figure(sweep, configurations(sweep))
    assert figure is not None
    by_label = {axis.label: axis for axis in figure.axes}
    assert (0.0, "–") in by_label["learning rate"].ticks
    assert (0.0, "–") in by_label["optimizer"].ticks
    assert "not set" in figure.note


def test_a_grid_of_48_points_has_pictures_and_stays_small(tmp_path: Path) -> None:
    axes = THREE | {"optimizer.weight_decay": [0.0, 0.01], "seed": [0, 1]}
    made = write_sweep(tmp_path / "s", axes, three_settings, epochs=60)
    page = sweep_page(explore(read_sweep(made)))
    plots = re.findall(r'<div class="plot">(.)', page)
    assert len(plots) > 5
    assert set(plots) == {"<"}  # none is empty
    assert len(page) < 1_500_000
