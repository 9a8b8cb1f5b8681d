"""The metrics there are, and which of them may decide."""

from __future__ import annotations

# What every evaluated split has, as far as the data and the loss allow, and which way is better.
METRICS = {
    "loss": "min",
    "accuracy": "max",
    "balanced_accuracy": "max",
    "f1_macro": "max",
    "top5_accuracy": "max",
    "label_accuracy": "max",
}
TOP5_CLASSES = 10  # top5_accuracy is for data of at least so many classes
# What may decide best.pt. Test metrics are never among them.
MONITORS = {
    **{f"{split}/{name}": METRICS[name] for split in ("val", "train_eval") for name in METRICS},
    "train/loss": "min",
    "train/accuracy": "max",
    "gap/loss": "min",
    "gap/accuracy": "min",
    "gap/loss_running": "min",
    "overfit/loss": "min",
    "overfit/accuracy": "min",
}
