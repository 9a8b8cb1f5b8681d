"""Every setting's type, limits and meaning, and every option: what configs are checked against.

They stand here, defaults in conf/. Hydra merges each option into its schema (under `schema/`, so
that they never show up as options), and the rest of the program receives them filled in. What an
option is made by stands beside its schema, in `OPTIONS`, and nowhere else. Imports nothing that
takes time.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.schema import rates, training
from lrexp.config.schema.meaning import Length, Meaning, number, setting
from lrexp.config.schema.rates import Rest, Rule
from lrexp.config.schema.training import MONITORS as MONITORS
from lrexp.config.schema.training import TOP5_CLASSES as TOP5_CLASSES
from lrexp.config.schema.training import Trainer
from lrexp.config.schema.training import direction as direction


@dataclass
class Config:
    """A whole experiment. Each group holds the schema of the option that was chosen.

    What is said of a group holds for its settings that do not say otherwise.
    """

    name: str = setting(identity=False, stack="member", decides=False)
    seed: int = number(at_least=0, identity=False, stack="member")
    run_id: str | None = setting(identity=False, resume="ignored", stack="member", decides=False)
    model: Any = setting(reads=True)
    data: Any = setting(reads=True)
    loss: Any = setting(resume="may")
    optimizer: Any = setting(resume="may")
    lr_policy: Any = setting(resume="may")
    scheduler: Any = setting(resume="may")
    trainer: Trainer = setting(resume="may")
    logger: Any = setting(identity=False, resume="may", stack="member", decides=False)
    task: Any = setting()


@dataclass(frozen=True)
class Option:
    """What can be chosen of a group. Functions and classes are written as `module:name`."""

    schema: type
    make: str = ""  # makes it of its settings
    needs: str = ""  # package beyond torch, which is also the name of the extra that brings it
    momenta: bool = False  # of a schedule that may cycle momentum: read="momentum" makes m(t)
    follows: str = ""  # of a schedule with state: what follows a metric beside its s(t)
    absolute: str = ""  # of a policy that may give every rate itself: settings → whether it does
    usual: bool = False  # of a policy: `lrexp which` compares it unasked
    loaded: bool = False  # of a policy: it freezes layers that some weights were loaded into
    tried: tuple[str, tuple[Any, ...]] | None = None  # its main setting, and values worth trying
    heads: str = ""  # of models whose head no name tells: (model, for a class more) → its names
    several: bool = False  # of a loss: every image may have several labels, or none
    class_names: str = ""  # of a data set whose YAML file states its size: name → class names
    folder: str = ""  # of a data set of torchvision: what that calls its folder below data.root
    grid: bool = False  # of a task: it trains a grid of its own, by itself, and is no single run


def _torchvision_set(folder: str) -> Option:
    module = "lrexp.data.sources.torchvision_sets"
    return Option(
        training.TorchvisionSet,
        f"{module}:torchvision_set",
        class_names=f"{module}:class_names",
        folder=folder,
    )


_MODELS = "lrexp.models"
_SOURCES = "lrexp.data.sources"
_OPTIMIZERS = "lrexp.optim.optimizers"
_SCALING, _FREEZING, _RULES = (
    f"lrexp.plan.policies.{kind}" for kind in ("scaling", "freezing", "per_layer")
)
_DISCRIMINATIVE = Option(
    rates.Discriminative, f"{_SCALING}:discriminative", absolute=f"{_SCALING}:top_given"
)
_SCHEDULES, _PLATEAU, _ANY = (
    f"lrexp.optim.schedulers.{kind}" for kind in ("schedules", "plateau", "any_torch")
)

# group -> option. The trainer has one schema, whatever its option.
OPTIONS: dict[str, dict[str, Option]] = {
    "model": {
        "simple_cnn": Option(training.SimpleCnn, f"{_MODELS}.simple_cnn:SimpleCNN"),
        "mlp": Option(training.Mlp, f"{_MODELS}.mlp:MLP"),
        "cifar_resnet": Option(training.CifarResnet, f"{_MODELS}.cifar_resnet:CifarResNet"),
        "torchvision": Option(training.TorchvisionModel, f"{_MODELS}.library:torchvision_model"),
        "timm": Option(training.LibraryModel, f"{_MODELS}.library:timm_model"),
        "custom": Option(
            training.CustomModel,
            f"{_MODELS}.library:custom_model",
            heads=f"{_MODELS}.layers:heads_by_shape",
        ),
    },
    "data": {
        "digits": Option(training.Data, f"{_SOURCES}.digits:digits"),
        "mnist": _torchvision_set("MNIST/raw"),
        "fashion_mnist": _torchvision_set("FashionMNIST/raw"),
        "cifar10": _torchvision_set("cifar-10-batches-py"),
        "cifar100": _torchvision_set("cifar-100-python"),
        "hf": Option(training.HuggingFace, f"{_SOURCES}.hf:hf"),
        "imagefolder": Option(training.ImageFiles, f"{_SOURCES}.imagefolder:imagefolder"),
        "csv": Option(training.CsvTable, f"{_SOURCES}.csv_table:csv_table"),
        "npz": Option(training.Npz, f"{_SOURCES}.npz:npz"),
        "synthetic": Option(training.Synthetic, f"{_SOURCES}.synthetic:synthetic"),
        "custom": Option(training.CustomData, f"{_SOURCES}.custom:custom_data"),
    },
    "loss": {
        "cross_entropy": Option(training.CrossEntropy, "lrexp.build.loss:cross_entropy"),
        "bce": Option(training.BinaryCrossEntropy, "lrexp.build.loss:bce", several=True),
        "custom": Option(training.CustomLoss, "lrexp.build.own:custom_loss"),
    },
    "optimizer": {
        "sgd": Option(rates.Sgd, "torch.optim:SGD"),
        "adam": Option(rates.Adam, "torch.optim:Adam"),
        "adamw": Option(rates.Adam, "torch.optim:AdamW"),
        "rmsprop": Option(rates.Rmsprop, "torch.optim:RMSprop"),
        "nadam": Option(rates.Nadam, "torch.optim:NAdam"),
        "radam": Option(rates.Radam, "torch.optim:RAdam"),
        "adagrad": Option(rates.Adagrad, "torch.optim:Adagrad"),
        "adafactor": Option(rates.Adafactor, f"{_OPTIMIZERS}:adafactor"),
        "lion": Option(rates.Lion, "timm.optim.lion:Lion", needs="timm"),
        "lamb": Option(rates.Lamb, "timm.optim.lamb:Lamb", needs="timm"),
        "muon": Option(rates.Muon, f"{_OPTIMIZERS}:muon"),
        "schedulefree_sgd": Option(
            rates.ScheduleFreeSgd, "schedulefree:SGDScheduleFree", needs="schedulefree"
        ),
        "schedulefree_adamw": Option(
            rates.ScheduleFreeAdamw, "schedulefree:AdamWScheduleFree", needs="schedulefree"
        ),
        "torch": Option(rates.LibraryOptimizer, f"{_OPTIMIZERS}:any_torch"),
        "timm": Option(rates.LibraryOptimizer, f"{_OPTIMIZERS}:any_timm", needs="timm"),
    },
    "lr_policy": {
        "uniform": Option(rates.Policy, f"{_SCALING}:uniform", usual=True),
        "per_layer": Option(
            rates.PerLayer, f"{_RULES}:per_layer", absolute=f"{_RULES}:all_absolute"
        ),
        "layerwise_decay": Option(
            rates.LayerwiseDecay,
            f"{_SCALING}:layerwise_decay",
            usual=True,
            tried=("decay", (0.5, 0.75)),
        ),
        "freeze_backbone": Option(
            rates.FreezeBackbone, f"{_FREEZING}:freeze_backbone", usual=True, loaded=True
        ),
        "discriminative": replace(_DISCRIMINATIVE, usual=True, tried=("stem_scale", (0.1, 0.01))),
        "ulmfit": _DISCRIMINATIVE,
        "gradual_unfreeze": Option(
            rates.GradualUnfreeze,
            f"{_FREEZING}:gradual_unfreeze",
            usual=True,
            loaded=True,
            tried=("decay", (1.0, 0.4)),
        ),
        "lp_ft": Option(
            rates.LpFt,
            f"{_FREEZING}:lp_ft",
            usual=True,
            loaded=True,
            tried=("finetune_scale", (0.1, 0.3)),
        ),
        "surgical": Option(
            rates.Surgical, f"{_FREEZING}:surgical", loaded=True, tried=("block", (0, 1))
        ),
        "auto_rgn": Option(
            rates.AutoRgn, f"{_SCALING}:auto_rgn", tried=("variant", ("paper", "per_layer"))
        ),
        "freezeout": Option(
            rates.Freezeout, f"{_FREEZING}:freezeout", loaded=True, tried=("t_0", (0.8, 0.5))
        ),
        "bias_norm_only": Option(rates.BiasNormOnly, f"{_FREEZING}:bias_norm_only", loaded=True),
        "custom": Option(rates.CustomPolicy, "lrexp.plan.policies.custom:custom_policy"),
    },
    "scheduler": {
        "constant": Option(rates.Scheduler, f"{_SCHEDULES}:constant"),
        "linear": Option(rates.Scheduler, f"{_SCHEDULES}:linear"),
        "step": Option(rates.StepDecay, f"{_SCHEDULES}:step"),
        "multistep": Option(rates.MultiStep, f"{_SCHEDULES}:multistep"),
        "exponential": Option(rates.Exponential, f"{_SCHEDULES}:exponential"),
        "polynomial": Option(rates.Polynomial, f"{_SCHEDULES}:polynomial"),
        "cosine": Option(rates.Scheduler, f"{_SCHEDULES}:cosine"),
        "cosine_restarts": Option(rates.CosineRestarts, f"{_SCHEDULES}:cosine_restarts"),
        "one_cycle": Option(rates.OneCycle, f"{_SCHEDULES}:one_cycle", momenta=True),
        "wsd": Option(rates.Wsd, f"{_SCHEDULES}:wsd"),
        "inverse_sqrt": Option(rates.InverseSqrt, f"{_SCHEDULES}:inverse_sqrt"),
        "slanted_triangular": Option(rates.SlantedTriangular, f"{_SCHEDULES}:slanted_triangular"),
        "plateau": Option(
            rates.ReduceOnPlateau, f"{_SCHEDULES}:constant", follows=f"{_PLATEAU}:Plateau"
        ),
        "torch": Option(rates.TorchScheduler, f"{_ANY}:any_torch", momenta=True),
        "custom": Option(rates.CustomScheduler, "lrexp.optim.schedulers.custom:custom"),
    },
    "logger": {"wandb": Option(training.Wandb), "none": Option(training.NoLogger)},
    "task": {
        "train": Option(training.Task, "lrexp.tasks.train:train"),
        "plan": Option(training.PlanTask, "lrexp.tasks.plan:plan"),
        "range_test": Option(training.RangeTestTask, "lrexp.tasks.range_test:range_test"),
        "layer_test": Option(
            training.LayerTest, "lrexp.session.layer_test:begin_layer_test", grid=True
        ),
    },
}
GROUPS = (*OPTIONS, "trainer", "experiment")
TOP = (*(f.name for f in fields(Config)), "experiment")


def load(target: str) -> Callable[..., Any]:
    """The function or class that `module:name` means, imported now.

    Raises:
        ConfigError: when there is none: an option of ours, or a new one, is not whole.
    """
    module, _, name = target.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # it is there, and lacks something itself
            raise
        raise _not_whole(target, f"there is no module {module}") from error
    if not hasattr(found, name):
        names = [key for key, value in vars(found).items() if callable(value)]
        raise _not_whole(target, f"{module} has no {name}", did_you_mean(name, names))
    return getattr(found, name)


def _not_whole(target: str, problem: str, hint: str = "") -> ConfigError:
    """The error for an option of which a part is missing."""
    owners = (
        (group, name)
        for group, options in OPTIONS.items()
        for name, option in options.items()
        if target in vars(option).values()
    )
    group, name = next(owners, ("", ""))
    place = f"OPTIONS in {__name__.replace('.', '/')}/__init__.py: {target}"
    return ConfigError(group, problem, hint, name, place)


def option_of(section: Mapping[str, Any]) -> str:
    """The option that a group's section belongs to.

    An option that opens a whole library says so in its YAML file (`library: torch`), and its
    `name` is the library's own (NAdam). Any other option is known by its `name`. A file that only
    fills in another option (resnet18.yaml: torchvision with a name) belongs to that one's schema.
    """
    return str(section.get("library", section.get("name")))


def option_in_words(section: Mapping[str, Any]) -> str:
    """What people call a group's option: one of their own by the name of their function."""
    option = option_of(section)
    return str(section["name"]) if option == "custom" else option


