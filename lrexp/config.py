"""Every setting's type and limits, and the checks a config passes before anything is built.

Types and limits stand here, defaults in conf/. The dataclasses are the schemas Hydra merges each
option into (under `schema/`, so that they never show up as options), and what the rest of the
program receives: `check` returns a `Config` of plain values. Imports nothing that takes time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from lrexp.errors import ConfigError, did_you_mean, nearest

# What may decide best.pt, and which way is better. Test metrics are never among them.
MONITORS = {
    "val/loss": "min",
    "val/accuracy": "max",
    "train/loss": "min",
    "train/accuracy": "max",
    "train_eval/loss": "min",
    "train_eval/accuracy": "max",
    "gap/loss": "min",
    "gap/accuracy": "min",
    "gap/loss_running": "min",
    "overfit/loss": "min",
    "overfit/accuracy": "min",
}
BUNDLED = "bundled:"  # prefix of model.weights for files that ship in lrexp/models/weights


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


def choice(*allowed: str) -> Any:
    """A field for one of a few words."""
    return field(default=MISSING, metadata={"allowed": allowed})


@dataclass
class SimpleCnn:
    name: str = MISSING
    channels: int = number(at_least=1)
    kernel_size: int = number(at_least=1)
    hidden: int = number(at_least=1)
    weights: str | None = MISSING


@dataclass
class Mlp:
    name: str = MISSING
    widths: list[int] = number(at_least=1)
    dropout: float = number(at_least=0, below=1)
    weights: str | None = MISSING


@dataclass
class Data:
    """What every data option has."""

    name: str = MISSING
    batch_size: int = number(at_least=1)
    seed: int = number(at_least=0)
    classes: list[int] | None = number(at_least=0)
    limit: int | None = number(at_least=1)
    val_fraction: float = number(above=0, below=1)
    mean: list[float] = number()
    std: list[float] = number(above=0)


@dataclass
class Digits(Data):
    test_fraction: float = number(at_least=0, below=1)


@dataclass
class Mnist(Data):
    root: str = MISSING
    download: bool = MISSING


@dataclass
class CrossEntropy:
    name: str = MISSING
    label_smoothing: float = number(at_least=0, below=1)
    class_weights: Any = MISSING  # None, "balanced" or one number per class


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
class Policy:
    """What every policy option has."""

    name: str = MISSING
    decay_bias_norm: bool = MISSING


@dataclass
class Rule:
    """One line of lr_policy.rules: what it selects, and what that gets."""

    match: str | None = None
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
    decay: float = number(above=0, at_most=1)


@dataclass
class Scheduler:
    """What every scheduler option has."""

    name: str = MISSING
    warmup: Any = MISSING  # share of training, or "N epochs", or "N steps"


@dataclass
class StepDecay(Scheduler):
    step_size: int = number(at_least=1)
    gamma: float = number(above=0)


@dataclass
class Cosine(Scheduler):
    floor: float = number(at_least=0, below=1)


@dataclass
class Trainer:
    epochs: int = number(at_least=0)
    max_steps: int | None = number(at_least=1)
    limit_train_batches: int | None = number(at_least=1)
    device: str = MISSING
    threads: int | None = number(at_least=1)
    monitor: str = choice(*MONITORS)
    patience: int | None = number(at_least=1)
    clip_grad_norm: float | None = number(above=0)
    train_eval_limit: int = number(at_least=2)
    eval_batch_size: int = number(at_least=1)
    stats_every: int = number(at_least=0)


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


@dataclass
class Task:
    name: str = MISSING


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
    "model": {"simple_cnn": SimpleCnn, "mlp": Mlp},
    "data": {"digits": Digits, "mnist": Mnist},
    "loss": {"cross_entropy": CrossEntropy},
    "optimizer": {"sgd": Sgd, "adam": Adam, "adamw": Adam, "rmsprop": Rmsprop},
    "lr_policy": {
        "uniform": Policy,
        "per_layer": PerLayer,
        "layerwise_decay": LayerwiseDecay,
        "freeze_backbone": Policy,
    },
    "scheduler": {"constant": Scheduler, "step": StepDecay, "cosine": Cosine},
    "logger": {"wandb": Wandb, "none": NoLogger},
    "task": {"train": Task},
}
GROUPS = (*SCHEMAS, "trainer", "experiment")
_TOP = (*(f.name for f in fields(Config)), "experiment")


def store_schemas() -> None:
    """Put every schema where the first line of each YAML file finds it."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    store.store(group="schema", name="trainer", node=Trainer)
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            store.store(group=f"schema/{group}", name=option, node=schema)


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
        raise ConfigError(missing[0], "has no value", "give one in the file or as an override")
    config = OmegaConf.to_object(typed)
    assert isinstance(config, Config)
    _check_limits("", config)
    _check_together(config)
    if isinstance(config.data, Mnist):
        config.data.root = typed.data.root = portable_path(config.data.root)
    if config.model.weights and not config.model.weights.startswith(BUNDLED):
        config.model.weights = typed.model.weights = portable_path(config.model.weights)
    return typed, config


