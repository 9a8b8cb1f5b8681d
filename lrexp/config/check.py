"""The checks a config passes before anything is built, and what identifies it.

`check` turns what Hydra composed into a `Config` of plain values or one clear error. Imports
nothing that takes time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.mistakes import unknown_setting, wrong_type
from lrexp.config.names import BEST, CHECKPOINTS, PLAN
from lrexp.config.schema import (
    BUNDLED,
    GROUPS,
    HUB_NAME,
    SCHEMAS,
    TORCHVISION_FOLDERS,
    Config,
    CosineRestarts,
    CrossEntropy,
    CsvTable,
    CustomModel,
    Data,
    Discriminative,
    Freezeout,
    HuggingFace,
    ImageFiles,
    InverseSqrt,
    LayerwiseDecay,
    LibraryModel,
    LibraryOptimizer,
    LpFt,
    Model,
    MultiStep,
    OneCycle,
    PerLayer,
    PlanTask,
    Rule,
    Sgd,
    Surgical,
    Synthetic,
    TorchvisionSet,
    Trainer,
    Wsd,
    option_of,
)


def check(composed: DictConfig) -> tuple[DictConfig, Config]:
    """Resolve a composed config and check every value against its schema.

    Returns:
        The same config without interpolations, and as a `Config` of plain dataclasses.

    Raises:
        ConfigError: for the first setting that cannot be used.
    """
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):
            raise ConfigError(missing[1], "has no value", f"give {missing[1]}=...") from error
        key = str(error.full_key or "")
        raise ConfigError(key, f"cannot be resolved: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    typed = OmegaConf.structured(Config)
    for key, value in plain.items():
        try:
            typed[key] = _typed_section(str(key), value) if key in GROUPS else value
        except ConfigKeyError as error:
            raise unknown_setting(str(key), value) from error
        except OmegaConfBaseException as error:
            raise wrong_type(str(error.full_key or key), value) from error
    missing = sorted(map(str, OmegaConf.missing_keys(typed)))
    if missing:
        hint = "give it, or begin the file with an option of ours: defaults: [OPTION, _self_]"
        raise ConfigError(missing[0], "has no value", hint)
    config = OmegaConf.to_object(typed)
    assert isinstance(config, Config)
    _check_limits("", config)
    _check_homes(typed)
    _check_together(config)
    if config.model.weights and not config.model.weights.startswith(BUNDLED):
        typed.model.weights = _weights_source(config.model.weights)
    if paths := path_settings(typed):
        for key, path in paths.items():
            OmegaConf.update(typed, key, portable_path(path))
        config = OmegaConf.to_object(typed)
        assert isinstance(config, Config)
    if isinstance(config.task, PlanTask) and config.task.against is not None:
        config.task.against = typed.task.against = portable_path(_plan_file(config.task.against))
    return typed, config


NO_PART_OF_ID = ("checkpoint_every_steps", "resume")  # of trainer: they change no number


def config_id(config: DictConfig) -> str:
    """12 hex digits that equal configs share whatever their seed, name, logger and checkpoints.

    A saved config has the numbers that `data.normalize` came to, and the same id all the same.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    kept = {k: v for k, v in plain.items() if k not in ("seed", "name", "run_id", "logger")}
    kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k not in NO_PART_OF_ID}
    normalize = kept["data"]["normalize"]
    if isinstance(normalize, dict) and normalize.get("chosen"):  # numbers found by that choice
        kept["data"] = kept["data"] | {"normalize": normalize["chosen"]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _check_homes(typed: DictConfig) -> None:
    """Refuse paths below the home folder of a user that this machine does not have."""
    keys = ("data.root", "data.path", "data.images", "model.weights", "task.against")
    paths = {key: OmegaConf.select(typed, key) for key in keys}
    paths |= {f"data.eval_sets.{name}": path for name, path in typed.data.eval_sets.items()}
    for key, path in paths.items():
        try:
            Path(path or "").expanduser()
        except RuntimeError as error:
            raise ConfigError(key, "names the home folder of nobody here", given=path) from error


def portable_path(path: str) -> str:
    """The absolute form of a path, with the user's home folder written as `~`."""
    absolute = Path(os.path.abspath(Path(path).expanduser()))
    home = Path.home()
    return f"~/{absolute.relative_to(home)}" if absolute.is_relative_to(home) else str(absolute)


def path_settings(config: DictConfig) -> dict[str, str]:
    """The settings that name a file or folder, by their dotted key.

    `data.path` and `model.weights` may be other names as well: they count when there is such a
    file, and eval sets always.
    """
    found = {key: OmegaConf.select(config, key) for key in ("data.root", "data.images")}
    for key in ("data.path", "model.weights"):
        name = OmegaConf.select(config, key)
        if name and Path(name).expanduser().exists():
            found[key] = name
    eval_sets = OmegaConf.select(config, "data.eval_sets") or {}
    found |= {f"data.eval_sets.{name}": path for name, path in eval_sets.items()}
    return {key: path for key, path in found.items() if path}


_TYPED: dict[tuple[str, str], DictConfig] = {}  # points of a grid share most sections


def _typed_section(group: str, section: Any) -> DictConfig:
    """A checked section; the caller's config takes a copy of it."""
    known = (group, repr(section))
    if known not in _TYPED:
        found = _checked_section(group, section)
        if len(_TYPED) >= 1000:
            _TYPED.clear()
        _TYPED[known] = found
    return _TYPED[known]


def _checked_section(group: str, section: Any) -> DictConfig:
    if not isinstance(section, dict):
        given = "" if section == MISSING else section
        raise ConfigError(group, f"is a group: choose an option with {group}=NAME", given=given)
    if group == "trainer":
        return _typed(group, section, Trainer)
    option, options = option_of(section), SCHEMAS[group]
    if option in ("", "None", MISSING):
        hint = f"begin the file with defaults: [OPTION, _self_]; options: {', '.join(options)}"
        raise ConfigError(f"{group}.name", "has no value", hint)
    if option not in options:
        key = f"{group}.library" if "library" in section else f"{group}.name"
        raise ConfigError(key, "there is no such option", did_you_mean(option, options), option)
    return _typed(group, section, options[option])


def _typed(group: str, section: dict[Any, Any], schema: type) -> DictConfig:
    _check_keys(group, section, schema)
    typed = OmegaConf.structured(schema)
    for key, value in section.items():
        if value == MISSING:
            raise ConfigError(f"{group}.{key}", "has no value", f"give {group}.{key}=...")
        if key == "args" and isinstance(value, dict):
            _check_args(f"{group}.args", value)
        try:
            typed = OmegaConf.merge(typed, {key: value})
            of_text = get_type_hints(schema)[key] in (list[str], list[str] | None)
            if (
                of_text and value and not all(isinstance(item, str) for item in value)
            ):  # OmegaConf would turn anything into text
                raise wrong_type(f"{group}.{key}", value)
        except OmegaConfBaseException as error:
            raise wrong_type(f"{group}.{error.full_key or key}", value) from error
    assert isinstance(typed, DictConfig)
    return typed


def _check_keys(prefix: str, section: Any, schema: type) -> None:
    """Refuse keys the schema does not have, in lists of rules too, under their full name."""
    hints = get_type_hints(schema)
    for key, value in section.items():
        if key not in hints:
            raise unknown_setting(f"{prefix}.{key}", value, schema)
        inner = (get_args(hints[key]) or (hints[key],))[0]
        if isinstance(inner, type) and is_dataclass(inner):
            for i, item in enumerate(value if isinstance(value, list) else [value]):
                place = f"{prefix}.{key}[{i}]" if isinstance(value, list) else f"{prefix}.{key}"
                if not isinstance(item, dict):
                    raise wrong_type(f"{prefix}.{key}", value)
                _check_keys(place, item, inner)


def _check_limits(prefix: str, section: Any) -> None:
    for setting in fields(section):
        key, value = f"{prefix}{setting.name}", getattr(section, setting.name)
        if is_dataclass(value):
            _check_limits(f"{key}.", value)
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for i, item in enumerate(value):
                _check_limits(f"{key}[{i}].", item)
        elif value is not None:
            _check_value(key, value, setting.metadata)


def _check_value(key: str, value: Any, metadata: Any) -> None:
    allowed = metadata.get("allowed")
    if allowed and value not in allowed:
        hint = did_you_mean(str(value), map(str, allowed))
        if key.endswith(".monitor") and str(value).startswith("test/"):
            hint = f"selection never looks at test; allowed: {', '.join(sorted(allowed))}"
        raise ConfigError(key, "is not one of the choices", hint, value)
    limits = {
        name: limit for name, limit in metadata.get("limits", {}).items() if limit is not None
    }
    if "limits" not in metadata:
        return
    words = " and ".join(f"{name} {limit:g}" for name, limit in limits.items())
    for item in value if isinstance(value, list) else [value]:
        holds = {
            "above": lambda limit, item=item: item > limit,
            "at least": lambda limit, item=item: item >= limit,
            "below": lambda limit, item=item: item < limit,
            "at most": lambda limit, item=item: item <= limit,
        }
        if not _finite(item) or not all(holds[name](limit) for name, limit in limits.items()):
            finite = "" if _finite(item) and words else "a finite number "
            raise ConfigError(key, f"must be {finite}{words}".rstrip(), given=value)


def _finite(value: float) -> bool:
    """Whether a number is finite as a float, too."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _check_together(config: Config) -> None:
    """What no single limit can say."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", config.name):
        raise ConfigError(
            "name",
            "must be a folder name",
            "letters, digits, '.', '_' and '-', at most 100",
            config.name,
        )
    if config.run_id is not None and not re.fullmatch(r"[a-z0-9]{8}", config.run_id):
        raise ConfigError("run_id", "must be 8 characters a-z and 0-9", given=config.run_id)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.trainer.device):
        meant = "cuda" if config.trainer.device == "gpu" else config.trainer.device
        hint = did_you_mean(meant, ["auto", "cpu", "cuda", "cuda:N", "mps"])
        raise ConfigError("trainer.device", "is not a device", hint, config.trainer.device)
    monitor = config.trainer.monitor
    if not config.trainer.epochs and (monitor.startswith("train/") or "running" in monitor):
        raise ConfigError("trainer.monitor", "is not measured with trainer.epochs=0", given=monitor)
    _check_data(config.data)
    _check_optimizer(config)
    if (
        isinstance(config.optimizer, Sgd)
        and config.optimizer.nesterov
        and not config.optimizer.momentum
    ):
        raise ConfigError("optimizer.nesterov", "needs optimizer.momentum above 0", given=True)
    weights = config.loss.class_weights if isinstance(config.loss, CrossEntropy) else None
    if not (
        weights in (None, "balanced")
        or (
            isinstance(weights, list)
            and weights
            and all(type(w) in (int, float) and _finite(w) and w > 0 for w in weights)
        )
    ):
        hint = "allowed: balanced, null, or a list of numbers above 0, one per class"
        raise ConfigError("loss.class_weights", "is not a weighting", hint, weights)
    _check_layers(config.model)
    if config.model.weights and not config.model.weights.startswith(BUNDLED):
        _weights_source(config.model.weights)
    if isinstance(config.model, LibraryModel) and config.model.pretrained and config.model.weights:
        hint = "keep one of them"
        raise ConfigError("model.pretrained", "and model.weights are both given", hint, True)
    if isinstance(config.model, CustomModel):
        check_target("model.target", config.model.target)
    _check_policy(config)
    _check_scheduler(config.scheduler)


