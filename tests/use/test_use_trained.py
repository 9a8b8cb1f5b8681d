"""A trained run, loaded from its folder alone, sees images as its own evaluation did."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_runs import CLASSES, SIDE, moved_run, picture, predictions_of
from PIL import Image, ImageOps
from trainers import Silent

from lrexp.build.model import build_network, network_settings
from lrexp.config.errors import UserError
from lrexp.data.images import ImageError
from lrexp.data.preprocessing import Preprocessing, Transform
from lrexp.data.sources.digits import digits
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.use.trained import Trained, load_trained

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(image_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Loaded where its data are not, and its config names none that are."""
    folder = moved_run(image_run, tmp_path_factory.mktemp("elsewhere"))
    config = (folder / "config.yaml").read_text()
    config, moved = re.subn(r"( path: )(.|\n)*?/data$", r"\1/nowhere", config, flags=re.MULTILINE)
    config, began = re.subn(r"( weights: )null", r"\1/no/run", config)
    assert moved == began == 1
    (folder / "config.yaml").write_text(config)
    return load_trained(folder)


def test_what_was_trained_is_there_without_the_data(trained: Trained, image_run: Path) -> None:
    assert trained.class_names == CLASSES
    assert (trained.config.data.path, trained.config.model.weights) == ("/nowhere", "/no/run")
    assert trained.config.model.name == "simple_cnn"
    assert not trained.model.training
    best = torch.load(image_run / "run/checkpoints/best.pt", weights_only=True)
    assert trained.epoch == best["epoch"]
    state = trained.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in best["model"].items())


def test_best_weights_carry_the_preprocessing_as_plain_values(image_run: Path) -> None:
    best = torch.load(image_run / "run/checkpoints/best.pt", weights_only=True)
    found = best["preprocessing"]
    assert best["class_names"] == list(CLASSES)
    sides = {"channels": 3, "height": SIDE, "width": SIDE, "white": 255}
    assert found == sides | {
        "resize": "PIL.ImageOps.fit, bilinear",
        "mean": found["mean"],
        "std": found["std"],
    }
    config = (image_run / "run/config.yaml").read_text()
    for number in (*found["mean"], *found["std"]):
        assert f"  - {number}\n" in config


def test_scores_of_the_test_images_are_those_of_the_run_to_the_last_digit(
    trained: Trained, image_run: Path
) -> None:
    rows = predictions_of(image_run / "run")
    own = np.stack(rows.scores)
    images = trained.transform(Image.open(item) for item in rows["item"])
    assert np.array_equal(trained.scores(images).numpy(), own)
    with torch.autocast("cpu", torch.bfloat16):  # of the program that asks
        assert np.array_equal(trained.scores(images).numpy(), own)
    assert torch.equal(trained.transform(rows["item"]), images)
    plain = [torchvision_like(item) for item in rows["item"]]
    other = trained.scores(trained.transform.of_pixels(plain)).numpy()
    assert np.abs(other - own).max() > 1e-4  # decoded and resized otherwise they are others


def torchvision_like(file: str) -> np.ndarray:
    image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.moveaxis(np.asarray(image), 2, 0)


def test_data_of_fewer_grey_levels_are_met_in_those_levels(prepare: Any, tmp_path: Path) -> None:
    """Digits have 17 grey levels; images have 256."""
    trainer = prepare("data.limit=64", "trainer.limit_train_batches=1")
    split, source = trainer.experiment.dataset.test, digits()
    transform = Transform(trainer.experiment.dataset.preprocessing, CPU)
    grey = np.round(source.images[split.ids] * (255 / 16)).astype(np.uint8)  # (n, 1, 8, 8)
    assert torch.equal(transform(torch.from_numpy(grey)), split.images)
    assert torch.equal(transform([Image.fromarray(one[0]) for one in grey]), split.images)


