"""What a command line leaves open for a sampler to choose, in Hydra's syntax of sweeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.runs.sweep import REPEATED

DIGITS = 5  # of a number that was drawn, in its override
MANY_TIMES = 100  # the end of an interval over its start: few draws fall into its lower decades


@dataclass(frozen=True)
class Open:
    """A setting that is searched: one of some choices, or a number."""

    key: str  # as it stands in an override, + included
    text: str  # what was typed for it
    choices: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    step: float | None = None
    whole: bool = False
    log: bool = False

    def override(self, value: Any) -> str:
        """KEY=VALUE; a drawn number is written with five digits where these lie in its interval.

        >>> Open("optimizer.lr", "interval(1e-3, 1)", low=0.001, high=1.0).override(0.012345678)
        'optimizer.lr=0.012346'
        """
        if not self.choices and not self.whole:
            short = float(f"{value:.{DIGITS}g}")
            value = short if self.low <= short <= self.high else float(value)
        return f"{self.key}={value}"

    def holds(self, value: Any) -> bool:
        """Whether a value is one that may be chosen."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def ends(self) -> list[str]:
        """Overrides for a look at whether such runs can be composed: all choices, or both ends."""
        numbers = [_typed(end, self.whole) for end in (self.low, self.high)]
        return [self.override(value) for value in self.choices or numbers]

    @property
    def values(self) -> list[Any]:
        """All of a list or a range; empty for an interval, which has no end of them."""
        if self.choices:
            return list(self.choices)
        if self.step is None:
            return []
        count = round((self.high - self.low) / self.step) + 1
        found = (_rounded(self.low + i * self.step) for i in range(count))
        return [_typed(value, self.whole) for value in found]


@dataclass(frozen=True)
class Space:
    """A search: what all trials share, what is chosen for each, and what it is repeated over."""

    fixed: tuple[str, ...]
    searched: tuple[Open, ...]
    repeated: tuple[tuple[str, ...], ...]  # overrides of every repetition of a trial

    def overrides(self, params: Mapping[str, Any]) -> list[list[str]]:
        """All overrides of each run of a trial, whose values go by key."""
        chosen = [one.override(params[one.key]) for one in self.searched]
        return [[*self.fixed, *chosen, *own] for own in self.repeated]

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether every setting has a value that may be chosen."""
        return all(one.key in params and one.holds(params[one.key]) for one in self.searched)

    @property
    def size(self) -> float:
        """Combinations; infinite where there is an interval."""
        return math.prod(len(one.values) or math.inf for one in self.searched)

    def notes(self) -> list[str]:
        """What people should know of it."""
        wide = (o for o in self.searched if not o.choices and not o.log and o.low > 0)
        return [
            f"{one.key} is drawn evenly from {one.low:g} to {one.high:g}, so that few draws are"
            f" small: '{one.key}=tag(log, {one.text})' draws as often from every decade"
            for one in wide
            if one.high >= MANY_TIMES * one.low and one.step is None
        ]


def read_space(axes: Sequence[str], loader: Any) -> Space:
    """What overrides leave open. Lists of `seed` and `data.seed` are repetitions of every trial.

    Raises:
        ConfigError: for an override that cannot be searched, and where there is nothing to search.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    fixed, searched, repeated = list[str](), list[Open](), list[list[str]]()
    for one in OverridesParser.create(config_loader=loader).parse_overrides(list(axes)):
        key = one.get_key_element()
        if not one.is_sweep_override():
            fixed.append(str(one.input_line))
        elif key in REPEATED:
            if not one.is_discrete_sweep():
                hint = f"write {key}=0,1,2"
                raise _refused(one, "repeats every trial, and an interval has no end", hint)
            repeated.append([f"{key}={value}" for value in one.sweep_string_iterator()])
        else:
            if key in {other.key for other in searched}:
                raise _refused(one, "is left open twice")
            searched.append(_open(one))
    if not searched:
        hint = "such as 'optimizer.lr=tag(log, interval(1e-4, 1))' or lr_policy=uniform,ulmfit"
        raise ConfigError("hydra/sweeper", "nothing is left for it to choose", hint, "optuna")
    return Space(tuple(fixed), tuple(searched), tuple(itertools.product(*repeated)))


def _open(override: Any) -> Open:
    """One setting, as Hydra parsed it."""
    key, value = override.get_key_element(), override.value()
    text = str(override.input_line).partition("=")[2]
    tags = sorted(getattr(value, "tags", ()))
    if unknown := [tag for tag in tags if tag != "log"]:
        hint = did_you_mean(unknown[0], ["log"])
        raise _refused(override, f"has the unknown tag {unknown[0]}", hint)
    log = "log" in tags
    if override.is_interval_sweep():
        low, high, whole = value.start, value.end, isinstance(value.start, int)
        step = 1 if whole else None
    elif override.is_range_sweep() and (numbers := list(value.range())):
        low, high, step = min(numbers), max(numbers), abs(value.step)
        whole = isinstance(low, int)
        if not whole:
            low, high = _rounded(low), _rounded(high)
    else:
        choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
        if log or not choices:
            problem = "is no interval" if log else "holds no value"
            raise _refused(override, problem, "write tag(log, interval(LOW, HIGH))" if log else "")
        return Open(key, text, choices)
    if not low < high:
        raise _refused(override, "ends where it begins, or before", "write interval(LOW, HIGH)")
    if log and (low <= 0 or step not in (None, 1)):
        hint = "begin above 0" if low <= 0 else "leave out the step"
        raise _refused(override, "cannot be drawn by its logarithm", hint)
    return Open(key, text, (), low, high, step, whole, log)


def _typed(value: float, whole: bool) -> float:
    return round(value) if whole else float(value)


def _rounded(value: float) -> float:
    """Without what adding steps up leaves in the last digits: Optuna wants whole steps."""
    return float(f"{value:.12g}")


def _refused(override: Any, problem: str, hint: str = "") -> ConfigError:
    key, _, value = str(override.input_line).partition("=")
    return ConfigError(key, problem, hint, value, f"the command line: {override.input_line}")