ALLOW_TARGETS = "LREXP_ALLOW_TARGETS"  # packages of the user whose classes a config may name


def check_target(key: str, target: str) -> None:
    """Refuse to import a name whose package the environment does not allow.

    Raises:
        ConfigError: unless the name is `package.module.Class` below one of the packages, separated
            by commas, in the environment variable LREXP_ALLOW_TARGETS.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        raise ConfigError(key, "is no name of a class", "such as mypkg.nets.Net", target)
    allowed = [p.strip() for p in os.environ.get(ALLOW_TARGETS, "").split(",") if p.strip()]
    if not any(target.startswith(f"{package}.") for package in allowed):
        package = target.partition(".")[0]
        hint = f"set the environment variable {ALLOW_TARGETS}={','.join([*allowed, package])}"
        raise ConfigError(key, "is in a package that is not allowed", hint, target)


def _weights_source(weights: str) -> str:
    """The file or run folder that model.weights means, other than a bundled one."""
    path = Path(weights).expanduser()
    if weights == "latest" and not path.exists():
        path = Path("outputs/latest").resolve()
    if path.is_dir() and not (path / CHECKPOINTS / BEST).is_file():
        points = sorted(str(p.parent.parent) for p in path.glob(f"*/{CHECKPOINTS}/{BEST}"))
        hint = "a plan has none, nor a run that diverged in its first epoch; give another run"
        hint = f"give one of its runs: {', '.join(points[:8])}" if points else hint
        problem = f"{path} has no checkpoints/best.pt"
        raise ConfigError("model.weights", problem, hint, weights)
    if not path.exists():
        hint = "there is no run in outputs/" if weights == "latest" else ""
        raise ConfigError("model.weights", "there is no such file or run", hint, weights)
    return str(path)


def _check_layers(model: Model) -> None:
    if model.layers is None:
        return
    if model.convention in ("beit", "block"):
        hint = "leave out one of them, or take strict"
        problem = "states an order of layers, and so does model.layers"
        raise ConfigError("model.convention", problem, hint, model.convention)
    if not model.layers:
        raise ConfigError("model.layers", "names no layer", "null: the order is found")
    for i, pattern in enumerate(model.layers):
        if pattern.startswith("re:"):
            _check_regex(f"model.layers[{i}]", pattern)


def _check_regex(key: str, pattern: str) -> None:
    try:
        re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(key, f"is no regular expression: {error}", given=pattern) from error


def _check_args(key: str, value: Any) -> None:
    """Refuse what would have arguments of a library import or call something."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        at = f"{key}.{name}" if isinstance(value, dict) else f"{key}[{name}]"
        if str(name).startswith("_") and str(name).endswith("_"):
            raise ConfigError(at, "arguments are plain values", given=inner)
        if isinstance(inner, dict | list):
            _check_args(at, inner)


