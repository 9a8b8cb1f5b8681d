"""What our runs send to W&B, by name: what dashboards may show."""

from __future__ import annotations

# In every row of every run. Those per group are named <prefix>/<group>.
METRICS = (
    "epoch",
    "step",
    *(f"train_eval/{name}" for name in ("loss", "accuracy", "balanced_accuracy", "f1_macro")),
    *(f"val/{name}" for name in ("loss", "accuracy", "balanced_accuracy", "f1_macro")),
    *(f"gap/{name}" for name in ("loss", "loss_se", "accuracy", "accuracy_se")),
    *("gap/loss_chance_se", "gap/accuracy_chance_se", "guessing"),
    *(f"overfit/{name}" for name in ("loss", "loss_se", "accuracy", "accuracy_se")),
    *(f"perf/{name}" for name in ("epoch_s", "eval_s", "save_s")),
)
# In rows of epochs that trained.
TRAINED = (
    *("train/loss", "train/accuracy", "gap/loss_running"),
    *("perf/examples_per_s", "perf/steps_s"),
)
# Where the data or the settings call for them. Metrics of the user's own, trainer.metrics.NAME, are
# train_eval/NAME and val/NAME besides, and NAME of the test: no dashboard of ours shows them.
SOMETIMES = (
    "grad_norm",
    "perf/skipped_steps",  # with trainer.precision=fp16
    *(f"{part}/{name}" for part in ("train_eval", "val") for name in ("top5_accuracy",)),
    *(f"{part}/{name}" for part in ("train_eval", "val") for name in ("label_accuracy",)),
)
PER_GROUP = ("lr", "lr_scale", "drift", "update_ratio")
# In the summary, beside the last row and, under best/, the best one.
FACTS = (
    *(
        "status",
        "verdict",
        "verdict_says",
        "verdicts",
        "seed",
        "config_id",
        "plan_hash",
        "device",
        "plan",
        "executor",
    ),
    *(f"timings/{name}" for name in ("startup_s", "train_s", "total_s")),
    *(f"timings/{name}" for name in ("steps_s", "eval_s", "save_s", "test_s")),
    *("parameters/total", "parameters/trainable"),
)
# Of a run that failed, or where the run keeps them.
SOMETIMES_FACTS = ("error", "stopped_by", "confusion", "wrong_images")
GAPS = tuple(
    f"gap/{moment}/{name}"
    for moment in ("best", "last")
    for name in ("loss", "loss_se", "loss_chance_se", "accuracy")
)
TEST = ("test/loss", "test/accuracy")
# Plain names in the config, to group and filter by; all other settings are nested as in YAML.
GROUPING = (
    *(f"{group}.name" for group in ("lr_policy", "model", "data", "optimizer", "scheduler")),
    "config_id",
)
SETTINGS = ("seed", "optimizer.lr", "optimizer.weight_decay", "trainer.epochs", "data.batch_size")
ORIGIN = ("command", "environment.commit", "environment.packages", "environment.device")
# What the client itself measures every 15 s, on the machine of a single run.
SYSTEM = ("proc.memory.rssMB",)


def is_metric(name: str) -> bool:
    """Whether a row can have it."""
    known = (*METRICS, *TRAINED, *SOMETIMES)
    return name in known or (name.split("/")[0] in PER_GROUP and name.count("/") == 1)


def is_summary(name: str) -> bool:
    """Whether a run's summary can have it."""
    if name.startswith("best/"):
        return is_metric(name.removeprefix("best/"))
    return name in (*FACTS, *SOMETIMES_FACTS, *GAPS) or name.startswith("test/") or is_metric(name)
