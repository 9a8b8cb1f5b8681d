"""Augmentation: crops and flips by hand, TrivialAugment against torchvision's own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from lrexp.data import transforms
from lrexp.data.transforms import OPERATIONS, Augment, Normalize, decoded, operate

CPU = torch.device("cpu")

THEIRS = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY",
    "translate_x": "TranslateX", "translate_y": "TranslateY", "rotate": "Rotate",
    "brightness": "Brightness", "color": "Color", "contrast": "Contrast",
    "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "autocontrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


def drawn(count: int, channels: int = 3, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def test_basic_is_a_crop_of_the_padded_image_or_its_mirror_image() -> None:
    images = drawn(200)
    changed = Augment("basic", 0)(images, np.arange(200), 1)
    padded = F.pad(images, (2, 2, 2, 2))
    seen: Counter[tuple[int, int, bool]] = Counter()
    for i in range(200):
        crops = {
            (y, x, flip): padded[i, :, y : y + 16, x : x + 16].flip(2 if flip else ())
            for y in range(5) for x in range(5) for flip in (False, True)
        }  # fmt: skip
        seen.update(k for k, crop in crops.items() if torch.equal(crop, changed[i]))
    assert sum(seen.values()) == 200
    for place in (0, 1):  # every offset about as often: 40 of 200, give or take
        counts = Counter(key[place] for key in seen.elements())
        assert set(counts) == set(range(5))
        assert min(counts.values()) > 20
    assert 70 < sum(n for key, n in seen.items() if key[2]) < 130


def test_a_change_depends_on_seed_epoch_and_image_alone() -> None:
    images, ids = drawn(30), np.arange(100, 130)
    for kind in ("basic", "trivial"):
        augment = Augment(kind, 5)
        whole = augment(images, ids, 2)
        turned = augment(images.flip(0), ids[::-1], 2)
        assert torch.equal(turned.flip(0), whole)
        alone = [augment(images[i : i + 1], ids[i : i + 1], 2)[0] for i in range(30)]
        assert torch.equal(torch.stack(alone), whole)
        assert not torch.equal(augment(images, ids, 3), whole)
        assert not torch.equal(Augment(kind, 6)(images, ids, 2), whole)


def test_the_batch_itself_stays_as_it_is() -> None:
    images = drawn(20)
    before = images.clone()
    Augment("trivial", 0)(images, np.arange(20), 1)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_strengths_are_torchvisions_trivial_augment(
    name: str, channels: int
) -> None:
    theirs = v2.TrivialAugmentWide()
    strengths_of, signed = theirs._AUGMENTATION_SPACE[THEIRS[name]]
    expected = strengths_of(31, 16, 16)
    strengths, ours_signed = OPERATIONS[name]
    assert ours_signed == signed
    if expected is not None:
        assert strengths == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-6)
    images = drawn(3, channels)
    for i in range(0, len(strengths), 5):
        for sign in (1, -1) if signed else (1,):
            amount = float(expected[i]) * sign if expected is not None else 0.0
            wanted = theirs._apply_image_or_video_transform(
                images, THEIRS[name], amount, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            assert torch.equal(operate(name, images, amount), wanted)


def test_every_operation_is_drawn_equally_often_and_every_strength() -> None:
    codes = Augment("trivial", 0).draw(np.arange(28_000), 1, (1, 2, 2), CPU).operations
    assert codes is not None
    drawn_of: dict[str, Counter[float]] = {name: Counter() for name in OPERATIONS}
    for name, amount in map(decoded, codes.tolist()):
        drawn_of[name][amount] += 1
    for name, counts in drawn_of.items():
        strengths, signed = OPERATIONS[name]
        assert 1800 < counts.total() < 2200  # 2,000 each, give or take 43
        signs = (1, -1) if signed else (1,)
        assert set(counts) == {amount * sign for amount in strengths for sign in signs}
        assert sum(n for amount, n in counts.items() if amount < 0) < 1200


@pytest.mark.parametrize(("channels", "side"), [(1, 12), (3, 17), (3, 32)])
def test_images_changed_together_are_what_torchvision_makes_of_each(
    channels: int, side: int
) -> None:
    augment, device = Augment("trivial", 2), CPU
    ids = np.arange(900)
    images = drawn(900, channels, side)
    codes = augment.draw(ids, 1, (channels, side, side), device).operations
    cropped = Augment("basic", 2)(images, ids, 1)
    changed = augment(images, ids, 1)
    assert codes is not None
    for i, code in enumerate(codes.tolist()):
        name, amount = decoded(code)
        assert torch.equal(operate(name, cropped[i : i + 1], amount)[0], changed[i]), name


def test_images_too_large_to_remember_their_moves_are_changed_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, ids = drawn(100), np.arange(100)
    remembered = Augment("trivial", 0)(images, ids, 1)
    monkeypatch.setattr(transforms, "MOST_PIXELS", 255)
    assert torch.equal(Augment("trivial", 0)(images, ids, 1), remembered)


@pytest.mark.parametrize("kind", ["basic", "trivial"])
def test_draws_of_many_batches_at_once_are_those_of_each(kind: str) -> None:
    augment, images, ids = Augment(kind, 1), drawn(50), np.arange(50)[::-1]
    drawn_at_once = augment.draw(ids, 3, (3, 16, 16), CPU)
    for rows in (slice(0, 20), slice(20, 40), slice(40, 60)):
        changed = drawn_at_once[rows](images[rows])
        assert torch.equal(changed, augment(images[rows], ids[rows], 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("side", [16, 33])
def test_crops_and_flips_are_the_same_bits_on_a_gpu(side: int) -> None:
    images, ids = drawn(300, side=side), np.arange(300)
    expected = Augment("basic", 0)(images, ids, 1)
    assert torch.equal(Augment("basic", 0)(images.cuda(), ids, 1).cpu(), expected)


def test_normalisation_is_pixel_minus_mean_over_std_per_channel() -> None:
    images = drawn(4)
    normalize = Normalize([0.4, 0.5, 0.6], [0.2, 0.25, 0.5], 255, torch.device("cpu"))
    for c, (mean, std) in enumerate([(0.4, 0.2), (0.5, 0.25), (0.6, 0.5)]):
        expected = (images[:, c].double() / 255 - mean) / std
        assert (normalize(images)[:, c] - expected).abs().max() < 1e-5
