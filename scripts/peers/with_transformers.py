"""Hugging Face's Trainer around a plain network."""

import sys

import job
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = job.network()

    def forward(self, images, labels):
        logits = self.model(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def collate(rows):
    images, labels = zip(*rows, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


def metrics(predicted):
    said = np.argmax(predicted.predictions, axis=1)
    return {"accuracy": float((said == predicted.label_ids).mean())}


model = Classifier()
optimizer = job.sgd(model.parameters())
train, val = job.datasets()
trainer = Trainer(
    model,
    TrainingArguments(
        output_dir=sys.argv[2],
        num_train_epochs=job.EPOCHS,
        per_device_train_batch_size=job.BATCH,
        per_device_eval_batch_size=job.EVAL_BATCH,
        eval_strategy="epoch",
        use_cpu=True,
        report_to="none",
    ),
    data_collator=collate,
    train_dataset=train,
    eval_dataset=val,
    compute_metrics=metrics,
    optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 0)),
)
trainer.train()
