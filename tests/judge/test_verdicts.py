"""What is said of a run: events planted in rows nobody trained, and rows that come close."""

from __future__ import annotations

import math
from typing import Any

import pytest
from histories import GUESS, VAL, facts, falling, history, plan

from lrexp.judge.kinds.facts import Facts
from lrexp.judge.kinds.stopping import stops
from lrexp.judge.noise import Sample
from lrexp.judge.verdicts import COUNTED, GUESSES, KINDS, TALLIED, verdicts
from lrexp.judge.words import gap_in_words

LEARNED = [2.0, 1.5, 1.0, 0.7, 0.5, 0.31, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
SOUND = [*(value / 2 for value in LEARNED[:5]), *[0.15] * 7]


def kinds(of: Facts) -> list[str]:
    return [one["kind"] for one in verdicts(of)]


def one(of: Facts, kind: str) -> dict[str, Any]:
    (verdict,) = [verdict for verdict in verdicts(of) if verdict["kind"] == kind]
    return verdict


def test_every_verdict_has_its_parts_and_the_worst_is_first() -> None:
    rows = history([0.5, 0.4, math.nan], guessing=[False, False, True])
    leaks = {"counts": {"twins": {"val": 60}, "exact": {"val in train": {"val": 60}}}}
    found = verdicts(facts(rows, best=rows[1], leaks=leaks, plan=plan(a=1.0)))
    assert [v["kind"] for v in found] == ["diverged", "leak"]
    for verdict in found:
        assert list(verdict) == ["kind", "severity", "message", "evidence", "advice"]
        assert list(verdict["evidence"]) == ["epochs", "values", "threshold"]
        assert verdict["kind"] in KINDS
    assert found[0]["evidence"]["epochs"] == [3]


def test_a_network_that_forgets_everything_has_collapsed() -> None:
    rows = history([1.2, 2.31], right=[0.6, 0.1], guessing=[False, True])
    (verdict,) = verdicts(facts(rows))
    assert (verdict["kind"], verdict["severity"]) == ("collapsed", "error")
    assert verdict["message"] == (
        "collapsed by epoch 2: val loss 2.310 (answering with the training set's class shares has"
        " 2.303), val accuracy 10.0%, balanced 10.0%; in epoch 1 val loss was 1.200, val accuracy"
        " 60.0%"
    )
    assert verdict["evidence"]["threshold"]["guess_loss"] == GUESS


def test_one_that_was_never_better_is_dead() -> None:
    rows = history([2.30, 2.31], guessing=[True, True])
    assert kinds(facts(rows)) == ["dead"]
    assert one(facts(rows), "dead")["severity"] == "warning"  # it may not have begun
    long = history([2.3] * 3, guessing=[True] * 3)
    assert one(facts(long), "dead")["severity"] == "error"
    assert kinds(facts(rows[:1])) == ["dead"]
    begun = one(facts(rows[:1]), "dead")
    assert begun["message"].startswith("learned nothing in its one epoch: ")
    assert begun["advice"].startswith("train more epochs; if it stays so, ")
    assert one(facts(rows), "dead")["message"].startswith("dead, learned nothing by epoch 2: ")
    assert verdicts(facts([rows[0] | {"epoch": 0}])) == []  # nothing was trained


def test_a_loss_that_was_never_lower_than_a_guess_did_not_collapse() -> None:
    thrown = history([2.51, 2.36, 2.42], right=[0.18, 0.1, 0.1], guessing=[False, True, True])
    assert kinds(facts(thrown)) == ["dead"]  # above that of another guess alone
    rows = history([2.31, 2.36, 2.42], right=[0.18, 0.1, 0.1], guessing=[False, True, True])
    assert kinds(facts(rows)) == ["collapsed"]


@pytest.mark.parametrize(
    ("drift", "first", "said"),
    [
        (1e-4, 2.30, "try optimizer.lr ten times higher, and"),
        (0.5, 40.0, "ten times lower"),
        (5.0, 2.30, "ten times lower"),
        (0.5, 2.30, "ten times higher and lower"),
    ],
)
def test_what_weights_did_says_where_a_dead_run_is_to_go(
    drift: float, first: float, said: str
) -> None:
    rows = history([2.305, 2.305, 2.305], guessing=[True] * 3, drift=drift)
    rows[0]["train/loss"] = first
    assert said in one(facts(rows), "dead")["advice"]


def test_how_little_a_dead_network_moved_is_not_rounded_to_nothing() -> None:
    rows = history([2.305] * 3, guessing=[True] * 3, drift=2e-6)
    assert "no group ended farther than 2.0e-06 of its" in one(facts(rows), "dead")["message"]


def test_a_monitor_that_keeps_a_guess_is_said_so() -> None:
    rows = history([2.30, 1.2], guessing=[True, False])
    (verdict,) = verdicts(facts(rows, best=rows[0]))
    assert verdict["kind"] == "best_guesses"
    assert "choose by another trainer.monitor than val/loss" in verdict["advice"]


UNEVEN = {"uneven": True, "majority": {"class": "no", "accuracy": {"val": 0.9}}}


@pytest.mark.parametrize(
    ("classes", "right", "kind"),
    [
        (UNEVEN, 0.9, "majority"),
        (UNEVEN, 0.93, "majority"),  # within two errors of 0.017
        (UNEVEN, 0.6, "dead"),
        (UNEVEN | {"uneven": False}, 0.9, "dead"),
        ({}, 0.9, "dead"),
    ],
)
def test_no_better_than_the_largest_class(classes: Any, right: float, kind: str) -> None:
    rows = history([0.33, 0.325, 0.325], right=[right] * 3, guessing=[True] * 3)
    found = facts(rows, classes=classes, guess_loss=0.325)
    assert kinds(found)[0] == kind


@pytest.mark.parametrize(
    ("drift", "first", "said"),
    [(1e-4, 0.33, "ten times higher, and"), (5.0, 0.33, "ten times lower"),
     (0.5, 40.0, "ten times lower"), (0.5, 0.33, "ten times higher and lower"),
     (0.5, 1.1, "ten times higher and lower")],  # as one begins that calls all alike
)  # fmt: skip
def test_rates_that_threw_a_network_to_the_largest_class_are_to_be_lower(
    drift: float, first: float, said: str
) -> None:
    rows = history([0.325] * 3, right=[0.9] * 3, guessing=[True] * 3, drift=drift)
    rows[0]["train/loss"] = first
    verdict = one(facts(rows, classes=UNEVEN, guess_loss=0.325), "majority")
    assert said in verdict["advice"]
    assert "loss.class_weights=balanced" in verdict["advice"]


def test_a_sound_run_is_healthy_and_an_overfitting_one_is_not() -> None:
    assert kinds(facts(history(LEARNED, SOUND))) == ["healthy"]
    late = history([*LEARNED, 0.9], [*SOUND, 0.1], right=[0.9] * 13, se=0.005)
    assert kinds(facts(late)) == ["overconfident"]
    late = history([*LEARNED, 0.9], [*SOUND, 0.1], right=[*[0.9] * 12, 0.7])
    assert kinds(facts(late)) == ["overfitting"]
    slight = history([*LEARNED, 0.32], [*SOUND, 0.15])
    assert kinds(facts(slight)) == ["healthy"]  # a rise of two errors is chance


@pytest.mark.parametrize(
    "more", [{"ended": False}, {"best": {}}, {"val": Sample(1)}, {"rows": history([0.5, 0.4])}]
)
def test_nothing_is_said_where_nothing_is_known(more: dict[str, Any]) -> None:
    of = facts(**{"rows": history(LEARNED, SOUND)} | more)
    assert kinds(of) == []


def test_healthy_is_not_said_of_what_neither_settled_nor_was_learned() -> None:
    assert kinds(facts(history(falling(2.2, 0.93, 12), ratio=1e-2))) == []


def test_overfitting_is_said_where_the_monitor_was_never_a_number() -> None:
    rows = history([0.4, 0.9], [0.2, 0.1])
    assert one(facts(rows, best={}), "overfitting")["advice"] == "trainer.patience ends earlier"


SLOW = falling(2.3, 0.92, 12)


def test_a_run_that_still_gets_better_with_short_steps_is_too_slow() -> None:
    verdict = one(facts(history(SLOW)), "too_slow")
    assert verdict["evidence"]["epochs"] == [6, 12]
    assert verdict["evidence"]["values"]["largest_update_ratio"] == 1e-3
    assert verdict["advice"].startswith("try optimizer.lr 3 and 10 times higher")


COSINE = [0.1 * (1 + math.cos(math.pi * i / 12)) / 2 for i in range(1, 13)]


def test_learning_time_is_that_of_the_schedule() -> None:
    verdict = one(facts(history(SLOW, rate=COSINE)), "too_slow")
    assert verdict["evidence"]["epochs"] == [3, 12]  # half of the area under the cosine


STALLED = [*SLOW[:4], *[SLOW[4]] * 8]


@pytest.mark.parametrize(
    "rows",
    [
        history(SLOW, ratio=1e-2),  # steps are long
        history(SLOW[:5]),  # too few epochs
        history(STALLED),  # no longer
        history([*SLOW[:7], *[v * (1.1 if i % 2 else 1) for i, v in enumerate(SLOW[7:])]]),
        history([*SLOW[:-1], SLOW[0]], SLOW),  # validation is not at its best
        history(falling(0.02, 0.9, 12)),  # there is nothing left to gain
        history(falling(2.305, 0.99999, 12), ratio=1e-8, guessing=[True] * 12, drift=5.0),
    ],
)
def test_what_only_resembles_a_slow_run(rows: list[dict[str, Any]]) -> None:
    assert "too_slow" not in kinds(facts(rows))


def test_steps_so_short_that_nothing_shows_are_too_slow_while_the_loss_falls() -> None:
    rows = history(falling(2.305, 0.9999, 12), ratio=1e-5, drift=0.02)
    assert kinds(facts(rows)) == ["too_slow"]
    verdict = one(facts(rows), "too_slow")
    assert "10 and 100 times higher" in verdict["advice"]
    assert "the loss fell by 0.06%" in verdict["message"]
    assert verdict["evidence"]["threshold"] == {  # none that the values do not meet
        "train_eval/accuracy": 0.9, "steady": 0.9, "largest_update_ratio": 3e-4,
    }  # fmt: skip
    rising = history(falling(2.305, 1.0001, 12), ratio=1e-5, drift=0.02)
    assert "too_slow" not in kinds(facts(rising))


def test_a_flat_curve_under_high_rates_is_a_plateau_that_names_what_still_moves() -> None:
    flat = [2.2, 1.5, *[1.1] * 10]
    verdict = one(facts(history(flat, ratio={"conv": 3e-3, "fc": 1e-6})), "plateau")
    assert "conv by 3.0e-03, fc by 1.0e-06" in verdict["message"]
    assert verdict["evidence"]["epochs"] == [6, 12]
    assert kinds(facts(history(flat, rate=COSINE))) == ["underfitting"]
    known = history([2.2, 1.5, 0.5, *[0.1] * 9])
    assert kinds(facts(known)) == ["healthy"]  # there is next to nothing left to learn
    better = history([2.2, 1.5, *falling(1.2, 0.96, 10)], ratio=1e-2)
    assert kinds(facts(better)) == []


def test_underfitting_is_not_said_where_new_images_do_worse() -> None:
    flat = [2.2, 1.5, *[1.1] * 10]
    rows = history([v + 0.3 for v in flat], flat, rate=COSINE)
    assert kinds(facts(rows)) == ["healthy"] or kinds(facts(rows)) == []


FELL = ([1.0, 2.31, 2.31], [False, True, True])


@pytest.mark.parametrize(
    ("kinds", "losses", "guessing", "by"),
    [
        (["collapsed"], *FELL, "collapsed"),
        (["diverged"], *FELL, ""),
        ([], *FELL, ""),
        (["collapsed"], [1.0, 2.31], [False, True], ""),  # it may find its way back
        (["collapsed"], [1.0, 2.31, 1.5], [False, True, False], ""),
        (["collapsed"], [2.31, 2.31, 2.31], [True] * 3, ""),  # never better: it may begin to learn
        ([], [1.0, 1.0, math.nan], [False] * 3, "diverged"),
    ],
)
def test_what_ends_a_run(
    kinds: list[str], losses: list[float], guessing: list[bool], by: str
) -> None:
    assert stops(kinds, facts(history(losses, guessing=guessing))) == by


def spiky(*spikes: int, high: float = 1.8, **more: Any) -> list[dict[str, Any]]:
    losses = [high if i in spikes else value for i, value in enumerate(LEARNED)]
    return history(losses, **{"ratio": 1e-2, **more})


def test_losing_what_was_learned_twice_is_unstable() -> None:
    verdict = one(facts(spiky(5, 8)), "unstable")
    assert verdict["evidence"]["epochs"] == [6, 9]
    assert verdict["evidence"]["values"]["swings"] == 2
    assert "scheduler=cosine" in verdict["advice"]
    assert one(facts(spiky(5, 6, 8)), "unstable")["evidence"]["epochs"] == [6, 7, 9]


@pytest.mark.parametrize(
    "rows",
    [
        spiky(5),  # once
        spiky(5, 8, high=0.6),  # little of what had been learned
        spiky(5, 8, high=1.2),  # less than half of it
        spiky(5, 8, train=LEARNED),  # validation alone: see overfitting
        spiky(5, 8, se=1.0),  # within noise
        spiky(5, 8, ratio=1e-3),  # with steps that are short
        spiky(5, 8, rate=[1, 1, 1, 1, 0.1, 1, 0.1, 0.1, 1, 0.1, 0.1, 0.1]),  # restarts
        spiky(10, 11),  # not learned again
    ],
)
def test_what_only_resembles_an_unstable_run(rows: list[dict[str, Any]]) -> None:
    assert "unstable" not in kinds(facts(rows))


def test_groups_that_end_where_they_began_are_frozen_in_effect() -> None:
    ratio, drift = {"conv": 1e-6, "fc": 1e-3}, {"conv": 1e-4, "fc": 0.5}
    rows = history(LEARNED, SOUND, ratio=ratio, drift=drift)
    verdict = one(facts(rows, plan=plan(conv=1.0, fc=1.0)), "frozen_in_effect")
    assert verdict["severity"] == "warning"
    assert list(verdict["evidence"]["values"]["drifts"]) == ["conv"]
    meant = one(facts(rows, plan=plan(conv=1e-3, fc=1.0)), "frozen_in_effect")
    assert meant["severity"] == "info"
    none = history([2.305] * 3, guessing=[True] * 3, ratio=0.0, drift=1e-9)
    assert kinds(facts(none)) == ["dead"]  # nothing moves: it is the rate
    moved = history(LEARNED, SOUND, ratio=ratio, drift=drift | {"conv": 0.05})
    assert kinds(facts(moved)) == ["healthy"]


def test_steps_count_only_where_rates_are_high() -> None:
    ratio, drift = {"conv": 1e-3, "fc": 1e-2}, {"conv": 1e-4, "fc": 0.5}
    rows = history(LEARNED, SOUND, rate=[*[0.1] * 3, *[0.01] * 9], ratio=ratio, drift=drift)
    for row in rows[3:]:
        row["update_ratio/conv"] = 1e-6
    assert "frozen_in_effect" not in kinds(facts(rows))
    for row in rows:
        row["update_ratio/conv"] = 1e-6
    assert "frozen_in_effect" in kinds(facts(rows))


def test_steps_of_a_tenth_of_the_weights_are_thrashing() -> None:
    ratio = {"conv": 1e-3, "fc": 0.3}
    verdict = one(facts(history(LEARNED, SOUND, ratio=ratio)), "thrashing")
    assert "fc by 0.3" in verdict["message"]
    assert "conv" not in verdict["advice"]
    assert kinds(facts(history(LEARNED, SOUND, ratio=0.09))) == ["healthy"]


def test_training_images_that_do_far_worse_have_noisy_labels_or_are_harder() -> None:
    right, right_train = [0.9] * 12, [0.65] * 12
    rows = history(SOUND, LEARNED, right=right, right_train=right_train)
    verdict = one(facts(rows), "noisy_labels")
    assert "easier validation" in verdict["message"]
    assert "if the labels are right" in verdict["advice"]
    little = history(
        [v - 0.1 for v in LEARNED], LEARNED, right=right, right_train=[0.84] * 12, se=0.005
    )
    assert one(facts(little), "easier_validation")["severity"] == "info"
    noise = history(SOUND, LEARNED, right=right, right_train=right_train, se=0.1)
    assert not {"noisy_labels", "easier_validation"} & {*kinds(facts(noise))}


def test_copies_with_different_labels_prove_that_labels_are_wrong() -> None:
    leaks = {"counts": {"conflicts": 20}}
    verdict = one(facts(history(LEARNED, SOUND), leaks=leaks), "noisy_labels")
    assert "20 images have copies with different labels" in verdict["message"]
    few = {"counts": {"conflicts": 2}}
    assert kinds(facts(history(LEARNED, SOUND), leaks=few)) == ["healthy"]


def leaks(
    twins: int, exact: int = 0, groups: int = 0, grouped: int = 0, **effect: Any
) -> dict[str, Any]:
    counts = {"twins": {"val": twins}, "exact": {"val in train": {"val": exact}}}
    counts |= {"groups": {"val in train": groups} if groups else {}}
    counts |= {"grouped": {"val in train": grouped} if groups else {}}
    sides = {"n_with_twin": twins, "n_without_twin": 300 - twins}
    return {"counts": counts, "effect": effect and sides | effect}


MEASURED: dict[str, Any] = {
    "accuracy_with_twin": 1.0,
    "accuracy_without_twin": 0.8,
    "difference": 0.2,
}


def test_copies_and_groups_on_both_sides_are_a_leak_with_its_effect() -> None:
    found = facts(history(LEARNED, SOUND), leaks=leaks(60, 60, **MEASURED, difference_se=0.04))
    verdict = one(found, "leak")
    assert verdict["message"].startswith("leak: 60 of 300 validation images have a copy in the")
    assert verdict["message"].endswith("(+20.0 ± 4.0 points)")
    noise = facts(history(LEARNED, SOUND), leaks=leaks(60, 60, **MEASURED, difference_se=0.2))
    assert one(noise, "leak")["message"].endswith("(+20.0 ± 20.0 points), within noise")
    shared = one(facts(history(LEARNED, SOUND), leaks=leaks(29, groups=3, grouped=9)), "leak")
    assert shared["message"] == (
        "leak: 9 of 300 validation images share a group with training images (3 groups stand on"
        " both sides)"
    )
    assert "data.group_by keeps groups whole" in shared["advice"]
    both = one(facts(history(LEARNED, SOUND), leaks=leaks(60, 60, groups=1, grouped=1)), "leak")
    assert both["message"].startswith("leak: 60 of 300 validation images have a copy in the")


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (leaks(10), False),  # a few look-alikes
        (leaks(29, groups=1, grouped=1), False),  # likewise, and one of a group
        (leaks(2, 2), False),
        (leaks(3, 3), True),
        (leaks(90), False),  # many, and no effect
        (leaks(90, **MEASURED, difference_se=0.05), True),
        (leaks(89, **MEASURED, difference_se=0.05), False),
        (leaks(90, **MEASURED, difference_se=0.11), False),
        (None, False),
    ],
)
def test_how_many_twins_are_a_leak(of: Any, said: bool) -> None:
    assert ("leak" in kinds(facts(history(LEARNED, SOUND), leaks=of))) == said


