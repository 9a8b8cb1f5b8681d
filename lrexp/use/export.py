"""A run's network in a folder of its own, for programs without lrexp. Nothing in it is pickled."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import lrexp
from lrexp.config.errors import UserError, few, first_line
from lrexp.config.redact import redacted
from lrexp.data import images
from lrexp.data.generators import begun_at
from lrexp.folder.layout import EXPORT
from lrexp.models.weights import save_weights
from lrexp.runs.run import read_run
from lrexp.use.card import model_card
from lrexp.use.network_source import network_source
from lrexp.use.onnx_file import require_onnx, write_onnx
from lrexp.use.trained import Trained, load_trained

WEIGHTS, NETWORK, IMAGES = "model.safetensors", "network.py", "images.py"
ABOUT, EXAMPLE, CARD, ONNX = "config.json", "example.py", "README.md", "model.onnx"
FILES = {
    WEIGHTS: "the best weights, with class names, mean and std in its metadata",
    NETWORK: "`network()` makes the network",
    IMAGES: "decodes and resizes images as in training",
    ABOUT: "class names, sizes, mean and std",
    EXAMPLE: "scores of images, in a few lines: copy from it",
    CARD: "this card",
    ONNX: "the network alone for ONNX: `images` (B, C, H, W) normalised → `logits`",
}
CHECKED = 8  # random images that the written network is held against the run's with
SAME = 1e-5  # of the largest logit

EXAMPLE_TEXT = '''\
"""Scores of images: python example.py IMAGE ..."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from images import read_image
from network import network
from safetensors.torch import load_file

folder = Path(__file__).parent
about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
how, names = about["preprocessing"], about["class_names"]
channels, sides, white = how["channels"], (how["height"], how["width"]), how["white"]
mean, std = (torch.tensor(how[key])[:, None, None] for key in ("mean", "std"))
model = network().eval()
model.load_state_dict(load_file(folder / "model.safetensors"))


@torch.inference_mode()
def scores(file: str) -> torch.Tensor:
    """(classes,) in [0, 1]."""
    pixels, _ = read_image({opened}, channels, sides)  # (C, H, W) uint8
    image = torch.from_numpy(np.round(pixels * (white / 255))).float()
    return model((image * (1 / (white * std)) - mean / std)[None])[0].{function}


if __name__ == "__main__":
    for file in sys.argv[1:] or sys.exit("python example.py IMAGE ..."):
        print(file, *(f"{{n}}={{s:.6f}}" for n, s in zip(names, scores(file).tolist())))
