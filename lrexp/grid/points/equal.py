"""Which points of a grid would train alike, and which may train together, before any trains."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from lrexp.config.check import check_values
from lrexp.config.compose import hydra_aside
from lrexp.config.errors import ConfigError
from lrexp.config.schema import OPTIONS, Config, chosen_option, load, meaning_of, option_of
from lrexp.config.schema.rates import LibraryOptimizer
from lrexp.grid.points.point import Point

# Sections that only decide the plan and the schedule, which are compared instead of them.
RATES = ("lr_policy", "scheduler")
MAX_STEPS = 100_000  # a longer schedule is compared by its settings: its table takes too long


def find_equal(
    points: Sequence[Point],
    placed: Callable[[Point, ConfigError], ConfigError] = lambda point, error: error,
    count: Callable[[], object] = lambda: None,
) -> dict[int, int]:
    """Number of a point → number of the first point that trains alike.

    Points train alike when all that training depends on is equal: every setting but name and
    run_id, where instead of the policy, the scheduler, optimizer.lr and optimizer.weight_decay the
    plan, its absolute rates and the schedule's table are compared (to 12 digits), built for a
    network without values. What cannot be built so is compared setting by setting.

    Every point also learns what points that may train together have in common (`Point.alike`),
    and how long it takes beside others (`Point.work`). `count` is called after each of them.

    Raises:
        ConfigError: for a point whose network, plan or schedule cannot be built; `placed` puts it.
    """
    first: dict[str, int] = {}
    equal: dict[int, int] = {}
    shared: dict[str, Any] = {}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # warnings belong to the run itself
    try:
        for point in points:
            try:
                training, point.alike, point.work = _compared(point, shared)
            except ConfigError as error:
                raise placed(point, error) from error
            if first.setdefault(training, point.num) != point.num:
                equal[point.num] = first[training]
            count()
    finally:
        logging.disable(before)
    return equal


def refuse_moot_rates(points: Sequence[Point]) -> None:
    """Refuse a sweep over optimizer.lr under a policy whose rates are all absolute.

    Such points differ in optimizer.lr alone and would train alike.

    Raises:
        ConfigError: for the first two points of which that is true.
    """
    seen: dict[str, Any] = {}  # the rest of a point's settings → its optimizer.lr
    for point in points:
        rest, prefix = dict(point.settings), "lr_policy."
        policy = {k.removeprefix(prefix): v for k, v in rest.items() if k.startswith(prefix)}
        all_absolute = OPTIONS["lr_policy"][option_of(policy)].absolute
        if not all_absolute or not load(all_absolute)(policy):
            continue
        given = rest.pop("optimizer.lr")
        if seen.setdefault(_as_text(rest), given) != given:
            problem = f"changes nothing: every rate of lr_policy={policy['name']} is absolute"
            raise ConfigError("optimizer.lr", problem, "sweep the policy's own rates", given)


@dataclass(frozen=True)
class Timetable:
    """What of a schedule tells points apart; its steps may be more than all else of a grid."""

    digest: str  # of the multipliers and momenta of every step, to 12 digits
    steps: int
    stops: bool  # momentum passes through 0

    @staticmethod
    def of(factors: Sequence[float], momenta: Sequence[float]) -> Timetable:
        """That of a schedule step by step."""
        texts = [[f"{value:.12g}" for value in table] for table in (factors, momenta)]
        return Timetable(_digest(texts), len(factors), "0" in texts[1])


def _compared(point: Point, shared: dict[str, Any]) -> tuple[str, str, float]:
    """Digests of all that a point's training depends on and of what it shares with a stack; its
    work."""
    composed = point.config
    with hydra_aside(composed):
        config = check_values(composed)
    settings = asdict(config)
    del settings["run_id"], settings["name"]
    try:
        rates = _rates(config, shared)
    except ConfigError:
        raise
    except Exception:  # it will say so when it runs
        rates = None
    together = {
        key: _shared(f"{key}.", value) if isinstance(value, dict) else value
        for key, value in _shared("", settings).items()
    }
    # of jobs that are open at a time
    together["hydra.job.env_set"] = OmegaConf.to_container(composed.hydra.job.env_set)
    if rates is None:
        return _digest(settings), _digest(together), 0.0
    for section in RATES:
        del settings[section], together[section]
    if not isinstance(config.optimizer, LibraryOptimizer):
        del settings["optimizer"]["lr"]
    del settings["optimizer"]["weight_decay"]
    rows, timetable, follows = rates
    # What is frozen when, which rates are measured, and whether momentum passes through 0.
    keys = ("name", "trainable_from", "trainable_until", "measured")
    same = [[row[key] for key in keys] for row in rows], timetable.stops
    work = timetable.steps * config.data.batch_size * sum(math.prod(row["shape"]) for row in rows)
    training = [settings, rows, timetable.digest, follows]
    return _digest(training), _digest([together, same]), work


def _shared(prefix: str, section: dict[str, Any]) -> dict[str, Any]:
    """Settings of a section that members of a stack have in common."""
    return {k: v for k, v in section.items() if meaning_of(f"{prefix}{k}").stack != "member"}


def _as_text(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def _digest(values: Any) -> str:
    return hashlib.blake2b(_as_text(values).encode(), digest_size=16).hexdigest()


def _rates(config: Config, shared: dict[str, Any]) -> Any:
    """The plan with absolute rates, and what moves them over time; None where it is not known."""
    from lrexp.build.data import stated_data
    from lrexp.build.model import build_model
    from lrexp.build.rates import build_plan
    from lrexp.build.schedule import build_momenta, build_schedule, count_steps

    data = config.data
    if None in (data.num_classes, data.image_shape, data.train_size):
        return None
    stated = stated_data(config)
    network = repr(("model", config.model, stated.image_shape, stated.class_names))
    if network not in shared:
        shared[network] = build_model(config, stated, meta=True)[1]
    if not stated.exact:  # only the run knows when max_steps ends it
        config = replace(config, trainer=replace(config.trainer, max_steps=None))
    steps = count_steps(config, stated.train_size)
    plan = build_plan(config, shared[network], steps)
    if not stated.exact or steps.total > MAX_STEPS:
        return None
    timing = config.scheduler, steps, plan.schedule_restart
    if repr(timing) not in shared:
        shared[repr(timing)] = Timetable.of(build_schedule(*timing), build_momenta(*timing))
    rows = []
    for row in plan.rows:
        plain = asdict(row)
        plain["lr_scale"] = f"{config.optimizer.lr * row.lr_scale:.12g}"
        rows.append(plain)
    follows = chosen_option("scheduler", config.scheduler).follows
    return rows, shared[repr(timing)], repr(config.scheduler if follows else None)
