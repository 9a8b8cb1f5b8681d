"""Which configurations of a sweep are confirmed, and what is known of how they were found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.config.errors import UserError
from lrexp.judge.contenders import Contender, contenders, refuse_baseline
from lrexp.runs.sweep import read_sweep

RATES = [0.01, 0.03, 0.1]
AXES = {"lr_policy": ["uniform", "lp_ft"], "optimizer.lr": RATES, "seed": [0, 1]}
LOSS = {0.01: 0.5, 0.03: 0.3, 0.1: 0.2}


def falling(chosen: dict[str, Any]) -> dict[str, Any]:
    return outcome(LOSS[chosen["optimizer.lr"]] + 0.01 * chosen["seed"])


def found(folder: Path, result: Any, axes: Any = AXES, **more: Any) -> dict[str, Contender]:
    some, _ = contenders(read_sweep(write_sweep(folder / "s", axes, result, **more)))
    return {one.name: one for one in some}


def test_each_policy_at_its_best_mean_with_all_it_was_asked_for(tmp_path: Path) -> None:
    both = found(tmp_path, falling)
    one = both["lp_ft"]
    assert list(both) == ["uniform", "lp_ft"], "in the order of the sweep"
    assert one.asked == ("lr_policy=lp_ft", "optimizer.lr=0.1")
    assert one.overrides == ("lr_policy=lp_ft", "optimizer.lr=0.1")
    assert (one.rate, one.edge, one.tries, one.seeds) == (0.1, "upper", 3, 2)
    assert (one.lacks, one.add) == ("best at its highest rate", "optimizer.lr=0.333")
    assert [rung.rate for rung in one.ladder] == RATES
    assert one.ladder[2].worth.mean == pytest.approx(0.205)


@pytest.mark.parametrize(
    "bad",
    [
        went_wrong("diverged"),
        went_wrong("failed", "no memory"),
        outcome(0.01, verdicts=[{"kind": "collapsed"}]),
    ],
)
def test_a_lost_seed_puts_a_configuration_behind_all_without(
    tmp_path: Path, bad: dict[str, Any]
) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        lost = chosen["optimizer.lr"] == 0.1 and chosen["seed"] == 1
        return bad if lost else falling(chosen)

    one = found(tmp_path, result)["uniform"]
    assert one.rate == 0.03
    assert one.ladder[2].bad.startswith("1 ")


def test_where_every_configuration_lost_a_seed_the_best_of_them_is_taken(tmp_path: Path) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        return went_wrong("diverged") if chosen["seed"] == 1 else falling(chosen)

    assert found(tmp_path, result)["uniform"].rate == 0.1


def test_a_policy_without_a_result_is_left_out_and_named(tmp_path: Path) -> None:
    axes = AXES | {"lr_policy": ["uniform", "lp_ft", "surgical"]}

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        return went_wrong("diverged") if chosen["lr_policy"] == "lp_ft" else falling(chosen)

    some, said = contenders(read_sweep(write_sweep(tmp_path / "s", axes, result)))
    assert [one.name for one in some] == ["uniform", "surgical"]
    assert said == ["lp_ft is left out: none of its runs finished."]


def test_seeds_of_the_split_are_repetitions_and_the_first_is_kept(tmp_path: Path) -> None:
    axes = AXES | {"seed": [0], "data.seed": [5, 6]}

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        return outcome(LOSS[chosen["optimizer.lr"]] + 0.01 * (chosen["data.seed"] == 5))

    one = found(tmp_path, result, axes)["lp_ft"]
    assert one.asked == ("lr_policy=lp_ft", "optimizer.lr=0.1", "data.seed=5")


def test_the_split_is_kept_where_a_file_ties_it_to_the_seed(tmp_path: Path) -> None:
    def tied(chosen: dict[str, Any]) -> dict[str, Any]:
        return {"data.seed": chosen["seed"]}

    one = found(tmp_path, falling, AXES | {"seed": [4]}, more=tied)["lp_ft"]
    assert one.asked == ("lr_policy=lp_ft", "optimizer.lr=0.1", "data.seed=4")


def test_images_of_other_splits_by_which_was_chosen_are_spoken_of(tmp_path: Path) -> None:
    _, none = contenders(read_sweep(write_sweep(tmp_path / "one", AXES, falling)))
    axes = AXES | {"data.seed": [5, 6]}
    _, said = contenders(read_sweep(write_sweep(tmp_path / "two", axes, falling)))
    assert none == []
    assert "chosen over several data.seed, and the comparison is on data.seed=5" in said[0]


def test_what_trains_as_another_does_is_a_try_of_its_own_policy(tmp_path: Path) -> None:
    points: list[dict[str, Any]] = [
        {"lr_policy": "layerwise_decay", "optimizer.lr": lr, "seed": seed}
        for lr in (0.03, 0.1)
        for seed in (0, 1)
    ]
    points += [
        one | {"lr_policy": "uniform", **({"same_as": i} if i > 1 else {})}
        for i, one in enumerate(points)
    ]
    both = found(tmp_path, falling, points=points)
    assert list(both) == ["layerwise_decay", "uniform"]
    assert both["uniform"].overrides == ("lr_policy=uniform", "optimizer.lr=0.1")
    assert (both["uniform"].tries, both["uniform"].seeds) == (2, 2)
    assert both["uniform"].ran_with["lr_policy.name"] == "uniform"


def test_a_configuration_whose_words_are_part_of_anothers_has_settings_of_its_own(
    tmp_path: Path,
) -> None:
    cases = {"slow": [("layerwise_decay", 0.5), ("layerwise_decay", 0.6)],
             "plain": [("layerwise_decay", None)], "uniform": [("uniform", None)]}  # fmt: skip
    points = [
        {"case": case, "lr_policy": policy, "optimizer.lr": 0.1, "seed": seed}
        | ({} if decay is None else {"lr_policy.decay": decay})
        for case, tries in cases.items()
        for policy, decay in tries
        for seed in (0, 1)
    ]
    some = found(tmp_path, falling, points=points)
    assert some["slow"].ran_with["lr_policy.decay"] == 0.5
    assert "lr_policy.decay" not in some["plain"].ran_with


def test_other_overrides_are_kept_and_do_not_name_it(tmp_path: Path) -> None:
    axes = {"experiment": ["smoke"], "+data.args.x": [1], **AXES, "trainer.epochs": [2]}
    one = found(tmp_path, falling, axes)["lp_ft"]
    asked = "experiment=smoke +data.args.x=1 lr_policy=lp_ft optimizer.lr=0.1 trainer.epochs=2"
    assert list(one.asked) == asked.split()
    assert one.overrides == ("lr_policy=lp_ft", "optimizer.lr=0.1")


def test_a_contender_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    one = found(tmp_path, falling)["lp_ft"]
    assert Contender.of_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_one_policy_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="but one policy, uniform: there is nothing to compare"):
        found(tmp_path, falling, AXES | {"lr_policy": ["uniform"]})


def test_a_baseline_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    some = list(found(tmp_path, falling).values())
    refuse_baseline("lp_ft", some)
    with pytest.raises(UserError, match=r"--baseline unifrom: .*\n.*mean 'uniform'\? allowed: lp"):
        refuse_baseline("unifrom", some)