# option -> the package it needs beyond torch, which is also the name of the extra
OPTIMIZER_PACKAGES = {
    "lion": "timm",
    "lamb": "timm",
    "timm": "timm",
    "schedulefree_sgd": "schedulefree",
    "schedulefree_adamw": "schedulefree",
}
# What no optimizer takes in optimizer.args, and why.
REFUSED_ARGS = {
    "maximize": "would maximise the loss",
    "differentiable": "would differentiate through the step, which training here never does",
    "lr_decay": "would decay the rate beside the schedule; choose a scheduler",
    "params": "is what lr_policy decides",
    "lr": "is optimizer.lr",
    "weight_decay": "is optimizer.weight_decay",
}


def _check_optimizer(config: Config) -> None:
    optimizer, option = config.optimizer, option_of(vars(config.optimizer))
    package = OPTIMIZER_PACKAGES.get(option)
    if package and importlib.util.find_spec(package) is None:
        hint = f"pip install 'lrexp[{package}]'"
        raise ConfigError("optimizer", f"needs the package {package}", hint, option)
    for key in ("betas", "adamw_betas"):
        betas = getattr(optimizer, key, None)
        if betas is not None and len(betas) != 2:
            raise ConfigError(f"optimizer.{key}", "must be two numbers", given=betas)
    if package == "schedulefree" and config.scheduler.name != "constant":
        problem = f"lets the rate change over time, and optimizer={option} averages instead"
        hint = "choose scheduler=constant; its warmup fits"
        raise ConfigError("scheduler", problem, hint, option_of(vars(config.scheduler)))
    if isinstance(optimizer, LibraryOptimizer):
        for key, value in optimizer.args.items():
            if key in REFUSED_ARGS:
                raise ConfigError(f"optimizer.args.{key}", REFUSED_ARGS[key], given=value)