'''


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    trained: Trained
    bytes_of: dict[str, int]  # by file
    apart: float  # largest difference of a logit, of the run's network and the written one
    onnx_apart: float | None  # the same for ONNX; None where it was not asked for


def export(
    run: str | Path, out: Path | None = None, onnx: bool = False, overwrite: bool = False
) -> Exported:
    """Write a run's network with its best weights, and all that programs without lrexp need.

    Args:
        run: as `load_trained` takes it.
        out: the folder; None: `exported` in the run's own.
        onnx: write it as ONNX, too.
        overwrite: replace what an export left there.

    Raises:
        UserError: when there is no such run, the network cannot be exported, what was written
            computes something else, or the folder must not be written.
    """
    if onnx:
        require_onnx()
    if out is not None:
        out = Path(os.path.abspath(out))
        _refuse_out(out, overwrite)
    trained = load_trained(run, "cpu")
    folder = trained.folder / EXPORT if out is None else out
    _refuse_out(folder, overwrite)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        fresh.mkdir()
    except OSError as error:
        why = error.strerror or first_line(error)
        problem = f"{folder.parent} cannot be written to: {why}"
        raise UserError(f"{problem}\n  --out DIR writes elsewhere") from error
    try:
        apart = _write(trained, fresh)
        onnx_apart = write_onnx(trained, fresh / ONNX) if onnx else None
        _write_card(trained, fresh)
        sizes = {name: (fresh / name).stat().st_size for name in FILES if (fresh / name).exists()}
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Exported(folder, trained, sizes, apart, onnx_apart)


def _refuse_out(folder: Path, overwrite: bool) -> None:
    """Raise a UserError for a folder that is not to be written."""
    if folder == Path.cwd():  # it would be another one afterwards, under one's feet
        raise UserError(f"--out {folder} is the folder you are in: name one in it")
    if not folder.parent.is_dir():
        raise UserError(f"--out {folder}: there is no folder {folder.parent}")
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder} is there already, and is no folder")
    found = {path.name for path in folder.iterdir()}
    if others := sorted(found - {*FILES, "__pycache__"}):
        raise UserError(f"{folder} holds what no export wrote ({few(others, 3)}): name another")
    if found and not overwrite:
        raise UserError(
            f"{folder} is there already\n  --overwrite replaces it, --out names another"
        )


def _write(trained: Trained, folder: Path) -> float:
    """Everything but ONNX and the card; returns how far the network is from the run's."""
    how, names = trained.preprocessing, trained.class_names
    save_weights(trained.model.state_dict(), folder / WEIGHTS, names, (how.mean, how.std))
    texts = {
        NETWORK: network_source(trained),
        IMAGES: Path(images.__file__).read_text(encoding="utf-8"),
        EXAMPLE: example_text(how.image_shape[0], trained.multi_label),
        ABOUT: json.dumps(_about(trained), indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / WEIGHTS).chmod((folder / ABOUT).stat().st_mode)  # its library makes it private
    return _apart(trained, folder)


def example_text(channels: int, multi_label: bool) -> str:
    """The program that shows how the network is used: of arrays where no file has its channels."""
    opened = "file" if channels in (1, 3) else "np.load(file)"
    return EXAMPLE_TEXT.format(opened=opened, function="sigmoid()" if multi_label else "softmax(0)")


def _about(trained: Trained) -> dict[str, Any]:
    config = trained.config
    return {
        "class_names": list(trained.class_names),
        "multi_label": trained.multi_label,
        "preprocessing": trained.preprocessing.as_dict(),
        "network": config.model.name,
        "run": {
            "run_id": config.run_id,
            "name": config.name,
            "seed": config.seed,
            "epoch": trained.epoch,
            "lrexp": lrexp.__version__,
        },
    }


def _apart(trained: Trained, folder: Path) -> float:
    """Largest difference of a logit between the run's network and the written one.

    Raises:
        UserError: when the written one cannot be made, or differs by more than rounding.
    """
    name, generator = trained.config.model.name, torch.Generator().manual_seed(0)
    try:
        with begun_at(0, torch.device("cpu")):
            written = runpy.run_path(str(folder / NETWORK))["network"]().eval()
        written.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # a network of the user's own, made without its config
        raise UserError(f"{name} cannot be exported: {first_line(error)}") from error
    seen = torch.randn(CHECKED, *trained.preprocessing.image_shape, generator=generator)
    with torch.inference_mode():
        own, found = trained.model(seen), written(seen)
    apart = float((own - found).abs().max())
    if not apart <= SAME * max(1.0, float(own.abs().max())):
        raise UserError(f"{name} cannot be exported: made anew its logits differ by {apart:.2g}")
    return apart


def _write_card(trained: Trained, folder: Path) -> None:
    what = {name: said for name, said in FILES.items() if (folder / name).exists()}
    needed = ["torch", "safetensors", "pillow", "numpy"]
    needed += [package for package in ("timm", "torchvision") if _imports(folder, package)]
    use = "\n".join(["```", f"pip install {' '.join(needed)}", f"python {EXAMPLE} IMAGE", "```"])
    card = model_card(trained, read_run(trained.folder), use, {**what, CARD: FILES[CARD]})
    (folder / CARD).write_text(redacted(card), encoding="utf-8")


def _imports(folder: Path, package: str) -> bool:
    text = (folder / NETWORK).read_text(encoding="utf-8")
    return f"\nimport {package}\n" in text or f"\nfrom {package} import" in text
