"""Synthetic images: shapes, noise, and that every class can be learnt."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from lrexp.data.sources.synthetic import synthetic


def test_synthetic_images_have_the_shape_that_was_asked_for_and_balanced_classes() -> None:
    source = synthetic([3, 5, 7], 4, 101, 0.5)
    assert source.images.shape == (101, 3, 5, 7)
    assert np.bincount(source.labels).tolist() == [26, 25, 25, 25]
    assert source.class_names == ("0", "1", "2", "3")


def test_synthetic_images_are_the_same_every_time_and_every_class_can_be_learnt() -> None:
    source = synthetic([1, 28, 28], 10, 4000, 0.5)
    images = np.asarray(source.images)
    assert (images == synthetic([1, 28, 28], 10, 4000, 0.5).images).all()
    assert (images[:99] == synthetic([1, 28, 28], 10, 99, 0.5).images).all()
    flat = images.reshape(4000, -1).astype(float)
    means = np.stack([flat[:2000][source.labels[:2000] == c].mean(0) for c in range(10)])
    nearest = ((flat[2000:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == source.labels[2000:]).mean() > 0.99


def test_synthetic_parts_join(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = synthetic([1, 5, 5], 3, 50, 0.5).images
    monkeypatch.setattr(importlib.import_module(synthetic.__module__), "_PART", 200)
    assert (whole == synthetic([1, 5, 5], 3, 50, 0.5).images).all()  # type: ignore[union-attr]


def test_synthetic_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    clean, noisy = (np.asarray(synthetic([1, 16, 16], 2, 2000, s).images, float) for s in (0, 0.1))
    inside = (clean > 80) & (clean < 175)  # where nothing is clipped
    difference = (noisy - clean)[inside] / 255
    assert abs(difference.mean()) < 0.001
    assert abs(difference.std() - 0.1) < 0.001
    assert (clean[0] == clean[2]).all()


def test_synthetic_prototypes_are_smooth_and_span_all_greys() -> None:
    image = np.asarray(synthetic([1, 64, 64], 2, 2, 0).images, int)[0, 0]
    assert (image.min(), image.max()) == (0, 255)
    assert max(abs(np.diff(image, axis=0)).max(), abs(np.diff(image, axis=1)).max()) < 20
