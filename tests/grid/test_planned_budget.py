"""A grid that is only planned says what it would take, and how many seeds a difference needs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_lines import main_in

from lrexp.config.errors import UserError
from lrexp.judge.power import Noise, power, seeds_needed
from lrexp.runs.predictions import Predictions
from lrexp.session import budget
from lrexp.session.budget import noise_for, noise_of, seed_lines

POINT = {"task.margin": 0.02, "task.like": None}


def predicted(right: np.ndarray, first: int = 0) -> Predictions:
    images = [(first + i, f"image {first + i}") for i in range(len(right))]
    none = np.zeros(len(right))
    return Predictions(images, "", none, none, right)


def test_enough_seeds_are_said_with_the_chance_of_fewer() -> None:
    noise = Noise(0.01, 0.07, 0.1)
    needed = seeds_needed(noise, 0.03, 179, comparisons=4)
    assert needed not in (None, 5, 10)
    (line,) = seed_lines(noise, 0.03, 179, compared=5, seeds=5)
    begin = f"seeds  {needed} see a difference of 3 points, in 4 comparisons on 179 images, in 80 %"
    assert line.startswith(begin)
    chances = [float(power(noise, 0.03, few, 179, comparisons=4)) for few in (5, 10)]
    assert line.endswith("(5 in {:.0%}, 10 in {:.0%})".format(*chances))


def test_where_seeds_cannot_settle_it_images_are_asked_for() -> None:
    (line,) = seed_lines(Noise(0.001, 0.2), 0.01, None, compared=2, seeds=3)
    assert line.startswith("seeds  100 are too few to see a difference of 1 point, in one")
    assert "on 1,000 images (how many there will be is not known)" in line
    assert "at least 3,200 images would" in line


def test_the_noise_of_a_sweep_is_what_moved_its_comparisons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    seeds, images = 40, 4000
    of_seed, of_image = rng.normal(0, 0.02, (seeds, 1)), rng.normal(0, 0.1, (1, images))
    off = of_seed + of_image + rng.normal(0, 0.3, (seeds, images))
    base = rng.normal(size=(seeds, images))
    known = {
        "a": {(str(s), "0"): predicted(base[s]) for s in range(seeds)},
        "b": {(str(s), "0"): predicted(base[s] + off[s]) for s in range(seeds)},
        "c": {("0", "0"): predicted(base[0])},  # one seed says nothing
    }
    ranked = [SimpleNamespace(name=name) for name in known]
    monkeypatch.setattr(budget, "named_folder", lambda name: tmp_path)
    monkeypatch.setattr(budget, "is_sweep", lambda folder: True)
    monkeypatch.setattr(budget, "read_sweep", lambda folder: None)
    monkeypatch.setattr(budget, "configurations", lambda sweep: ranked)
    monkeypatch.setattr(budget, "groups", lambda ranked: [SimpleNamespace(best=r) for r in ranked])
    monkeypatch.setattr(budget, "_predicted", lambda folder, one: known[one.name])
    noise, pairs = noise_of("sweep")
    assert pairs == 1
    assert noise.seed == pytest.approx(0.02, rel=0.25)
    assert noise.image == pytest.approx(0.1, rel=0.05)
    assert noise.both == pytest.approx(0.3, rel=0.05)
    del known["b"][("0", "0")]
    known["c"], known["b"] = known["c"], {("5", "0"): predicted(base[5], first=1)}
    with pytest.raises(UserError, match="no two of its configurations"):
        noise_of("sweep")


def test_a_sweep_that_is_not_there_is_a_mistake_in_the_request() -> None:
    point: Any = SimpleNamespace(settings={**POINT, "task.like": "nowhere"})
    with pytest.raises(UserError, match=r"task\.like=nowhere: there is no folder nowhere"):
        noise_for([point])


@pytest.mark.slow
def test_a_planned_grid_ends_with_its_budget_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["lr_policy=uniform,lp_ft", "name=a,b", "hydra.sweep.dir=sweep"]
    smoke = ["experiment=smoke", "trainer.device=cpu", "data.leak_check=skip"]
    assert main_in(tmp_path, "-m", "task=plan", *smoke, *grid) == 0
    said = capsys.readouterr().out
    assert "budget 4 points (2 train as others do and run once): 2 runs take about" in said
    assert said.count("s(t)") == 2, "each plan once"
    assert " in one comparison on 359 images" in said
    points = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert len(points) == 4
    assert all((path / "plan.csv").is_file() for path in points)
    assert not list(tmp_path.rglob("metrics.jsonl"))
