"""The plan: for every parameter, how fast it learns, from when to when, and with what decay."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from lrexp.config.errors import UserError
from lrexp.folder.files import csv_text, plain_cell
from lrexp.models.layer_map import LayerMap, LayerParameter


@dataclass(frozen=True)
class Row:
    """One parameter's part of the plan."""

    name: str
    shape: tuple[int, ...]
    layer: int  # 0 is nearest to the input
    layer_name: str
    group: str  # parameters that share every hyperparameter; [A-Za-z0-9_]
    head: bool  # part of the classifier whose shape follows the data
    source: str  # "loaded" from weights, or "fresh"
    lr_scale: float  # rate = base_lr × lr_scale × g(t) × s(t)
    weight_decay: float  # absolute
    trainable_from: int = 0  # in finished epochs
    trainable_until: int | None = None  # in finished epochs; None is always, 0 is never
    g: str = ""  # the policy's own factor over time: see `rise`, `cosine`, `then`, `ramp`
    measured: str = ""  # what sets lr_scale anew before every epoch: see `auto_rgn`; empty: nothing
    bn_stats: str = "follow"  # BatchNorm statistics: frozen, live, or follow: still while frozen
    frozen_dropout: bool = False  # dropout goes on while the parameter is frozen
    schedule_restart: int | None = None  # finished epochs after which s(t) starts anew

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def frozen(self) -> bool:
        """True when the parameter never trains."""
        return self.trainable_until is not None and self.trainable_until <= self.trainable_from

    @property
    def trains_throughout(self) -> bool:
        """True when the parameter trains in every epoch, however many there are."""
        return not self.trainable_from and self.trainable_until is None

    def trains_after(self, finished_epochs: int) -> bool:
        """Whether the parameter trains in the epoch that follows `finished_epochs` epochs."""
        return self.trainable_from <= finished_epochs and (
            self.trainable_until is None or finished_epochs < self.trainable_until
        )

    def factors(self, steps: int, steps_per_epoch: int) -> list[float] | None:
        """g(t) for every step, 0 while the parameter is frozen; None when it is always 1."""
        if not self.g and not self.trainable_from and self.trainable_until is None:
            return None
        g = _factor(self.g, steps_per_epoch)
        return [g(t) if self.trains_after(t // steps_per_epoch) else 0.0 for t in range(steps)]


def rise(start: int, epochs: float) -> str:
    """g for a parameter that starts to train after `start` epochs: linear from near 0 to 1.

    g(t) = min(1, (k + 1) / (W + 1)), k the steps since the start and W those in `epochs`: the same
    increment at every step, from 0 while frozen to 1.
    """
    return f"rise {start} {epochs!r}"


def cosine(end: float) -> str:
    """g for a parameter that slows down to a stop at `end` epochs: (1 + cos(π t / t_end)) / 2."""
    return f"cosine {end!r}"


def then(start: int, factor: float) -> str:
    """g for a parameter whose rate is multiplied by `factor` from `start` finished epochs on."""
    return f"then {start} {factor!r}"


def ramp(low: float, high: float, steps: int) -> str:
    """g of a range test: low · (high / low)^(t / (steps − 1)), the same factor at every step."""
    return f"ramp {low!r} {high!r} {steps}"


def _factor(written: str, steps_per_epoch: int) -> Callable[[int], float]:
    """g(t) as `rise`, `cosine`, `then` or `ramp` wrote it; ValueError for anything else."""
    kind, *numbers = written.split() or ("",)
    match (kind, *(float(number) for number in numbers)):
        case ("",):
            return lambda t: 1.0
        case ("rise", start, epochs):
            first, length = start * steps_per_epoch, round(epochs * steps_per_epoch)
            return lambda t: min(1.0, (t - first + 1) / (length + 1))
        case ("cosine", end):
            last = end * steps_per_epoch
            return lambda t: (1 + math.cos(math.pi * t / last)) / 2 if t < last else 0.0
        case ("then", start, factor):
            first = start * steps_per_epoch
            return lambda t: 1.0 if t < first else factor
        case ("ramp", low, high, steps):
            return lambda t: low * (high / low) ** (t / (steps - 1))
    raise ValueError(f"{written!r} is no factor over time")


@dataclass(frozen=True)
class Treatment:
    """What a policy decides for one parameter. The fields are those of `Row`."""

    lr_scale: float
    weight_decay: float
    trainable_from: int = 0
    trainable_until: int | None = None
    g: str = ""
    measured: str = ""
    bn_stats: str = "follow"
    frozen_dropout: bool = False
    schedule_restart: int | None = None


@dataclass(frozen=True)
class Plan:
    """A total plan: one row per parameter of the model, each once, frozen ones included."""

    rows: tuple[Row, ...]

    @cached_property
    def groups(self) -> dict[str, list[Row]]:
        """Rows by group, in order of depth; all rows of a group share their hyperparameters."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return groups

    @property
    def frozen_names(self) -> list[str]:
        """Parameters that never train."""
        return [row.name for row in self.rows if row.frozen]

    @property
    def frozen_random(self) -> list[str]:
        """Frozen parameters that were never loaded from weights: random features for ever."""
        return [row.name for row in self.rows if row.frozen and row.source == "fresh"]

    @property
    def measured(self) -> dict[str, list[str]]:
        """Parameters by what is measured to set their rates; empty for most policies."""
        units: dict[str, list[str]] = {}
        for row in self.rows:
            if row.measured:
                units.setdefault(row.measured, []).append(row.name)
        return units

    @property
    def schedule_restart(self) -> int | None:
        """After how many finished epochs s(t) starts anew over what is left; None: never."""
        return next((r.schedule_restart for r in self.rows if r.schedule_restart), None)

    def never_reached(self, epochs: int) -> list[str]:
        """Parameters that would first train after the last epoch."""
        return [row.name for row in self.rows if not row.frozen and row.trainable_from >= epochs]

    def turns(self, epochs: int) -> list[int]:
        """Finished epochs after which something begins or ceases to train, 0 before them all."""
        rows = [row for row in self.rows if not row.frozen]
        found = {0, *(r.trainable_from for r in rows), *(r.trainable_until or 0 for r in rows)}
        return sorted(turn for turn in found if turn < max(1, epochs))

    def factors(self, steps: int, steps_per_epoch: int) -> dict[str, list[float]]:
        """g(t) at every step, for the groups where it is not always 1."""
        tables = {
            group: rows[0].factors(steps, steps_per_epoch)
            for group, rows in self.groups.items()
            if not rows[0].frozen
        }
        return {group: table for group, table in tables.items() if table is not None}

    def diff(self, other: Plan) -> list[str]:
        """What changes from this plan to the other, a line per change and its parameters.

        Empty exactly when both treat the same parameters alike, in whatever order.
        """
        ours, theirs = ({row.name: row for row in plan.rows} for plan in (self, other))
        changes: dict[str, list[str]] = {}
        for name in dict.fromkeys([*ours, *theirs]):
            if name not in theirs:
                change = "only in the first plan"
            elif name not in ours:
                change = "only in the second plan"
            else:
                cells = zip(_cells(ours[name]).items(), _cells(theirs[name]).values(), strict=True)
                change = ", ".join(
                    f"{key} {was or 'none'} → {now or 'none'}"
                    for (key, was), now in cells
                    if was != now and key != "group"  # a name, not a treatment
                )
            if change:
                changes.setdefault(change, []).append(name)
        return [f"{', '.join(names)}: {change}" for change, names in changes.items()]

    @cached_property
    def hash(self) -> str:
        """16 hex digits that equal plans share."""
        plain = json.dumps([asdict(row) for row in self.rows], sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    def to_csv(self) -> str:
        """A header and a line per parameter; shape as 10x1x5x5, booleans as true and false."""
        return self._csv

    @cached_property
    def _csv(self) -> str:
        return csv_text(  # every state of a run holds it
            [[f.name for f in fields(Row)], *(_cells(row).values() for row in self.rows)]
        )


def read_plan(text: str) -> Plan:
    """The plan that `Plan.to_csv` wrote.

    Raises:
        UserError: when the text is no such table, with the line that cannot be read.
    """
    lines = csv.DictReader(io.StringIO(text))
    names = [f.name for f in fields(Row)]
    if lines.fieldnames != names:
        raise UserError(f"this is no plan.csv: its first line must be {','.join(names)}")
    rows = []
    for number, cells in enumerate(lines, 2):
        try:
            rows.append(_row_of({name: plain_cell(cell) for name, cell in cells.items()}))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"line {number} of the plan cannot be read: {error}") from error
    return Plan(tuple(rows))


def difference_lines(differences: list[str], most: int = 4) -> list[str]:
    """Lines of `Plan.diff` with no more than so many parameters named in each."""
    lines = []
    for line in differences:
        names, _, change = line.rpartition(": ")
        listed = names.split(", ")
        if len(listed) > most:
            names = f"{', '.join(listed[: most - 1])} and {len(listed) - most + 1} more"
        lines.append(f"{names}: {change}")
    return lines


def _cells(row: Row) -> dict[str, str]:
    """A row as text: shape as 10x1x5x5, booleans as true and false, nothing as an empty cell."""
    words = {True: "true", False: "false", None: ""}
    plain = vars(row) | {"shape": "x".join(map(str, row.shape))}
    return {
        key: words[value] if value is None or isinstance(value, bool) else str(value)
        for key, value in plain.items()
    }


def _row_of(cells: dict[str, str]) -> Row:
    """The row that `_cells` wrote."""
    whole = {key: int(cells[key]) for key in ("layer", "trainable_from")}
    maybe = {
        key: int(cells[key]) if cells[key] else None
        for key in ("trainable_until", "schedule_restart")
    }
    real = {key: float(cells[key]) for key in ("lr_scale", "weight_decay")}
    flags = {key: {"true": True, "false": False}[cells[key]] for key in ("head", "frozen_dropout")}
    shape = tuple(int(size) for size in cells["shape"].split("x") if size)
    _factor(cells["g"], 1)
    return Row(**{**cells, **whole, **maybe, **real, **flags, "shape": shape})  # type: ignore[arg-type]


def make_plan(layers: LayerMap, treat: Callable[[LayerParameter], Treatment]) -> Plan:
    """Ask `treat` for every parameter of the map and name the groups that result.

    Parameters with equal treatment form a group. It is called after the layers it covers: `all`,
    `head`, `backbone`, a layer's own name, or `first_to_last`; with weight decay in the plan,
    groups end in `_decay` or `_no_decay`.
    """
    treated = [(parameter, treat(parameter)) for parameter in layers.parameters]
    members: dict[Treatment, list[LayerParameter]] = {}
    for parameter, treatment in treated:
        members.setdefault(treatment, []).append(parameter)
    decays = any(treatment.weight_decay for treatment in members)
    names: dict[Treatment, str] = {}
    for treatment, group in members.items():
        name = _cover(group, layers)
        frozen = treatment.trainable_until == 0
        if decays and not frozen:
            name += "_decay" if treatment.weight_decay else "_no_decay"
        kinds = {parameter.name.rsplit(".", 1)[-1] for parameter in group}
        if name in names.values() and len(kinds) == 1:
            name = f"{name}_{kinds.pop()}"
        taken = set(names.values())
        candidates = (name if i == 1 else f"{name}_{i}" for i in itertools.count(1))
        names[treatment] = next(c for c in candidates if c not in taken)
    return Plan(tuple(_row(parameter, t, names[t]) for parameter, t in treated))


def no_decay_on_bias_and_norm(parameter: LayerParameter, base: float, everywhere: bool) -> float:
    """The weight decay of a parameter: `base`, or 0 for biases, norms and scales unless
    `everywhere`.

    What its library keeps free of decay (timm's no_weight_decay) is so in either case.
    """
    one_dimensional = parameter.is_bias_or_norm or parameter.vector
    exempt = parameter.undecayed or (one_dimensional and not everywhere)
    return 0.0 if exempt else base


def never(treatment: Treatment) -> Treatment:
    """The same parameter frozen: it never trains, at rate and decay 0."""
    return replace(
        treatment,
        lr_scale=0.0,
        weight_decay=0.0,
        trainable_from=0,
        trainable_until=0,
        g="",
        measured="",
    )


def _row(parameter: LayerParameter, treatment: Treatment, group: str) -> Row:
    return Row(
        name=parameter.name,
        shape=parameter.shape,
        layer=parameter.layer,
        layer_name=parameter.layer_name,
        group=group,
        head=parameter.head,
        source=parameter.source,
        **asdict(treatment),
    )


def _cover(group: list[LayerParameter], layers: LayerMap) -> str:
    """What a group's parameters are called together, by the layers they lie in."""
    covered = {p.layer for p in group}
    head = {p.layer for p in layers.parameters if p.head}
    backbone = {p.layer for p in layers.parameters} - head
    if covered == head | backbone and len(covered) > 1:
        return "all"
    if covered == head:
        return "head"
    if covered == backbone and len(covered) > 1:
        return "backbone"
    first, last = min(covered), max(covered)
    names = layers.layer_names
    name = names[first] if first == last else f"{names[first]}_to_{names[last]}"
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or f"layer{first}"