def _plan_file(against: str) -> str:
    """The plan.csv that task.against means."""
    path = Path(against).expanduser()
    if against == "latest" and not path.exists():
        path = Path("outputs/latest")
    file = path.resolve() / PLAN if path.is_dir() else path
    if not file.is_file():
        hint = "give a run folder that has a plan.csv, such a file, or latest"
        raise ConfigError("task.against", f"there is no {file}", hint, against)
    return str(file)


def _check_data(data: Data) -> None:
    channels = None
    if data.image_shape is not None:
        if len(data.image_shape) != 3:
            hint = "channels, height and width, such as [1, 28, 28]"
            raise ConfigError("data.image_shape", "must be three numbers", hint, data.image_shape)
        channels = data.image_shape[0]
    _check_classes(data)
    if data.val_fraction + data.test_fraction >= 1:
        given = f"{data.val_fraction} + {data.test_fraction}"
        raise ConfigError(
            "data.val_fraction", "and data.test_fraction leave nothing to train on", given=given
        )
    if data.mean is not None or data.std is not None:
        _check_normalization("data", data.mean, data.std, channels)
    normalize = data.normalize
    if isinstance(normalize, dict):
        unknown = [key for key in normalize if key not in ("mean", "std", "chosen")]
        if unknown:
            raise unknown_setting(f"data.normalize.{unknown[0]}", normalize[unknown[0]])
        mean, std = normalize.get("mean"), normalize.get("std")
        _check_normalization("data.normalize", mean, std, channels)
    elif normalize not in ("auto", "dataset", "weights"):
        hint = did_you_mean(str(normalize), ["auto", "dataset", "weights"])
        problem = "is neither one of the choices nor {mean: [...], std: [...]}"
        raise ConfigError("data.normalize", problem, hint, normalize)
    for name, path in data.eval_sets.items():
        key = f"data.eval_sets.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ConfigError(key, "must be named with letters, digits, '_' and '-'")
        if name in ("train", "train_eval", "val", "test"):
            raise ConfigError(key, "is the name of a split; choose another", given=path)
        if not Path(path).expanduser().exists():
            raise ConfigError(key, "there is no such file or folder", given=path)
    _check_place(data)


