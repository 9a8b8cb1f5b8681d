"""Sources and splits: sizes, shares, disjointness, and what moves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrexp.config.errors import ConfigError, UserError
from lrexp.data.dataset import Dataset, make_dataset
from lrexp.data.draws import cut
from lrexp.data.source import TEST, TRAIN, Source
from lrexp.data.sources.digits import digits
from lrexp.data.splits import choose, grouped_sample, sample_per_class, strata, stratified_sample
from lrexp.data.transforms import Augment

SOURCE = digits()


def split(source: Source = SOURCE, **changes: Any) -> Dataset:
    choosing: dict[str, Any] = {
        "classes": None, "limit": None, "limit_per_class": None,
        "val_fraction": 0.2, "test_fraction": 0.2, "drop_unlabeled": False,
    }  # fmt: skip
    making: dict[str, Any] = {
        "normalize": ([0.3053], [1.0]), "augment": None, "train_eval_limit": 10_000,
        "in_memory": True, "workers": 0, "leak_check": False, "drop_corrupt": False,
        "device": torch.device("cpu"),
    }  # fmt: skip
    assert changes.keys() <= {"seed", *choosing, *making}
    seed = changes.get("seed", 0)
    chosen = choose(source, seed=seed, **{k: changes.get(k, v) for k, v in choosing.items()})
    made = {k: changes.get(k, v) for k, v in making.items()}
    return make_dataset(source, chosen, seed=seed, **made)


def ids(dataset: Dataset) -> dict[str, set[int]]:
    assert dataset.test is not None
    return {
        name: set(getattr(dataset, name).ids.tolist())
        for name in ("train", "train_eval", "val", "test")
    }


def shares(labels: torch.Tensor) -> np.ndarray:
    counts = np.bincount(labels.numpy())
    return counts / counts.sum()


def test_digits_are_the_1797_images_of_uci() -> None:
    assert SOURCE.images.shape == (1797, 1, 8, 8)
    assert SOURCE.images.dtype == np.uint8
    assert (SOURCE.images.min(), SOURCE.images.max(), SOURCE.white) == (0, 16, 16)
    assert np.bincount(SOURCE.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert SOURCE.class_names == tuple("0123456789")
    # The first image of the set, a 0, as UCI prints it.
    assert SOURCE.labels[0] == 0
    assert SOURCE.images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_digits_come_from_the_package_with_their_licence_and_without_sklearn() -> None:
    import lrexp.data

    folder = Path(lrexp.data.__file__).parent
    licence = " ".join((folder / "digits.LICENSE.txt").read_text().split())
    assert "Creative Commons Attribution 4.0 International" in licence
    assert (folder / "digits.npz").stat().st_size < 200_000
    assert "sklearn" not in (folder / "sources" / "digits.py").read_text()


def test_splits_are_60_20_20_disjoint_and_whole() -> None:
    dataset = split()
    parts = ids(dataset)
    assert (len(dataset.train), len(dataset.val), len(parts["test"])) == (1079, 359, 359)
    assert parts["train"] | parts["val"] | parts["test"] == set(range(1797))
    assert len(parts["train"]) + len(parts["val"]) + len(parts["test"]) == 1797


def test_every_split_holds_every_class_in_its_share() -> None:
    dataset = split()
    assert dataset.test is not None
    whole = np.bincount(SOURCE.labels) / 1797
    for part in (dataset.train, dataset.train_eval, dataset.val, dataset.test):
        # Each class is at most one image, or one remainder per draw, from its exact share.
        assert abs(shares(part.labels) - whole).max() * len(part) < 2.0


def test_images_and_labels_of_a_split_are_those_of_the_source() -> None:
    for part in (split().train, split().val):
        pixels = SOURCE.images[part.ids].astype(np.float64) / 16
        assert part.images.dtype == torch.float32
        assert part.labels.dtype == torch.int64
        assert np.abs(part.images.numpy() - (pixels - 0.3053)).max() < 1e-6
        assert part.labels.tolist() == SOURCE.labels[part.ids].tolist()


def test_normalisation_is_pixel_minus_mean_over_std() -> None:
    dataset = split(normalize=([0.25], [0.5]))
    white = torch.from_numpy(SOURCE.images[dataset.train.ids]) == 16
    assert torch.allclose(dataset.train.images[white], torch.tensor((1 - 0.25) / 0.5))
    shipped = split()
    every = torch.cat([shipped.train.images, shipped.val.images, shipped.test.images])  # type: ignore[union-attr]
    assert abs(every.mean().item()) < 1e-3


def test_few_images_are_normalised_once_and_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kept as floats or made at every batch: the same images, labels and strides."""
    once, augmented = split(), split(augment=Augment("basic", 0))
    assert once.train._normalized is not None
    assert once.val._normalized is not None
    monkeypatch.setattr("lrexp.data.dataset.NORMALIZED", 0)
    every_time = split()
    parts = cut(np.random.default_rng(0).permutation(len(once.train)), 50)
    for name, epoch in (("train", 1), ("val", None)):
        chosen = parts if name == "train" else cut(np.arange(10), 7)
        both = (getattr(data, name).batches(chosen, epoch) for data in (once, every_time))
        for (ours, labels), (theirs, wanted) in zip(*both, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()
            assert torch.equal(labels, wanted)
    assert every_time.train._normalized is None
    (shown, _), (plain, _) = (next(augmented.train.batches(parts, e)) for e in (1, None))
    assert not torch.equal(shown, plain)  # augmentation is of the pixels


def coloured(*constant: int, size: int = 6, count: int = 60) -> Source:
    """RGB noise of two classes whose given channels are the same grey in every pixel."""
    images = np.random.default_rng(0).integers(0, 256, (count, 3, size, size)).astype(np.uint8)
    for channel in constant:
        images[:, channel] = 83 + channel  # no power of two: nothing is exact by chance
    return Source(images, np.arange(count) % 2, ("a", "b"))


@pytest.mark.parametrize("constant", [[2], [0, 1]])
def test_a_constant_channel_is_centred_and_not_divided_by_its_spread(constant: list[int]) -> None:
    dataset = split(coloured(*constant), normalize=None)
    seen = dataset.train.images
    assert torch.isfinite(seen).all()
    for c in range(3):
        if c in constant:
            assert (dataset.mean[c], dataset.std[c]) == (round((83 + c) / 255, 6), 1.0)
            assert seen[:, c].abs().max() < 1e-6
        else:
            assert seen[:, c].std().item() == pytest.approx(1, abs=1e-3)
    (note,) = dataset.notes
    assert all(f"channel {c} (it is 0.3" in note for c in constant)
    assert note.endswith(
        "the same all over the training images: centred, not divided by its std of 0"
    )
    assert not split(coloured(), normalize=None).notes


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("grey", [1, 83, 201, 254])
def test_rounding_makes_no_contrast_out_of_a_constant(grey: int, size: int) -> None:
    source = coloured(size=size)
    source.images[:, 1] = grey  # type: ignore[index]
    assert split(source, normalize=None).std[1] == 1.0


def test_one_odd_pixel_is_no_contrast_to_divide_by() -> None:
    source = coloured(2, size=200)
    train = split(source, normalize=None).train.ids
    source.images[train[0], 2, 0, 0] += 1  # type: ignore[index]
    dataset = split(source, normalize=None)
    assert dataset.std[2] == 1.0
    assert dataset.train.images.abs().max() < 4


def test_images_without_any_contrast_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"every training image is 0\.325, 0\.329, 0\.333 .*nothing"
    ):
        split(coloured(0, 1, 2), normalize=None)


