"""A trained run, loaded from its folder alone: its best weights and how it looks at images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrexp.build.computing import build_computing
from lrexp.build.experiment import choose_device
from lrexp.build.model import build_network
from lrexp.config.checks import check_device
from lrexp.config.errors import ConfigError, UserError, first_line, out_of_memory
from lrexp.config.recompose import whole_config
from lrexp.config.schema import Config, several_labels
from lrexp.data.preprocessing import Preprocessing, Transform
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.folder.layout import BEST, CHECKPOINTS
from lrexp.models.weight_files import why_refused
from lrexp.runs.differences import SavedRun, read_run
from lrexp.train.computing import Computing


@dataclass(frozen=True)
class Trained:
    """What a run trained, ready for new images."""

    folder: Path
    config: Config  # checked, of the run's config.yaml
    class_names: tuple[str, ...]  # what the outputs stand for, in their order
    model: nn.Module  # in eval mode, on the device, with the best weights (with trainer.ema: the
    # average of them); images (B, C, H, W) as `transform` makes them → logits (B, classes)
    transform: Transform  # images of any size → (B, C, H, W) float32 on the device
    device: torch.device
    epoch: int  # that the weights are of, 1-based

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made what the network sees."""
        return self.transform.preprocessing

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return several_labels(self.config.loss)

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """(B, classes) float32 in [0, 1] of images (B, C, H, W) as `transform` makes them.

        Softmax over the classes; where an image may have several labels, the sigmoid of each. The
        numbers of predictions.parquet, to the bit with the same machine, threads and batches.
        """
        with _computed_as_it_was(self.config, self.device) as computing:
            logits = computing.forward(self.model)(images).float()
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, 1)


def load_trained(folder: str | Path, device: str = "auto") -> Trained:
    """The network of a run with its best weights, and its transform; the data need not be there.

    Args:
        folder: of the run, a point of a sweep or a downloaded artifact; or `latest`.
        device: cpu, cuda, cuda:N, mps, or auto: the best of them.

    Raises:
        UserError: when there is no such run, it has no best weights, they are damaged or of a
            version that kept no preprocessing beside them; when the network's package is not
            there, or this machine has no such device.
    """
    check_device("device", device)
    run = read_run(str(folder))
    file = best_file(run)
    chosen = choose_device(device, "device")
    config = whole_config(run.config, run.file)
    best = _read(file)
    try:
        preprocessing = Preprocessing.of_dict(best["preprocessing"])
        class_names = tuple(map(str, best["class_names"]))
        state, epoch = best["model"], int(best["epoch"])
    except KeyError as error:
        raise UserError(
            f"{file} says nothing of {error.args[0]}: it was written by another program or an"
            " older version\n  lrexp rerun trains the run again, and keeps all that is needed"
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} is no checkpoint of a run: {first_line(error)}") from error
    model = build_network(config, preprocessing.image_shape, len(class_names))
    try:
        model.load_state_dict(state)
    except Exception as error:  # names, shapes or types of whatever the file holds
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{file} does not fit the network of {run.file}: {said}") from error
    model.eval().to(chosen)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    transform = Transform(preprocessing, chosen)
    return Trained(file_folder(run), config, class_names, model, transform, chosen, epoch)


def file_folder(run: SavedRun) -> Path:
    """The folder of a run.

    Raises:
        UserError: when it is a config alone.
    """
    if run.folder is None:
        raise UserError(f"{run.file} is a config alone: give the folder of its run")
    return run.folder


def best_file(run: SavedRun) -> Path:
    """The file of a run's best weights; in the flat folder of an artifact, too.

    Raises:
        UserError: when it has none, with why that may be.
    """
    folder = file_folder(run)
    file = next((f for f in (folder / CHECKPOINTS / BEST, folder / BEST) if f.is_file()), None)
    if file is None:
        task = run.config.get("task")
        kind = task.get("name") if isinstance(task, dict) else None
        why = "a run writes it after its first epoch"
        if kind not in ("train", None):
            why = f"it is of task={kind}, which trains nothing that could be used"
        elif run.status == "diverged":
            why = "the run diverged before any epoch was better than nothing"
        elif run.status != "finished":
            why = f"the run is {run.status}; {why}"
        raise UserError(f"{folder} has no {CHECKPOINTS}/{BEST}\n  {why}")
    return file


def _read(file: Path) -> dict[str, Any]:
    try:
        found = load_checkpoint(file)
    except Exception as error:  # unpickling raises what it likes
        if out_of_memory(error):
            raise
        problem, hint = why_refused(file, error)
        raise UserError(f"{file} {problem}" + (f"\n  {hint}" if hint else "")) from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is no checkpoint of a run")
    return found


@contextmanager
def _computed_as_it_was(config: Config, device: torch.device) -> Iterator[Computing]:
    """How the run computed; in float32 where this device has no such numbers.

    What torch rounds float32 to on a GPU is the program's own again afterwards.
    """
    rounding, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    trainer = replace(config.trainer, compile="none", cuda_graph=False)
    try:
        try:
            computing = build_computing(trainer, device)
        except ConfigError:
            computing = build_computing(replace(trainer, precision="fp32"), device)
        with torch.autocast(device.type, enabled=False):  # whatever the program does meanwhile
            yield computing
    finally:
        torch.set_float32_matmul_precision(rounding)
        torch.backends.cudnn.allow_tf32 = tf32
