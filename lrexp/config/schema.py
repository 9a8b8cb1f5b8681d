"""Every setting's type and limits: the schemas that configs are checked against.

Types and limits stand here, defaults in conf/. Hydra merges each option into its schema (under
`schema/`, so that they never show up as options), and the rest of the program receives them filled
in. Imports nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING

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
BUNDLED = "bundled:"  # prefix of model.weights for files that ship in lrexp/models/bundled


def number(
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field for a finite number, or a list of them, within limits."""
    limits = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    return field(default=MISSING, metadata={"limits": limits})


def choice(*allowed: str | int) -> Any:
    """A field for one of a few words or numbers."""
    return field(default=MISSING, metadata={"allowed": allowed})


@dataclass
class Model:
    """What every model option has."""

    name: str = MISSING
    weights: str | None = MISSING  # a file, a run folder, or BUNDLED and a name
    strict: bool = MISSING
    layers: list[str] | None = MISSING  # globs or re:REGEX, from the input up
    convention: str = choice("timm", "beit", "block", "strict")


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

    library: str = MISSING
    args: dict[str, Any] = MISSING
    pretrained: bool = MISSING


@dataclass
class TorchvisionModel(LibraryModel):
    stem: str = choice("imagenet", "small")


@dataclass
class CustomModel(Model):
    """The user's own class; `library` is `custom`, so that `name` can be the network's."""

    library: str = MISSING
    target: str = MISSING
    args: dict[str, Any] = MISSING


@dataclass
class Data:
    """What every data option has."""

    name: str = MISSING
    num_classes: int | None = number(at_least=2)  # the three are None where the data says it
    image_shape: list[int] | None = number(at_least=1)
    train_size: int | None = number(at_least=2)
    batch_size: int = number(at_least=1)
    seed: int = number(at_least=0)
    classes: list[Any] | None = MISSING  # labels or names
    limit: int | None = number(at_least=1)
    limit_per_class: int | None = number(at_least=1)
    val_fraction: float = number(above=0, below=1)
    test_fraction: float = number(at_least=0, below=1)
    group_by: str | None = MISSING
    normalize: Any = MISSING  # auto, dataset, weights, or a Normalization
    mean: list[float] | None = number()
    std: list[float] | None = number(above=0)
    augment: str = choice("none", "basic", "trivial")
    image_size: int | None = number(at_least=1)
    in_memory: bool | None = MISSING
    workers: int = number(at_least=0)
    leak_check: str = choice("warn", "error", "skip")
    on_corrupt: str = choice("error", "drop")
    eval_sets: dict[str, str] = MISSING


# option -> what torchvision calls its folder below data.root
TORCHVISION_FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


@dataclass
class TorchvisionSet(Data):
    root: str = MISSING
    download: bool = MISSING


@dataclass
class ImageFiles(Data):
    """What options have whose images are files, or the bytes of files in a table."""

    path: str = MISSING
    channels: int = number(at_least=1, at_most=3)


# What may be a name on the hub when it is no path: NAME or OWNER/NAME, and no name of a file.
HUB_NAME = r"(?!.*\.(parquet|csv|tsv|json|arrow|zip|jpe?g|png)$)\w[\w.-]*(/\w[\w.-]*)?"


@dataclass
class HuggingFace(ImageFiles):
    subset: str | None = MISSING
    revision: str | None = MISSING
    train_split: str | None = MISSING
    val_split: str | None = MISSING
    test_split: str | None = MISSING
    image_column: str | None = MISSING
    label_column: str | None = MISSING


@dataclass
class CsvTable(ImageFiles):
    images: str | None = MISSING
    multi_label: bool = MISSING


@dataclass
class Synthetic(Data):
    noise: float = number(at_least=0)


@dataclass
class CrossEntropy:
    name: str = MISSING
    label_smoothing: float = number(at_least=0, below=1)
    class_weights: Any = MISSING  # None, "balanced" or one number per class


@dataclass
class BinaryCrossEntropy:
    name: str = MISSING
    pos_weight: str | None = choice("balanced")