def test_data_seed_moves_every_split() -> None:
    before, after = ids(split()), ids(split(seed=1))
    for name in before:
        assert len(before[name]) == len(after[name])
        assert before[name] != after[name]
    assert ids(split()) == before


def test_seed_moves_no_split_and_data_seed_does(compose: Any) -> None:
    from lrexp.build.data import build_dataset

    first, reseeded, resplit = (
        ids(build_dataset(compose(*overrides), torch.device("cpu")))
        for overrides in ([], ["seed=5"], ["data.seed=5"])
    )
    assert first == reseeded
    assert first["train"] != resplit["train"]


@pytest.mark.parametrize("limit", [10, 100, 101, 1078])
def test_limit_counts_training_images_and_keeps_the_shares(limit: int) -> None:
    whole, limited = split(), split(limit=limit)
    assert len(limited.train) == limit
    assert set(limited.train.ids) < set(whole.train.ids)
    assert ids(limited)["val"] == ids(whole)["val"]
    assert ids(limited)["test"] == ids(whole)["test"]
    assert abs(shares(limited.train.labels) - shares(whole.train.labels)).max() * limit < 1.0


def test_a_limit_above_the_training_set_changes_nothing() -> None:
    assert ids(split(limit=5000)) == ids(split())


def test_classes_are_kept_in_the_given_order_and_renumbered() -> None:
    dataset = split(classes=[7, 5])
    assert dataset.class_names == ("7", "5")
    for part in (dataset.train, dataset.val):
        assert set(part.labels.tolist()) == {0, 1}
        assert np.array([7, 5])[part.labels].tolist() == SOURCE.labels[part.ids].tolist()
    total = sum(len(p) for p in (dataset.train, dataset.val, dataset.test) if p is not None)
    assert total == np.isin(SOURCE.labels, [5, 7]).sum()


