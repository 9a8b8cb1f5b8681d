"""How many images the classes have: what is kept of it, and what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrexp.judge.classes import class_facts, classes_in_words

PLAIN: dict[str, Any] = {"name": "cross_entropy", "class_weights": None}
SEVERAL: dict[str, Any] = {"name": "bce", "pos_weight": None}
PETS = ("birds", "cats", "dogs", "fish")


def of(train: list[int], val: list[int], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Facts of classes with so many images in train and in val."""
    splits = {"train": train, "val": val}
    labels = {s: np.repeat(np.arange(len(counts)), counts) for s, counts in splits.items()}
    return class_facts(labels, names or tuple(map(str, range(len(train)))))


def test_uneven_classes_are_counted_with_what_saying_the_largest_comes_to() -> None:
    facts = of([4, 150, 30, 1], [1, 38, 8, 0], PETS)
    assert facts["uneven"]
    assert facts["counts"]["train"] == {"birds": 4, "cats": 150, "dogs": 30, "fish": 1}
    assert facts["counts"]["val"] == {"birds": 1, "cats": 38, "dogs": 8, "fish": 0}
    assert facts["majority"] == {
        "class": "cats", "accuracy": {"train": 150 / 185, "val": 38 / 47}
    }  # fmt: skip
    assert facts["few_in_val"] == ["birds", "fish"]
    assert classes_in_words(facts, PLAIN) == [
        "classes are uneven, images in train/val: cats 150/38, dogs 30/8, birds 4/1, fish 1/0",
        "always saying cats is right on 80.9% of val; loss.class_weights=balanced weighs rare ones"
        " up",
        "too few to judge by themselves, fewer than 5 val images: 2 of 4 classes (birds, fish)",
    ]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([107, 110, 106, 108], [36, 37, 35, 36]),  # as the digits are
        ([145, 100], [48, 33]),
        ([1, 4], [5, 5]),  # of equal classes, each rounded in test, val and limit
        ([12, 10], [5, 8]),
    ],
)
def test_even_classes_are_not_spoken_of(train: list[int], val: list[int]) -> None:
    facts = of(train, val)
    assert not facts["uneven"]
    assert classes_in_words(facts, PLAIN) == []


@pytest.mark.parametrize(
    ("train", "val"),
    [([150, 100], [48, 33]), ([5, 1], [9, 9]), ([50, 50], [30, 10])],
)
def test_uneven_in_either_split_is_uneven(train: list[int], val: list[int]) -> None:
    assert of(train, val)["uneven"]


def test_of_equally_large_classes_the_one_that_val_has_most_of_is_the_constant_answer() -> None:
    assert of([20, 20, 20], [5, 12, 6])["majority"]["class"] == "1"


def test_weighing_is_advised_where_it_is_free_and_possible() -> None:
    uneven = of([90, 10], [30, 6])
    assert "loss.class_weights=balanced" in " ".join(classes_in_words(uneven, PLAIN))
    for loss in (PLAIN | {"class_weights": "balanced"}, PLAIN | {"class_weights": [1.0, 2.0]}):
        assert "loss." not in " ".join(classes_in_words(uneven, loss))
    assert "loss." not in " ".join(classes_in_words(of([90, 0], [30, 6]), PLAIN))


def test_of_many_classes_the_ends_are_shown_and_of_very_many_none_is_counted() -> None:
    facts = of(list(range(20, 0, -1)), [9] * 20)
    said = classes_in_words(facts, PLAIN)[0]
    assert said.endswith(
        "0 20/9, 1 19/9, 2 18/9, 3 17/9, 4 16/9, ... (12 more), 17 3/9, 18 2/9, 19 1/9"
    )
    many = of([7] * 1000 + [1], [5] * 1001)
    assert many["counts"] is None
    assert many["uneven"]
    assert many["sizes"][-1] == ["1000", 1, 5]
    assert len(of([7] * 1000, [5] * 1000)["counts"]["train"]) == 1000


def test_of_several_labels_each_is_judged_with_and_without() -> None:
    train = np.zeros((100, 3), np.float32)
    train[:80, 0] = train[:20, 1] = train[:97, 2] = 1
    val = np.zeros((20, 3), np.float32)
    val[:15, 0] = val[:6, 1] = val[:19, 2] = 1
    facts = class_facts({"train": train, "val": val}, ("sun", "rain", "sky"))
    assert facts["uneven"]
    assert facts["counts"]["train"] == {"sun": 80, "rain": 20, "sky": 97}
    majority = facts["majority"]
    assert majority["labels"] == ["sun", "sky"]
    always = np.array([1, 0, 1])  # an oracle of its own: compare row by row
    whole = [bool((row == always).all()) for row in val]
    assert majority["accuracy"]["val"] == sum(whole) / 20
    assert majority["label_accuracy"]["val"] == pytest.approx((15 + 14 + 19) / 60)
    assert facts["few_in_val"] == ["sky"], "one image is without it"
    assert classes_in_words(facts, SEVERAL) == [
        "labels are uneven, images with it in train/val: sky 97/19, sun 80/15, rain 20/6",
        f"always saying sun and sky is right on {100 * sum(whole) / 20:.1f}% of val, and on 80.0%"
        " of its labels; loss.pos_weight=balanced weighs rare ones up",
        "too few to judge by themselves, fewer than 5 val images with it or without: 1 of 3 labels"
        " (sky)",
    ]


def test_labels_on_half_of_the_images_say_nothing() -> None:
    labels = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    facts = class_facts({"train": labels, "val": labels[:20]}, ("a", "b"))
    assert not facts["uneven"]
    assert classes_in_words(facts, SEVERAL) == []


def test_the_constant_answer_of_rare_labels_is_none() -> None:
    labels = np.zeros((40, 2), np.float32)
    labels[:8, 0] = labels[:9, 1] = 1
    facts = class_facts({"train": labels, "val": labels}, ("a", "b"))
    assert "always saying no label is right on 77.5% of val" in classes_in_words(facts, SEVERAL)[1]
