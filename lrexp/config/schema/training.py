"""Settings of models, data, the loss, training, loggers and tasks, and the metrics there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, location, number, setting

BUNDLED = "bundled:"  # prefix of model.weights for files that ship in lrexp/models/bundled
# What may be a name on the hub when it is no path: NAME or OWNER/NAME, and no name of a file.
HUB_NAME = r"(?!.*\.(parquet|csv|tsv|json|arrow|zip|jpe?g|png)$)\w[\w.-]*(/\w[\w.-]*)?"
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
CONVENTIONS = ("timm", "beit", "block", "strict")  # where layers begin and end
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

# Ends of the names of metrics of the user's own that are better when lower; others when higher.
LOWER_IS_BETTER = ("_loss", "_error")


def direction(monitor: str) -> str:
    """`min` or `max`: which way a metric of a row gets better, one of the user's own by its name.

    >>> direction("val/loss"), direction("val/kappa"), direction("val/brier_loss")
    ('min', 'max', 'min')
    """
    own = monitor.startswith(("val/", "train_eval/")) and not monitor.endswith(LOWER_IS_BETTER)
    return MONITORS.get(monitor, "max" if own else "min")


STOPS = ("diverged", "collapsed")  # kinds of verdicts that trainer.stop_on may end a run by

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # of a forward pass; weights are float32 in all
COMPILED = ("none", "default", "max-autotune", "aot_eager")  # the last traces and generates no code

PREDICTIONS = ("all", "top5", "labels", "none")  # what predictions.parquet says of an image

NORMALIZATIONS = ("auto", "dataset", "weights", "imagenet")  # or a mean and a std per channel
LEAST_STD = 1e-4  # of pixels in [0, 1], a fortieth of a grey level: less is no contrast


@dataclass
class Model:
    """What every model option has."""

    name: str = setting()
    weights: str | None = location(only=False)  # a file, a run folder, or BUNDLED and a name
    strict: bool = setting()
    layers: list[str] | None = setting()  # globs or re:REGEX, from the input up
    convention: str = choice(*CONVENTIONS)


@dataclass
class SimpleCnn(Model):
    channels: int = number(at_least=1)
    kernel_size: int = number(at_least=1)
    hidden: int = number(at_least=1)


@dataclass
class Mlp(Model):
    widths: list[int] = number(at_least=1)
    dropout: float = number(at_least=0, below=1)


@dataclass
class CifarResnet(Model):
    depth: int = choice(20, 32, 44, 56)


@dataclass
class LibraryModel(Model):
    """A network of torchvision or timm; `name` is the library's."""

    library: str = setting()
    args: dict[str, Any] = setting()
    pretrained: bool = setting()


@dataclass
class TorchvisionModel(LibraryModel):
    stem: str = choice("imagenet", "small")


@dataclass
class CustomModel(Model):
    """The user's own class; `library` is `custom`, so that `name` can be the network's."""

    library: str = setting()
    target: str = setting()
    args: dict[str, Any] = setting()


@dataclass
class Data:
    """What every data option has."""

    name: str = setting()
    num_classes: int | None = number(at_least=2)  # the three are None where the data says it
    image_shape: list[int] | None = number(
        at_least=1,
        count=3,
        such_as="channels, height and width, such as 'data.image_shape=[1, 28, 28]'",
    )
    train_size: int | None = number(at_least=2)
    batch_size: int = number(at_least=1)
    seed: int = number(at_least=0, splits=True)
    classes: list[Any] | None = setting()  # labels or names
    limit: int | None = number(at_least=1)
    limit_per_class: int | None = number(at_least=1)
    val_fraction: float = number(above=0, below=1, splits=True)
    test_fraction: float = number(at_least=0, below=1, splits=True)
    group_by: str | None = setting(splits=True)
    normalize: Any = setting()  # one of NORMALIZATIONS, or {mean: [...], std: [...]}
    mean: list[float] | None = number()
    std: list[float] | None = number(above=0)
    augment: str = choice("none", "basic", "trivial")
    image_size: int | None = number(at_least=1)
    in_memory: bool | None = setting(decides=False)
    workers: int = number(at_least=0, decides=False)
    leak_check: str = choice("warn", "error", "skip")
    on_corrupt: str = choice("error", "drop")
    eval_sets: dict[str, str] = location(only=True)


@dataclass
class TorchvisionSet(Data):
    root: str = location(only=True)
    download: bool = setting(decides=False)


@dataclass
class ImageFiles(Data):
    """What options have whose images are files, or the bytes of files in a table."""

    path: str = location(only=False)
    channels: int = number(at_least=1, at_most=3)


@dataclass
class HuggingFace(ImageFiles):
    subset: str | None = setting()
    revision: str | None = setting()
    train_split: str | None = setting()
    val_split: str | None = setting()
    test_split: str | None = setting()
    image_column: str | None = setting()
    label_column: str | None = setting()


@dataclass
class CsvTable(ImageFiles):
    images: str | None = location(only=True)
    multi_label: bool = setting()
    columns: dict[str, str] = setting(neutral={})  # path, label and split → what a file calls them
    encoding: str | None = setting(neutral=None)


@dataclass
class Npz(Data):
    """Arrays in a file of numpy's."""

    path: str = location(only=False)


