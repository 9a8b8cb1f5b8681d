"""The way from ladders to decided comparisons, carried out on results that are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
import pytest

from lrexp.config.errors import RunFailedError
from lrexp.judge.comparison import Images, Scores
from lrexp.judge.conclusion import Rung
from lrexp.judge.contenders import Contender
from lrexp.judge.ladders import EXTENSIONS, Ladder
from lrexp.judge.ranking import Spread
from lrexp.session.procedure import Procedure, Reached, _procedure_of, proceed

IMAGES = 400
MIDDLE = 0.05


def procedure(*policies: str, **changes: object) -> Procedure:
    plan = Procedure(
        overrides=("experiment=made_up",),
        how=(),
        ladders=tuple(Ladder(policy, middle=MIDDLE) for policy in policies),
        seeds=(0, 1, 2),
        fresh=tuple(range(1000, 1020)),
        looks=(5, 10, 20),
        baseline="uniform",
        metric=None,
        margin=0.02,
        monitor="val/loss",
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


@dataclass
class MadeUp:
    """Policies of which everything is known: the best rate, and the share of images right.

    It stands for folders, too: what was trained once is kept, and counted.
    """

    best: Mapping[str, float]
    right: Mapping[str, float]
    budget: float = math.inf
    fails: tuple[str, ...] = ()
    trained: dict[tuple[str, str], int] = field(default_factory=dict)
    climbs: list[list[float]] = field(default_factory=list)

    def climb(self, ladders: Sequence[Ladder]) -> Sequence[Contender]:
        found = []
        self.climbs.append([rate for one in ladders for rate in one.rates])
        for one in ladders:
            for rate in one.rates:
                for seed in range(3):
                    self._train(f"{one.policy} {rate}", seed)
            if one.policy in self.fails:
                continue
            worth = {rate: abs(math.log(rate / self.best[one.policy])) for rate in one.rates}
            rate = min(worth, key=lambda r: worth[r])
            edge = {one.rates[0]: "lower", one.rates[-1]: "upper"}.get(rate, "inside")
            rungs = tuple(Rung(r, Spread(3, w, 0.1)) for r, w in worth.items())
            asked = (f"lr_policy={one.policy}", f"optimizer.lr={rate:g}")
            found.append(
                Contender(
                    name=one.policy,
                    settings=f"lr {rate:g}",
                    overrides=asked,
                    asked=asked,
                    tries=one.tries,
                    seeds=3,
                    rate=rate,
                    edge=edge,
                    ladder=rungs,
                )
            )
        return found

    def compare(
        self, contenders: Sequence[Contender], seeds: Mapping[str, Sequence[int]]
    ) -> tuple[Mapping[str, Scores], Images]:
        scores = {}
        for one in contenders:
            rows = []
            for seed in seeds[one.name]:
                self._train(one.name, seed)
                draws = np.random.default_rng([seed, crc32(one.name.encode())]).random(IMAGES)
                rows.append((draws < self.right[one.name]).astype(float))
            scores[one.name] = Scores(np.stack(rows), 1 - np.stack(rows))
        return scores, Images()

    def affordable(self, runs: int) -> float:
        return self.budget

    def _train(self, name: str, seed: int) -> None:
        self.trained[name, str(seed)] = self.trained.get((name, str(seed)), 0) + 1

    @property
    def runs(self) -> int:
        return len(self.trained)


def last(plan: Procedure, bench: MadeUp) -> Reached:
    return list(proceed(plan, bench))[-1]


def test_a_clear_difference_stops_at_an_early_look_and_others_go_on() -> None:
    plan = procedure("uniform", "better", "alike")
    bench = MadeUp(
        {"uniform": 0.05, "better": 0.05, "alike": 0.05},
        {"uniform": 0.6, "better": 0.9, "alike": 0.61},
    )
    end = last(plan, bench)
    words = {one.name: one.word for one in end.compared}
    assert words["better"] == "better"
    assert end.finished
    assert not end.notes
    assert len(end.seeds["better"]) < len(end.seeds["uniform"])
    assert bench.runs == 3 * 15 + sum(len(seeds) for seeds in end.seeds.values())


def test_it_ends_when_everything_is_decided() -> None:
    plan = procedure("uniform", "better")
    bench = MadeUp({"uniform": 0.05, "better": 0.05}, {"uniform": 0.5, "better": 0.95})
    states = list(proceed(plan, bench))
    assert [len(one.compared) for one in states] == [0, 1]
    assert states[-1].seeds == dict.fromkeys(plan_names(plan), plan.fresh[:5])
    assert (states[-1].next_look, states[-1].next_runs) == (0, 0)


def plan_names(plan: Procedure) -> list[str]:
    return [one.policy for one in plan.ladders]


def test_ladders_are_extended_towards_the_best_and_not_for_ever() -> None:
    plan = procedure("uniform", "hot", "boiling")
    bench = MadeUp(
        {"uniform": 0.05, "hot": 0.5, "boiling": 1e6},
        {"uniform": 0.6, "hot": 0.6, "boiling": 0.6},
    )
    states = list(proceed(plan, bench))
    first = states[0]
    assert first.notes == ("best at an edge: hot to 1.6, boiling to 1.6",)
    assert first.next_runs == 6
    ladders = {one.policy: one for one in states[-1].ladders}
    assert ladders["uniform"].rates == (0.005, 0.016, 0.05, 0.16, 0.5)
    assert ladders["hot"].rates[-1] == 1.6, "then the best lies inside"
    assert ladders["boiling"].up == EXTENSIONS
    contenders = {one.name: one for one in states[-1].contenders}
    assert [contenders[name].tries for name in ladders] == [5, 6, 7]
    assert contenders["boiling"].edge == "upper"


def test_a_budget_that_is_used_up_ends_it_and_is_said() -> None:
    plan = procedure("uniform", "alike")
    full = MadeUp({"uniform": 0.05, "alike": 0.05}, {"uniform": 0.6, "alike": 0.615})
    assert last(plan, full).seeds["alike"] == plan.fresh
    cut = MadeUp(full.best, full.right, budget=30 + 20)
    end = last(plan, cut)
    assert end.seeds == dict.fromkeys(("uniform", "alike"), plan.fresh[:10])
    assert end.finished
    assert "The budget is used up: 20 seeds" in end.notes[0]
    assert cut.runs == 50


def test_a_budget_has_no_room_for_extensions_before_it_has_for_every_look() -> None:
    plan = procedure("uniform", "hot")
    best = {"uniform": 0.05, "hot": 50.0}
    bench = MadeUp(best, {"uniform": 0.6, "hot": 0.6}, budget=30 + 40)
    end = last(plan, bench)
    assert len(bench.climbs) == 1
    assert end.notes[0].startswith("The budget left no runs for further rates of hot")
    roomy = MadeUp(best, {"uniform": 0.6, "hot": 0.6}, budget=30 + 40 + 3)
    last(plan, roomy)
    assert len(roomy.climbs) == 2


@pytest.mark.parametrize("after", range(5))
def test_stopped_after_any_step_it_comes_to_the_same(after: int) -> None:
    plan = procedure("uniform", "hot", "better")
    best = {"uniform": 0.05, "hot": 0.5, "better": 0.05}
    right = {"uniform": 0.6, "hot": 0.605, "better": 0.75}
    whole = list(proceed(plan, MadeUp(best, right)))
    assert len(whole) >= 4
    bench = MadeUp(best, right)
    for step, _ in enumerate(proceed(plan, bench)):
        if step == after:
            break
    again = list(proceed(_procedure_of(plan.text()), bench))
    assert len(again) == len(whole)
    assert repr(again[-1]) == repr(whole[-1])


def test_a_protocol_is_read_back_as_it_was_written() -> None:
    plan = procedure("uniform", "other", budget=120.0, minutes=2.0, notes=("A word.",))
    assert _procedure_of(plan.text()) == plan
    assert json.loads(plan.text())["looks"] == [5, 10, 20]


def test_what_never_finished_cannot_be_compared() -> None:
    best, right = {"uniform": 0.05, "other": 0.05}, {"uniform": 0.6, "other": 0.6}
    with pytest.raises(RunFailedError, match=r"no run of uniform, the baseline, finished"):
        last(procedure("uniform", "other"), MadeUp(best, right, fails=("uniform",)))
    with pytest.raises(RunFailedError, match=r"of uniform alone a run finished"):
        last(procedure("uniform", "other"), MadeUp(best, right, fails=("other",)))