def config_id(config: DictConfig) -> str:
    """12 hex digits that equal configs share whatever their seed, name and logger."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    kept = {k: v for k, v in plain.items() if k not in ("seed", "name", "run_id", "logger")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def portable_path(path: str) -> str:
    """The absolute form of a path, with the user's home folder written as `~`."""
    absolute = Path(os.path.abspath(Path(path).expanduser()))
    home = Path.home()
    return f"~/{absolute.relative_to(home)}" if absolute.is_relative_to(home) else str(absolute)


def wrong_type(key: str, value: Any = "") -> ConfigError:
    """The error for a value its schema refuses, which says what would be right."""
    hint = ""
    if key == "optimizer.lr" and str(value).startswith("["):
        hint = "different rates for different layers: lr_policy=per_layer with lr_policy.rules"
    problem = "may not be empty" if value is None else f"must be {_type_in_words(key)}"
    return ConfigError(key, problem, hint, value)


def unknown_setting(key: str, value: Any = "", schema: type = Config) -> ConfigError:
    """The error for a key that `schema` does not have, with the setting that was meant."""
    section, _, last = key.rpartition(".")
    own = [f.name for f in fields(schema)] if is_dataclass(schema) else settings_of(section)
    problem = "there is no such setting"
    owners = [o for o, other in SCHEMAS.get(section, {}).items() if last in get_type_hints(other)]
    if owners:
        hint = f"it belongs to {' and '.join(f'{section}={o}' for o in owners)}"
        return ConfigError(key, f"{problem} in the option chosen", hint, value)
    everywhere = [f"{group}.{name}" for group in GROUPS for name in settings_of(group)]
    own_dotted = [f"{section}.{name}" if section else name for name in own]
    match = nearest(key, own_dotted) or nearest(key, [*_TOP, *everywhere])
    allowed = (
        f"settings of {section}: {', '.join(sorted(own))}"
        if section
        else (f"groups and settings: {', '.join(_TOP)}")
    )
    return ConfigError(
        key, problem, f"did you mean {match}? {allowed}" if match else allowed, value
    )


def settings_of(section: str) -> list[str]:
    """Names under a section over all its options: of `optimizer`, lr, momentum, betas and so on."""
    return sorted({f.name for schema in _schemas_of(section) for f in fields(schema)})


def _schemas_of(section: str) -> list[type]:
    if re.fullmatch(r"lr_policy\.rules\[\d*\]", section):
        return [Rule]
    single = {"": Config, "trainer": Trainer, "lr_policy.default": Rest}
    if section in single:
        return [single[section]]
    return list(SCHEMAS.get(section, {}).values())


def _typed_section(group: str, section: Any) -> DictConfig:
    if not isinstance(section, dict):
        given = "" if section == MISSING else section
        raise ConfigError(group, f"is a group: choose an option with {group}=NAME", given=given)
    if group == "trainer":
        return _typed(group, section, Trainer)
    name, options = section.get("name"), SCHEMAS[group]
    if name not in options:
        hint = did_you_mean(str(name), options)
        raise ConfigError(f"{group}.name", "there is no such option", hint, name)
    return _typed(group, section, options[name])