def test_a_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.classes.*no class 10\n.*0 to 9"):
        split(classes=[5, 10])


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 359),
        ({"train_eval_limit": 50}, 50),
        ({"limit": 100}, 100),
        ({"val_fraction": 0.1}, 180),
    ],
)
def test_train_eval_is_a_stratified_part_of_train_as_large_as_val(
    changes: dict[str, Any], size: int
) -> None:
    dataset = split(**changes)
    assert len(dataset.train_eval) == size
    assert set(dataset.train_eval.ids) <= set(dataset.train.ids)
    off = abs(shares(dataset.train_eval.labels) - shares(dataset.train.labels)).max() * size
    assert off < 1.0


def test_a_source_with_its_own_test_part_keeps_it() -> None:
    own = np.where(np.arange(1797) >= 1500, TEST, TRAIN)
    dataset = split(Source(SOURCE.images, SOURCE.labels, SOURCE.class_names, own, white=16))
    assert ids(dataset)["test"] == set(range(1500, 1797))
    assert len(dataset.val) == 300
    assert len(dataset.train) == 1200


def test_no_test_fraction_means_no_test_split() -> None:
    assert split(test_fraction=0.0).test is None


def test_a_split_that_would_be_empty_is_refused() -> None:
    with pytest.raises(ConfigError, match="validation split has 0 "):
        split(val_fraction=0.0001)


def test_fingerprint_changes_with_a_pixel_a_label_and_the_order() -> None:
    def changed(pixel: int = 0, label: int = 0, turned: bool = False) -> str:
        images, labels = SOURCE.images.copy(), SOURCE.labels.copy()
        images[5, 0, 3, 3] ^= pixel
        labels[5] ^= label
        step = -1 if turned else 1
        return split(Source(images[::step], labels[::step], SOURCE.class_names)).fingerprint

    assert changed() == split().fingerprint
    assert len({changed(), changed(pixel=1), changed(label=1), changed(turned=True)}) == 4


def test_missing_mnist_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    from lrexp.data.sources.torchvision_sets import torchvision_set

    with pytest.raises(UserError, match=r"no MNIST in .*\n.*data\.root=FOLDER"):
        torchvision_set("mnist", str(tmp_path), download=False)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(0, 2**32),
    st.floats(0, 1),
)
def test_a_stratified_sample_has_its_size_and_every_share_to_one_image(
    labels: list[int], seed: int, share: float
) -> None:
    classes = np.array(labels)
    size = round(share * len(classes))
    taken = stratified_sample(classes, np.arange(len(classes)), size, seed, "test")
    assert taken.tolist() == sorted(set(taken.tolist()))
    assert len(taken) == size
    exact = size * np.bincount(classes, minlength=5) / len(classes)
    assert abs(np.bincount(classes[taken], minlength=5) - exact).max() < 1.0 + 1e-9


def test_a_smaller_sample_of_balanced_classes_is_part_of_a_larger_one() -> None:
    labels = np.repeat(np.arange(5), 20)
    taken = [set(stratified_sample(labels, np.arange(100), n, 0, "limit")) for n in (10, 50, 100)]
    assert taken[0] < taken[1] < taken[2]