def test_a_transform_takes_images_of_any_size_and_kind() -> None:
    transform = Transform(Preprocessing((3, 6, 10), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), CPU)
    image = picture(3, 1)
    (one,) = transform(image)
    fitted = np.asarray(ImageOps.fit(image, (10, 6), Image.Resampling.BILINEAR)) / 255
    expected = (fitted - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    assert one.dtype == torch.float32
    np.testing.assert_allclose(one.numpy(), np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-6)
    tensor = torch.from_numpy(np.moveaxis(np.asarray(image), 2, 0).copy())
    assert torch.equal(transform(tensor)[0], one)
    assert torch.equal(transform([tensor, image]), torch.stack([one, one]))
    assert torch.equal(transform(tensor[None]), one[None])
    grey = tensor[:1]
    assert torch.equal(transform(grey), transform(grey.expand(3, -1, -1)))
    with pytest.raises(ImageError, match="float32; a tensor is"):
        transform(tensor.float())
    with pytest.raises(ImageError, match="has 2 channels, the network sees 3"):
        transform(tensor[:2])


def test_a_transform_of_other_channels_takes_tensors_alone() -> None:
    transform = Transform(Preprocessing((4, 6, 6), (0.5,) * 4, (0.2,) * 4), CPU)
    tensor = torch.randint(256, (4, 9, 9), dtype=torch.uint8)
    assert transform(tensor).shape == (1, 4, 6, 6)
    with pytest.raises(ImageError, match="has 1 or 3 channels, the network sees 4"):
        transform(picture(1, 1))


def test_the_average_of_the_weights_is_what_is_loaded(prepare: Any, tmp_path: Path) -> None:
    trainer = prepare(
        "trainer.ema=0.9", "data.limit=64", "trainer.epochs=1", "trainer.limit_train_batches=2"
    )
    trainer.run(Silent(), tmp_path)
    best = load_checkpoint(tmp_path / "best.pt")
    now, average = trainer.experiment.model.state_dict(), trainer.average.state()
    assert Preprocessing.of_dict(best["preprocessing"]).image_shape == (1, 8, 8)
    assert torch.equal(best["model"]["head.weight"], average["head.weight"])
    assert not torch.equal(best["model"]["head.weight"], now["head.weight"])


def test_a_network_is_built_without_the_weights_it_began_from(compose: Any) -> None:
    config = compose(
        *("model=torchvision", "model.name=inception_v3", "model.pretrained=true"),
        "model.args={transform_input: false}",
    )
    assert network_settings(config.model) == {
        "name": "inception_v3",
        "args": {"transform_input": False},
        "stem": "imagenet",
    }
    config.model.args = {}
    assert network_settings(config.model)["args"] == {"transform_input": True}
    config = compose("model=mlp", "model.widths=[4]")
    config.model.weights = "/nowhere"
    network = build_network(config, (1, 2, 2), 3)
    same = trainer_free_copy(config)
    assert all(map(torch.equal, network.parameters(), same.parameters()))


def trainer_free_copy(config: Any) -> torch.nn.Module:
    torch.manual_seed(99)  # what others drew moves nothing
    return build_network(config, (1, 2, 2), 3)


def broken(made: Path, to: Path, what: str) -> Path:
    """A run that cannot be used, in one of several ways."""
    folder = moved_run(made, to)
    file = folder / "checkpoints/best.pt"
    best = torch.load(file, weights_only=True)
    if what == "older":
        del best["preprocessing"]
    elif what == "nonsense":
        best["preprocessing"]["std"] = [0.0, 1.0, 1.0]
    elif what == "other rule":
        best["preprocessing"]["resize"] = "nearest"
    elif what == "other network":
        best["model"]["head.weight"] = best["model"]["head.weight"][:, :5].clone()
    torch.save(best, file)
    if what == "gone":
        file.unlink()
    elif what == "damaged":
        file.write_bytes(file.read_bytes()[:999])
    elif what in ("diverged", "range_test"):
        file.unlink()
        summary, config = folder / "summary.json", folder / "config.yaml"
        summary.write_text(summary.read_text().replace('"finished"', '"diverged"'))
        config.write_text(config.read_text().replace("name: train\n", "name: range_test\n"))
        if what == "diverged":
            shutil.copy(made / "run/config.yaml", config)
    elif what == "alone":
        return Path(shutil.copy(folder / "config.yaml", to / "alone.yaml"))
    elif what == "sweep":
        (to / "multirun.yaml").touch()
        return to
    return folder


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("older", "says nothing of preprocessing.*lrexp rerun trains the run again"),
        ("nonsense", "is no checkpoint of a run: it resizes by .*divides by 0"),
        ("other rule", "is no checkpoint of a run: it resizes by 'nearest'"),
        ("other network", "does not fit the network of .*config.yaml.*head.weight"),
        ("gone", "has no checkpoints/best.pt\n  a run writes it after its first epoch"),
        ("damaged", "is a damaged or incomplete checkpoint"),
        ("diverged", "has no checkpoints/best.pt\n  the run diverged"),
        ("range_test", "it is of task=range_test, which trains nothing"),
        ("alone", "is a config alone: give the folder of its run"),
        ("sweep", "it is a sweep: give one of them: moved"),
    ],
)
def test_a_run_that_cannot_be_used_is_refused_with_the_reason(
    image_run: Path, tmp_path: Path, what: str, said: str
) -> None:
    folder = broken(image_run, tmp_path, what)
    with pytest.raises(UserError, match=re.compile(said, re.DOTALL)):
        load_trained(folder)


def test_a_device_that_is_not_there_or_is_none_is_refused(image_run: Path) -> None:
    with pytest.raises(UserError, match="device=gpu: is not a device"):
        load_trained(image_run / "run", "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda: is not on this machine"):
            load_trained(image_run / "run", "cuda")


def test_an_artifact_without_folders_is_a_run(image_run: Path, tmp_path: Path) -> None:
    folder = moved_run(image_run, tmp_path)
    (folder / "checkpoints/best.pt").rename(folder / "best.pt")
    assert load_trained(folder).class_names == CLASSES