@dataclass
class CustomData(Data):
    """What a function of the user's own gives; `library` is `custom`, `name` the function's."""

    library: str = setting()
    target: str = setting()
    args: dict[str, Any] = setting()
    channels: int = number(at_least=1, at_most=3)


@dataclass
class Synthetic(Data):
    noise: float = number(at_least=0)


@dataclass
class CrossEntropy:
    name: str = setting()
    label_smoothing: float = number(at_least=0, below=1)
    class_weights: Any = setting()  # None, "balanced" or one number per class


@dataclass
class BinaryCrossEntropy:
    name: str = setting()
    pos_weight: str | None = choice("balanced")


@dataclass
class CustomLoss:
    """A function or class of the user's own; `library` is `custom`, `name` the function's."""

    name: str = setting()
    library: str = setting()
    target: str = setting()
    args: dict[str, Any] = setting()
    several: bool = setting()  # for images with any number of labels


_COUNTS: Any = {"identity": True, "resume": "may", "stack": "shared"}
_STAYS: Any = {"resume": "stays"}
_OWN: Any = {"stack": "member"}


def _alone(name: str) -> dict[str, Any]:
    """Of a setting that only a run by itself has at another value than the neutral one."""
    return {"stack": f"trainer.{name} is for runs that train by themselves"}


@dataclass
class Trainer:
    """Each setting says whether it is part of config_id, may change on resume, and is stacked."""

    epochs: int = number(at_least=0, **_COUNTS)
    max_steps: int | None = number(at_least=1, **_COUNTS)
    limit_train_batches: int | None = number(at_least=1, **_COUNTS | _STAYS)
    device: str = setting(decides=False, reads=True, **_COUNTS)
    threads: int | None = number(at_least=1, at_most=1024, decides=False, **_COUNTS)
    deterministic: bool = setting(**_COUNTS)
    monitor: str = choice(*MONITORS, **_COUNTS | _OWN | _STAYS)
    metrics: dict[str, Any] = setting(neutral={}, **_COUNTS | _STAYS)
    patience: int | None = number(at_least=1, **_COUNTS | _OWN)
    stop_on: list[str] = choice(*STOPS, neutral=[], **_COUNTS | _OWN)
    clip_grad_norm: float | None = number(above=0, **_COUNTS | _OWN)
    train_eval_limit: int = number(at_least=2, reads=True, **_COUNTS | _STAYS)
    eval_batch_size: int = number(at_least=1, **_COUNTS)
    stats_every: int = number(at_least=0, **_COUNTS)
    precision: str = choice(*PRECISIONS, neutral="fp32", **_COUNTS | _alone("precision"))
    channels_last: bool = setting(neutral=False, **_COUNTS | _alone("channels_last"))
    compile: str = choice(*COMPILED, neutral="none", **_COUNTS | _alone("compile"))
    cuda_graph: bool = setting(neutral=False, **_COUNTS | _alone("cuda_graph"))
    accumulate: int = number(at_least=1, neutral=1, **_COUNTS | _STAYS | _alone("accumulate"))
    ema: float | None = number(above=0, below=1, neutral=None, **_COUNTS | _STAYS | _alone("ema"))
    sync_batchnorm: bool = setting(neutral=False, **_COUNTS | _alone("sync_batchnorm"))
    cache_features: str = choice(
        "auto", "never", identity=False, resume="may", stack="ignored", decides=False
    )
    predictions: str = choice(
        *("auto", *PREDICTIONS), identity=False, resume="may", stack="ignored", decides=False
    )
    checkpoint_every_steps: int | None = number(
        at_least=1,
        identity=False,
        resume="may",
        stack="trainer.checkpoint_every_steps saves the state of a single run",
        decides=False,
    )
    resume: str = choice(
        "never", "auto", identity=False, resume="ignored", stack="ignored", decides=False
    )


@dataclass
class NoLogger:
    name: str = setting()


@dataclass
class Wandb:
    name: str = setting()
    project: str = setting()
    entity: str | None = setting()
    group: str | None = setting()
    tags: list[str] = setting()
    notes: str | None = setting()
    mode: str = choice("auto", "online", "offline", "disabled")
    artifacts: str = choice("auto", "best", "last", "none")
    details: str = choice("auto", "all", "none")
    points: str = choice("all", "best", "none", neutral="all")


@dataclass
class Task:
    name: str = setting()


@dataclass
class PlanTask(Task):
    against: str | None = setting(path="plan")
    margin: float = number(above=0, below=1, identity=False, decides=False)
    like: str | None = setting(path="maybe", identity=False, decides=False)


@dataclass
class RangeTestTask(Task):
    lr_from: float = number(above=0)  # the base rate at the first step; of a group its highest
    lr_to: float = number(above=0)  # at the last
    steps: int = number(at_least=20, at_most=10_000)
    repeats: int = number(at_least=1, at_most=100)  # seeds, from the run's own up
    group: str | None = setting()
    smoothing: float = number(at_least=0, below=1)
    stop_factor: float = number(above=1)


@dataclass
class LayerTest(Task):
    factors: list[float] = number(at_least=0)
    repeats: int = number(at_least=2, at_most=100)
    layers_at_most: int = number(at_least=2)
    check: bool = setting()