def test_the_largest_remainder_gets_the_image_that_is_left() -> None:
    # 3 of 8 + 2 are 2.4 and 0.6: two and none, and the third goes to the class that lacks more.
    labels = np.array([0] * 8 + [1] * 2)
    for seed in range(5):
        taken = stratified_sample(labels, np.arange(10), 3, seed, "test")
        assert np.bincount(labels[taken]).tolist() == [2, 1]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80),
    st.integers(0, 2**32),
    st.floats(0, 0.9),
)
def test_a_grouped_sample_tears_no_group_apart_and_leaves_some_of_every_class(
    drawn: list[tuple[int, int]], seed: int, share: float
) -> None:
    labels = np.array([label for label, _ in drawn])
    groups = np.array([label * 100 + group for label, group in drawn])  # of one class each
    taken = grouped_sample(labels, groups, share, seed, "test")
    assert taken.tolist() == sorted(set(taken.tolist()))
    left = np.setdiff1d(np.arange(len(labels)), taken)
    assert not set(groups[taken]) & set(groups[left])
    assert set(labels[left]) == set(labels)
    for c in set(labels.tolist()):
        largest = np.unique(groups[labels == c], return_counts=True)[1].max()
        off = abs((labels[taken] == c).sum() - share * (labels == c).sum())
        assert off <= largest


def test_a_split_by_group_keeps_groups_whole_and_every_class_in_its_share() -> None:
    groups = np.arange(1797) // 3
    by_group = Source(SOURCE.images, np.sort(SOURCE.labels), SOURCE.class_names, groups=groups)
    dataset = split(by_group)
    assert dataset.test is not None
    parts = [dataset.train, dataset.val, dataset.test]
    sides = [set(part.groups.tolist()) for part in parts if part.groups is not None]
    assert len(sides) == 3
    assert len(sides[0] | sides[1] | sides[2]) == sum(map(len, sides))
    assert abs(len(dataset.val) - 359) < 15
    assert abs(len(dataset.test) - 359) < 15
    assert split(by_group, seed=1).val.ids.tolist() != dataset.val.ids.tolist()


def test_limit_per_class_counts_training_images_of_every_class() -> None:
    dataset = split(limit_per_class=7)
    assert np.bincount(dataset.train.labels.numpy()).tolist() == [7] * 10
    assert len(dataset.val) == 359
    kept = sample_per_class(SOURCE.labels, np.arange(1797), 7, 0, "limit")
    assert set(kept) < set(sample_per_class(SOURCE.labels, np.arange(1797), 9, 0, "limit"))


def test_classes_may_be_chosen_by_name() -> None:
    assert ids(split(classes=["7", "5"])) == ids(split(classes=[7, 5]))
    with pytest.raises(ConfigError, match=r"data\.classes.*no class seven"):
        split(classes=["seven", "5"])


def test_multi_label_rows_are_stratified_by_their_pattern() -> None:
    rows = np.array([[1, 0]] * 40 + [[1, 1]] * 20 + [[0, 0]] * 3, np.float32)
    pattern = strata(rows)
    assert len(set(pattern[:40])) == len(set(pattern[40:60])) == 1
    assert pattern[0] != pattern[40]
    assert set(pattern[60:]) == {-1}
    source = Source(SOURCE.images[:63], rows, ("a", "b"), white=16)
    dataset = split(source, test_fraction=0.0)
    assert dataset.val.labels.shape == (13, 2)
    assert dataset.val.labels.sum(0).tolist() == [12, 4]


def test_a_number_is_a_label_before_it_is_a_position() -> None:
    source = Source(SOURCE.images, SOURCE.labels, tuple(str(c + 1) for c in range(10)), white=16)
    assert split(source, classes=[1, 2]).class_names == ("1", "2")
    named = Source(SOURCE.images, SOURCE.labels, tuple("abcdefghij"), white=16)
    assert split(named, classes=[1, "a"]).class_names == ("b", "a")
    with pytest.raises(ConfigError, match=r"data\.classes.*names a class twice"):
        split(named, classes=[1, "b"])


def test_a_limit_per_class_of_several_labels_is_refused() -> None:
    source = Source(
        SOURCE.images[:60], np.eye(3, dtype=np.float32)[np.arange(60) % 3], ("a", "b", "c")
    )
    with pytest.raises(ConfigError, match=r"data\.limit_per_class.*several\n.*data\.limit"):
        split(source, limit_per_class=3)
