"""What all five train, as the command makes it, and how they judge it."""

from __future__ import annotations

import torch
from hydra.types import RunMode
from torch import nn
from torch.utils.data import TensorDataset

from lrexp.build.data import build_dataset
from lrexp.build.model import build_model
from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader, without_hydra
from lrexp.session.hydra import hydra_of

_loader = CheckedLoader()
with hydra_of(_loader):
    _chosen = ["experiment=finetune_digits"]
    _composed = _loader.load_configuration(CONFIG_NAME, _chosen, RunMode.RUN)
_config = check(without_hydra(_composed))[1]
_data = build_dataset(_config, torch.device("cpu"))

train = TensorDataset(_data.train.images, _data.train.labels)  # 100 images of 5 to 9, (1, 8, 8)
val = TensorDataset(_data.val.images, _data.val.labels)  # 179 others
model: nn.Module = build_model(_config, _data)[0]  # it knows 0 to 4; its head is fresh
torch.manual_seed(0)  # the order of the images


@torch.inference_mode()
def accuracy() -> float:
    """Share of val images that the model is right on."""
    images, labels = val.tensors
    return (model.eval()(images).argmax(1) == labels).float().mean().item()