def test_random_frozen_tensors_are_said_before_anything_is_trained() -> None:
    frozen = plan(conv=0.0)
    frozen = type(frozen)(tuple(type(r)(**{**vars(r), "trainable_until": 0}) for r in frozen.rows))
    assert kinds(Facts(rows=[], best={}, monitor="val/loss", val=VAL, plan=frozen)) == [
        "frozen_random"
    ]


def test_kinds_that_older_runs_name_are_counted() -> None:
    assert COUNTED["learned_nothing"] == "learned nothing"
    assert {"collapsed", "dead", "majority", "learned_nothing", "best_guesses"} == {*GUESSES}
    assert set(TALLIED) == {*KINDS} - {"healthy"}


@pytest.mark.parametrize(
    ("gap", "se", "said"),
    [
        (0.02, 0.02, "within noise"),
        (0.04, 0.02, "within noise"),  # two standard errors exactly
        (-0.04, 0.02, "within noise"),
        (-0.05, 0.02, "beyond noise, new images do better than training images"),
        (0.05, 0.02, "beyond noise, training images are known better than new ones"),
        (math.nan, math.nan, "cannot tell, a loss is not a finite number"),
        (math.inf, math.nan, "cannot tell, a loss is not a finite number"),
        (0.05, math.nan, "cannot tell, its error is not known"),
    ],
)
def test_the_gap_in_words(gap: float, se: float, said: str) -> None:
    words = gap_in_words({"gap/loss": gap, "gap/loss_se": se}, {})
    assert words.startswith(f"{gap:.3f} ± {se:.3f}:")
    assert said in words
    assert "overfit" not in words  # that is claimed on overfit/loss alone
    assert "same loss" not in words


def test_the_gap_is_judged_against_chance_and_tells_the_other_error() -> None:
    measured = {"gap/loss": 0.05, "gap/loss_se": 0.01, "gap/loss_chance_se": 0.04}
    words = gap_in_words(measured, {})
    assert words.startswith("0.050 ± 0.040 (against this training set ± 0.010): within noise")


@pytest.mark.parametrize(
    ("val", "gap", "said"),
    [
        (Sample(9, True, 0.5), 5.0, "cannot tell, one group holds 50 % of the images"),
        (Sample(5, True, 0.2), 0.25, "within noise"),  # 2.5 errors, and t(4) is 2.78
        (Sample(5, True, 0.2), 0.35, "(5 groups are few: the error is likely too small)"),
        (Sample(100), 0.25, "beyond noise"),
    ],
)
def test_a_gap_over_few_groups_needs_more(val: Sample, gap: float, said: str) -> None:
    samples = {"val": vars(val), "train_eval": vars(Sample(500))}
    assert said in gap_in_words({"gap/loss": gap, "gap/loss_se": 0.1}, samples)
