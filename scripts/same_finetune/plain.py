"""The same fine-tune in a loop of plain PyTorch."""

import torch
from shared import accuracy, model, train
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import lrexp

groups = lrexp.param_groups(model, "layerwise_decay", decay=0.5, lr=0.05, weight_decay=0.001)
optimizer = torch.optim.SGD(groups, momentum=0.9)
batches = DataLoader(train, batch_size=16, shuffle=True)
for _ in range(15):
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
print(f"val accuracy {accuracy():.1%}")
