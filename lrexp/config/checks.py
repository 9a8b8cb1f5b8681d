"""What a setting's value must be by itself, and what settings must be together.

Nothing is opened but the folders and files that settings name, to see whether they are there.
"""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import fields, is_dataclass
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

from lrexp.config.errors import ConfigError, did_you_mean, unknown_setting
from lrexp.config.names import BEST, CHECKPOINTS, PLAN
from lrexp.config.schema import Config, chosen_option, lengths_of, option_of
from lrexp.config.schema.rates import LibraryOptimizer, MultiStep, Scheduler
from lrexp.config.schema.training import (
    HUB_NAME,
    LEAST_STD,
    CsvTable,
    CustomModel,
    Data,
    HuggingFace,
    ImageFiles,
    LibraryModel,
    Model,
    RangeTestTask,
    Synthetic,
    Task,
    TorchvisionSet,
)
from lrexp.config.targets import check_target

# What no optimizer takes in optimizer.args, and why.
REFUSED_ARGS = {
    "maximize": "would maximise the loss",
    "differentiable": "would differentiate through the step, which training here never does",
    "lr_decay": "would decay the rate beside the schedule; choose a scheduler",
    "params": "is what lr_policy decides",
    "lr": "is optimizer.lr",
    "weight_decay": "is optimizer.weight_decay",
}
_HOLDS = {"above": gt, "at least": ge, "below": lt, "at most": le}


def check_limits(prefix: str, section: Any) -> None:
    """Raise a ConfigError for the first value of a section that its field does not allow."""
    for setting in fields(section):
        key, value = f"{prefix}{setting.name}", getattr(section, setting.name)
        if is_dataclass(value):
            check_limits(f"{key}.", value)
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for i, item in enumerate(value):
                check_limits(f"{key}[{i}].", item)
        elif value is not None:
            _check_value(key, value, setting.metadata)


def _check_value(key: str, value: Any, metadata: Any) -> None:
    allowed = metadata.get("allowed")
    if allowed and isinstance(value, list):
        for i, item in enumerate(value):
            _check_value(f"{key}[{i}]", item, {"allowed": allowed})
        return
    if allowed and value not in allowed:
        hint = did_you_mean(str(value), map(str, allowed))
        if key.endswith(".monitor") and str(value).startswith("test/"):
            hint = f"selection never looks at test; allowed: {', '.join(sorted(allowed))}"
        raise ConfigError(key, "is not one of the choices", hint, value)
    limits = {k: limit for k, limit in metadata.get("limits", {}).items() if limit is not None}
    count, hint = limits.pop("count", 0), limits.pop("such as", "")
    if count and len(value) != count:
        words = {2: "two", 3: "three"}
        raise ConfigError(key, f"must be {words[count]} numbers", hint, value)
    if "limits" not in metadata:
        return
    words = " and ".join(f"{name} {limit:g}" for name, limit in limits.items())
    for item in value if isinstance(value, list) else [value]:
        if not _finite(item) or not all(_HOLDS[name](item, n) for name, n in limits.items()):
            kind = "" if _finite(item) and words else "a finite number "
            still = item == 0 and re.fullmatch(r"lr_policy\.rules\[\d+\]\.(lr|scale)", key)
            hint = "what shall not learn has frozen: true instead" if still else ""
            raise ConfigError(key, f"must be {kind}{words}".rstrip(), hint, value)


def _finite(value: float) -> bool:
    """Whether a number is finite as a float, too."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of one finite number or more."""
    numbers = isinstance(values, list) and values
    return bool(numbers) and all(type(v) in (int, float) and _finite(v) for v in values)


def check_regex(key: str, pattern: str | None) -> None:
    """Raise a ConfigError for what begins with `re:` and goes on as no regular expression."""
    try:
        re.compile(pattern[3:] if pattern and pattern.startswith("re:") else "")
    except re.error as error:
        raise ConfigError(key, f"is no regular expression: {error}", given=pattern) from error


def check_args(key: str, value: Any) -> None:
    """Refuse what would have arguments of a library import or call something."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        at = f"{key}.{name}" if isinstance(value, dict) else f"{key}[{name}]"
        if str(name).startswith("_") and str(name).endswith("_"):
            raise ConfigError(at, "arguments are plain values", given=inner)
        if isinstance(inner, dict | list):
            check_args(at, inner)


def check_name(name: object) -> None:
    """Refuse a name of a run that could lead out of its folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(name)):
        hint = "letters, digits, '.', '_' and '-', at most 100"
        raise ConfigError("name", "must be a folder name", hint, name)


