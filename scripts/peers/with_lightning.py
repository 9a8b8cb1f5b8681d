"""Lightning as its documentation begins."""

import job
import lightning as L
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


class Digits(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = job.network()

    def training_step(self, batch, _):
        return self._judged("train", batch)

    def validation_step(self, batch, _):
        self._judged("val", batch)

    def _judged(self, kind, batch):
        images, labels = batch
        logits = self.model(images)
        loss = cross_entropy(logits, labels)
        right = (logits.argmax(1) == labels).float().mean()
        named = {f"{kind}/loss": loss, f"{kind}/accuracy": right}
        self.log_dict(named, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return job.sgd(self.parameters())


train, val = job.datasets()
trainer = L.Trainer(max_epochs=job.EPOCHS, accelerator="cpu")
trainer.fit(
    Digits(),
    DataLoader(train, job.BATCH, shuffle=True),
    DataLoader(val, job.EVAL_BATCH),
)
