"""The plan: for every parameter, how fast it learns, from when to when, and with what decay."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from lrexp.models.layers import LayerMap, LayerParameter


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
    lr_scale: float  # rate = base_lr × lr_scale × s(t)
    weight_decay: float  # absolute
    trainable_from: int = 0  # in finished epochs
    trainable_until: int | None = None  # in finished epochs; None is always, 0 is never

    @property
    def frozen(self) -> bool:
        """True when the parameter never trains."""
        return self.trainable_until is not None and self.trainable_until <= self.trainable_from

    def trains_after(self, finished_epochs: int) -> bool:
        """Whether the parameter trains in the epoch that follows `finished_epochs` epochs."""
        return self.trainable_from <= finished_epochs and (
            self.trainable_until is None or finished_epochs < self.trainable_until
        )


@dataclass(frozen=True)
class Treatment:
    """What a policy decides for one parameter."""

    lr_scale: float
    weight_decay: float
    trainable_from: int = 0
    trainable_until: int | None = None


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

    @cached_property
    def hash(self) -> str:
        """16 hex digits that equal plans share."""
        plain = json.dumps([asdict(row) for row in self.rows], sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    def to_csv(self) -> str:
        """A header and a line per parameter; shape as 10x1x5x5, booleans as true and false."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([f.name for f in fields(Row)])
        for row in self.rows:
            cells = asdict(row) | {
                "shape": "x".join(map(str, row.shape)),
                "head": str(row.head).lower(),
                "trainable_until": "" if row.trainable_until is None else row.trainable_until,
            }
            writer.writerow(cells.values())
        return text.getvalue()


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
    """The weight decay of a parameter: `base`, or 0 for biases and norms unless `everywhere`.

    What the model itself keeps free of decay (timm's no_weight_decay) is so in either case.
    """
    exempt = parameter.undecayed or (parameter.is_bias_or_norm and not everywhere)
    return 0.0 if exempt else base


def never(treatment: Treatment) -> Treatment:
    """The same parameter frozen: it never trains, at rate and decay 0."""
    return replace(treatment, lr_scale=0.0, weight_decay=0.0, trainable_until=0)


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