@dataclass
class Optimizer:
    """What every optimizer option has."""

    name: str = MISSING
    lr: float = number(above=0)
    weight_decay: float = number(at_least=0)


@dataclass
class Sgd(Optimizer):
    momentum: float = number(at_least=0, below=1)
    nesterov: bool = MISSING


@dataclass
class Adam(Optimizer):
    betas: list[float] = number(at_least=0, below=1)
    eps: float = number(above=0)


@dataclass
class Rmsprop(Optimizer):
    alpha: float = number(at_least=0, below=1)
    momentum: float = number(at_least=0, below=1)
    eps: float = number(above=0)


@dataclass
class Nadam(Adam):
    momentum_decay: float = number(at_least=0)
    decoupled_weight_decay: bool = MISSING


@dataclass
class Radam(Adam):
    decoupled_weight_decay: bool = MISSING


@dataclass
class Adagrad(Optimizer):
    initial_accumulator_value: float = number(at_least=0)
    eps: float = number(above=0)


@dataclass
class Adafactor(Optimizer):
    beta2_decay: float = number(at_most=0)
    eps_gradient: float | None = number(above=0)
    eps_scale: float = number(above=0)
    clip_threshold: float = number(at_least=1)


@dataclass
class Lion(Optimizer):
    betas: list[float] = number(at_least=0, below=1)


@dataclass
class Lamb(Adam):
    max_grad_norm: float | None = number(above=0)
    trust_clip: bool = MISSING
    always_adapt: bool = MISSING


@dataclass
class Muon(Optimizer):
    momentum: float = number(at_least=0, below=1)
    nesterov: bool = MISSING
    ns_steps: int = number(at_least=1, at_most=99)
    adjust_lr: str = choice("match_rms_adamw", "original")
    adamw_betas: list[float] = number(at_least=0, below=1)
    adamw_eps: float = number(above=0)


@dataclass
class ScheduleFreeSgd(Optimizer):
    momentum: float = number(above=0, below=1)


@dataclass
class ScheduleFreeAdamw(Optimizer):
    betas: list[float] = number(above=0, below=1)
    eps: float = number(above=0)


@dataclass
class LibraryOptimizer(Optimizer):
    """optimizer=torch and optimizer=timm: any of theirs, by its own name."""

    library: str = MISSING
    args: dict[str, Any] = MISSING


@dataclass
class Policy:
    """What every policy option has."""

    name: str = MISSING
    decay_bias_norm: bool = MISSING


@dataclass
class Rule:
    """One line of lr_policy.rules: what it selects, and what that gets."""

    match: str | None = None
    type: str | None = None
    layers: Any = None
    lr: float | None = field(default=None, metadata={"limits": {"above": 0}})
    scale: float | None = field(default=None, metadata={"limits": {"above": 0}})
    weight_decay: float | None = field(default=None, metadata={"limits": {"at least": 0}})
    frozen: bool = False


@dataclass
class Rest:
    """lr_policy.default: what a parameter gets that no rule selects."""

    scale: float = field(default=1.0, metadata={"limits": {"above": 0}})


@dataclass
class PerLayer(Policy):
    rules: list[Rule] = MISSING
    default: Rest = MISSING


@dataclass
class LayerwiseDecay(Policy):
    decay: float | None = number(above=0, at_most=1)
    stem_scale: float | None = number(above=0, at_most=1)
    min_scale: float = number(at_least=0, at_most=1)
    head_scale: float = number(above=0)


@dataclass
class FreezeBackbone(Policy):
    unfreeze_last: int = number(at_least=0)
    bn_stats: str = choice("frozen", "live")
    train_norm: bool = MISSING
    frozen_dropout: bool = MISSING


@dataclass
class Discriminative(Policy):
    lr_low: float | None = number(above=0)
    lr_high: float | None = number(above=0)
    ratio: float | None = number(at_least=1)
    groups: int | None = number(at_least=2)


@dataclass
class GradualUnfreeze(Policy):
    every: int = number(at_least=1)
    groups: int | None = number(at_least=2)
    rewarmup: float = number(at_least=0)
    decay: float = number(above=0, at_most=1)
    bn_stats: str = choice("follow", "frozen", "live")
    frozen_dropout: bool = MISSING