def _check_place(data: Data) -> None:
    """Where the data is, as far as that can be seen without opening it."""
    if data.group_by is not None and not isinstance(data, HuggingFace | CsvTable):
        hint = "data=hf and data=csv have columns"
        raise ConfigError("data.group_by", "this data set has no columns", hint, data.group_by)
    if isinstance(data, TorchvisionSet) and not data.download:
        held = Path(data.root).expanduser() / TORCHVISION_FOLDERS[data.name]
        if not held.is_dir():
            hint = f"put the files of {data.name} there, or allow data.download=true"
            raise ConfigError("data.root", f"there is no folder {held}", hint, data.root)
    if isinstance(data, ImageFiles):
        if data.channels not in (1, 3):
            raise ConfigError("data.channels", "must be 1 (grey) or 3 (RGB)", given=data.channels)
        path, wanted = Path(data.path).expanduser(), "folder"
        there = path.is_dir()
        if isinstance(data, CsvTable):
            there, wanted = path.is_file(), "file"
        if isinstance(data, HuggingFace):
            there, wanted = path.exists(), "file or folder"
            there = there or re.fullmatch(HUB_NAME, data.path) is not None
        if not there:
            raise ConfigError("data.path", f"there is no {wanted} {path}", given=data.path)
    if isinstance(data, CsvTable) and data.images is not None:
        folder = Path(data.images).expanduser()
        if not folder.is_dir():
            raise ConfigError("data.images", f"there is no folder {folder}", given=data.images)
    if isinstance(data, Synthetic):
        for key in ("image_shape", "num_classes", "train_size"):
            if getattr(data, key) is None:
                hint = "data=synthetic makes what it says"
                raise ConfigError(f"data.{key}", "may not be empty", hint, "null")


