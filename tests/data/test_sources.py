"""Every source: as configured, handed to a worker, and on real data."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from source_files import hf, parquet, pixel, put, table, written

from lrexp.config.errors import ConfigError
from lrexp.data.sources.imagefolder import imagefolder

DATA = os.environ.get("LREXP_TEST_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="LREXP_TEST_DATA is not set")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def test_a_config_reaches_its_source(tmp_path: Path, compose: Callable[..., Any]) -> None:
    from lrexp.build.data import open_source

    file = parquet(tmp_path / "t.parquet", label=[0, 1, 0, 1], track=[1, 1, 2, 3])
    source = open_source(compose("data=hf", f"data.path={file}", "data.group_by=track"))
    assert source.groups is not None
    assert source.groups.tolist() == [0, 0, 1, 2]
    source = open_source(
        compose("data=synthetic", "data.image_shape=[2,6,6]", "data.num_classes=3")
    )
    assert (source.images.shape[1:], len(source.class_names)) == ((2, 6, 6), 3)
    put(tmp_path / "f", "a/1.png", "b/1.png")
    sized = compose("data=imagefolder", f"data.path={tmp_path}/f", "data.image_size=9")
    assert open_source(sized).read(0)[0].shape == (3, 9, 9)
    listed = written(tmp_path / "t.csv", "path,label\n1.png,a\n2.png,b\n")
    assert len(open_source(compose("data=csv", f"data.path={listed}")).labels) == 2


def test_paths_are_made_absolute_and_hub_names_are_kept(
    tmp_path: Path, compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "mine/a/1.png")
    monkeypatch.chdir(tmp_path)
    assert compose("data=imagefolder", "data.path=mine").data.path == str(tmp_path / "mine")
    assert compose("data=hf", "data.path=mine").data.path == str(tmp_path / "mine")
    assert compose("data=hf", "data.path=me/mine").data.path == "me/mine"


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no path": (["data=hf"], r"data\.path: has no value"),
    "no such folder": (["data=imagefolder", "data.path=x"], r"data\.path=x: there is no folder"),
    "no such file": (["data=csv", "data.path=x.csv"], r"data\.path=x\.csv: there is no file"),
    "no such parquet": (["data=hf", "data.path=x.parquet"], r"data\.path=x\.parquet: there is no"),
    "two channels": (
        ["data=hf", "data.path=x", "data.channels=2"], r"data\.channels=2: must be 1 \(grey\) or 3",
    ),
    "groups without columns": (
        ["data=digits", "data.group_by=writer"], r"data\.group_by=writer: .*no columns\n.*data=hf",
    ),
    "a shape that nobody states": (
        ["data=synthetic", "data.num_classes=null"], r"data\.num_classes=null: may not be empty",
    ),
    "no download": (
        ["data=cifar10", "data.root=x", "data.download=false"],
        r"data\.root=x: there is no folder x/cifar-10-batches-py",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_anything_is_read(name: str, compose: Callable[..., Any]) -> None:
    overrides, problem = MISTAKES[name]
    with pytest.raises(ConfigError, match=problem):
        compose(*overrides)


def test_files_of_every_source_can_be_handed_to_a_worker_that_starts_anew(tmp_path: Path) -> None:
    put(tmp_path, "images/a/1.png", "images/b/2.png")
    listed = written(tmp_path / "t.csv", "path,label\nimages/a/1.png,a\nimages/b/2.png,b\n")
    sources = (
        hf(parquet(tmp_path / "t.parquet")), imagefolder(f"{tmp_path}/images", 3), table(listed),
    )  # fmt: skip
    for source in sources:
        assert pixel(pickle.loads(pickle.dumps(source)), 1) == 1


@needs_data
def test_cifar_10_as_parquet_opens_without_reading_images_with_its_own_splits_and_names() -> None:
    started = time.process_time()
    source = hf(f"{DATA}/cifar10_10k")
    assert time.process_time() - started < 5.0
    assert source.split is not None
    assert np.bincount(source.split, minlength=3).tolist() == [10_000, 0, 1_000]
    assert source.class_names[:3] == ("airplane", "automobile", "bird")
    assert source.read(0)[0].shape == (3, 32, 32)


@needs_data
def test_traffic_signs_have_888_tracks_each_of_one_class() -> None:
    source = hf(f"{DATA}/gtsrb32", group_by="track")
    assert len(source.class_names) == 43
    assert source.groups is not None
    assert len(source.group_names) == source.groups.max() + 1 == 888
    for track in range(0, 888, 50):
        assert len(set(source.labels[source.groups == track])) == 1


@needs_data
def test_hymenoptera_photographs_are_245_to_train_on_and_153_to_validate() -> None:
    source = imagefolder(f"{DATA}/hymenoptera", 3).of_size(160)
    assert source.split is not None
    assert np.bincount(source.split).tolist() == [245, 153]
    assert source.class_names == ("ants", "bees")
    assert source.read(397)[0].shape == (3, 160, 160)