@dataclass
class LpFt(Policy):
    head_epochs: int = number(at_least=1)
    finetune_scale: float = number(above=0)
    bn_stats: str = choice("frozen", "follow", "live")
    frozen_dropout: bool = MISSING


@dataclass
class Surgical(Policy):
    block: Any = MISSING  # a layer index, a range such as 0-2, or a module's name
    train_head: bool = MISSING
    bn_stats: str = choice("frozen", "follow", "live")
    frozen_dropout: bool = MISSING


@dataclass
class AutoRgn(Policy):
    variant: str = choice("paper", "per_layer")
    bn_stats: str = choice("frozen", "follow", "live")


@dataclass
class Freezeout(Policy):
    t_0: float = number(above=0, at_most=1)
    how: str = choice("linear", "cubic")
    scale_lr: bool = MISSING
    epochs: int = number(at_least=0)
    frozen_dropout: bool = MISSING


@dataclass
class BiasNormOnly(Policy):
    train_head: bool = MISSING
    bn_stats: str = choice("follow", "frozen", "live")


@dataclass
class Scheduler:
    """What every scheduler option has. A length is a share of training, "N epochs" or "N steps"."""

    name: str = MISSING
    warmup: Any = MISSING  # a length
    floor: float = number(at_least=0, below=1)


@dataclass
class StepDecay(Scheduler):
    step_size: int = number(at_least=1)
    gamma: float = number(above=0)


@dataclass
class MultiStep(Scheduler):
    milestones: list[int] = number(at_least=1)
    gamma: float = number(above=0)


@dataclass
class Exponential(Scheduler):
    gamma: float = number(above=0)


@dataclass
class Polynomial(Scheduler):
    power: float = number(above=0)


@dataclass
class CosineRestarts(Scheduler):
    period: Any = MISSING  # a length
    multiply: int = number(at_least=1)


@dataclass
class OneCycle(Scheduler):
    pct_start: float = number(above=0, below=1)
    div: float = number(at_least=1)
    anneal: str = choice("cos", "linear")
    timing: str = choice("torch", "fastai")
    momentum: list[float] | None = number(at_least=0, below=1)


@dataclass
class Wsd(Scheduler):
    decay: Any = MISSING  # a length
    shape: str = choice("1-sqrt", "linear", "cosine")


@dataclass
class InverseSqrt(Scheduler):
    timescale: Any = MISSING  # a length, or None: that of the warmup


@dataclass
class SlantedTriangular(Scheduler):
    cut_frac: float = number(above=0, below=1)


@dataclass
class ReduceOnPlateau(Scheduler):
    monitor: str = choice(*MONITORS)
    factor: float = number(above=0, below=1)
    patience: int = number(at_least=0)
    threshold: float = number(at_least=0)
    threshold_mode: str = choice("rel", "abs")
    cooldown: int = number(at_least=0)


@dataclass
class TorchScheduler(Scheduler):
    library: str = MISSING
    interval: str = choice("epoch", "step")
    args: dict[str, Any] = MISSING


@dataclass
class Trainer:
    epochs: int = number(at_least=0)
    max_steps: int | None = number(at_least=1)
    limit_train_batches: int | None = number(at_least=1)
    device: str = MISSING
    threads: int | None = number(at_least=1, at_most=1024)
    deterministic: bool = MISSING
    monitor: str = choice(*MONITORS)
    patience: int | None = number(at_least=1)
    clip_grad_norm: float | None = number(above=0)
    train_eval_limit: int = number(at_least=2)
    eval_batch_size: int = number(at_least=1)
    stats_every: int = number(at_least=0)
    checkpoint_every_steps: int | None = number(at_least=1)
    resume: str = choice("never", "auto")


@dataclass
class NoLogger:
    name: str = MISSING


@dataclass
class Wandb:
    name: str = MISSING
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    tags: list[str] = MISSING
    notes: str | None = MISSING
    mode: str = choice("auto", "online", "offline", "disabled")
    artifacts: str = choice("auto", "best", "last", "none")


