"""The same fine-tune in Hugging Face's Trainer."""

import torch
from shared import accuracy, model, train
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate
from transformers import Trainer, TrainingArguments

import lrexp

groups = lrexp.param_groups(model, "layerwise_decay", decay=0.5, lr=0.05, weight_decay=0.001)
arguments = TrainingArguments(
    num_train_epochs=15,
    per_device_train_batch_size=16,
    lr_scheduler_type="constant",
    max_grad_norm=0,  # its default clips gradients to norm 1
    report_to="none",
    use_cpu=True,
)
Trainer(
    model,
    arguments,
    data_collator=lambda rows: dict(zip(("images", "labels"), default_collate(rows), strict=True)),
    train_dataset=train,
    compute_loss_func=lambda logits, labels, **_: cross_entropy(logits, labels),
    optimizers=(torch.optim.SGD(groups, momentum=0.9), None),
).train()
print(f"val accuracy {accuracy():.1%}")