def _typed(group: str, section: dict[Any, Any], schema: type) -> DictConfig:
    _check_keys(group, section, schema)
    typed = OmegaConf.structured(schema)
    for key, value in section.items():
        if value == MISSING:
            raise ConfigError(f"{group}.{key}", "has no value")
        try:
            typed = OmegaConf.merge(typed, {key: value})
            if get_type_hints(schema)[key] == list[str] and not all(
                isinstance(item, str) for item in value
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
        hint = did_you_mean(value, allowed)
        if key == "trainer.monitor" and str(value).startswith("test/"):
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
        if not math.isfinite(item) or not all(holds[name](limit) for name, limit in limits.items()):
            finite = "" if math.isfinite(item) and words else "a finite number "
            raise ConfigError(key, f"must be {finite}{words}".rstrip(), given=value)


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
        hint = did_you_mean(config.trainer.device, ["auto", "cpu", "cuda", "cuda:N", "mps"])
        raise ConfigError("trainer.device", "is not a device", hint, config.trainer.device)
    _check_data(config.data)
    if isinstance(config.optimizer, Adam) and len(config.optimizer.betas) != 2:
        raise ConfigError("optimizer.betas", "must be two numbers", given=config.optimizer.betas)
    if (
        isinstance(config.optimizer, Sgd)
        and config.optimizer.nesterov
        and not config.optimizer.momentum
    ):
        raise ConfigError("optimizer.nesterov", "needs optimizer.momentum above 0", given=True)
    weights = config.loss.class_weights
    if not (
        weights in (None, "balanced")
        or (
            isinstance(weights, list)
            and weights
            and all(type(w) in (int, float) and math.isfinite(w) and w > 0 for w in weights)
        )
    ):
        hint = "allowed: balanced, null, or a list of numbers above 0, one per class"
        raise ConfigError("loss.class_weights", "is not a weighting", hint, weights)
    file = config.model.weights
    if file and not file.startswith(BUNDLED) and not Path(file).expanduser().is_file():
        raise ConfigError("model.weights", "there is no such file", given=file)
    if isinstance(config.lr_policy, PerLayer):
        for i, rule in enumerate(config.lr_policy.rules):
            _check_rule(f"lr_policy.rules[{i}]", rule)
    warmup_share(config.scheduler.warmup)


def _check_data(data: Data) -> None:
    if data.classes is not None and (
        len(data.classes) < 2 or len(set(data.classes)) < len(data.classes)
    ):
        raise ConfigError(
            "data.classes", "must name at least two classes, each once", given=data.classes
        )
    if isinstance(data, Digits) and data.val_fraction + data.test_fraction >= 1:
        given = f"{data.val_fraction} + {data.test_fraction}"
        raise ConfigError(
            "data.val_fraction", "and data.test_fraction leave nothing to train on", given=given
        )
    if len(data.mean) != len(data.std) or len(data.mean) != 1:
        raise ConfigError(
            "data.mean", "and data.std need one number per channel (1)", given=data.mean
        )
    if isinstance(data, Mnist) and not data.download:
        raw = Path(data.root).expanduser() / "MNIST" / "raw"
        if not raw.is_dir():
            hint = "put the MNIST files there, or allow data.download=true"
            raise ConfigError("data.root", f"there is no folder {raw}", hint, data.root)


def _check_rule(key: str, rule: Rule) -> None:
    if (rule.match is None) == (rule.layers is None):
        raise ConfigError(key, "needs one of match (a glob or re:REGEX) and layers")
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
        try:
            re.compile(rule.match[3:])
        except re.error as error:
            raise ConfigError(
                f"{key}.match", f"is no regular expression: {error}", given=rule.match
            ) from error


def warmup_share(warmup: Any) -> tuple[float, str]:
    """A warmup setting as (amount, unit), the unit one of `share`, `epochs` and `steps`.

    Raises:
        ConfigError: when it is neither a share in [0, 1) nor `N epochs` nor `N steps`.
    """
    written = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?)\s*", str(warmup))
    if written:
        return float(written[1]), written[2].rstrip("s") + "s"
    if type(warmup) in (int, float) and 0 <= warmup < 1:
        return float(warmup), "share"
    hint = "allowed: a share of training in [0, 1), '2 epochs', '100 steps'"
    raise ConfigError("scheduler.warmup", "is no warmup", hint, warmup)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _type_in_words(key: str) -> str:
    section, _, last = key.rpartition(".")
    name, indexed = re.subn(r"\[\d*\]$", "", last)
    if not section and name in GROUPS:
        return f"an option of the group: {name}=NAME"
    hint = next(h[name] for h in map(get_type_hints, _schemas_of(section)) if name in h)
    if get_origin(hint) is not list:  # X, or X | None
        hint = next((kind for kind in get_args(hint) if kind is not type(None)), hint)
    if get_origin(hint) is not list:
        return _WORDS.get(hint, "settings in braces, such as {scale: 0.1}")
    item = get_args(hint)[0]
    if item not in _WORDS:
        return "a list of rules, each such as {match: 'conv.*', scale: 0.1}"
    return _WORDS[item] if indexed else f"a list, each item {_WORDS[item]}"
