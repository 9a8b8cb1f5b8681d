"""PyTorch by hand."""

import job
import torch
from torch.nn.functional import cross_entropy

(images, labels), (val_images, val_labels) = job.tensors().values()
model = job.network()
optimizer = job.sgd(model.parameters())
for epoch in range(job.EPOCHS):
    model.train()
    loss_sum, right = torch.zeros(()), torch.zeros(())
    for chosen in torch.randperm(len(images)).split(job.BATCH):
        wanted = labels[chosen]
        logits = model(images[chosen])
        loss = cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(chosen)
        right += (logits.argmax(1) == wanted).sum()
    model.eval()
    with torch.inference_mode():
        logits = model(val_images)
        val_loss = cross_entropy(logits, val_labels)
        val_right = (logits.argmax(1) == val_labels).float().mean()
    print(epoch, loss_sum / len(images), right / len(images), val_loss, val_right)
