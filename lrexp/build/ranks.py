"""What several processes that train one run need of its settings and its network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lrexp.config.errors import ConfigError
from lrexp.config.schema import Config
from lrexp.config.schema.training import Trainer
from lrexp.train.ranks import Ranks

KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def check_for_ranks(settings: Trainer, ranks: Ranks, device: torch.device) -> None:
    """Refuse settings that such a device, or so many processes, cannot have.

    Raises:
        ConfigError: for the first of them.
    """
    if settings.sync_batchnorm and device.type != "cuda":
        problem = f"exchanges statistics between GPUs, and this run is on the {device.type}"
        raise ConfigError("trainer.sync_batchnorm", problem, "leave it out", "true")
    if settings.cuda_graph and ranks.several:
        problem = f"records the step of one process, and torchrun started {ranks.world}"
        raise ConfigError("trainer.cuda_graph", problem, "trainer.cuda_graph=false", "true")


def synchronized(model: nn.Module) -> nn.Module:
    """The network, each BatchNorm in it with statistics over the images of all ranks.

    Names, parameters and buffers stay. timm's norms with an activation become timm's own.

    Raises:
        ConfigError: for a BatchNorm of another kind, whose own ways would be lost.
    """
    of_timm = False
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in KNOWN:
            if type(module).__module__.partition(".")[0] != "timm":
                problem = f"knows torch's and timm's BatchNorm; {name} is {type(module).__name__}"
                raise ConfigError("trainer.sync_batchnorm", problem, given="true")
            of_timm = True
    if of_timm:
        from timm.layers.norm_act import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def shared_by(config: Config, ranks: Ranks, smallest: int) -> int:
    """How many images a batch needs so that no BatchNorm sees just one.

    Args:
        config: of the run.
        ranks: that take their shares.
        smallest: images of the smallest batch.

    Raises:
        ConfigError: when statistics over all ranks would count images of a batch twice.
    """
    if not config.trainer.sync_batchnorm:
        return 2 * ranks.world
    if smallest < ranks.world:
        problem = f"needs an image for each of {ranks.world} processes, and a batch has {smallest}"
        raise ConfigError("trainer.sync_batchnorm", problem, "a larger data.batch_size", "true")
    return 2


def notes_of_ranks(config: Config, model: nn.Module, ranks: Ranks) -> Iterator[str]:
    """What a run of several processes should know, a sentence each."""
    if not ranks.several or config.trainer.sync_batchnorm:
        return
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        yield (
            f"BatchNorm takes the statistics of each of {ranks.world} processes over its own share"
            " of a batch; those that evaluation uses and that are saved are the first one's."
            " trainer.sync_batchnorm=true takes them over all, on GPUs"
        )
