"""What moves the parameters: the plan, the optimizer and the schedule."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lrexp.config.check import duration
from lrexp.config.errors import ConfigError
from lrexp.config.schema import (
    Config,
    LibraryOptimizer,
    MultiStep,
    ReduceOnPlateau,
    Wsd,
    option_of,
    settings_of,
)
from lrexp.models.layers import LayerMap
from lrexp.optim.groups import has_momentum, param_groups
from lrexp.optim.optimizers import (
    OPTIMIZERS,
    MuonWithAdamW,
    check_plan,
    from_library,
    hidden_matrices,
)
from lrexp.optim.schedulers import MOMENTA, SCHEDULES
from lrexp.optim.schedulers.plateau import Plateau
from lrexp.optim.schedulers.table import with_warmup
from lrexp.plan.plan import Plan
from lrexp.plan.policies import POLICIES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rates:
    """What decides how fast every parameter moves."""

    plan: Plan
    optimizer: Optimizer
    schedule: list[float]  # s(t) for every step t
    steps_per_epoch: int
    momenta: list[float]  # m(t), empty when momentum stays put


def build_plan(config: Config, layers: LayerMap) -> Plan:
    """What the configured policy decides for every parameter."""
    return POLICIES[option_of(vars(config.lr_policy))](
        layers, config.optimizer.lr, config.optimizer.weight_decay, **settings_of(config.lr_policy)
    )


def build_rates(config: Config, model: nn.Module, layers: LayerMap, train_size: int) -> Rates:
    """The plan, and the optimizer and schedule that carry it out; says what is odd about it."""
    plan = build_plan(config, layers)
    if not param_groups(model, plan, config.optimizer.lr):
        raise ConfigError("lr_policy", "freezes every parameter: nothing would train")
    if layers.unplaced and len({row.lr_scale for row in plan.rows}) > 1:
        log.warning(
            "%d parameters have no layer of their own and learn as the last one does: %s. Place"
            " them with model.layers.",
            len(layers.unplaced),
            ", ".join(layers.unplaced[:8]) + (", ..." if len(layers.unplaced) > 8 else ""),
        )
    if plan.frozen_random:
        log.warning(
            "%d of %d frozen tensors were never loaded from weights (%s): they are random features"
            " and stay so. Load a pretrained network with model.weights.",
            len(plan.frozen_random),
            len(plan.frozen_names),
            ", ".join(plan.frozen_random[:3]) + (", ..." if len(plan.frozen_random) > 3 else ""),
        )
    steps_per_epoch, steps = count_steps(config, train_size)
    epochs = math.ceil(steps / steps_per_epoch)  # fewer than trainer.epochs under max_steps
    if epochs and plan.schedule_restart and plan.schedule_restart >= epochs:
        problem = f"leaves nothing of the {epochs} epochs for the second phase"
        hint = "raise trainer.max_steps or trainer.epochs"
        raise ConfigError("lr_policy.head_epochs", problem, hint, plan.schedule_restart)
    if late := plan.never_reached(epochs) if epochs else []:
        log.warning(
            "%d tensors would first train after the last epoch and stay frozen: %s",
            len(late),
            ", ".join(late[:3]) + (", ..." if len(late) > 3 else ""),
        )
    schedule = build_schedule(config, train_size, plan.schedule_restart)
    optimizer = build_optimizer(config, model, plan)
    for warning in check_plan(optimizer, config.optimizer.name, plan, len(schedule)):
        log.warning(warning)
    momenta = build_momenta(config, train_size, plan.schedule_restart)
    if momenta and not has_momentum(optimizer):
        problem = "cycles momentum, and this optimizer has neither momentum nor betas"
        hint = (
            "scheduler.momentum=null, or scheduler.args.cycle_momentum=false, cycles the rate alone"
        )
        raise ConfigError("scheduler", problem, hint, config.scheduler.name)
    return Rates(plan, optimizer, schedule, steps_per_epoch, momenta)


def build_optimizer(config: Config, model: nn.Module, plan: Plan) -> Optimizer:
    """The configured torch optimizer over the plan's groups."""
    groups, lr = param_groups(model, plan, config.optimizer.lr), config.optimizer.lr
    if isinstance(config.optimizer, LibraryOptimizer):
        library, name = config.optimizer.library, config.optimizer.name
        return from_library(library, groups, lr, name, config.optimizer.args)
    settings = settings_of(config.optimizer)
    settings.pop("lr")
    settings.pop("weight_decay")
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if config.optimizer.name == "muon":
        return MuonWithAdamW(groups, hidden_matrices(model, plan), **settings)
    return OPTIMIZERS[config.optimizer.name](groups, lr=lr, **settings)


