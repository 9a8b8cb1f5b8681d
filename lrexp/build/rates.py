"""What moves the parameters: the plan, the optimizer and the schedule."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from lrexp.build.schedule import Steps, build_momenta, build_plateau, build_schedule
from lrexp.config.errors import ConfigError
from lrexp.config.schema import Config, chosen_option, load, settings_of
from lrexp.config.schema.rates import Optimizer as OptimizerSettings
from lrexp.judge.settings import ends_training
from lrexp.models.layer_map import LayerMap
from lrexp.optim.groups import has_momentum, param_groups
from lrexp.optim.optimizers import check_plan
from lrexp.optim.schedulers.plateau import Plateau
from lrexp.plan.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rates:
    """What decides how fast every parameter moves."""

    plan: Plan
    optimizer: Optimizer
    schedule: list[float]  # s(t) for every step t
    momenta: list[float]  # m(t), empty when momentum stays put
    plateau: Plateau | None  # when the scheduler follows a metric


def build_plan(config: Config, layers: LayerMap) -> Plan:
    """What the configured policy decides for every parameter."""
    policy, rates = config.lr_policy, config.optimizer
    make = load(chosen_option("lr_policy", policy).make)
    return make(layers, rates.lr, rates.weight_decay, **settings_of(policy))


def build_rates(config: Config, model: nn.Module, layers: LayerMap, steps: Steps) -> Rates:
    """The plan, and the optimizer and schedule that carry it out; says what is odd about it."""
    plan, scheduler = build_plan(config, layers), config.scheduler
    if not param_groups(model, plan, config.optimizer.lr):
        raise ConfigError("lr_policy", "freezes every parameter: nothing would train")
    _warn_of_plan(plan, layers)
    epochs = steps.epochs
    if epochs and plan.schedule_restart and plan.schedule_restart >= epochs:
        problem = f"leaves nothing of the {epochs} epochs for the second phase"
        hint = f"raise {ends_training(config.trainer, steps.per_epoch)}"
        raise ConfigError("lr_policy.head_epochs", problem, hint, plan.schedule_restart)
    if late := plan.never_reached(epochs) if epochs else []:
        problem = "%d tensors would first train after the last epoch and stay frozen: %s"
        log.warning(problem, len(late), _listed(late, 3))
    schedule = build_schedule(scheduler, steps, plan.schedule_restart)
    optimizer = build_optimizer(config.optimizer, model, plan)
    for warning in check_plan(optimizer, config.optimizer.name, plan, len(schedule)):
        log.warning(warning)
    momenta = build_momenta(scheduler, steps, plan.schedule_restart)
    if momenta and not has_momentum(optimizer):
        problem = "cycles momentum, and this optimizer has neither momentum nor betas"
        off = "scheduler.momentum=null, or scheduler.args.cycle_momentum=false"
        hint = f"{off}, cycles the rate alone"
        raise ConfigError("scheduler", problem, hint, scheduler.name)
    return Rates(plan, optimizer, schedule, momenta, build_plateau(scheduler, steps))


def _warn_of_plan(plan: Plan, layers: LayerMap) -> None:
    if layers.unplaced and len({row.lr_scale for row in plan.rows}) > 1:
        problem = "%d parameters have no layer of their own and learn as the last one does: %s."
        unplaced = layers.unplaced
        log.warning(f"{problem} Place them with model.layers.", len(unplaced), _listed(unplaced, 8))
    if random := plan.frozen_random:
        problem = "%d of %d frozen tensors were never loaded from weights (%s): they are random"
        problem += " features and stay so. Load a pretrained network with model.weights."
        log.warning(problem, len(random), len(plan.frozen_names), _listed(random, 3))


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def build_optimizer(settings: OptimizerSettings, model: nn.Module, plan: Plan) -> Optimizer:
    """The configured torch optimizer over the plan's groups.

    Its function gets its option's settings but for weight_decay, which the groups have, and of
    lr, model and plan what its signature names.
    """
    make = load(chosen_option("optimizer", settings).make)
    own = {k: tuple(v) if isinstance(v, list) else v for k, v in settings_of(settings).items()}
    offered = {"lr": own.pop("lr"), "model": model, "plan": plan}
    del own["weight_decay"]
    wanted = inspect.signature(make).parameters
    own |= {k: v for k, v in offered.items() if k in wanted}
    return make(param_groups(model, plan, settings.lr), **own)
