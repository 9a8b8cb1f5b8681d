"""A range test as its folder holds it: ramps, suggestions, and the line to paste."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError
from lrexp.folder.layout import CONFIG, RANGE_TEST
from lrexp.judge.range_test import Ramp, Suggestion, default_of, ramp_rates, suggested
from lrexp.runs.reading import NotReadError, table_of
from lrexp.runs.run import Run, content, read_run, was_rerun

MOST_SEEDS, MOST_STEPS = 100, 10_000  # of a test, as its schema has them
# Of what was typed, what a run at another rate does not have.
DROPPED = re.compile(r"[+~]*(task|task\..*|run_id|hydra\.(run|sweep|job)\..*|hydra\.mode)(=.*)?$")


@dataclass(frozen=True)
class RangeTest:
    """What a range test came to."""

    run: Run
    ramps: list[Ramp]

    @cached_property
    def suggestions(self) -> list[Suggestion]:
        """What every rule suggests."""
        return suggested(self.ramps)

    @property
    def default(self) -> Suggestion | None:
        """The one that is taken."""
        return default_of(self.suggestions)

    @property
    def task(self) -> dict[str, Any]:
        """Its settings."""
        found = self.run.config.get("task")
        return found if isinstance(found, dict) else {}

    @property
    def tested(self) -> str:
        """What the rate is of."""
        group = self.task.get("group")
        return f"rate of {group}" if group else "optimizer.lr"

    @property
    def overrides(self) -> list[str]:
        """What gives a run the rate that is taken; empty where no override does."""
        if self.default is None:
            return []
        rate = f"{self.default.rate:.2g}"
        if not self.task.get("group"):
            return [f"optimizer.lr={rate}"]
        return self._rules(rate)

    @property
    def command(self) -> str:
        """The command of the run that was tested for, at the rate that is taken."""
        given = self.overrides
        if not given:
            return ""
        if was_rerun(self.run.folder):  # what was typed is not all of it
            return shlex.join(given)
        keys = {one.partition("=")[0] for one in given}
        typed = [o for o in self.run.overrides if not DROPPED.match(o)]
        if "lr_policy" in keys:
            typed = [o for o in typed if not o.lstrip("+~").startswith("lr_policy")]
        typed = [o for o in typed if o.partition("=")[0].lstrip("+") not in keys]
        return shlex.join(["python", "-m", "lrexp", *typed, *given])

    def _rules(self, rate: str) -> list[str]:
        """A policy of rules with the rate of the group, where the plan treats all tensors alike."""
        rows, group = self.run.plan.rows, str(self.task["group"])
        alike = {(row.lr_scale, row.g, row.measured, row.frozen) for row in rows}
        if alike != {(1.0, "", "", False)}:
            return []
        if group in ("head", "backbone"):
            layers: list[str] = [group]
        else:
            chosen = [row for row in rows if group in (row.group, row.layer_name)]
            layers = sorted({str(row.layer) for row in chosen})
        rules = ", ".join(f"{{layers: {layer}, lr: {rate}}}" for layer in layers)
        return ["lr_policy=per_layer", f"lr_policy.rules=[{rules}]"]

    def as_summary(self) -> dict[str, Any]:
        """What summary.json has of it."""
        return {
            "range_test": {
                "default": self.default and self.default.as_dict(),
                "suggestions": [one.as_dict() for one in self.suggestions],
                "overrides": self.overrides,
                "ended": {str(ramp.seed): ramp.reason or "at its last rate" for ramp in self.ramps},
            }
        }


def read_range_test(folder: Path) -> RangeTest:
    """A range test's folder as values. What is read off the ramps is worked out anew.

    Raises:
        UserError: when range_test.csv cannot be read.
    """
    run = read_run(folder)
    run.notes[:] = [note for note in run.notes if not note.startswith("metrics")]
    task = run.config.get("task")
    settings = task if isinstance(task, dict) else {}

    def parse(text: str) -> list[Ramp]:
        rates, how = _ramp_of(settings)
        ramps: dict[int, Ramp] = {}
        for row in table_of(text):
            seed = int(row["seed"])
            if seed not in ramps:
                ramps[seed] = Ramp(seed, rates, *how)
            ramps[seed].see(float(row["loss"]))
        if not 1 <= len(ramps) <= MOST_SEEDS:
            raise NotReadError(f"it has the losses of {len(ramps)} seeds")
        return list(ramps.values())

    ramps = content(folder / RANGE_TEST, parse, [])
    if not ramps:
        raise UserError(f"{folder / RANGE_TEST} is missing")
    return RangeTest(run, ramps)


def _ramp_of(settings: Mapping[str, Any]) -> tuple[list[float], tuple[float, float]]:
    """Rates of a ramp, and its smoothing and stop factor; a ValueError for none of a test's."""
    names = ("lr_from", "lr_to", "steps", "smoothing", "stop_factor")
    if not all(type(settings.get(name)) in (int, float) for name in names):
        raise ValueError(f"{CONFIG} does not say how it was made")
    low, high, steps, smoothing, stop = (settings[name] for name in names)
    bounds = 0 < low < high < math.inf and math.isfinite(high / low) and 0 <= smoothing < 1 < stop
    if not (bounds and 2 <= steps <= MOST_STEPS):
        raise ValueError(f"the ramp that {CONFIG} describes is none")
    return ramp_rates(low, high, int(steps)), (smoothing, stop)


def rate_text(rate: float) -> str:
    """A rate with two digits.

    >>> rate_text(0.01234), rate_text(1e-6)
    ('0.012', '1e-06')
    """
    return f"{rate:.2g}" if math.isfinite(rate) else str(rate)
