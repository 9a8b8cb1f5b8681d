"""Which layer wants which rate, judged on made-up losses of which the truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lrexp.judge.layer_test import (
    Change,
    LayerTest,
    Outcome,
    difference,
    judge_layers,
    multipliers,
    sentence,
    settling,
    wants,
)
from lrexp.plan.multiplied import Part

FACTORS = (0.0, 0.25, 4.0)
NAMES = ("conv", "hidden", "head")


def outcomes(
    rng: np.random.Generator,
    effects: dict[tuple[int, float], float],
    seeds: int = 5,
    images: int = 150,
) -> tuple[Outcome, dict[tuple[int, float], Outcome | None]]:
    """Losses of images that some find harder, in seeds that do better or worse as a whole."""
    hard = rng.exponential(0.4, images)
    lucky = rng.normal(0, 0.05, (seeds, 1))

    def one(effect: float) -> Outcome:
        own = rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.05, images)
        losses = hard + lucky + own + rng.normal(0, 0.1, (seeds, images)) + effect
        return Outcome(losses, (losses < 0.7).astype(float))

    keys = [(part, factor) for part in range(len(NAMES)) for factor in FACTORS]
    return one(0.0), {key: one(effects.get(key, 0.0)) for key in keys}


def found_of(changes: list[Change], base: Outcome) -> LayerTest:
    parts = tuple(Part(name, i, i, 10, 10, 1.0, 1.0) for i, name in enumerate(NAMES))
    return LayerTest(
        "", "uniform", 0.1, parts, FACTORS, tuple(range(len(base.losses))),
        base.losses.shape[1], "val/loss", float(np.mean(base.losses)), 0.01, 0.9, 0.01,
        tuple(changes),
    )  # fmt: skip


def test_equal_layers_claim_nothing_in_95_of_100_tests() -> None:
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(100):
        base, tried = outcomes(rng, {}, seeds=3, images=60)
        words = {one.word for one in judge_layers(base, tried, plan=False)}
        assert words <= {"within noise", "helps", "hurts"}
        claims += words != {"within noise"}
    assert claims <= 5


def test_planted_layers_are_found_and_no_others() -> None:
    effects = {(0, 0.0): 0.3, (1, 4.0): -0.3, (1, 0.0): 0.2, (1, 0.25): -0.18}
    base, tried = outcomes(np.random.default_rng(0), effects)
    changes = judge_layers(base, tried)
    words = {(one.part, one.factor): one.word for one in changes if one.word != "within noise"}
    assert words == {
        (0, 0.0): "hurts", (1, 0.0): "hurts", (1, 0.25): "helps", (1, 4.0): "helps",
    }  # fmt: skip
    assert [(one.part, one.factor) for one in changes] == list(tried)
    assert multipliers(changes) == {1: 4.0}  # of two that help the one of the lowest loss
    found = found_of(changes, base)
    assert [wants(found.of_part(part)) for part in range(3)] == [
        "not frozen", "rate × 4, not frozen", "cannot tell",
    ]  # fmt: skip
    said = sentence(found)
    assert "hidden rate × 4 (val loss −0.2" in said
    assert "Freezing hurts conv (+0.3" in said
    for one in changes:
        truth = effects.get((one.part, one.factor), 0.0)
        assert abs(one.loss - truth) < 0.08
        assert one.low < one.loss < one.high


def test_noise_that_hides_everything_is_said_with_what_would_settle_it() -> None:
    base, tried = outcomes(np.random.default_rng(3), {(2, 4.0): -0.02})
    changes = judge_layers(base, tried)
    assert multipliers(changes) == {}
    said = sentence(found_of(changes, base))
    assert said.startswith("Noise hides everything: none of the 9 changes can be told from zero")
    assert "would mostly go unseen" in said
    assert "would tell" in said
    settled = [one for one in changes if one.more_seeds or one.images_needed]
    assert settled
    assert all(one.word == "within noise" for one in settled)


def test_a_change_of_the_smallest_size_seen_is_mostly_seen() -> None:
    rng = np.random.default_rng(5)
    base, tried = outcomes(rng, {})
    size = float(np.median([one.smallest for one in judge_layers(base, tried, plan=False)]))
    seen = 0
    for _ in range(40):
        base, tried = outcomes(rng, {(0, 4.0): -size})
        changes = judge_layers(base, tried, plan=False)
        seen += next(one for one in changes if (one.part, one.factor) == (0, 4.0)).word == "helps"
    assert 24 <= seen <= 39


def test_two_seeds_claim_nothing() -> None:
    base, tried = outcomes(np.random.default_rng(0), {(0, 0.0): 3.0}, seeds=2)
    changes = judge_layers(base, tried)
    assert {one.word for one in changes} == {"within noise"}
    assert "Fewer than three seeds claim nothing" in sentence(found_of(changes, base))


def test_what_diverges_is_no_number_and_never_helps() -> None:
    base, tried = outcomes(np.random.default_rng(0), {(0, 4.0): -1.0})
    lost = tried[0, 4.0]
    assert lost is not None
    losses = lost.losses.copy()
    losses[1] = math.nan
    tried[0, 4.0], tried[1, 0.0] = replace(lost, losses=losses), None
    changes = {(one.part, one.factor): one for one in judge_layers(base, tried)}
    assert (changes[0, 4.0].word, changes[0, 4.0].lost) == ("diverges", 1)
    assert math.isnan(changes[0, 4.0].loss)
    assert changes[1, 0.0].word == "not measured"
    assert multipliers(list(changes.values())) == {}
    assert wants([changes[0, 4.0]]) == "no faster"


def test_a_baseline_that_diverged_is_compared_with_nothing() -> None:
    base, tried = outcomes(np.random.default_rng(0), {(0, 0.0): 1.0})
    base.losses[0] = math.nan
    changes = judge_layers(base, tried)
    assert {one.word for one in changes} == {"not measured"}
    found = replace(found_of(changes, base), loss=math.nan)
    assert "the baseline diverged" in sentence(found)


def test_equal_runs_are_no_change() -> None:
    base, _ = outcomes(np.random.default_rng(0), {})
    (one,) = judge_layers(base, {(0, 4.0): base})
    assert (one.word, one.loss, one.p) == ("within noise", 0.0, 1.0)
    assert "the change cannot be told from zero" in sentence(found_of([one], base))


def test_all_together_on_fresh_seeds_are_judged_as_one_comparison() -> None:
    base, tried = outcomes(np.random.default_rng(0), {(1, 4.0): -0.2})
    both = tried[1, 4.0]
    assert both is not None
    alone = difference(base, both)
    assert alone.word == "helps"
    assert alone.p_adjusted == pytest.approx(alone.p)
    found = replace(found_of(judge_layers(base, tried), base), together=alone)
    assert "Together, on 5 fresh seeds: val loss −0.164" in sentence(found)
    assert "they help." in sentence(found)
    hurting = replace(found, together=replace(alone, word="hurts"))
    assert "do not use them together" in sentence(hurting)


def test_a_rate_that_hurts_is_not_hidden_by_noise() -> None:
    base, tried = outcomes(np.random.default_rng(2), {(0, 4.0): 0.3, (2, 0.25): 0.2})
    changes = judge_layers(base, tried)
    assert {one.word for one in changes if (one.part, one.factor) == (0, 4.0)} == {"hurts"}
    said = sentence(found_of(changes, base))
    assert said.startswith("No multiplier is measured to help")
    assert "Measured to hurt: conv rate × 4 (+0.3" in said
    assert "head rate × 1/4 (+0.2" in said
    assert "Noise hides" not in said
    assert "Freezing" not in said


def test_what_would_settle_it_counts_groups_where_images_come_in_groups() -> None:
    base, tried = outcomes(np.random.default_rng(3), {}, images=150)
    changes = judge_layers(base, tried, np.arange(150) // 10)
    found = found_of(changes, base)
    one = replace(changes[0], more_seeds=None, images_needed=90)
    assert one.images == 15
    assert settling(found, one) == "no number of seeds would tell, about 90 groups of images would"
    alone = replace(one, images=found.images)
    assert settling(found, alone) == "no number of seeds would tell, about 90 images would"
