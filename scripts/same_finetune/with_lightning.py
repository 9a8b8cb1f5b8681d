"""The same fine-tune as a Lightning module."""

import lightning as L
import torch
from shared import accuracy, model, train
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import lrexp

RATES = {"decay": 0.5, "lr": 0.05, "weight_decay": 0.001}


class Finetune(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model

    def training_step(self, batch, _):
        images, labels = batch
        return cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        groups = lrexp.param_groups(self.model, "layerwise_decay", **RATES)
        return torch.optim.SGD(groups, momentum=0.9)


trainer = L.Trainer(max_epochs=15, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(Finetune(), DataLoader(train, batch_size=16, shuffle=True))
print(f"val accuracy {accuracy():.1%}")
