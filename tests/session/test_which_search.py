"""Settings of policies searched: as many tries and runs of each, and the same when it goes on."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lrexp.judge.contenders import Contender
from lrexp.judge.ladders import Ladder, Size
from lrexp.runs.sweep import DIVERGED, FINISHED, Sweep, SweepPoint
from lrexp.session.procedure import Procedure
from lrexp.session.which_search import DECAY, search, space_of

optuna = pytest.importorskip("optuna", reason="needs Optuna")
if int(optuna.__version__.partition(".")[0]) < 5:
    pytest.skip("needs Optuna 5", allow_module_level=True)

TRIES = 12
LADDERS = (
    Ladder("uniform", middle=0.05, drawn=TRIES),
    Ladder("layerwise_decay", middle=0.05, setting="lr_policy.decay", values=(0.5, 0.75),
           drawn=TRIES, decay=0.01),
    Ladder("surgical", key="", drawn=TRIES),
)  # fmt: skip
PLAN = Procedure((), (), LADDERS, (0, 1, 2), (1000,), (1,), "uniform", None, 0.02, "val/loss",
                 drawn=0)  # fmt: skip


class Bench:
    """Trains in no time: a run is worth how far its rate lies from the best one, and its seed."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.points: dict[tuple[str, str], SweepPoint] = {}
        self.stop_after = stop_after

    def train(self, axes: Mapping[str, Sequence[str]]) -> list[SweepPoint]:
        for case, (*own, seeds) in axes.items():
            for seed in seeds.removeprefix("seed=").split(","):
                if (case, seed) not in self.points:
                    if len(self.points) >= self.stop_after:
                        raise KeyboardInterrupt
                    self.points[case, seed] = self._run(case, own, seed)
        asked = [(c, s) for c, a in axes.items() for s in a[-1].removeprefix("seed=").split(",")]
        return [self.points[key] for key in asked]

    def _run(self, case: str, own: list[str], seed: str) -> SweepPoint:
        chosen = dict(one.split("=") for one in own)
        rate = float(chosen.get("optimizer.lr", 0.05))
        diverged = rate > 1
        settings = {"lr_policy.name": chosen["lr_policy"], "optimizer.lr": rate, "seed": int(seed)}
        worth = abs(math.log10(rate / 0.02)) + 0.01 * int(seed)
        return SweepPoint(
            num=len(self.points),
            folder=f"{case} {seed}",
            overrides=(*own, f"seed={seed}"),
            settings=settings,
            case=case,
            status=DIVERGED if diverged else FINISHED,
            best={} if diverged else {"val/loss": worth, "epoch": 1.0},
        )

    def search(self) -> list[Contender]:
        def sweep() -> Sweep:
            return Sweep(Path(), tuple(self.points.values()), "val/loss")

        return search(PLAN, sweep, self.train)


@pytest.fixture(scope="module")
def whole() -> tuple[Bench, list[Contender]]:
    bench = Bench()
    return bench, bench.search()


def test_every_policy_has_as_many_tries_and_runs(whole: tuple[Bench, list[Contender]]) -> None:
    bench, found = whole
    runs = Counter(case.split()[0] for case, _ in bench.points)
    assert runs == {"uniform": 12 + 6 + 3, "layerwise_decay": 12 + 6 + 3, "surgical": 3}
    assert sum(runs.values()) == Size(LADDERS, 3, (1,)).climbing
    assert Size(LADDERS, 3, (1,)).extending == 0
    assert [(one.name, one.tries, one.seeds) for one in found] == [
        ("uniform", 12, 3),
        ("layerwise_decay", 12, 3),
        ("surgical", 1, 3),
    ]


def test_the_best_of_those_that_went_furthest_is_taken(
    whole: tuple[Bench, list[Contender]],
) -> None:
    bench, (uniform, layerwise, _) = whole
    there = [p for p in bench.points.values() if p.case.startswith("uniform") and p.best]
    best = min(there, key=lambda p: p.best["val/loss"])
    assert uniform.rate == best.settings["optimizer.lr"]
    assert (uniform.edge, uniform.lacks) == ("inside", "")
    for one in (uniform, layerwise):
        rungs = [r for r in one.ladder if r.rate == one.rate]
        assert [r.worth.n for r in rungs if one.settings.endswith(r.variant)] == [3]
    assert re.fullmatch(r"lr [\d.]+ weight_decay=[\d.]+ decay=0\.75", layerwise.settings)
    assert len(uniform.ladder) == 12, "all tries are shown"
    went_on = {c for c, s in bench.points if s == "1" and c.startswith("uniform")}
    last = {c: p.best.get("val/loss", math.inf) for (c, s), p in bench.points.items() if s == "0"}
    left = [last[c] for c in last if c.startswith("uniform") and c not in went_on]
    assert max(last[c] for c in went_on) <= min(left)
    assert min(left) < math.inf, "some of those that were left out had a number"


def test_it_learns_from_tries_on_the_first_seed(whole: tuple[Bench, list[Contender]]) -> None:
    bench, _ = whole
    worth = [bench.points[f"uniform {n}", "0"].best.get("val/loss", 9.0) for n in range(TRIES)]
    assert sorted(worth[5:])[3] < sorted(worth[:5])[2]


@pytest.mark.parametrize("ended", [3, 20, 31, 40])
def test_stopped_anywhere_it_goes_on_to_the_same(
    ended: int, whole: tuple[Bench, list[Contender]]
) -> None:
    bench = Bench(stop_after=ended)
    with pytest.raises(KeyboardInterrupt):
        bench.search()
    bench.stop_after = 10**6
    assert bench.search() == whole[1]
    assert {k: p.overrides for k, p in bench.points.items()} == {
        k: p.overrides for k, p in whole[0].points.items()
    }


def test_what_is_drawn_of_a_policy() -> None:
    uniform, layerwise, surgical = map(space_of, LADDERS)
    (rate,) = uniform.searched
    assert (rate.low, rate.high, rate.log) == (0.0005, 5.0, True), "as extended ladders reach"
    assert [one.key for one in layerwise.searched] == [DECAY, "lr_policy.decay", "optimizer.lr"]
    assert layerwise.searched[1].choices == ("0.5", "0.75")
    assert not surgical.searched
