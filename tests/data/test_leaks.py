"""The leak check finds what splits share, and nothing else."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

import lrexp.data.leaks as leaks_module
from lrexp.data import leak_bounds
from lrexp.data.leaks import Signatures, effect, find_leaks
from lrexp.data.leaks_found import Leaks

RNG = np.random.default_rng(0)
N = 200
DATA = Path(os.environ.get("LREXP_TEST_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(
    "LREXP_TEST_DATA" not in os.environ, reason="LREXP_TEST_DATA names no folder"
)


def pictures(n: int, channels: int = 3, size: int = 32, seed: int = 0) -> np.ndarray:
    """Random blobs: distinct images with content at thumbnail scale, (n, C, size, size) uint8."""
    coarse = np.random.default_rng(seed).normal(0, 40, (n, channels, 8, 8))
    fine = coarse.repeat(size // 8, 2).repeat(size // 8, 3)
    return np.clip(fine + 128, 0, 255).astype(np.uint8)


def check(
    train: np.ndarray, val: np.ndarray, labels: np.ndarray | None = None, **more: Any
) -> Leaks:
    signatures = Signatures.concatenate([Signatures.of(train), Signatures.of(val)])
    splits = {"train": np.arange(len(train)), "val": np.arange(len(train), len(signatures))}
    labels = np.zeros(len(signatures), np.int64) if labels is None else labels
    return find_leaks(signatures, labels, splits, **more)


def pairs(leaks: Leaks, kind: str) -> set[tuple[str, int, str, int]]:
    return {
        (twins.split, int(a), twins.other, int(b))
        for twins in getattr(leaks, kind)
        for a, b in zip(twins.positions, twins.others, strict=True)
    }


def test_distinct_images_give_no_leak_and_no_line() -> None:
    leaks = check(pictures(N), pictures(50, seed=1))
    assert not leaks
    assert leaks.lines() == [] == leaks.items()
    assert not len(leaks.twins["val"])


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_and_near_copies_are_found_once_each(channels: int) -> None:
    train, val = pictures(N, channels), pictures(20, channels, seed=1)
    val[3], val[5] = train[7], train[9]
    noise = np.random.default_rng(2).normal(0, 8, train[11].shape)
    val[8] = np.clip(train[11] + noise, 0, 255).astype(np.uint8)
    train[100] = train[7]  # a second copy: the pair is still counted once
    leaks = check(train, val)
    assert pairs(leaks, "exact") == {("val", N + 3, "train", 7), ("val", N + 5, "train", 9)}
    assert pairs(leaks, "near") == {("val", N + 8, "train", 11)}
    assert leaks.twins["val"].tolist() == [N + 3, N + 5, N + 8]


def test_brightness_contrast_and_tint_do_not_hide_a_copy() -> None:
    train, val = pictures(N), pictures(10, seed=1)
    val[0] = train[0] // 2 + 60
    val[1] = np.clip(train[1] // 2 + np.array([10, 60, 110])[:, None, None], 0, 255)
    assert pairs(check(train, val), "near") == {
        ("val", N, "train", 0),
        ("val", N + 1, "train", 1),
    }


def test_flat_images_of_other_brightness_or_colour_are_no_twins() -> None:
    train, val = pictures(N), pictures(10, seed=1)
    train[0], train[1] = 100, np.array([200, 10, 10])[:, None, None]
    val[0], val[1] = 101, np.array([150, 5, 5])[:, None, None]
    val[2] = 0
    val[3] = 0
    val[3, :, 4, 4] = 3  # one pixel that shows at a twentieth of a grey level in a thumbnail
    with np.errstate(divide="raise", invalid="raise"):
        leaks = check(train, val)
    assert not leaks
    assert leaks.flat == 6
    assert not np.isnan(Signatures.of(val).thumbnails).any()


def test_only_flat_images_are_compared_by_hash_alone() -> None:
    flat = np.zeros((4, 1, 16, 16), np.uint8)
    flat[1:] = np.array([9, 90, 200])[:, None, None, None]
    leaks = check(flat, flat[:1])
    assert pairs(leaks, "exact") == {("val", 4, "train", 0)}
    assert not leaks.near


def test_images_that_lie_close_to_many_are_not_near_duplicates() -> None:
    """Strangers of one family correlate above the threshold; a copy of one still stands out."""
    family = pictures(1)[0].astype(float)
    noise = np.random.default_rng(1).normal(0, 10, (N + 20, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    images = np.clip(family + noise, 0, 255).astype(np.uint8)
    train, val = images[:N], images[N:]
    alone = check(train, val, ratio=1.0)
    assert len(alone.twins["val"]) == 20, "the threshold alone flags every stranger"
    assert not check(train, val)
    val[4] = train[17]
    val[4, :, 3, 3] ^= 1
    assert pairs(check(train, val), "near") == {("val", N + 4, "train", 17)}


@pytest.mark.parametrize("blocks", [(32_768, 1024), (7, 11), (128, 16)])
def test_near_duplicates_follow_the_rule_computed_in_float64_over_all_pairs(
    blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the blocks of references and queries are."""
    monkeypatch.setattr("lrexp.data.leaks.REFERENCES_PER_BLOCK", blocks[0])
    monkeypatch.setattr("lrexp.data.leaks.QUERIES_PER_BLOCK", blocks[1])
    train, val, test = (pictures(n, seed=s) for n, s in ((300, 3), (60, 4), (60, 5)))
    rng = np.random.default_rng(6)
    for split, at in ((val, 0), (test, 20)):
        noise = rng.normal(0, 1, (40, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
        spread = np.linspace(2, 40, 40)[:, None, None, None]
        split[:40] = np.clip(train[at : at + 40] + noise * spread, 0, 255)
    test[50:55] = np.clip(val[50:55] + rng.normal(0, 10, val[50:55].shape), 0, 255)
    every = np.concatenate([train, val, test])
    cells = adaptive_avg_pool2d(torch.from_numpy(every).double(), 8).flatten(2)
    cells = (cells - cells.mean(2, keepdim=True)).flatten(1)
    cells = cells / cells.norm(dim=1, keepdim=True)
    rho = (cells @ cells.T).numpy()
    expected = set()
    spans = {"train": (0, 300), "val": (300, 360), "test": (360, 420)}
    for split, earlier in (("val", ["train"]), ("test", ["train", "val"])):
        for i in range(*spans[split]):
            limit = 0.25 * (1 - np.sort(rho[i, : spans[split][0]])[-8])
            for other in earlier:
                a, b = spans[other]
                j = a + int(rho[i, a:b].argmax())
                if rho[i, j] >= 0.9 and 1 - rho[i, j] <= limit:
                    expected.add((split, i, other, j))
    splits = {name: np.arange(*span) for name, span in spans.items()}
    found = find_leaks(Signatures.of(every), np.zeros(420, np.int64), splits)
    assert pairs(found, "near") == expected
    assert 30 < len(expected) < 85
    assert {("test", 410 + k, "val", 350 + k) for k in range(5)} <= expected


def test_thumbnails_are_torch_s_adaptive_means_for_any_size() -> None:
    for height, width in ((28, 28), (8, 8), (5, 3), (17, 40), (1, 1), (33, 9), (32, 32), (16, 56)):
        images = RNG.integers(0, 256, (3, 2, height, width), np.uint8)
        cells = adaptive_avg_pool2d(torch.from_numpy(images).double(), 8).flatten(2)
        cells = (cells - cells.mean(2, keepdim=True)).flatten(1)
        wanted = cells / cells.norm(dim=1, keepdim=True).clamp_min(1e-9)
        np.testing.assert_allclose(Signatures.of(images).thumbnails, wanted, atol=5e-4)


def test_a_cell_of_many_white_pixels_is_white() -> None:
    """A sum of 260 rows is more than 16 bits hold."""
    images = np.zeros((1, 1, 260 * 8, 16), np.uint8)
    images[..., :8], images[..., :4] = 128, 255
    thumbnail = Signatures.of(images).thumbnails.reshape(8, 8)
    assert (thumbnail[:, 1] > thumbnail[:, 2]).all()
    assert (thumbnail[:, 2] > thumbnail[:, 4]).all()


def test_a_single_image_has_the_signature_it_has_in_a_block() -> None:
    images = RNG.integers(0, 256, (1500, 3, 21, 30), np.uint8)  # more than a block
    block = Signatures.of(images)
    ones = Signatures.concatenate(Signatures.of(image[None]) for image in images)
    assert (block.hashes == ones.hashes).all()
    assert (block.thumbnails == ones.thumbnails).all()
    turned = np.asfortranarray(images)  # the same pixels in another memory layout
    assert (Signatures.of(turned).hashes == block.hashes).all()
    assert len(Signatures.of(images[:0])) == 0


def test_hashes_tell_shapes_with_the_same_bytes_apart() -> None:
    bytes_ = RNG.integers(0, 256, 64, np.uint8)
    shapes = [(1, 8, 8), (1, 4, 16), (1, 16, 4), (4, 4, 4)]
    assert len({Signatures.of(bytes_.reshape(1, *shape)).hashes[0] for shape in shapes}) == 4


def test_images_of_different_sizes_are_compared() -> None:
    train, val = pictures(N, size=32), pictures(10, size=64, seed=1)
    val[2] = train[5].repeat(2, 1).repeat(2, 2)
    assert pairs(check(train, val), "near") == {("val", N + 2, "train", 5)}


def test_conflicting_labels_are_found_within_a_split_and_across() -> None:
    train, val = pictures(N), pictures(10, seed=1)
    train[1], val[2], val[3] = train[0], train[5], train[6]
    labels = np.zeros(N + 10, np.int64)
    labels[[1, N + 2]] = 1
    leaks = check(train, val, labels, class_names=["cat", "dog"])
    assert [(c.positions, c.splits, c.labels) for c in leaks.conflicts] == [
        ((0, 1), ("train", "train"), ("cat", "dog")),
        ((5, N + 2), ("train", "val"), ("cat", "dog")),
    ]
    assert any("train 0 is cat, train 1 is dog" in line for line in leaks.lines())


def test_multi_label_rows_are_compared_whole() -> None:
    train, val = pictures(N), pictures(10, seed=1)
    val[0], val[1] = train[0], train[1]
    labels = np.zeros((N + 10, 3), np.float32)
    labels[[0, N]] = [1, 0, 1]
    labels[1], labels[N + 1] = [1, 1, 0], 0
    (conflict,) = check(train, val, labels).conflicts
    assert conflict.positions == (1, N + 1)
    assert conflict.labels == ("0+1", "none")


@pytest.mark.parametrize("kind", [int, str])
def test_groups_on_both_sides_make_every_item_of_val_there_a_twin(kind: type) -> None:
    groups = np.array([kind(i // 10) for i in range(N + 30)])
    groups[N : N + 4] = kind(3)
    leaks = check(pictures(N), pictures(30, seed=1), groups=groups)
    (shared,) = leaks.groups
    assert (shared.group, shared.items, shared.other_items) == ("3", 4, 10)
    assert leaks.twins["val"].tolist() == list(range(N, N + 4))
    assert "1 group stands in both train and val" in leaks.lines()[0]


def test_twins_are_counted_against_train_and_leaks_between_all_splits() -> None:
    images = pictures(N)
    images[150], images[151] = images[110], images[0]  # test: a copy of val's, a copy of train's
    splits = {"train": np.arange(100), "val": np.arange(100, 140), "test": np.arange(140, N)}
    leaks = find_leaks(Signatures.of(images), np.zeros(N, np.int64), splits)
    assert pairs(leaks, "exact") == {("test", 150, "val", 110), ("test", 151, "train", 0)}
    assert leaks.twins["test"].tolist() == [151]
    assert leaks.twins["val"].tolist() == []


def test_few_or_no_images_in_a_split_are_no_error() -> None:
    images = pictures(4)
    leaks = check(images[:1], images[1:2])
    assert not leaks
    noisy = images.copy()
    noisy[:, :, 3, 3] ^= 4
    assert len(check(images[:2], noisy[:1]).near) == 1
    empty = {"train": np.arange(4), "val": np.arange(0)}
    assert not find_leaks(Signatures.of(images), np.zeros(4, np.int64), empty)
    assert not find_leaks(Signatures.of(images), np.zeros(4, np.int64), {"train": np.arange(4)})


def test_summary_is_strict_json_with_names_and_at_most_20_items_of_a_kind() -> None:
    train = pictures(N)
    names = [f"{i}.png" for i in range(N + 30)]
    groups = np.zeros(N + 30, np.int64)
    leaks = check(train, train[:30], np.arange(N + 30) % 7, groups=groups, names=names)
    summary = json.loads(json.dumps(leaks.as_dict(), allow_nan=False))
    assert summary["counts"]["exact"] == {"val in train": {"val": 30, "train": 30}}
    assert summary["counts"]["twins"] == {"val": 30}
    assert summary["counts"]["groups"] == {"val in train": 1}
    assert summary["counts"]["grouped"] == {"val in train": 30}
    assert summary["counts"]["conflicts"] == 30
    assert summary["near_rule"] == {"threshold": 0.9, "ratio": 0.25, "rank": 8}
    assert [len(items) for items in summary["items"].values()] == [20, 0, 20, 1]
    assert summary["items"]["exact"][0]["item"] == "200.png"
    assert len([item for item in leaks.items() if item["kind"] == "exact"]) == 30
    json.dumps(leaks.items(), allow_nan=False)
    assert leaks.lines()[0].startswith("exact copies: 30 of 30 val images in train; ")
    assert "200.png = 0.png" in leaks.lines()[0]


def test_the_line_of_near_duplicates_states_the_threshold() -> None:
    train, val = pictures(N), pictures(10, seed=1)
    val[0] = train[0] // 2 + 60
    (line,) = check(train, val, threshold=0.95).lines()
    assert line.startswith(
        "near duplicates (8×8 thumbnails correlate at 0.95 or more): 1 of 10 val "
    )
    assert "200 ~ 0 at " in line


def test_effect_is_the_unpaired_difference_of_two_means() -> None:
    correct = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0])
    twin = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], bool)
    found = effect(correct, twin)
    assert found["accuracy_with_twin"] == 0.75
    assert found["accuracy_without_twin"] == pytest.approx(0.2)
    assert found["difference"] == pytest.approx(0.55)
    # one right and one wrong item more on each side: 4 of 6 and 2 of 7
    se = (4 / 6 * 2 / 6 / 6 + 2 / 7 * 5 / 7 / 7) ** 0.5
    assert found["difference_se"] == pytest.approx(se)
    assert (found["n_with_twin"], found["n_without_twin"]) == (4, 5)


@pytest.mark.parametrize("side", [0, 1])
def test_effect_is_none_where_a_side_is_empty(side: int) -> None:
    found = effect(np.array([1, 0, 1]), np.full(3, bool(side)))
    known = "with" if side else "without"
    assert found[f"accuracy_{known}_twin"] == pytest.approx(2 / 3)
    assert found["difference"] is None
    assert found["difference_se"] is None
    few = effect(np.ones(11), np.arange(11) < 1)["difference_se"]
    assert few is not None
    assert few > 0.2  # a single item proves nothing


def parquet_images(file: Path) -> np.ndarray:
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(file, columns=["image"])["image"].to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows]
    return np.stack(images).transpose(0, 3, 1, 2)