def _check_classes(data: Data) -> None:
    classes = data.classes
    if classes is None:
        return
    for c in classes:
        if not (type(c) is int and c >= 0) and not isinstance(c, str):
            raise ConfigError("data.classes", "must be a list of labels or names", given=classes)
        if data.num_classes is not None and isinstance(c, int) and c >= data.num_classes:
            allowed = f"allowed: 0 to {data.num_classes - 1}"
            raise ConfigError("data.classes", f"there is no class {c}", allowed, classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ConfigError(
            "data.classes", "must name at least two classes, each once", given=classes
        )


def _check_normalization(key: str, mean: Any, std: Any, channels: int | None) -> None:
    """A finite number per channel each."""
    for name, values in (("mean", mean), ("std", std)):
        numbers = (
            isinstance(values, list)
            and values
            and all(type(v) in (int, float) and _finite(v) for v in values)
        )
        if not numbers:
            hint = "a list with a finite number per channel"
            raise ConfigError(f"{key}.{name}", "is not given", hint, given=values)
    if len(mean) != len(std) or (channels is not None and len(mean) != channels):
        problem = f"and {key}.std need one number per channel"
        problem += "" if channels is None else f" ({channels})"
        raise ConfigError(f"{key}.mean", problem, given=mean)
    if not all(value > 0 for value in std):
        raise ConfigError(f"{key}.std", "must be above 0", given=std)


def _check_policy(config: Config) -> None:
    policy = config.lr_policy
    if isinstance(policy, PerLayer):
        for i, rule in enumerate(policy.rules):
            _check_rule(f"lr_policy.rules[{i}]", rule)
    if isinstance(policy, LayerwiseDecay) and (policy.decay is None) == (policy.stem_scale is None):
        _refuse_not_one("decay", "stem_scale", policy.decay)
    if isinstance(policy, Discriminative) and (policy.lr_low is None) == (policy.ratio is None):
        _refuse_not_one("lr_low", "ratio", policy.lr_low)
    if isinstance(policy, Surgical) and not (
        (isinstance(policy.block, str) and policy.block) or type(policy.block) is int
    ):
        hint = "allowed: a layer index such as 0, a range such as 0-2, a module name such as layer1"
        raise ConfigError("lr_policy.block", "selects no layers", hint, policy.block)
    if isinstance(policy, LpFt) and 0 < config.trainer.epochs <= policy.head_epochs:
        raise ConfigError(
            "lr_policy.head_epochs",
            f"leaves nothing of trainer.epochs={config.trainer.epochs} for fine-tuning",
            "lr_policy=freeze_backbone trains the head alone",
            policy.head_epochs,
        )
    if isinstance(policy, LpFt) and config.scheduler.name == "plateau":
        problem = "does not start anew for the second phase of lr_policy=lp_ft"
        raise ConfigError("scheduler", problem, "choose another scheduler", "plateau")
    if isinstance(policy, Freezeout) and (
        policy.epochs != config.trainer.epochs or config.trainer.max_steps
    ):
        problem = "spreads over all of training: trainer.epochs, without trainer.max_steps"
        hint = "write lr_policy.epochs=${trainer.epochs}, and trainer.max_steps=null"
        raise ConfigError("lr_policy", problem, hint, "freezeout")
    if isinstance(policy, Freezeout) and config.scheduler.name != "constant":
        raise ConfigError(
            "scheduler",
            "does not go with lr_policy=freezeout, which moves every layer's rate by itself",
            "write scheduler=constant",
            config.scheduler.name,
        )


def _refuse_not_one(first: str, second: str, given: object) -> NoReturn:
    key = f"lr_policy.{first}"
    if given is None:
        raise ConfigError(key, f"and {second} are both empty", "give one of them")
    hint = f"keep one: lr_policy.{first}=null or lr_policy.{second}=null"
    raise ConfigError(key, f"and {second} are both given", hint, given)


def _check_rule(key: str, rule: Rule) -> None:
    if sum(selector is not None for selector in (rule.match, rule.type, rule.layers)) != 1:
        hint = "match: a glob or re:REGEX; type: a module class; layers: head, backbone, 0, 0-2"
        raise ConfigError(key, "needs one of match, type and layers", hint)
    if rule.lr is not None and rule.scale is not None:
        raise ConfigError(key, "gives both lr and scale", "keep one")
    answers = (rule.lr, rule.scale, rule.weight_decay)
    if rule.frozen and any(answer is not None for answer in answers):
        raise ConfigError(key, "freezes and gives a rate or weight decay", "keep one")
    if not rule.frozen and all(answer is None for answer in answers):
        raise ConfigError(key, "gives nothing", "add lr, scale, weight_decay or frozen: true")
    if rule.layers is not None and not re.fullmatch(r"head|backbone|\d+|\d+-\d+", str(rule.layers)):
        hint = "allowed: head, backbone, an index such as 0, a range such as 0-2"
        raise ConfigError(f"{key}.layers", "selects no layers", hint, rule.layers)
    if rule.match and rule.match.startswith("re:"):
        _check_regex(f"{key}.match", rule.match)


def _check_scheduler(scheduler: Any) -> None:
    warmup, _ = duration("scheduler.warmup", scheduler.warmup)
    if isinstance(scheduler, Wsd):
        duration("scheduler.decay", scheduler.decay)
    if (
        isinstance(scheduler, CosineRestarts)
        and not duration("scheduler.period", scheduler.period)[0]
    ):
        raise ConfigError("scheduler.period", "must be longer than 0", given=scheduler.period)
    if isinstance(scheduler, InverseSqrt):
        timescale, follows = scheduler.timescale, scheduler.timescale is None
        if follows and not warmup:
            hint = "give one, such as '1 epoch', or a scheduler.warmup whose length it takes"
            raise ConfigError("scheduler.timescale", "has no warmup to follow", hint, "null")
        if not follows and not duration("scheduler.timescale", timescale)[0]:
            raise ConfigError("scheduler.timescale", "must be longer than 0", given=timescale)
    if isinstance(scheduler, MultiStep):
        milestones = scheduler.milestones
        if not milestones or milestones != sorted(set(milestones)):
            hint = "epochs in rising order, each once, such as [8, 12]"
            raise ConfigError("scheduler.milestones", "are no milestones", hint, milestones)
    if isinstance(scheduler, OneCycle):
        momentum = scheduler.momentum
        if momentum is not None and len(momentum) != 2:
            hint = "at both ends and at the peak, such as [0.95, 0.85]; or null"
            raise ConfigError("scheduler.momentum", "must be two numbers", hint, momentum)


def duration(key: str, written: Any) -> tuple[float, str]:
    """A length of time in a setting as (amount, unit), the unit one of share, epochs and steps.

    Raises:
        ConfigError: when it is neither a share in [0, 1) nor `N epochs` nor `N steps`.
    """
    counted = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?)\s*", str(written))
    if counted:
        return float(counted[1]), counted[2].rstrip("s") + "s"
    if type(written) in (int, float) and 0 <= written < 1:
        return float(written), "share"
    hint = "allowed: a share of training in [0, 1), '2 epochs', '100 steps'"
    given = "null" if written is None else written
    raise ConfigError(key, f"is no {'warmup' if key.endswith('warmup') else 'length'}", hint, given)
