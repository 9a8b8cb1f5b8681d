"""A run trained on image files of every kind, made once for all tests that use trained runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from command_lines import main_in
from PIL import Image

CLASSES = ("ash", "birch", "cedar")
SIDE = 12  # pixels, of what the network sees


def picture(value: int, label: int, mode: str = "RGB") -> Image.Image:
    """A picture of a size of its own, brighter by class, in a mode of Pillow's."""
    generator = np.random.default_rng(value)
    sides = tuple(generator.integers(SIDE - 2, 3 * SIDE, 2))
    noise = generator.integers(0, 100, (*sides, 3)) + 70 * label
    return Image.fromarray(noise.astype(np.uint8)).convert(mode)


def write_pictures(folder: Path, each: int = 12) -> None:
    """FOLDER/CLASS/NUMBER.png or .tif: colour, grey, with alpha, turned by EXIF, of a palette."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            mode = ("RGB", "L", "RGBA", "P", "RGB")[i % 5]
            image = picture(100 * label + i, label, mode)
            if mode == "RGBA":
                image.putalpha(Image.new("L", image.size, 128))
            exif = Image.Exif()
            if i % 5 == 4:
                exif[0x0112] = 6
            image.save(folder / name / f"{i}.png", exif=exif)


def train_on_pictures(folder: Path, *overrides: str) -> None:
    """FOLDER/data and FOLDER/run."""
    write_pictures(folder / "data")
    code = main_in(
        folder,
        *("experiment=smoke", "data=imagefolder", f"data.path={folder / 'data'}"),
        *(f"data.image_size={SIDE}", "trainer.device=cpu", "trainer.threads=1", "logger=none"),
        *("data.val_fraction=0.3", "data.test_fraction=0.3", "hydra.run.dir=run"),
        *("trainer.epochs=6", "trainer.limit_train_batches=null", "optimizer.lr=0.1", *overrides),
    )
    assert code == 0


def moved_run(made: Path, to: Path) -> Path:
    """A copy of a run, beside which there are no data."""
    return Path(shutil.copytree(made / "run", to / "moved"))


def predictions_of(run: Path, split: str = "test") -> Any:
    """The rows of predictions.parquet of a split, as a frame of pandas."""
    import pyarrow.parquet as pq

    found = pq.read_table(run / "predictions.parquet").to_pandas()
    return found[found.split == split]


def untrained_run(folder: Path, config: Any, image_shape: tuple[int, int, int]) -> Path:
    """A run folder with a config and best weights that nobody trained: those it begins with."""
    from dataclasses import asdict

    from omegaconf import OmegaConf

    from lrexp.build.model import build_network
    from lrexp.data.preprocessing import Preprocessing
    from lrexp.folder.checkpoint import save_checkpoint

    channels = image_shape[0]
    how = Preprocessing(image_shape, (0.45,) * channels, (0.25,) * channels)
    state = build_network(config, image_shape, len(CLASSES)).state_dict()
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
    best = {"model": state, "epoch": 3, "class_names": list(CLASSES)}
    save_checkpoint(folder / "checkpoints/best.pt", {**best, "preprocessing": how.as_dict()})
    return folder