def chosen_option(group: str, section: Any) -> Option:
    """The option that a checked section of a group is of."""
    return OPTIONS[group][option_of(vars(section))]


def several_labels(loss: Any) -> bool:
    """Whether a loss is for images that may have several labels, or none."""
    return chosen_option("loss", loss).several or getattr(loss, "several", False)


def settings_of(option: Any) -> dict[str, Any]:
    """An option's own settings, nested rules kept as they are: all but what says which it is."""
    which = "library" if hasattr(option, "library") else "name"
    return {f.name: getattr(option, f.name) for f in fields(option) if f.name != which}


def lengths_of(section: Any) -> dict[str, Length]:
    """Of a section's settings those that are lengths of time."""
    return {f.name: f.metadata["length"] for f in fields(section) if "length" in f.metadata}


def schemas_of(section: str) -> list[type]:
    """Every schema that a section such as `optimizer` may have, the empty one being the top."""
    if re.fullmatch(r"lr_policy\.rules\[\d*\]", section):
        return [Rule]
    single: dict[str, type] = {"": Config, "trainer": Trainer, "lr_policy.default": Rest}
    if section in single:
        return [single[section]]
    return [option.schema for option in OPTIONS.get(section, {}).values()]


@cache  # asked a thousand times for one command
def meaning_of(key: str) -> Meaning:
    """What a setting means by its dotted key; of one that no schema has, what its section says."""
    section, _, rest = key.partition(".")
    found = _said("", section) | _said(section, re.split(r"[.\[]", rest)[0])
    return Meaning(**{f.name: found[f.name] for f in fields(Meaning) if f.name in found})


def says_nothing(key: str, value: Any) -> bool:
    """Whether a value is as good as a setting that is not there, as in configs older than it."""
    return value is None or value == meaning_of(key).neutral


def _said(section: str, name: str) -> dict[str, Any]:
    """What the fields of that name say. In all options of a group they say the same, but for the
    neutral value: a setting that is new in one option may be old in another."""
    every = (f for schema in schemas_of(section) for f in fields(schema))
    return next((dict(f.metadata) for f in every if f.name == name), {})


def settings_where(**meaning: Any) -> list[str]:
    """Dotted keys of all settings that mean so, such as `splits=True`, each once."""
    keys = dict.fromkeys(
        f"{section}.{f.name}".lstrip(".")
        for section in ("", *OPTIONS, "trainer")
        for schema in schemas_of(section)
        for f in fields(schema)
    )
    return [k for k in keys if all(getattr(meaning_of(k), m) == v for m, v in meaning.items())]


def store_schemas() -> None:
    """Put every schema where the first line of each YAML file finds it."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    store.store(group="schema", name="trainer", node=Trainer)
    for group, options in OPTIONS.items():
        for name, option in options.items():
            store.store(group=f"schema/{group}", name=name, node=option.schema)
