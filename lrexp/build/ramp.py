"""What a range test trains: a run's experiment, along a plan whose rates rise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lrexp.build.data import Datasets
from lrexp.build.experiment import build
from lrexp.build.rates import build_optimizer, build_plan
from lrexp.build.schedule import count_steps
from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.config.schema import Config
from lrexp.plan.plan import Plan, Row
from lrexp.train.experiment import Experiment
from lrexp.train.ramp import ramp_plan


@dataclass(frozen=True)
class Built:
    """An experiment of a range test, and what of its plan is tested."""

    experiment: Experiment  # along the ramp
    plan: Plan  # of the run that it is a test for
    rising: int  # tensors whose rate rises
    training: int  # that train
    absolute: int  # that keep a rate of their own, whatever optimizer.lr is


def build_ramp(config: Config, datasets: Datasets | None = None) -> Built:
    """The experiment of a config along a ramp from task.lr_from to task.lr_to.

    The optimizer is one of its own, so that the run's would be as it was. Schedule, warmup and
    momentum cycles are off.

    Raises:
        UserError: when the experiment cannot be built, when task.group names nothing that trains
            at the start, or when no rate follows optimizer.lr.
    """
    experiment, task, lr = build(config, datasets), config.task, config.optimizer.lr
    plan = experiment.plan
    now = [row for row in plan.rows if row.trains_after(0) and not row.frozen and row.lr_scale]
    chosen = selector(plan, task.group)
    doubled = replace(config, optimizer=replace(config.optimizer, lr=2 * lr))
    other = build_plan(
        doubled, experiment.layers, count_steps(config, len(experiment.dataset.train))
    )
    with_base = {row.name: row.lr_scale for row in other.rows}
    absolute = {row.name for row in now if with_base[row.name] * 2 == row.lr_scale}
    held = set() if task.group else absolute
    rising = {row.name for row in now if chosen(row) and row.name not in held}
    if not rising and task.group:
        problem = "does not train at the start of this run"
        raise ConfigError("task.group", problem, _names_hint(plan), task.group)
    if not rising:
        problem = "gives every rate itself: no rate follows optimizer.lr"
        hint = "give scales instead of rates, or name what is to be tested with task.group"
        raise ConfigError("lr_policy", problem, hint, config.lr_policy.name)
    highest = max(row.lr_scale for row in now if row.name in rising) if task.group else 1.0
    low, high = (rate / (lr * highest) for rate in (task.lr_from, task.lr_to))
    tested = ramp_plan(plan, lambda row: row.name in rising, low, high, task.steps)
    along = replace(
        experiment,
        plan=tested,
        optimizer=build_optimizer(config.optimizer, experiment.model, tested),
        schedule=[1.0] * task.steps,
        momenta=[],
        plateau=None,
    )
    return Built(along, plan, len(rising), len(now), len(absolute))


def selector(plan: Plan, name: str | None) -> Callable[[Row], bool]:
    """Whether a row is of what is named: a group of the plan, `head`, `backbone`, or a layer.

    Raises:
        ConfigError: when nothing has that name.
    """
    if name is None:
        return lambda row: True
    if name in plan.groups:
        return lambda row: row.group == name
    if name in ("head", "backbone"):
        return lambda row: row.head == (name == "head")
    if any(row.layer_name == name for row in plan.rows):
        return lambda row: row.layer_name == name
    raise ConfigError("task.group", "there is no such group", _names_hint(plan, name), name)


def _names_hint(plan: Plan, name: str = "") -> str:
    names = {"head", "backbone"}
    for row in plan.rows:
        if row.trains_after(0) and not row.frozen:
            names |= {row.group, row.layer_name}
    return did_you_mean(name, names)
