"""What a data config becomes: further test sets, normalisation, what task=plan knows of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lrexp.build.data import build_dataset, stated_data
from lrexp.config.errors import ConfigError, UserError
from lrexp.models.weights import save_weights

CPU = torch.device("cpu")


def folders(root: Path, count: int = 12, *names: str) -> Path:
    """Image files of random 8×8 pixels, `count` of each class."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def of_folder(root: Path, *overrides: str) -> list[str]:
    return ["data=imagefolder", f"data.path={root}", "data.in_memory=true", *overrides]


def test_a_further_test_set_is_labelled_by_class_name(compose: Any, tmp_path: Path) -> None:
    root = folders(tmp_path / "own", 12, "ant", "bee", "cat")
    more = folders(tmp_path / "more", 3, "bee", "ant", "zebra")
    config = compose(*of_folder(root), f"data.eval_sets.more={more}")
    data = build_dataset(config, CPU)
    split = data.eval_sets["more"]
    assert data.class_names == ("ant", "bee", "cat")
    assert split.labels.tolist() == [0] * 3 + [1] * 3
    assert "left out 3 images of more: without a label, or of no class trained on" in data.notes
    assert config.data.eval_sets == {"more": str(more)}


def test_of_a_whole_data_set_the_test_part_is_the_further_test_set(
    compose: Any, tmp_path: Path
) -> None:
    root = folders(tmp_path / "own", 12, "ant", "bee")
    whole = folders(tmp_path / "whole", 5, "train/ant", "train/bee", "test/ant", "test/bee")
    only = folders(tmp_path / "only", 2, "test/bee")
    given = (f"data.eval_sets.whole={whole}", f"data.eval_sets.only={only}")
    found = build_dataset(compose(*of_folder(root), *given), CPU).eval_sets
    assert found["whole"].labels.tolist() == [0] * 5 + [1] * 5
    assert found["only"].labels.tolist() == [1] * 2


def test_a_further_test_set_of_another_kind_or_other_classes_is_refused(
    compose: Any, tmp_path: Path
) -> None:
    root = folders(tmp_path / "own", 12, "ant", "bee")
    other = folders(tmp_path / "other", 2, "oak", "elm")
    with pytest.raises(ConfigError, match=r"data\.eval_sets\.other.*elm, oak.*\(ant, bee"):
        build_dataset(compose(*of_folder(root), f"data.eval_sets.other={other}"), CPU)
    table = tmp_path / "own" / "labels.csv"
    with table.open("w") as file:
        rows = [(f"{c}/{i}.png", f"{c}|small") for c in ("ant", "bee") for i in range(12)]
        csv.writer(file).writerows([("path", "label"), *rows])
    several = ["data=csv", f"data.path={table}", "data.multi_label=true", "loss=bce"]
    with pytest.raises(ConfigError, match=r"data\.eval_sets\.own.*one label per image"):
        build_dataset(compose(*several, f"data.eval_sets.own={root}"), CPU)


@pytest.mark.parametrize("name", ["train", "val", "test", "train_eval", "a.b", "a/b"])
def test_names_that_would_be_mixed_up_are_refused(name: str, compose: Any) -> None:
    with pytest.raises(UserError):
        compose(f"data.eval_sets.{name}=.")


def test_weights_that_say_how_images_were_normalised_decide_it(
    compose: Any, tmp_path: Path
) -> None:
    root = folders(tmp_path / "own", 12, "ant", "bee")
    plain = build_dataset(compose(*of_folder(root)), CPU)
    assert abs(plain.mean[0] - 0.5) < 0.02  # measured: the pixels are uniform
    run = ["model=mlp", f"model.weights={tmp_path}/w.safetensors"]
    from lrexp.build.experiment import build

    model = build(compose(*of_folder(root), "model=mlp")).model
    save_weights(model.state_dict(), tmp_path / "w.safetensors", ("ant", "bee"))
    silent = build(compose(*of_folder(root), *run)).dataset
    assert silent.mean == plain.mean
    assert any("do not say how their images were normalised" in note for note in silent.notes)
    from safetensors.torch import save_file

    facts = {"mean": "[0.4, 0.5, 0.6]", "std": "[0.1, 0.2, 0.3]"}
    save_file(dict(model.state_dict()), tmp_path / "w.safetensors", metadata=facts)
    said = build_dataset(compose(*of_folder(root), *run), CPU)
    assert (said.mean, said.std) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    assert build_dataset(compose(*of_folder(root, "data.normalize=dataset"), *run), CPU).mean == (
        plain.mean
    )
    grey = build_dataset(compose(*of_folder(root, "data.channels=1"), *run), CPU)
    assert grey.mean == pytest.approx([0.5])
    assert grey.std == pytest.approx([0.2])
    assert silent.notes[-1].endswith(" data.normalize=imagenet")
    imagenet = build_dataset(compose(*of_folder(root, "data.normalize=imagenet"), *run), CPU)
    assert (imagenet.mean, imagenet.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    settings = ("data.normalize=imagenet", "data.channels=1")
    grey = build_dataset(compose(*of_folder(root, *settings)), CPU)
    assert (grey.mean, grey.std) == (pytest.approx([0.449]), pytest.approx([0.226]))
    with pytest.raises(ConfigError, match=r"data\.normalize=weights.*no weights say"):
        build_dataset(compose(*of_folder(root), "data.normalize=weights"), CPU)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.classes=[2,7,9]",),
        ("data.limit=50",),
        ("data.limit_per_class=4",),
        ("data.val_fraction=0.3", "data.test_fraction=0"),
        ("data.image_size=12",),
    ],
)
def test_what_is_stated_of_the_digits_is_what_a_run_has(
    overrides: tuple[str, ...], compose: Any
) -> None:
    config = compose(*overrides)
    stated, data = stated_data(config), build_dataset(config, CPU)
    assert stated.class_names == data.class_names
    assert stated.image_shape == data.image_shape
    assert abs(stated.train_size - len(data.train)) <= (0 if stated.exact else 5)


def test_what_is_stated_of_own_images_is_read_from_them(compose: Any, tmp_path: Path) -> None:
    root = folders(tmp_path / "own", 12, "ant", "bee", "cat")
    (root / "ant" / "0.png").write_bytes(b"")
    config = compose(*of_folder(root, "data.on_corrupt=drop", "data.classes=[ant,cat]"))
    stated, data = stated_data(config), build_dataset(config, CPU)
    assert stated.class_names == data.class_names == ("ant", "cat")
    assert stated.image_shape == (3, 8, 8)
    assert not stated.exact
    assert stated.train_size - 1 <= len(data.train) <= stated.train_size
    assert list(data.left_out) == [str(root / "ant" / "0.png")]


def test_a_sets_own_test_part_is_stated_to_be_left_alone(compose: Any) -> None:
    assert stated_data(compose("data=cifar10", "data.test_fraction=0.1")).train_size == 45_000
    assert stated_data(compose("data=cifar10")).class_names[3] == "cat"