@dataclass
class Task:
    name: str = MISSING


@dataclass
class PlanTask(Task):
    against: str | None = MISSING


@dataclass
class Config:
    """A whole experiment. Each group holds the schema of the option that was chosen."""

    name: str = MISSING
    seed: int = number(at_least=0)
    run_id: str | None = MISSING
    model: Any = MISSING
    data: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    lr_policy: Any = MISSING
    scheduler: Any = MISSING
    trainer: Trainer = MISSING
    logger: Any = MISSING
    task: Any = MISSING


# group -> option -> schema. The trainer has one schema, whatever its option.
SCHEMAS: dict[str, dict[str, type]] = {
    "model": {
        "simple_cnn": SimpleCnn,
        "mlp": Mlp,
        "cifar_resnet": CifarResnet,
        "torchvision": TorchvisionModel,
        "timm": LibraryModel,
        "custom": CustomModel,
    },
    "data": {
        "digits": Data,
        **dict.fromkeys(TORCHVISION_FOLDERS, TorchvisionSet),
        "hf": HuggingFace,
        "imagefolder": ImageFiles,
        "csv": CsvTable,
        "synthetic": Synthetic,
    },
    "loss": {"cross_entropy": CrossEntropy, "bce": BinaryCrossEntropy},
    "optimizer": {
        "sgd": Sgd,
        "adam": Adam,
        "adamw": Adam,
        "rmsprop": Rmsprop,
        "nadam": Nadam,
        "radam": Radam,
        "adagrad": Adagrad,
        "adafactor": Adafactor,
        "lion": Lion,
        "lamb": Lamb,
        "muon": Muon,
        "schedulefree_sgd": ScheduleFreeSgd,
        "schedulefree_adamw": ScheduleFreeAdamw,
        "torch": LibraryOptimizer,
        "timm": LibraryOptimizer,
    },
    "lr_policy": {
        "uniform": Policy,
        "per_layer": PerLayer,
        "layerwise_decay": LayerwiseDecay,
        "freeze_backbone": FreezeBackbone,
        "discriminative": Discriminative,
        "ulmfit": Discriminative,
        "gradual_unfreeze": GradualUnfreeze,
        "lp_ft": LpFt,
        "surgical": Surgical,
        "auto_rgn": AutoRgn,
        "freezeout": Freezeout,
        "bias_norm_only": BiasNormOnly,
    },
    "scheduler": {
        "constant": Scheduler,
        "linear": Scheduler,
        "step": StepDecay,
        "multistep": MultiStep,
        "exponential": Exponential,
        "polynomial": Polynomial,
        "cosine": Scheduler,
        "cosine_restarts": CosineRestarts,
        "one_cycle": OneCycle,
        "wsd": Wsd,
        "inverse_sqrt": InverseSqrt,
        "slanted_triangular": SlantedTriangular,
        "plateau": ReduceOnPlateau,
        "torch": TorchScheduler,
    },
    "logger": {"wandb": Wandb, "none": NoLogger},
    "task": {"train": Task, "plan": PlanTask},
}
GROUPS = (*SCHEMAS, "trainer", "experiment")
TOP = (*(f.name for f in fields(Config)), "experiment")


def option_of(section: Mapping[str, Any]) -> str:
    """The option that a group's section belongs to.

    An option that opens a whole library says so in its YAML file (`library: torch`), and its
    `name` is the library's own (NAdam). Any other option is known by its `name`. A file that only
    fills in another option (resnet18.yaml: torchvision with a name) belongs to that one's schema.
    """
    return str(section.get("library", section.get("name")))


def settings_of(option: Any) -> dict[str, Any]:
    """An option's own settings, nested rules kept as they are: all but what says which it is."""
    which = "library" if hasattr(option, "library") else "name"
    return {f.name: getattr(option, f.name) for f in fields(option) if f.name != which}


def store_schemas() -> None:
    """Put every schema where the first line of each YAML file finds it."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    store.store(group="schema", name="trainer", node=Trainer)
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            store.store(group=f"schema/{group}", name=option, node=schema)