def check_device(key: str, name: str) -> None:
    """Refuse what is no name of a device, whether this machine has it or not."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        meant = "cuda" if name == "gpu" else name
        hint = did_you_mean(meant, ["auto", "cpu", "cuda", "cuda:N", "mps"])
        raise ConfigError(key, "is not a device", hint, name)


def check_together(config: Config) -> None:
    """Raise a ConfigError for the first setting that cannot be used with the others."""
    check_name(config.name)
    if config.run_id is not None and not re.fullmatch(r"[a-z0-9]{8}", config.run_id):
        raise ConfigError("run_id", "must be 8 characters a-z and 0-9", given=config.run_id)
    check_device("trainer.device", config.trainer.device)
    monitor = config.trainer.monitor
    if not config.trainer.epochs and (monitor.startswith("train/") or "running" in monitor):
        raise ConfigError("trainer.monitor", "is not measured with trainer.epochs=0", given=monitor)
    _check_data(config.data)
    _check_optimizer(config)
    weights = getattr(config.loss, "class_weights", None)
    if weights not in (None, "balanced") and not (_are_numbers(weights) and min(weights) > 0):
        hint = "allowed: balanced, null, or a list of numbers above 0, one per class"
        raise ConfigError("loss.class_weights", "is not a weighting", hint, weights)
    _check_model(config.model)
    _check_scheduler(config.scheduler)
    _check_ramp(config.task)


def _check_ramp(task: Task) -> None:
    if isinstance(task, RangeTestTask) and task.lr_from >= task.lr_to:
        problem = f"must be below task.lr_to={task.lr_to:g}: the rate rises"
        raise ConfigError("task.lr_from", problem, given=f"{task.lr_from:g}")


def _check_data(data: Data) -> None:
    channels = data.image_shape[0] if data.image_shape else None
    _check_classes(data)
    if data.val_fraction + data.test_fraction >= 1:
        problem = "and data.test_fraction leave nothing to train on"
        given = f"{data.val_fraction} + {data.test_fraction}"
        raise ConfigError("data.val_fraction", problem, given=given)
    if data.mean is not None or data.std is not None:
        _check_normalization("data", data.mean, data.std, channels)
    normalize = data.normalize
    if isinstance(normalize, dict):
        for key in normalize.keys() - {"mean", "std", "chosen"}:
            raise unknown_setting(f"data.normalize.{key}", normalize[key])
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
    if data.group_by is not None and not isinstance(data, HuggingFace | CsvTable):
        hint = "data=hf and data=csv have columns"
        raise ConfigError("data.group_by", "this data set has no columns", hint, data.group_by)
    if isinstance(data, ImageFiles) and data.channels not in (1, 3):
        raise ConfigError("data.channels", "must be 1 (grey) or 3 (RGB)", given=data.channels)
    if isinstance(data, CsvTable):
        for name in data.columns:
            if name not in ("path", "label", "split"):
                hint = did_you_mean(name, ["path", "label", "split"])
                raise ConfigError(f"data.columns.{name}", "is no column that is read", hint)
        try:
            "".encode(data.encoding or "utf-8")
        except LookupError as error:
            hint = "such as utf-8, utf-16, cp1252 (Windows) or latin-1"
            raise ConfigError("data.encoding", "is no encoding", hint, data.encoding) from error
    if isinstance(data, Synthetic):
        for key in ("image_shape", "num_classes", "train_size"):
            if getattr(data, key) is None:
                hint = "data=synthetic makes what it says"
                raise ConfigError(f"data.{key}", "may not be empty", hint, "null")


def check_place(data: Data) -> None:
    """Raise a ConfigError where the data is not there, as far as looking shows."""
    for name, path in data.eval_sets.items():
        if not Path(path).expanduser().exists():
            problem = "there is no such file or folder"
            raise ConfigError(f"data.eval_sets.{name}", problem, given=path)
    if isinstance(data, TorchvisionSet) and not data.download:
        held = Path(data.root).expanduser() / chosen_option("data", data).folder
        if not held.is_dir():
            hint = f"put the files of {data.name} there, or allow data.download=true"
            raise ConfigError("data.root", f"there is no folder {held}", hint, data.root)
    if isinstance(data, ImageFiles):
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
        problem = "must name at least two classes, each once"
        raise ConfigError("data.classes", problem, given=classes)


def _check_normalization(key: str, mean: Any, std: Any, channels: int | None) -> None:
    """A finite number per channel each."""
    for name, values in (("mean", mean), ("std", std)):
        if not _are_numbers(values):
            hint = "a list with a finite number per channel"
            raise ConfigError(f"{key}.{name}", "is not given", hint, given=values)
    if len({len(mean), len(std), channels or len(mean)}) > 1:
        problem = f"and {key}.std need one number per channel"
        problem += "" if channels is None else f" ({channels})"
        raise ConfigError(f"{key}.mean", problem, given=mean)
    if min(std) <= 0:
        raise ConfigError(f"{key}.std", "must be above 0", given=std)
    if min(std) < LEAST_STD:
        problem = f"must be at least {LEAST_STD:g}, for images are divided by it"
        raise ConfigError(f"{key}.std", problem, given=std)


def _check_optimizer(config: Config) -> None:
    optimizer, option = config.optimizer, option_of(vars(config.optimizer))
    package = chosen_option("optimizer", optimizer).needs
    if package and importlib.util.find_spec(package) is None:
        hint = f"pip install 'lrexp[{package}]'"
        raise ConfigError("optimizer", f"needs the package {package}", hint, option)
    if package == "schedulefree" and config.scheduler.name != "constant":
        problem = f"lets the rate change over time, and optimizer={option} averages instead"
        hint = "choose scheduler=constant; its warmup fits"
        raise ConfigError("scheduler", problem, hint, option_of(vars(config.scheduler)))
    if option == "sgd" and optimizer.nesterov and not optimizer.momentum:
        raise ConfigError("optimizer.nesterov", "needs optimizer.momentum above 0", given=True)
    if isinstance(optimizer, LibraryOptimizer):
        for key, value in optimizer.args.items():
            if key in REFUSED_ARGS:
                raise ConfigError(f"optimizer.args.{key}", REFUSED_ARGS[key], given=value)


def _check_model(model: Model) -> None:
    if model.layers is not None:
        if model.convention in ("beit", "block"):
            hint = "leave out one of them, or take strict"
            problem = "states an order of layers, and so does model.layers"
            raise ConfigError("model.convention", problem, hint, model.convention)
        if not model.layers:
            raise ConfigError("model.layers", "names no layer", "null: the order is found")
        for i, pattern in enumerate(model.layers):
            check_regex(f"model.layers[{i}]", pattern)
    if isinstance(model, LibraryModel) and model.pretrained and model.weights:
        hint = "keep one of them"
        raise ConfigError("model.pretrained", "and model.weights are both given", hint, True)
    if isinstance(model, CustomModel):
        check_target("model.target", model.target)


def weights_source(weights: str) -> str:
    """The file or run folder that model.weights means, other than a bundled one."""
    path = _run_or_file(weights)
    if path.is_dir() and not (path / CHECKPOINTS / BEST).is_file():
        points = sorted(str(p.parent.parent) for p in path.glob(f"*/{CHECKPOINTS}/{BEST}"))
        hint = "a plan has none, nor a run that diverged in its first epoch; give another run"
        hint = f"give one of its runs: {', '.join(points[:8])}" if points else hint
        problem = f"{path} has no checkpoints/best.pt"
        raise ConfigError("model.weights", problem, hint, weights)
    if path.exists() and not (path.is_dir() or path.is_file()):  # a pipe, a device
        raise ConfigError("model.weights", "is no file", given=weights)
    if not path.exists():
        hint = "there is no run in outputs/" if weights == "latest" else ""
        raise ConfigError("model.weights", "there is no such file or run", hint, weights)
    return str(path)


def plan_file(against: str) -> str:
    """The plan.csv that task.against means."""
    path = _run_or_file(against)
    file = path.resolve() / PLAN if path.is_dir() else path
    if not file.is_file():
        hint = "give a run folder that has a plan.csv, such a file, or latest"
        raise ConfigError("task.against", f"there is no {file}", hint, against)
    return str(file)


def _run_or_file(written: str) -> Path:
    path = Path(written).expanduser()
    return Path("outputs/latest").resolve() if written == "latest" and not path.exists() else path


def _check_scheduler(scheduler: Scheduler) -> None:
    for name, length in lengths_of(scheduler).items():
        key, written = f"scheduler.{name}", getattr(scheduler, name)
        if written is None and length.empty:
            other = f"scheduler.{length.empty}"
            if not duration(other, getattr(scheduler, length.empty))[0]:
                hint = f"give one, such as '1 epoch', or a {other} whose length it takes"
                raise ConfigError(key, f"has no {length.empty} to follow", hint, "null")
        elif not duration(key, written)[0] and length.least:
            raise ConfigError(key, "must be longer than 0", given=written)
    if isinstance(scheduler, MultiStep):
        milestones = scheduler.milestones
        if not milestones or milestones != sorted(set(milestones)):
            hint = "epochs in rising order, each once, such as [8, 12]"
            raise ConfigError("scheduler.milestones", "are no milestones", hint, milestones)


def duration(key: str, written: Any, of_policy: bool = False) -> tuple[float, str]:
    """A length of time in a setting as (amount, unit), the unit one of share, epochs and steps.

    Of a policy, whose plan counts epochs, a whole number is epochs, and there are no steps.

    Raises:
        ConfigError: when it is neither a share in [0, 1) nor `N epochs` nor `N steps`.
    """
    counted = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?)\s*", str(written))
    if counted and _finite(float(counted[1])) and not (of_policy and "step" in counted[2]):
        return float(counted[1]), counted[2].rstrip("s") + "s"
    if type(written) in (int, float) and 0 <= written < 1:
        return float(written), "share"
    if of_policy and type(written) is int and written > 0 and _finite(written):
        return float(written), "epochs"
    hint = "allowed: a share of training in [0, 1), '2 epochs', '100 steps'"
    if of_policy:
        hint = "allowed: a share of training in (0, 1), or epochs: 2, or '2 epochs'"
    given = "null" if written is None else written
    raise ConfigError(key, f"is no {'warmup' if key.endswith('warmup') else 'length'}", hint, given)