def build_schedule(config: Config, train_size: int, restart: int | None = None) -> list[float]:
    """s(t) for every step of the run. A plateau's own factor comes on top of it: `build_plateau`.

    Args:
        config: of the run.
        train_size: training images.
        restart: finished epochs after which the schedule starts anew over what is left.

    Raises:
        ConfigError: when a length does not fit the training there is, or torch refuses arguments.
    """
    per_epoch, steps = count_steps(config, train_size)
    if isinstance(config.scheduler, MultiStep):
        _warn_of_late(config.scheduler.milestones, -(-steps // per_epoch))
    parts = _parts(steps, per_epoch, restart)
    return [s for part in parts for s in _schedule(config, part, per_epoch)]


def build_momenta(config: Config, train_size: int, restart: int | None = None) -> list[float]:
    """m(t) for every step of the run, held through the warmup; empty when momentum stays put."""
    per_epoch, steps = count_steps(config, train_size)
    parts = _parts(steps, per_epoch, restart)
    return [m for part in parts for m in _momenta(config, part, per_epoch)]


def _parts(steps: int, per_epoch: int, restart: int | None) -> list[int]:
    """Steps of each stretch that has a schedule of its own."""
    first = min(steps, (restart or 0) * per_epoch)
    return [first, steps - first] if 0 < first < steps else [steps]


def _schedule(config: Config, steps: int, per_epoch: int) -> list[float]:
    """One schedule with its warmup over so many steps."""
    if isinstance(config.scheduler, ReduceOnPlateau):
        schedule, settings = SCHEDULES["constant"], {"floor": config.scheduler.floor}
    else:
        schedule = SCHEDULES[option_of(vars(config.scheduler))]
        settings = _schedule_settings(config, per_epoch, steps)
    return with_warmup(
        lambda t, e: schedule(t, e, **settings),
        _warmup_steps(config, per_epoch, steps),
        steps,
        per_epoch,
    )


def _momenta(config: Config, steps: int, per_epoch: int) -> list[float]:
    option = option_of(vars(config.scheduler))
    if option not in MOMENTA or not steps:
        return []
    warmup_steps = _warmup_steps(config, per_epoch, steps)
    settings = _schedule_settings(config, per_epoch, steps)
    momenta = MOMENTA[option](steps - warmup_steps, per_epoch, **settings)
    return momenta[:1] * warmup_steps + momenta


def build_plateau(config: Config, train_size: int) -> Plateau | None:
    """What follows a metric when the scheduler is a plateau."""
    if not isinstance(config.scheduler, ReduceOnPlateau):
        return None
    warmup_steps = _warmup_steps(config, *count_steps(config, train_size))
    settings = settings_of(config.scheduler)
    settings.pop("warmup")
    return Plateau(warmup_steps=warmup_steps, **settings)


def _warn_of_late(milestones: list[int], epochs: int) -> None:
    late = [milestone for milestone in milestones if milestone >= epochs]
    if late and epochs:
        log.warning(
            "scheduler.milestones: training ends after %d epochs, so the rate does not drop at %s",
            epochs,
            ", ".join(map(str, late)),
        )


def _warmup_steps(config: Config, per_epoch: int, steps: int) -> int:
    warmup_steps = _steps_of("warmup", config.scheduler.warmup, per_epoch, steps)
    if steps and warmup_steps >= steps:
        raise ConfigError(
            "scheduler.warmup",
            f"takes {warmup_steps} steps, training has {steps}",
            given=config.scheduler.warmup,
        )
    return warmup_steps if steps else 0


def _schedule_settings(config: Config, per_epoch: int, steps: int) -> dict[str, Any]:
    """The schedule's own settings, lengths of time as steps under their name with `_steps`."""
    scheduler, settings = config.scheduler, settings_of(config.scheduler)
    settings.pop("warmup")
    for setting in ("period", "timescale"):
        if setting in settings:
            written = settings.pop(setting)
            written = scheduler.warmup if written is None else written
            settings[f"{setting}_steps"] = max(1, _steps_of(setting, written, per_epoch, steps))
    if isinstance(scheduler, Wsd):
        decay = _steps_of("decay", settings.pop("decay"), per_epoch, steps)
        main = steps - _warmup_steps(config, per_epoch, steps)
        if steps and decay > main:
            problem = f"takes {decay} steps, training has {main} after the warmup"
            raise ConfigError("scheduler.decay", problem, given=scheduler.decay)
        settings["decay_steps"] = min(decay, main)
    return settings


def _steps_of(setting: str, written: Any, per_epoch: int, steps: int) -> int:
    amount, unit = duration(f"scheduler.{setting}", written)
    return round(amount * {"share": steps, "epochs": per_epoch, "steps": 1}[unit])


def count_steps(config: Config, train_size: int) -> tuple[int, int]:
    """Steps per epoch and in all. The last, smaller batch of an epoch counts as one."""
    trainer = config.trainer
    per_epoch = -(-train_size // config.data.batch_size)
    per_epoch = min(per_epoch, trainer.limit_train_batches or per_epoch)
    steps = per_epoch * trainer.epochs
    return per_epoch, min(steps, trainer.max_steps or steps)
