"""Data that the points of a grid share: read once, changed by none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from trainers import Silent, trainer_of

from lrexp.build.data import Datasets, build_dataset
from lrexp.build.experiment import build
from lrexp.data.dataset import Dataset
from lrexp.data.draws import cut

CPU = torch.device("cpu")


def batches(dataset: Dataset, epoch: int = 1) -> torch.Tensor:
    parts = cut(np.arange(64), 16)
    return torch.cat([x for x, _ in dataset.train.batches(parts, epoch)])


@pytest.mark.parametrize(
    "other",
    [
        *("seed=1", "data.batch_size=32", "optimizer.lr=0.2", "model.hidden=9", "trainer.epochs=3"),
        "lr_policy=ulmfit",
    ],
)
def test_points_that_differ_elsewhere_share_their_data(
    compose: Callable[..., Any], other: str
) -> None:
    datasets = Datasets()
    one, two = (datasets.get(compose(*more), CPU) for more in ([], [other]))
    assert datasets.built == 1
    assert one.train.pixels is two.train.pixels


@pytest.mark.parametrize(
    "other",
    [
        *("data.seed=1", "data.limit=100", "data.val_fraction=0.1", "trainer.train_eval_limit=50"),
        *("data.normalize={mean: [0.5], std: [0.5]}", "data.image_size=16", "data.classes=[0,1]"),
        "data.augment=basic",
    ],
)
def test_what_the_data_depends_on_keeps_it_apart(compose: Callable[..., Any], other: str) -> None:
    datasets, config = Datasets(), compose(other)
    datasets.get(compose(), CPU)
    shared, fresh = datasets.get(config, CPU), build_dataset(config, CPU)
    assert datasets.built == 2
    assert torch.equal(batches(shared), batches(fresh))


def test_augmentation_follows_each_points_own_seed(compose: Callable[..., Any]) -> None:
    datasets = Datasets()
    for seed in (0, 1):
        config = compose("data.augment=basic", f"seed={seed}")
        fresh = build_dataset(config, CPU)
        assert torch.equal(batches(datasets.get(config, CPU)), batches(fresh))
    assert datasets.built == 1


def test_training_changes_nothing_in_shared_data(compose: Callable[..., Any]) -> None:
    datasets, config = Datasets(), compose("experiment=smoke", "data.augment=basic")
    before = datasets.get(config, CPU)
    kept = [before.val.images.clone(), batches(before), before.train.labels.clone()]
    experiment = build(config, datasets)
    trainer = trainer_of(config, experiment)
    trainer.run(Silent())
    after = datasets.get(config, CPU)
    now = [after.val.images, batches(after), after.train.labels]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    assert experiment.dataset.train.pixels is after.train.pixels


def test_old_data_makes_room(compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = Datasets()
    configs = [compose(f"data.seed={seed}") for seed in range(3)]
    size = 1797 * 64  # bytes of all digits
    monkeypatch.setattr("lrexp.build.data.free_bytes", lambda device: 4 * 1.5 * size)
    for config in configs:
        datasets.get(config, CPU)
    datasets.get(configs[2], CPU)
    assert datasets.built == 3
    datasets.get(configs[0], CPU)
    assert datasets.built == 4