@needs_data
def test_known_pairs_of_cifar_are_found_at_few_false_alarms() -> None:
    """Of 286 pairs at least 55 %, of other test images at most 4 %; exact hashes find none."""
    with np.load(DATA / "cifar10_10k" / "cifair_pairs.npz") as file:
        ids, partners = file["test_id"], file["train_id"]
        asked, known = (file[name].transpose(0, 3, 1, 2) for name in ("test_img", "train_img"))
    train = parquet_images(DATA / "cifar10_10k" / "train.parquet")
    test = parquet_images(DATA / "cifar10_10k" / "test.parquet")
    train = np.concatenate([train, known[partners >= len(train)]])
    others = test[np.setdiff1d(np.arange(len(test)), ids)]
    leaks = check(train, np.concatenate([asked, others]))
    assert not leaks.exact
    flagged = leaks.twins["val"] - len(train)
    assert (flagged < len(asked)).sum() >= 0.55 * len(asked)
    assert (flagged >= len(asked)).sum() <= 0.04 * len(others)


@needs_data
@pytest.mark.slow
def test_mnist_is_checked_in_seconds_and_few_digits_are_called_near() -> None:
    from torchvision.datasets import MNIST

    own, test = (
        MNIST(str(DATA / "mnist"), train=train).data.numpy()[:, None] for train in (True, False)
    )
    images = np.concatenate([own, test])
    order = np.random.default_rng(0).permutation(60_000)
    splits = {"train": order[6000:], "val": order[:6000], "test": np.arange(60_000, 70_000)}
    started = time.process_time()
    leaks = find_leaks(Signatures.of(images), np.zeros(70_000, np.int64), splits)
    assert time.process_time() - started < 60  # scripts/bench_leaks.py
    assert not leaks.exact
    assert len(leaks.twins["val"]) < 0.04 * 6000
    assert len(leaks.twins["test"]) < 0.04 * 10_000


