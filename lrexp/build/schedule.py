"""The configured schedule, tabulated: s(t) and m(t) for every step, and what follows a metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from lrexp.config.checks import duration
from lrexp.config.errors import ConfigError
from lrexp.config.schema import Config, chosen_option, lengths_of, load, settings_of
from lrexp.config.schema.rates import Scheduler
from lrexp.optim.schedulers.plateau import Plateau
from lrexp.optim.schedulers.table import with_warmup


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of a run, or of a stretch of it."""

    per_epoch: int
    total: int

    @property
    def epochs(self) -> int:
        """Epochs begun, which may be fewer than trainer.epochs under max_steps."""
        return -(-self.total // self.per_epoch)

    def parts(self, restart: int | None) -> list[Steps]:
        """Each stretch that has a schedule of its own; the first ends at `restart` epochs."""
        first = min(self.total, (restart or 0) * self.per_epoch)
        each = [first, self.total - first] if 0 < first < self.total else [self.total]
        return [replace(self, total=total) for total in each]


def count_batches(config: Config, train_size: int) -> int:
    """Batches of an epoch; see `lrexp.data.draws.cut`."""
    batches = -(-train_size // config.data.batch_size)
    return min(batches, config.trainer.limit_train_batches or batches)


def count_steps(config: Config, train_size: int) -> Steps:
    """Steps per epoch and in all, of trainer.accumulate batches each."""
    trainer = config.trainer
    per_epoch = -(-count_batches(config, train_size) // trainer.accumulate)
    total = per_epoch * trainer.epochs
    return Steps(per_epoch, min(total, trainer.max_steps or total))


def build_schedule(scheduler: Scheduler, steps: Steps, restart: int | None = None) -> list[float]:
    """s(t) for every step of the run. A plateau's own factor comes on top of it: `build_plateau`.

    Args:
        scheduler: settings.
        steps: of the run.
        restart: finished epochs after which the schedule starts anew over what is left.

    Raises:
        ConfigError: when a length does not fit the training there is, or torch refuses arguments.
    """
    make = load(chosen_option("scheduler", scheduler).make)
    table: list[float] = []
    for part in steps.parts(restart):
        warmup, settings = _in_steps(scheduler, part)
        table += with_warmup(partial(make, **settings), warmup, part.total, part.per_epoch)
    return table


def late_milestones(scheduler: Scheduler, steps: Steps) -> Iterator[str]:
    """A sentence per setting that counts finished epochs of which there will not be as many."""
    for setting in fields(scheduler):
        given = getattr(scheduler, setting.name) if setting.metadata.get("in_epochs") else []
        if steps.epochs and (late := [epoch for epoch in given if epoch >= steps.epochs]):
            yield (
                f"scheduler.{setting.name}: training ends after {steps.epochs} epochs, so the rate"
                f" does not drop at {', '.join(map(str, late))}"
            )


def build_momenta(scheduler: Scheduler, steps: Steps, restart: int | None = None) -> list[float]:
    """m(t) for every step of the run, held through the warmup; empty when momentum stays put."""
    option, momenta = chosen_option("scheduler", scheduler), list[float]()
    for part in steps.parts(restart) if option.momenta and steps.total else ():
        warmup, settings = _in_steps(scheduler, part)
        settings["read"] = "momentum"
        main = load(option.make)(part.total - warmup, part.per_epoch, **settings)
        momenta += main[:1] * warmup + main
    return momenta


def build_plateau(scheduler: Scheduler, steps: Steps) -> Plateau | None:
    """What follows a metric when the scheduler does."""
    target = chosen_option("scheduler", scheduler).follows
    if not target:
        return None
    warmup, settings = _in_steps(scheduler, steps)
    return load(target)(warmup_steps=warmup, **settings)


def _in_steps(scheduler: Scheduler, part: Steps) -> tuple[int, dict[str, Any]]:
    """Steps of the warmup; the other settings, lengths of time as steps under NAME_steps."""
    settings = settings_of(scheduler)
    warmup = _steps_of("warmup", settings.pop("warmup"), part)
    if part.total and warmup >= part.total:
        problem = f"takes {warmup} steps, training has {part.total}"
        raise ConfigError("scheduler.warmup", problem, given=scheduler.warmup)
    left = part.total - warmup if part.total else 0
    for name, length in lengths_of(scheduler).items():
        if name == "warmup":
            continue
        written = settings.pop(name)
        taken = getattr(scheduler, length.empty) if written is None and length.empty else written
        steps = max(length.least, _steps_of(name, taken, part))
        if length.fits and part.total and steps > left:
            problem = f"takes {steps} steps, training has {left} after the warmup"
            raise ConfigError(f"scheduler.{name}", problem, given=written)
        settings[f"{name}_steps"] = min(steps, left) if length.fits else steps
    return part.total - left, settings


def _steps_of(setting: str, written: Any, part: Steps) -> int:
    amount, unit = duration(f"scheduler.{setting}", written)
    return round(amount * {"share": part.total, "epochs": part.per_epoch, "steps": 1}[unit])
