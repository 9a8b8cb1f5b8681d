"""Which policies of a sweep were not tuned as well as the others, and what to add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.judge.ranking import configurations, groups
from lrexp.judge.tuning import Tuning, tunings
from lrexp.runs.sweep import read_sweep

RATES = (0.01, 0.0316, 0.1)


def tuned(folder: Path) -> dict[str, Tuning]:
    return tunings(groups(configurations(read_sweep(folder))))


@pytest.mark.parametrize(
    ("losses", "lacks", "add"),
    [
        ((3, 1, 2), "", ""),
        ((3, 2, 1), "best at its highest rate", "optimizer.lr=0.316"),
        ((1, 2, 3), "best at its lowest rate", "optimizer.lr=0.00316"),
        ((3, 1, None), "", ""),  # a rate that diverges is a bound as well
        ((1,), "one rate tried", "optimizer.lr=0.00316,0.0316"),
    ],
)
def test_the_rate_to_add_lies_beyond_the_edge(
    tmp_path: Path, losses: tuple[int | None, ...], lacks: str, add: str
) -> None:
    by_rate = dict(zip(RATES, losses, strict=False))

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        loss = by_rate[chosen["optimizer.lr"]]
        return went_wrong("diverged") if loss is None else outcome(loss)

    write_sweep(tmp_path, {"lr_policy": "a", "optimizer.lr": tuple(by_rate)}, result)
    assert tuned(tmp_path) == {"a": Tuning(lacks, add)}


def test_who_was_tried_less_often_is_told_which_rates_it_lacks(tmp_path: Path) -> None:
    points = [{"lr_policy": "a", "optimizer.lr": rate} for rate in (*RATES, 0.316)]
    points += [{"lr_policy": "b", "optimizer.lr": rate} for rate in RATES]
    best = {"a": 0.0316, "b": 0.0316}
    write_sweep(tmp_path, {}, lambda c: outcome(1 + abs(c["optimizer.lr"] - best[c["lr_policy"]])),
                points=points)  # fmt: skip
    found = tuned(tmp_path)
    assert found["a"] == Tuning("", "")
    assert found["b"] == Tuning("tried 3 times, others 4 times", "optimizer.lr=0.316")


def test_a_policy_with_rates_of_its_own_is_told_of_those(tmp_path: Path) -> None:
    points = [
        {"lr_policy": "a", "lr_policy.lr_low": 0.001, "lr_policy.lr_high": rate} for rate in RATES
    ]
    write_sweep(tmp_path, {}, lambda c: outcome(1 - c["lr_policy.lr_high"]), points=points)
    assert tuned(tmp_path)["a"] == Tuning("best at its highest rate", "lr_policy.lr_high=0.316")
