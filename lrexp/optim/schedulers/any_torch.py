"""Any other scheduler of torch.optim.lr_scheduler by its name."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.optim.schedulers.table import cut_off_at, tabulate

REFUSED = {
    "LambdaLR": "takes a Python function, which no YAML file can hold and no checkpoint can name",
    "MultiplicativeLR": "takes a Python function, which no YAML file can hold and no checkpoint can"
    " name",
    "SequentialLR": "is made of other schedulers; a rise before any schedule is scheduler.warmup",
    "ChainedScheduler": "is made of other schedulers; a rise before any schedule is"
    " scheduler.warmup",
    "ReduceLROnPlateau": "follows a metric: write scheduler=plateau",
    "SWALR": "belongs to weight averaging and goes to a rate of its own, the same for every layer",
}
FUNCTIONS = ("scale_fn",)  # arguments that are Python functions


def any_torch(
    steps: int,
    steps_per_epoch: int,
    *,
    name: str,
    interval: str,
    args: dict[str, Any],
    floor: float,
    read: str = "lr",
) -> list[float]:
    """s(t) = max(floor, what the class gives an optimizer of rate 1).

    m(t) is what it gives as momentum when it cycles that (OneCycleLR, CyclicLR).

    Rates among the arguments (eta_min, max_lr, base_lr) are therefore multiples of the base rate,
    and hold for every layer in proportion.

    Args:
        steps: length of the table.
        steps_per_epoch: optimizer steps in an epoch.
        name: a class of torch.optim.lr_scheduler.
        interval: `step` or `epoch`, how often its `step()` is called.
        args: the class's arguments but for `optimizer` and `last_epoch`.
        floor: s never falls below it.
        read: `momentum` for m(t), which is empty when the class does not cycle it.

    Raises:
        ConfigError: when the class is unknown or refused, or torch does not take the arguments.
    """
    values = _moved(steps, steps_per_epoch, name, interval, args, read)
    if read == "momentum":
        if any(map(math.isnan, values)):
            return []
        if wrong := [m for m in values if not 0 <= m < 1]:
            raise ConfigError("scheduler.args", f"give a momentum of {wrong[0]:g}", given=args)
        return values
    if wrong := [s for s in values if not (math.isfinite(s) and s >= 0)]:
        problem = f"give a rate of {wrong[0]:g} times the base"
        raise ConfigError("scheduler.args", problem, given=args)
    return cut_off_at(floor, values)


def _moved(
    steps: int, steps_per_epoch: int, name: str, interval: str, args: dict[str, Any], read: str
) -> list[float]:
    kind = _class_named(name)
    allowed = set(inspect.signature(kind).parameters) - {"optimizer", "last_epoch", *FUNCTIONS}
    for key in args:
        if key not in allowed:
            problem = f"{name} has no such argument"
            if key in FUNCTIONS:
                problem = "is a Python function, which no YAML file can hold"
            elif key in ("optimizer", "last_epoch"):
                problem = "is set by the program"
            hint = did_you_mean(key, allowed)
            raise ConfigError(f"scheduler.args.{key}", problem, hint, args[key])
    every = steps_per_epoch if interval == "epoch" else 1
    try:
        return tabulate(lambda unit: kind(unit, **args), steps, read, every)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        said = str(error).replace("__init__()", name).replace(f"{name}.{name}", name)
        taken = f"{name} takes {', '.join(sorted(allowed))}"
        hint = f"{taken}; it is moved once per {interval}, {-(-steps // every)} values in all"
        raise ConfigError("scheduler.args", f"torch says: {said}", hint, args) from error


def _class_named(name: str) -> type[LRScheduler]:
    if name in REFUSED:
        raise ConfigError("scheduler.name", REFUSED[name], given=name)
    classes = {
        key: value
        for key, value in vars(lr_scheduler).items()
        if isinstance(value, type)
        and issubclass(value, LRScheduler)
        and not key.startswith("_")
        and key not in REFUSED
        and value is not LRScheduler
    }
    if name not in classes:
        problem = "torch.optim.lr_scheduler has no such class"
        raise ConfigError("scheduler.name", problem, did_you_mean(name, classes), name)
    return classes[name]
