"""From what was seen of a loop to a row per tensor, and to findings."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from lrexp.config.errors import UserError, did_you_mean
from lrexp.models.layers import layer_map
from lrexp.optim.alone import moves
from lrexp.optim.groups import frozen_state
from lrexp.plan.plan import Plan, Row
from lrexp.train.learning import MARGIN, TRIED_STEPS
from lrexp.use.certified import Finding, TensorRow
from lrexp.use.findings import (
    TOO_SMALL,
    decay_differs,
    findings_of,
    needless_gradients,
    rates_differ,
    statistics_moved,
)
from lrexp.use.fingerprints import readable, sharded
from lrexp.use.watching import (
    Evidence,
    Watch,
    momentum_of,
    named_parameters,
    plain_name,
)

log = logging.getLogger(__name__)


def judged(watch: Watch) -> tuple[list[TensorRow], list[Finding]]:
    """A row for every tensor of a watched model, and what was not meant, faults first."""
    before = watch.tensors
    evidence = watch.evidence()
    if len(watch.stepped) > 1:
        for stepped in watch.stepped:
            for group in stepped.groups:
                group.label = f"{stepped.title} {group.label}"
    rows = {
        name: _row(watch, evidence, name, tensor, before.get(name) is tensor)
        for name, tensor in watch.tensors.items()
    }
    every = list(rows.values())
    foreign = sum(stepped.foreign for stepped in watch.stepped)
    if foreign:
        _leave_copies(every)
    rates = [stepped.rates() for stepped in watch.stepped]
    known = bool(watch.stepped)
    found = list(findings_of(every, rates, watch.steps, foreign if known else None))
    if watch.steps:
        if names := _frozen_statistics_that_moved(watch, evidence, rows):
            found.append(statistics_moved(names))
        found += _beside_plan(watch, every) if watch.plan else _within_layers(watch, rows)
    return every, sorted(found, key=lambda finding: not finding.fault)


def _leave_copies(rows: list[TensorRow]) -> None:
    """Do not judge what moves in no group where an optimizer has tensors that no model has.

    It then steps copies (of more precision, say), and someone writes them back. Where all are in
    no group, one that has not moved is no other.
    """
    outside = [row for row in rows if row.meant and not row.groups]
    if all(not row.groups for row in rows) and any(row.moved for row in outside):
        moved = outside
    else:
        moved = [row for row in outside if row.moved]
    for row in moved:
        row.not_judged = row.not_judged or "an optimizer steps copies"


def check_names(watch: Watch) -> None:
    """Refuse a plan of another model.

    Raises:
        UserError: for a row without a tensor, or a tensor without a row.
    """
    if not watch.plan:
        return
    there = named_parameters(watch.model)
    for name in watch.plan.keys() ^ there.keys():
        where, others = ("the plan", there) if name in watch.plan else ("the model", watch.plan)
        other = "the model" if where == "the plan" else "the plan"
        hint = did_you_mean(name, others)
        raise UserError(f"certify: {where} has {name}, and {other} does not\n  {hint}")


def _row(watch: Watch, evidence: Evidence, name: str, tensor: Tensor, same: bool) -> TensorRow:
    """What is known of a tensor.

    Args:
        watch: that ended.
        evidence: of it.
        name: of the tensor.
        tensor: that has the name now.
        same: whether it had before the first step.
    """
    planned, trains = watch.plan.get(name), tensor.requires_grad
    by_plan = planned is not None and (planned.frozen or planned.trains_throughout)
    meant = planned is not None and not planned.frozen if by_plan else trains
    dtype = str(tensor.dtype).removeprefix("torch.")
    row = TensorRow(name, tuple(tensor.shape), (), meant, trains, dtype=dtype)
    times = ("first", "began") if meant else ("frozen", "first", "began")
    row.moved = evidence.changed(name, *times) if same else None
    row.largest_gradient = evidence.largest(name)
    whole, skipped, spans = True, False, list[tuple[int, int]]()
    for i, stepped in enumerate(watch.stepped):
        if name not in stepped.where:
            continue
        groups = [stepped.groups[at] for at in stepped.where[name]]
        row.groups += tuple(group.label for group in groups)
        row.twice |= len(groups) > 1
        spans.append((stepped.first_step, stepped.last_step))
        row.trained |= name in stepped.trained
        row.gradient |= name in stepped.gradients
        row.left_gradient |= name in stepped.left_gradients
        row.planned = stepped.planned().get(name)
        row.lowest, row.highest = groups[0].lowest, groups[0].highest
        settings = stepped.optimizer.param_groups[stepped.where[name][0]]
        row.weight_decay = settings.get("weight_decay") or 0.0
        row.momentum = momentum_of(stepped.optimizer, stepped.holder[name])
        row.shut = name in stepped.frozen_since
        if row.moved is False and meant:  # steps of a sign may lead back
            row.moved = evidence.changed_at_a_step(name)
        whole, skipped = stepped.holder[name] is tensor, evidence.all_skipped(i, stepped.steps)
    row.twice |= any(later[0] < one[1] for one, later in pairwise(sorted(spans)))
    row.shut = not trains and (row.shut or not row.trained)
    if not tensor.numel() and readable(tensor):
        row.not_judged = "no values"
    elif sharded(tensor):
        row.not_judged = "sharded"
    elif row.moved is None:
        row.not_judged = "new in the loop" if readable(tensor) else "its values are elsewhere"
    elif not meant and row.trained and not by_plan and not row.shut:
        row.not_judged = "frozen after its last step"
    elif meant and row.trained and not row.moved:
        row.not_judged = _why_still(row, whole, skipped)
        if row.gradient and not row.not_judged and not _would_move(watch, row, tensor):
            row.not_judged = TOO_SMALL
    return row


def _why_still(row: TensorRow, whole: bool, skipped: bool) -> str:
    """Why a tensor that has not moved is no fault; empty when it is one.

    Args:
        row: of it.
        whole: whether it is stepped by itself, not in one piece with others.
        skipped: whether every step was.
    """
    if row.highest == 0:
        return "rate 0"
    if skipped:
        return "every step was skipped"
    if not row.gradient:
        return ""
    if row.highest is None:
        return "its optimizer has no rate"
    if row.largest_gradient is None:
        return "no gradient was looked at"
    if not math.isfinite(row.largest_gradient):
        return "gradient not finite"
    if row.largest_gradient == 0:
        return "gradient 0"
    return "" if whole else "stepped in one piece with others"


def _would_move(watch: Watch, row: TensorRow, tensor: Tensor) -> bool:
    """Whether steps of its optimizer by such a gradient would move a tensor, by far."""
    stepped = next(s for s in watch.stepped if row.name in s.where)
    size, rate = row.largest_gradient or 0.0, row.highest or 0.0
    gradient = torch.full_like(tensor, size) if tensor.grad is None else tensor.grad
    tried = rate / MARGIN, min(stepped.steps, TRIED_STEPS)
    try:
        return moves(stepped.optimizer, tensor, gradient, *tried)
    except Exception as error:  # an optimizer that cannot be copied
        log.info("certify: %s cannot be tried", row.name, exc_info=error)
        return False


def _frozen_statistics_that_moved(
    watch: Watch, evidence: Evidence, rows: dict[str, TensorRow]
) -> list[str]:
    """Running means and variances of BatchNorm that go with frozen modules, and changed."""
    as_it_was = []
    for raw, tensor in watch.model.named_parameters():
        name = plain_name(raw)
        planned, row = watch.plan.get(name), rows[name]
        frozen = planned.frozen if planned is not None else not (row.trains or row.trained)
        bn_stats = planned.bn_stats if planned is not None else "follow"
        shape, until = tuple(tensor.shape), 0 if frozen else None
        own = Row(raw, shape, 0, "", "", False, "loaded", 1.0, 0.0, trainable_until=until)
        as_it_was.append(replace(own, bn_stats=bn_stats))
    times = ("first", "began") if watch.steps > 1 else ("began",)  # a batch comes before its step
    still = frozen_state(watch.model, Plan(tuple(as_it_was)))
    return [
        name
        for name in still
        if name.rpartition(".")[2] in ("running_mean", "running_var")
        and evidence.changed(name, *times)
    ]


def _beside_plan(watch: Watch, rows: list[TensorRow]) -> list[Finding]:
    """Notes of what a plan says beside rates."""
    found = []
    decays = [(row, watch.plan[row.name].weight_decay) for row in rows if row.groups and row.meant]
    if other := [(row, wd) for row, wd in decays if not math.isclose(row.weight_decay, wd)]:
        first, wd = other[0]
        said = f"{first.weight_decay:g} for {wd:g}"
        found.append(decay_differs([row.name for row, _ in other], said))
    idle = [row.name for row in rows if not row.meant and row.trains and not row.moved]
    return [*found, *([needless_gradients(idle)] if idle else [])]


def _within_layers(watch: Watch, rows: dict[str, TensorRow]) -> list[Finding]:
    """A note of rates that differ within a layer."""
    layers: dict[str, list[TensorRow]] = {}
    try:
        placed = layer_map(watch.model).parameters
    except Exception as error:  # a network whose own order of layers cannot be had
        log.info("certify: no order of layers", exc_info=error)
        return []
    for parameter in placed:
        layers.setdefault(parameter.layer_name, []).append(rows[plain_name(parameter.name)])
    return list(rates_differ(layers))
