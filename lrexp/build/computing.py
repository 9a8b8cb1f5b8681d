"""How a run computes, refused where its device or its network cannot."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from lrexp.config.errors import ConfigError, out_of_memory
from lrexp.config.schema import Config
from lrexp.config.schema.training import Trainer
from lrexp.data.dataset import Dataset
from lrexp.data.generators import begun_at
from lrexp.train.computing import Computing, first_line

TRIED = 2  # images that a network computes before it trains in other numbers or another layout


def build_computing(trainer: Trainer, device: torch.device) -> Computing:
    """How the trainer's settings want it, on this device; sets what torch rounds float32 to.

    Raises:
        ConfigError: for the first setting that would change nothing there, or fail.
    """
    _check_precision(trainer, device)
    if trainer.compile != "none" and device.type == "mps":
        problem = "is for cuda and cpu: on mps it has not been tried"
        raise ConfigError("trainer.compile", problem, "choose none", trainer.compile)
    if trainer.cuda_graph and device.type != "cuda":
        problem = f"records what a GPU of NVIDIA's does, and trainer.device is {device.type}"
        raise ConfigError("trainer.cuda_graph", problem, "choose false", "true")
    if trainer.cuda_graph and trainer.accumulate > 1:
        problem = f"records a step of one batch, and trainer.accumulate={trainer.accumulate}"
        raise ConfigError("trainer.cuda_graph", problem, "choose one of them", "true")
    if device.type == "cuda":
        tf32 = trainer.precision == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32  # torch's own default is true, for convolutions
    return Computing(
        precision=trainer.precision,
        channels_last=trainer.channels_last,
        compile=trainer.compile,
        cuda_graph=trainer.cuda_graph,
    )


def _check_precision(trainer: Trainer, device: torch.device) -> None:
    """Refuse numbers that this device does not compute in."""
    precision, problem, hint = trainer.precision, "", ""
    if precision == "fp32":
        return
    if device.type == "mps":
        problem, hint = "is for cuda and cpu: on mps it has not been tried", "choose fp32"
    elif precision == "tf32" and device.type != "cuda":
        problem = f"is what GPUs of NVIDIA's round float32 to: on {device.type} it changes nothing"
        hint = "choose fp32 or bf16"
    elif precision == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        problem, hint = "needs a GPU of compute capability 8.0 (Ampere)", "choose fp32 or fp16"
    elif precision == "bf16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                problem, hint = "is not computed by this GPU itself", "choose fp16 or fp32"
    if problem:
        raise ConfigError("trainer.precision", problem, hint, precision)


def refuse_what_fails(
    config: Config, computing: Computing, model: nn.Module, dataset: Dataset
) -> None:
    """Refuse numbers or a layout that the network's own code cannot take, found by trying.

    Raises:
        ConfigError: with what torch says. What fails in float32 and the usual layout as well is
            left to training, which says so.
    """
    asked = {
        "trainer.precision": Computing(precision=computing.precision),
        "trainer.channels_last": Computing(channels_last=computing.channels_last),
    }
    asked = {key: one for key, one in asked.items() if one != Computing()}
    if not asked:
        return
    images, _ = next(dataset.train.batches([np.arange(min(TRIED, len(dataset.train)))]))

    def failure(one: Computing) -> Exception | None:
        tried = copy.deepcopy(model).eval()
        if one.channels_last:
            tried.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            with torch.no_grad(), begun_at(0, images.device):
                one.forward(tried)(images)
        except Exception as error:
            if out_of_memory(error):
                raise
            return error
        return None

    for key, one in asked.items():
        if (error := failure(one)) and not failure(Computing()):
            given = getattr(config.trainer, key.partition(".")[2])
            problem = f"is nothing that {config.model.name} can compute: {first_line(error)}"
            raise ConfigError(key, problem, given=given) from error
