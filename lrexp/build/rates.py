"""What moves the parameters: the plan, the optimizer and the schedule."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lrexp.build.schedule import (
    Steps,
    build_momenta,
    build_plateau,
    build_schedule,
    count_steps,
    late_milestones,
)
from lrexp.config.checks import duration
from lrexp.config.errors import ConfigError
from lrexp.config.policy_checks import refuse_too_long
from lrexp.config.schema import Config, chosen_option, lengths_of, load, settings_of
from lrexp.config.schema.rates import Optimizer as OptimizerSettings
from lrexp.config.schema.rates import Policy
from lrexp.models.layer_map import LayerMap
from lrexp.optim.groups import has_momentum, param_groups
from lrexp.optim.optimizers import averages_weights, check_plan, stepping_on
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
    remarks: list[str]  # what is odd about them, a sentence each


def build_plan(config: Config, layers: LayerMap, steps: Steps) -> Plan:
    """What the configured policy decides for every parameter.

    Its function gets its option's settings, lengths of time in epochs, and where its signature
    names `epochs` those that training lasts.
    """
    policy, rates = config.lr_policy, config.optimizer
    make = load(chosen_option("lr_policy", policy).make)
    own = settings_of(policy) | lengths_in_epochs(policy, layers.depth, steps)
    if _spreads_over_all(policy):
        own["epochs"] = steps.total / steps.per_epoch
    return make(layers, rates.lr, rates.weight_decay, **own)


def _spreads_over_all(policy: Policy) -> bool:
    make = load(chosen_option("lr_policy", policy).make)
    return "epochs" in inspect.signature(make).parameters


def lengths_in_epochs(policy: Policy, depth: int, steps: Steps) -> dict[str, float]:
    """The policy's settings that are lengths of time, in epochs of a run of so many steps.

    A share is one of all that is trained. Where whole epochs are meant it is rounded, to at least 1
    and fewer than all, which of one epoch is 0. What is spread lets ⌊epochs / 2⌋ pass until the
    last of all groups, or layers, wakes up.

    Raises:
        ConfigError: when whole epochs are given and none is left for what follows.
    """
    found: dict[str, float] = {}
    for name, length in lengths_of(policy).items():
        key, written = f"lr_policy.{name}", getattr(policy, name)
        if written is None:
            groups = getattr(policy, "groups", None) or depth
            found[name] = steps.epochs // 2 / max(1, groups - 1)
            continue
        amount, unit = duration(key, written, of_policy=True)
        epochs = amount * steps.total / steps.per_epoch if unit == "share" else amount
        if length.whole:
            if unit == "epochs":
                refuse_too_long(key, written, epochs, steps.epochs)
            most = max(0, steps.epochs - 1) if unit == "share" else epochs
            epochs = round(min(most, max(length.least, epochs)))
        found[name] = epochs
    return found


def refuse_moved_lengths(saved: dict[str, Any], config: Config, depth: int, images: int) -> None:
    """Refuse to go on where a relative length has become another with the length of training.

    Args:
        saved: config of the run as it began, plain values.
        config: under which it is to go on.
        depth: layers of its network.
        images: that it trains on.

    Raises:
        ConfigError: for a setting that was not touched, with what it came to then and comes to now.
    """
    then, trainer = saved.get("lr_policy"), saved.get("trainer")
    if not isinstance(then, dict) or not isinstance(trainer, dict):
        return
    lengths = {k: trainer[k] for k in ("epochs", "max_steps") if k in trainer}
    before = count_steps(replace(config, trainer=replace(config.trainer, **lengths)), images)
    after = count_steps(config, images)
    policy = config.lr_policy
    as_it_was = then.get("epochs") == getattr(policy, "epochs", None)
    if _spreads_over_all(policy) and as_it_was and before != after:
        problem = (
            f"spreads over all of training, {before.total} steps when it began, {after.total} now:"
            " the plan would change on the way"
        )
        hint = "leave trainer.epochs and trainer.max_steps as they were, or start a new run"
        raise ConfigError("lr_policy", problem, hint, policy.name)
    was, now = (lengths_in_epochs(policy, depth, steps) for steps in (before, after))
    for name in was:
        written = getattr(policy, name)
        if was[name] != now[name] and then.get(name, written) == written:
            key = f"lr_policy.{name}"
            problem = (
                f"is relative to the length of training, {before.epochs} epochs when it began and"
                f" {after.epochs} now: the plan would change on the way"
            )
            old, new = (f"{key}={_epochs_as_written(each[name])}" for each in (was, now))
            hint = f"write {old} to keep the plan as it was, or {new} to go on under the new one"
            raise ConfigError(key, problem, hint, "null" if written is None else written)


def _epochs_as_written(epochs: float) -> str:
    return f"{epochs:.0f}" if epochs % 1 == 0 else f"'{epochs:.9g} epochs'"


def build_rates(config: Config, model: nn.Module, layers: LayerMap, steps: Steps) -> Rates:
    """The plan, and the optimizer and schedule that carry it out; says what is odd about it."""
    plan, scheduler = build_plan(config, layers, steps), config.scheduler
    if not param_groups(model, plan, config.optimizer.lr):
        raise ConfigError("lr_policy", "freezes every parameter: nothing would train")
    schedule = build_schedule(scheduler, steps, plan.schedule_restart)
    optimizer = build_optimizer(config.optimizer, model, plan)
    if config.trainer.ema is not None and averages_weights(optimizer):
        problem = f"optimizer={config.optimizer.name} evaluates an average of its own"
        hint = "trainer.ema=null, or choose another optimizer"
        raise ConfigError("trainer.ema", problem, hint, config.trainer.ema)
    momenta = build_momenta(scheduler, steps, plan.schedule_restart)
    if momenta and not has_momentum(optimizer):
        problem = "cycles momentum, and this optimizer has neither momentum nor betas"
        off = "scheduler.momentum=null, or scheduler.args.cycle_momentum=false"
        hint = f"{off}, cycles the rate alone"
        raise ConfigError("scheduler", problem, hint, scheduler.name)
    remarks = [
        *_remarks_on_plan(plan, layers),
        *_remarks_on_time(config.lr_policy, plan, layers, steps),
        *late_milestones(scheduler, steps),
        *check_plan(optimizer, config.optimizer.name, plan, len(schedule)),
    ]
    for remark in remarks:
        log.warning("%s", remark)
    return Rates(plan, optimizer, schedule, momenta, build_plateau(scheduler, steps), remarks)


def _remarks_on_plan(plan: Plan, layers: LayerMap) -> Iterator[str]:
    if layers.unplaced and len({row.lr_scale for row in plan.rows}) > 1:
        unplaced = layers.unplaced
        yield (
            f"{len(unplaced)} parameters have no layer of their own and learn as the last one does:"
            f" {_listed(unplaced, 8)}. Place them with model.layers."
        )
    if random := plan.frozen_random:
        yield (
            f"{len(random)} of {len(plan.frozen_names)} frozen tensors were never loaded from"
            f" weights ({_listed(random, 3)}): they are random features and stay so. Load a"
            " pretrained network with model.weights."
        )


def _remarks_on_time(policy: Policy, plan: Plan, layers: LayerMap, steps: Steps) -> Iterator[str]:
    lengths = lengths_in_epochs(policy, layers.depth, steps)
    highest = max(row.lr_scale for row in plan.rows)
    at = "" if highest == 1 else f", at {highest:g} × optimizer.lr"
    for name, epochs in lengths.items():
        if not epochs and steps.epochs:
            yield (
                f"one epoch leaves nothing to wait for: lr_policy={policy.name} lets every layer"
                f" learn from the start{at}, as lr_policy.{name} comes to no epoch"
            )
    if late := plan.never_reached(steps.epochs) if steps.epochs else []:
        spread = [name for name, length in lengths_of(policy).items() if length.spread]
        hint = f". lr_policy.{spread[0]}=null reaches all of them" if spread else ""
        yield (
            f"{len(late)} tensors would first train after the last epoch and stay frozen:"
            f" {_listed(late, 3)}{hint}"
        )


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
    own |= stepping_on(next(model.parameters()).device, make)
    return make(param_groups(model, plan, settings.lr), **own)