def blobs(n: int, channels: int = 3, cells: int = 4) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (n, channels, cells, cells))
    return np.kron(coarse, np.ones((16 // cells, 16 // cells))).astype(np.uint8)


def families(n: int) -> np.ndarray:
    """Dark images of nine kinds, a few of each wholly black: most have many above 0.9."""
    draw = np.random.default_rng(1)
    own = draw.normal(0, 2, (n, 3, 16, 16))
    images = np.clip(blobs(9)[draw.integers(0, 9, n)] / 8 + own, 0, 255).astype(np.uint8)
    images[::50] = 0
    return images


@pytest.mark.parametrize(
    ("images", "least", "spares"),
    [
        pytest.param(blobs(900), 40, 0.5, id="smooth"),
        pytest.param(blobs(900, cells=8), 40, 0.5, id="noise, nothing cut off"),
        pytest.param(blobs(900, channels=1), 40, 0.5, id="grey"),
        pytest.param(families(900), 5, 0.0, id="families, nothing spared"),
    ],
)
def test_bounds_spare_the_search_and_lose_no_finding(
    images: np.ndarray, least: int, spares: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the search over all pairs."""
    draw = np.random.default_rng(0)
    images = images.copy()
    later = images[700:]
    copied = np.arange(0, 200, 4)
    noise = draw.normal(0, images[copied].std() / 8, later[copied].shape)
    later[copied] = np.clip(images[copied] + noise, 0, 255).astype(np.uint8)
    later[1] = images[3] // 2 + 60
    splits = {"train": np.arange(400), "val": np.arange(400, 700), "test": np.arange(700, 900)}
    signatures = Signatures.of(images)
    found = [find_leaks(signatures, np.zeros(900, np.int64), splits)]
    spared, bound = [], leak_bounds.may_be_near

    def counted(*arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        may, cut_short = bound(*arguments)
        spared.append(1 - may.mean())
        return may, cut_short

    monkeypatch.setattr(leak_bounds, "WORTH_IT", 200)
    monkeypatch.setattr(leak_bounds, "AT_ONCE", 70)
    monkeypatch.setattr(leaks_module, "may_be_near", counted)
    found.append(find_leaks(signatures, np.zeros(900, np.int64), splits))
    assert pairs(found[0], "near") == pairs(found[1], "near")
    assert len(pairs(found[0], "near")) >= least
    assert min(spared) >= spares


def directions(n: int, spread: np.ndarray) -> np.ndarray:
    """(n, D) of length 1, of a normal distribution with so much spread in each of D directions."""
    drawn = np.random.default_rng(n).normal(0, spread, (n, len(spread)))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


SPREADS = {
    "photographs": 1 / np.arange(1, 97),
    "noise": np.ones(96),
    "lines": np.r_[1.0, np.full(95, 1e-3)],
    "few numbers": np.ones(6),
    "two heaps": np.r_[1.0, np.full(5, 5e-4)],
}


@pytest.mark.parametrize("kept", [(1,), (4, 8), (48, 64, 96, 128)])
@pytest.mark.parametrize("ratio", [0.25, 100.0])
@pytest.mark.parametrize("spread", SPREADS)
def test_no_bound_spares_a_near_duplicate(
    spread: str, ratio: float, kept: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those at the threshold, and those that differ in what the bounds do not look at.

    Against the rule over all pairs in float64, when no bound is given up however much it leaves.
    """
    monkeypatch.setattr(leak_bounds, "WORTH_IT", 100)
    monkeypatch.setattr(leak_bounds, "KEPT", kept)
    monkeypatch.setattr(leak_bounds, "WASTED", 1.0)
    monkeypatch.setattr(leak_bounds, "MANY", 0.0)
    monkeypatch.setattr(leak_bounds, "FIRST", 1)
    monkeypatch.setattr(leak_bounds, "TOGETHER", 8)  # blocks of 64
    monkeypatch.setattr(leak_bounds, "AT_ONCE", 64)
    references, size = directions(1100, SPREADS[spread]), len(SPREADS[spread])
    queries = directions(300, SPREADS[spread])
    last = np.eye(size)[-1]
    for i, rho in enumerate(np.linspace(0.88, 1.0, 200)):
        near = references[5 * i]
        other = last if i % 2 else queries[i]
        aside = other - (other @ near) * near
        queries[i] = rho * near + np.sqrt(1 - rho**2) * aside / np.linalg.norm(aside)
    thumbnails = np.concatenate([references, queries]).astype(np.float16)
    rho = thumbnails[1100:].astype(float) @ thumbnails[:1100].astype(float).T
    every = np.sort(rho, 1)
    best, eighth = every[:, -1], np.maximum(every[:, -8], 0)
    is_near = (best >= 0.9) & (1 - best <= ratio * (1 - eighth))
    asked = thumbnails[1100:], thumbnails, np.arange(1100)
    may, cut_short = leak_bounds.may_be_near(*asked, 0.9, ratio)
    assert may[is_near].all()
    assert not cut_short.any()
    if spread in ("photographs", "noise") and ratio < 1:
        assert 80 < is_near.sum() < 200
        assert len(kept) < 3 or may.sum() < 1.5 * is_near.sum()


def many(n: int) -> tuple[Signatures, dict[str, np.ndarray]]:
    """Noise, a fifth of it in val; the first ten of val are near copies of some in train."""
    drawn = directions(n, np.ones(32))
    train, val = np.arange(n // 5, n), np.arange(n // 5)
    drawn[:10] = 0.99 * drawn[train[:10]] + 0.14 * drawn[:10]
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    hashes = np.arange(n).astype("S16")
    return Signatures(hashes, drawn.astype(np.float16)), {"train": train, "val": val}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16, of which an image is compared with all up to 12, with the nearest 4 of more."""
    for name, value in {"WORTH_IT": 100, "TOGETHER": 4, "FIRST": 2, "ALL": 12}.items():
        monkeypatch.setattr(leak_bounds, name, value)
    monkeypatch.setattr(leak_bounds, "NEAREST_IMAGES", 64)


def multiplied(n: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, Leaks]:
    """Blocks that each image of val was multiplied with by a bound, and what was found."""
    blocks, multiply = 0, leak_bounds._Bound._multiply

    def counted(self: Any, query: Any, block: Any, within: torch.Tensor, best: Any) -> None:
        nonlocal blocks
        blocks += int(within.sum())
        multiply(self, query, block, within, best)

    signatures, splits = many(n)
    with monkeypatch.context() as patched:
        patched.setattr(leak_bounds._Bound, "_multiply", counted)
        found = find_leaks(signatures, np.zeros(n, np.int64), splits)
    return blocks / len(splits["val"]), found


@pytest.mark.usefixtures("small_blocks")
def test_what_an_image_costs_has_an_end_and_a_search_cut_short_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (all_, few), (before, some), (after, more) = (
        multiplied(n, monkeypatch) for n in (200, 1000, 4000)
    )
    assert not few.cut_short
    assert all_ > 4 < len(few.near[0].positions)
    assert "cut_short" not in few.as_dict()
    assert 0 < after <= before
    for n, found in ((1000, some), (4000, more)):
        assert n // 10 < found.cut_short["val"] <= n // 5
        assert found.as_dict()["cut_short"] == found.cut_short
        assert found.lines()[-1] == (
            f"near duplicates of {found.cut_short['val']:,} of {n // 5:,} val images were looked"
            " for among the 16,384 earlier images that lie nearest, not among all"
        )
        assert len(found.near[0].positions) >= 8


@pytest.mark.usefixtures("small_blocks")
def test_a_search_is_not_cut_short_where_what_is_left_out_lies_too_far() -> None:
    """Sixteen heaps of forty, each far from the others."""
    axes = np.concatenate([np.eye(8), -np.eye(8)]).repeat(40, 0)
    drawn = axes + np.random.default_rng(0).normal(0, 0.05, axes.shape)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    signatures = Signatures(np.arange(640).astype("S16"), drawn.astype(np.float16))
    splits = {"train": np.flatnonzero(np.arange(640) % 40), "val": np.arange(0, 640, 40)}
    assert not find_leaks(signatures, np.zeros(640, np.int64), splits).cut_short


def test_no_query_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak_bounds, "WORTH_IT", 1)
    thumbnails = directions(9, np.ones(8)).astype(np.float16)
    asked = thumbnails[:0], thumbnails, np.arange(9)
    assert [len(found) for found in leak_bounds.may_be_near(*asked, 0.9, 0.25)] == [0, 0]


@pytest.mark.parametrize("width", [40, 512, 513, 2048])
def test_the_largest_of_a_row_are_those_of_topk(width: int) -> None:
    values = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    top, index = leaks_module._largest(values)
    assert torch.equal(top, values.topk(leaks_module.RANK, 1).values)
    assert torch.equal(values.gather(1, index), top)
