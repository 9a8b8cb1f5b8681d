"""From scores to sentences: the words, the order, what a lost seed counts as, and the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from confirmed_runs import CLASSES, write_confirmed
from scipy import stats

from lrexp.config.errors import UserError
from lrexp.judge.comparison import Compared, Images, Needs, Scores, compare
from lrexp.judge.concluding import conclude, guess_of, metric_of, scores_of
from lrexp.judge.conclusion import Conclusion
from lrexp.judge.contenders import Contender
from lrexp.judge.crossed import Crossed
from lrexp.judge.looks import looked
from lrexp.report.comparison.words import needs_words
from lrexp.runs.scores import Tried, read_tried

SEEDS, IMAGES = 6, 240
LABELS = np.arange(IMAGES) % 3


def contender(name: str, **others: Any) -> Contender:
    given = Contender(
        name=name,
        settings="lr 0.1",
        overrides=(f"lr_policy={name}", "optimizer.lr=0.1"),
        asked=("experiment=smoke", f"lr_policy={name}", "optimizer.lr=0.1"),
        tries=3,
        seeds=3,
        rate=0.1,
        edge="inside",
    )
    return replace(given, **others)


def drawn(shares: Mapping[str, float], seed: int = 0) -> dict[str, np.ndarray]:
    """(SEEDS, IMAGES) of booleans by name: images are hard or easy for all alike."""
    draw = np.random.default_rng(seed)
    hard = draw.random(IMAGES)
    return {
        name: hard + 0.3 * draw.random((SEEDS, IMAGES)) < 1.15 * share + 0.15
        for name, share in shares.items()
    }


def concluded(
    tried: Tried, *others: Contender, metric: str = "accuracy", **more: Any
) -> Conclusion:
    some = [one for one in others if one.name in tried.tries] or [*map(contender, tried.tries)]
    return conclude(tried, some, "uniform", metric, more.pop("margin", 0.02), **more)


def tried_of(folder: Path, shares: Mapping[str, float], **more: Any) -> Tried:
    return read_tried(write_confirmed(folder / "c", drawn(shares), LABELS, **more))


def test_the_verdict_is_that_of_the_crossed_formula(tmp_path: Path) -> None:
    """From the files alone, by numpy and scipy: mean, error, p, p after Holm and interval."""
    shares = {"uniform": 0.7, "lp_ft": 0.76, "surgical": 0.715}
    folder = write_confirmed(tmp_path / "c", drawn(shares), LABELS)
    found = concluded(read_tried(folder))
    right = {name: np.zeros((SEEDS, IMAGES)) for name in shares}
    for name, cells in right.items():
        for i in range(SEEDS):
            (run,) = folder.glob(f"*{name}*{1000 + i}")
            for row in pq.read_table(run / "predictions.parquet").to_pylist():
                cells[i, row["id"]] = np.argmax(row["scores"]) == row["label"]
    p = {}
    for name in ("lp_ft", "surgical"):
        d = right[name] - right["uniform"]  # a row per seed, a column per image
        mean = d.mean()
        seed = d.mean(1).var(ddof=1) / SEEDS
        image = d.mean(0).var(ddof=1) / IMAGES
        off = d - d.mean(1, keepdims=True) - d.mean(0) + mean
        both = (off**2).sum() / ((SEEDS - 1) * (IMAGES - 1)) / (SEEDS * IMAGES)
        se = math.sqrt(max(seed + image - both, seed, image))
        row = next(row for row in found.rows if row.name == name)
        assert row.compared is not None
        assert row.compared.difference.mean == pytest.approx(mean)
        assert row.compared.difference.se == pytest.approx(se)
        df = row.compared.difference.df
        assert 1 < df < IMAGES
        p[name] = 2 * stats.t.sf(abs(mean) / se, df)
        assert row.compared.p == pytest.approx(p[name])
        assert row.compared.interval == pytest.approx(stats.t.interval(0.95, df, mean, se))
        by_seed = right[name].mean(1)
        assert row.per_seed == pytest.approx(by_seed)
        assert row.score.mean == pytest.approx(by_seed.mean())
        assert row.score.std == pytest.approx(by_seed.std(ddof=1))
    low, high = sorted(p.values())
    holm = {low: min(1.0, 2 * low), high: max(min(1.0, 2 * low), high)}
    for row in found.rows:
        if row.compared:
            assert row.compared.p_adjusted == pytest.approx(holm[p[row.name]])


def test_balanced_accuracy_is_the_mean_of_the_recalls(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [150, 60, 30])
    right = drawn({"uniform": 0.7, "lp_ft": 0.8})
    tried = read_tried(write_confirmed(tmp_path / "c", right, labels))
    found = concluded(tried, metric="balanced_accuracy")
    for row in found.rows:
        recalls = [right[row.name][:, labels == c].mean(1) for c in range(3)]
        assert row.per_seed == pytest.approx(np.mean(recalls, axis=0).tolist())
    assert any("balanced" in remark for remark in found.remarks)
    _, images = scores_of(tried, ["uniform"], "balanced_accuracy", tried.seeds(["uniform"]))
    assert images.weights is not None
    assert images.weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("how", ["diverged", "collapsed"])
def test_a_lost_seed_counts_as_a_guess_and_stands_below_all(tmp_path: Path, how: str) -> None:
    shares = {"uniform": 0.7, "lp_ft": 0.95, "surgical": 0.6}
    tried = tried_of(tmp_path, shares, lost={("lp_ft", 1002): how})
    found = concluded(tried)
    assert [row.name for row in found.rows] == ["uniform", "surgical", "lp_ft"]
    last = found.rows[-1]
    assert last.per_seed[2] == pytest.approx(0.3), "of test images, not of training"
    assert last.score.n == SEEDS
    assert last.ended == f"1 {how}"
    assert math.isnan(last.loss.mean)
    assert last.compared is not None
    assert last.compared.loss is None
    assert f"of its seeds 1 {how}" in found.sentence
    assert any(
        "30.0 % (the share of test images that have training's" in remark
        for remark in found.remarks
    )
    balanced = concluded(tried, metric="balanced_accuracy")
    assert balanced.rows[-1].per_seed[2] == pytest.approx(1 / 3)


def test_what_was_lost_on_every_seed_is_never_better_and_not_to_paste(tmp_path: Path) -> None:
    uneven = CLASSES | {"majority": {"class": "a", "accuracy": {"train": 0.4, "test": 0.9}}}
    shares = {"uniform": 0.4, "lp_ft": 0.4, "surgical": 0.4}
    lost = {("lp_ft", 1000 + i): "diverged" for i in range(SEEDS)}
    lost |= {("surgical", 1000 + i): "collapsed" for i in range(SEEDS - 1)}
    tried = tried_of(tmp_path, shares, lost=lost, classes=uneven)
    found = concluded(tried)
    words = {row.name: row.compared.word for row in found.rows if row.compared}
    assert words == {"lp_ft": "undecided", "surgical": "better"}
    assert "lr_policy=uniform" in found.paste
    assert "which nothing in reach would settle" in found.sentence
    scores, images = scores_of(tried, list(shares), "accuracy", found.seeds)
    (one, _) = looked(scores, "uniform", images, 0.02, (3, SEEDS))
    assert (one.word, one.needs) == ("undecided", Needs(None, None))


def test_a_baseline_that_lost_seeds_is_not_to_paste(tmp_path: Path) -> None:
    lost = {("uniform", 1001): "diverged"}
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.71}, lost=lost)
    same = [made("lp_ft", 0.01, "undecided")]
    assert "lr_policy=lp_ft" in concluded(tried, compared=same).paste


def test_without_a_known_share_a_lost_seed_is_no_number(tmp_path: Path) -> None:
    tried = tried_of(
        tmp_path, {"uniform": 0.7, "lp_ft": 0.8}, lost={("lp_ft", 1002): "diverged"}, classes={}
    )
    with pytest.raises(UserError, match="no summary says"):
        concluded(tried)
    assert guess_of(tried, "balanced_accuracy") == pytest.approx(1 / 3)


def test_groups_of_images_make_the_error_larger(tmp_path: Path) -> None:
    rows = {name: np.repeat(one[:, ::8], 8, 1) for name, one in
            drawn({"uniform": 0.7, "lp_ft": 0.8}).items()}  # fmt: skip
    groups = [i // 8 for i in range(IMAGES)]
    alone = concluded(read_tried(write_confirmed(tmp_path / "a", rows, LABELS)))
    tried = read_tried(write_confirmed(tmp_path / "b", rows, LABELS, groups=groups))
    found = concluded(tried)
    a, b = (next(r.compared for r in one.rows if r.compared) for one in (alone, found))
    assert b.difference.images == 30
    assert b.difference.se > 1.5 * a.difference.se
    assert any("30 groups (patient)" in remark for remark in found.remarks)


def test_what_groups_would_settle_is_counted_in_groups(tmp_path: Path) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8})
    one = made("lp_ft", 0.01, "undecided", Needs(None, 90))
    grouped = replace(one, difference=replace(one.difference, images=30))
    for found, units in ((one, "test images"), (grouped, "groups of test images")):
        said = concluded(tried, compared=[found])
        assert f"at least 90 {units} would settle it" in said.sentence
        assert needs_words(found, said) == f"at least 90 {units}"


def test_of_one_image_no_interval_is_told(tmp_path: Path) -> None:
    right = {"uniform": np.zeros((1, 1), bool), "lp_ft": np.ones((1, 1), bool)}
    found = concluded(read_tried(write_confirmed(tmp_path / "c", right, LABELS[:1])))
    assert found.sentence.startswith("On 1 test image and 1 seed: ")
    assert "+100.0 points of accuracy without an interval" in found.sentence
    assert "nan" not in found.sentence


def test_a_p_too_small_to_be_a_number_stops_no_look() -> None:
    blank = np.zeros((5, 10_000))
    scores = {"uniform": Scores(blank + 1, blank), "lp_ft": Scores(blank, blank),
              "surgical": Scores(blank + 1, blank)}  # fmt: skip
    worse, same = looked(scores, "uniform", Images(), 0.02)
    assert (worse.word, same.word) == ("worse", "no difference")
    assert worse.p == 0
    assert worse.interval[1] < 0


def test_where_no_spread_was_seen_images_settle_it_and_seeds_do_not() -> None:
    def found(images: int) -> Compared:
        alike = np.ones((10, images))
        return compare({"uniform": Scores(alike, alike), "lp_ft": Scores(alike, alike)},
                       "uniform", Images(), 0.02)[0]  # fmt: skip

    assert found(50).needs == Needs(None, 149)
    assert (found(148).word, found(149).word) == ("undecided", "no difference")


def test_on_validation_it_is_exploratory(tmp_path: Path) -> None:
    found = concluded(tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8}, split="val"))
    assert found.sentence.startswith("Exploratory, on 240 val images and 6 seeds: ")
    assert found.remarks[0].startswith("Exploratory, on validation: there is no test split")


def made(name: str, mean: float, word: Any, needs: Needs | None = None) -> Compared:
    difference = Crossed(mean, 0.01, 9, SEEDS, IMAGES, 1e-3, 0.03, 0.1, 200)
    interval = (mean - 0.02, mean + 0.02)
    return Compared(name, difference, interval, 0.1, 0.1, 0.1, word, needs, None, False)


@pytest.mark.parametrize(
    ("mean", "word", "needs", "said"),
    [
        (0.03, "better", None, "lp_ft (lr 0.1) is better than uniform (lr 0.1) by"
         " 3.0 points of accuracy [1.0, 5.0]."),
        (-0.03, "worse", None, "lp_ft (lr 0.1) is worse than uniform (lr 0.1) by"
         " 3.0 points of accuracy [1.0, 5.0]."),
        (0.001, "no difference", None, "lp_ft (lr 0.1) shows no difference larger than 2 points"
         " to uniform (lr 0.1), +0.1 points of accuracy [-1.9, +2.1], by two one-sided tests"
         " (p 0.1)."),
        (0.01, "undecided", Needs(9, None), "lp_ft (lr 0.1) against uniform (lr 0.1) is undecided,"
         " +1.0 points of accuracy [-1.0, +3.0], about 9 more seeds would settle it."),
        (0.01, "undecided", Needs(1, None), "about 1 more seed would settle it."),
        (0.01, "undecided", Needs(None, 1700), "at least 1,700 test images would settle it and"
         " seeds would not."),
        (0.01, "undecided", Needs(None, None), "which nothing in reach would settle."),
    ],
)  # fmt: skip
def test_the_words_of_a_verdict(
    tmp_path: Path, mean: float, word: Any, needs: Needs | None, said: str
) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8})
    found = concluded(tried, compared=[made("lp_ft", mean, word, needs)])
    assert found.sentence.startswith("On 240 test images and 6 seeds: lp_ft (lr 0.1)")
    assert found.sentence.endswith(said)


def test_the_baseline_is_named_with_its_settings_once(tmp_path: Path) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8, "surgical": 0.9})
    two = [made("lp_ft", 0.03, "better"), made("surgical", 0.04, "better")]
    found = concluded(tried, compared=two)
    assert found.sentence.count("uniform (lr 0.1)") == 1
    assert found.sentence.count("than uniform by") == 1
    assert found.paste == "lrexp experiment=smoke lr_policy=surgical optimizer.lr=0.1"
    none = concluded(tried, compared=[made("lp_ft", 0.03, "undecided")])
    assert none.paste.endswith("lr_policy=uniform optimizer.lr=0.1"), "nobody is known to be better"
    assert [row.compared for row in none.rows if row.name == "surgical"] == [None]


def test_what_was_not_tuned_is_said_with_the_value_to_add(tmp_path: Path) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8, "surgical": 0.75})
    edge = {"lacks": "best at its highest rate", "add": "optimizer.lr=0.333"}
    remarks = concluded(
        tried,
        contender("uniform", **edge),
        contender("lp_ft", **edge),
        contender("surgical", lacks="tried once, others 3 times"),
    ).remarks
    assert (
        "Not tuned: uniform, lp_ft (best at its highest rate; add optimizer.lr=0.333), surgical"
        " (tried once, others 3 times)."
    ) in remarks
    assert not any("Not tuned" in remark for remark in concluded(tried).remarks)


@pytest.mark.parametrize(
    ("settings", "fresh", "said"),
    [
        ({}, 2, "A seed moves the initial values of 2 tensors and the order of the images;"),
        ({}, 0, "A seed moves the order of the images;"),
        ({"data.augment": "basic", "model.dropout": 0.2}, 0,
         "A seed moves the order of the images, their augmentation and dropout;"),
        ({"model.library": "timm"}, 0, "the order of the images and dropout where the network"),
    ],
)  # fmt: skip
def test_what_a_seed_moved_is_what_really_varies(
    tmp_path: Path, settings: dict[str, Any], fresh: int, said: str
) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8}, settings=settings)
    remarks = concluded(replace(tried, fresh=fresh)).remarks
    assert any(said in remark and "data.seed=0" in remark for remark in remarks)


def test_a_margin_out_of_reach_is_said(tmp_path: Path) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.7})
    short = [r for r in concluded(tried, margin=0.001).remarks if "relied on" in r]
    assert len(short) == 1
    assert "0.1 points are out of reach" in short[0]
    wide = [r for r in concluded(tried, margin=0.5).remarks if "relied on" in r]
    assert "out of reach" not in wide[0]


def test_only_seeds_that_all_have_are_compared(tmp_path: Path) -> None:
    tried = tried_of(tmp_path, {"uniform": 0.7, "lp_ft": 0.8}, lost={("lp_ft", 1003): "missing"})
    found = concluded(tried)
    assert found.seeds == (1000, 1001, 1002, 1004, 1005)
    assert all(len(row.per_seed) == 5 for row in found.rows)
    nothing = replace(tried, tries={**tried.tries, "lp_ft": {}})
    with pytest.raises(UserError, match="no seed that all of uniform, lp_ft have"):
        concluded(nothing)


def test_accuracy_is_balanced_where_classes_are_uneven_unless_asked() -> None:
    labels = {"labels": [], "accuracy": {"train": 0.4}}
    assert metric_of(CLASSES, None) == "accuracy"
    assert metric_of(CLASSES | {"uneven": True}, None) == "balanced_accuracy"
    assert metric_of(CLASSES | {"uneven": True}, "accuracy") == "accuracy"
    assert metric_of({"uneven": True, "majority": labels}, None) == "accuracy"
    with pytest.raises(UserError, match="several labels"):
        metric_of({"majority": labels}, "balanced_accuracy")
