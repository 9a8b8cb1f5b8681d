"""Proof of learning: what a phase of the plan trains moves in it, or there is a reason why not.

A phase lies between two turns of the plan (`Plan.turns`): what trains does not change within it. A
tensor that has not moved by its end may be one that no gradient reaches, whose steps are lost in
its number type, or lead back to where they began. Else the training step passes it by, as that of a
graph compiled while it was frozen would, and the run ends with an error.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.config.errors import UserError, few, first_line
from lrexp.data import draws
from lrexp.data.generators import begun_at
from lrexp.optim.alone import comes_back, moves
from lrexp.optim.groups import quick_hash

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

MOVED, STILL, UNUSED, NOT_JUDGED = "moved", "still", "unused", "not judged"
PASSED_BY = "passed by"  # becomes an error
# Where a tensor has not moved, so few steps, each so much smaller, must move it to make it a fault.
TRIED_STEPS, MARGIN = 3, 16
DIGITS = 32  # of `quick_hash`; those of former versions had fewer


@dataclass
class Phase:
    """A phase of the plan that is being trained."""

    turn: int  # finished epochs before the plan's phase
    since: int  # finished epochs when the hashes were taken: later where the plan was changed
    first_step: int
    hashes: dict[str, str]  # of the live weights that train, by name; of an older state: none
    epoch_step: int = 0  # the first of its newest epoch
    rates: dict[str, float] = field(default_factory=dict)  # the largest so far, by group

    def through(self, epoch: int) -> str:
        """Its epochs in words."""
        first = self.since + 1
        return f"epoch {epoch}" if first == epoch else f"epochs {first} to {epoch}"


class LearningProof:
    """Judges at the end of every phase of the plan what it was to train.

    Args:
        g: g(t) at every step, of the groups that have one.
    """

    def __init__(self, g: Mapping[str, Sequence[float]]):
        self._g = g
        self._phase: Phase | None = None
        self._moved: dict[str, bool] = {}  # names that moved in a phase, in order
        self._others: dict[str, dict[int, tuple[str, str]]] = {}  # name → turn → word, reason
        self._left_out: dict[int, str] = {}  # turn → why none of that phase is judged
        self._taken_up_at = -1  # the step of a state
        # by name, where the gradients of the last step are not those of the network's own tensors
        self.last_gradient: Callable[[str], Tensor | None] | None = None

    def begin_epoch(self, trainer: Trainer) -> None:
        """Before an epoch: hash what a phase that begins is to train, and note the rates to come.

        What trains is in training form by then: the weights that gradients are taken at.
        """
        experiment, finished = trainer.experiment, trainer.epoch
        turn = experiment.plan.turns(finished + 1)[-1]
        if self._phase is None or self._phase.turn != turn:
            trained = [row.name for row in experiment.plan.rows if row.trains_after(finished)]
            hashes = _hashes(experiment.model, trained)
            self._phase = Phase(turn, finished, trainer.step, hashes)
        rates, steps = self._phase.rates, slice(trainer.step, trainer.step + _steps(trainer))
        self._phase.epoch_step = trainer.step
        s = experiment.schedule[steps]
        highest = max(s, default=0.0)
        base = experiment.base_lr * (experiment.plateau.s if experiment.plateau else 1.0)
        for group in experiment.optimizer.param_groups:
            g = self._g.get(group["name"])
            peak = max(map(mul, s, g[steps]), default=0.0) if g else highest
            now = base * group["lr_scale"] * peak
            rates[group["name"]] = max(rates.get(group["name"], 0.0), now)

    def end_epoch(self, trainer: Trainer) -> None:
        """After an epoch's row: judge the phase that ends with it, or with the run.

        Network, optimizer, gradients and generators stay as they are, to the bit.

        Raises:
            UserError: when a tensor has not moved and nothing explains it.
        """
        phase = self._phase
        if phase is None or not phase.hashes:
            return
        ends = trainer.experiment.plan.turns(trainer.epoch + 1)[-1] != phase.turn
        if not ends and trainer.goes_on:
            return
        if why := _nothing_to_judge(trainer, phase):
            self._left_out[phase.turn] = f"{phase.through(trainer.epoch)}: {why}"
            return
        self._left_out.pop(phase.turn, None)
        now = _hashes(trainer.experiment.model, phase.hashes)
        unmoved = [name for name, before in phase.hashes.items() if now[name] == before]
        others = self._explained(trainer, phase, unmoved) if unmoved else {}
        if faults := {n: why for n, (word, why) in others.items() if word == PASSED_BY}:
            name, why = next(iter(faults.items()))
            more = f" ({few(faults, 4)}: {len(faults)} in all)" if len(faults) > 1 else ""
            raise UserError(
                f"{name} is to train in {phase.through(trainer.epoch)} and has not moved{more},"
                f" {why}\n  what was recorded is of another plan than the run's. A graph that was"
                " compiled or captured while a tensor was frozen leaves it out: try"
                " trainer.compile=none, trainer.cuda_graph=false, one device"
            )
        for name in phase.hashes:
            self._others.get(name, {}).pop(phase.turn, None)  # what a shorter run said of it
            if name in others:
                self._others.setdefault(name, {})[phase.turn] = others[name]
            else:
                self._moved[name] = True

    def as_dict(self) -> dict[str, Any]:
        """As summary.json has it.

        `tensors`: of each that was judged `moved` (in every phase that trains it), or of the last
        phase in which it did not `still`, `unused` or `not judged`; `reasons`: of those, by name;
        `not_judged`: phases of which nothing can be said, and why.
        """
        words, reasons = dict.fromkeys(self._moved, MOVED), {}
        for name, by_turn in self._others.items():
            if by_turn:
                words[name], reasons[name] = by_turn[max(by_turn)]
        return {"tensors": words, "reasons": reasons, "not_judged": list(self._left_out.values())}

    def state(self) -> dict[str, Any]:
        """All that the proof needs to go on from here."""
        return {
            "phase": self._phase and dict(vars(self._phase)),
            "moved": list(self._moved),
            "others": self._others,
            "left_out": self._left_out,
        }

    def load_state(self, state: dict[str, Any] | None, trainer: Trainer) -> None:
        """Go on from `state()`, on a trainer that has taken up the rest of its state.

        None: of a former version. What is left of the phase it is in is not judged then.
        """
        if state is not None:
            state = copy.deepcopy(state)
            self._phase = state["phase"] and Phase(**state["phase"])
            self._moved = dict.fromkeys(state["moved"], True)
            self._others, self._left_out = state["others"], state["left_out"]
            taken = self._phase.hashes if self._phase else {}
            if self._phase and any(len(one) != DIGITS for one in taken.values()):
                self._phase.hashes = {}  # none that today's could be compared with
                self._left_out[self._phase.turn] = (
                    f"from epoch {self._phase.since + 1}: its state is of a former version"
                )
        elif trainer.epoch:
            turn = trainer.experiment.plan.turns(trainer.epoch)[-1]
            self._phase = Phase(turn, turn, trainer.step, {})
            self._left_out[turn] = f"from epoch {turn + 1}: its state is of a former version"
        self._taken_up_at = trainer.step

    def _explained(
        self, trainer: Trainer, phase: Phase, unmoved: list[str]
    ) -> dict[str, tuple[str, str]]:
        """Of each tensor that has not moved a word, and the reason with it."""
        optimizer, when = trainer.experiment.optimizer, phase.through(trainer.epoch)
        tensors = dict(trainer.experiment.model.named_parameters())
        groups = {name: group for group in optimizer.param_groups for name in group["names"]}
        found: dict[str, tuple[str, str]] = {}
        try:
            gradients = _eager_gradients(trainer, phase)
            for name in unmoved:
                word, why = self._why(trainer, phase, tensors[name], groups[name], name, gradients)
                found[name] = word, why if word == PASSED_BY else f"{word} in {when}: {why}"
        except Exception as error:  # too little memory, a network that cannot be copied
            log.info("the proof of learning", exc_info=error)
            why = f"{NOT_JUDGED} in {when}: cannot be tried again ({first_line(error)})"
            return dict.fromkeys(unmoved, (NOT_JUDGED, why))
        return found

    def _why(
        self,
        trainer: Trainer,
        phase: Phase,
        weight: Tensor,
        group: Mapping[str, Any],
        name: str,
        gradients: Mapping[str, Tensor | None],
    ) -> tuple[str, str]:
        """A word for a tensor that has not moved, and why.

        What the last step itself made of it counts too: where weights begin at 0 a gradient may be
        0 for a step or two, and no more when it is taken again.
        """
        rate, eager = phase.rates[group["name"]], gradients[name]
        if eager is None:
            return UNUSED, "no gradient comes there"
        if rate == 0:
            return STILL, "the rate was 0 at every step"
        if trainer.step == self._taken_up_at:
            return NOT_JUDGED, "the run went on after the phase's last step"
        own = weight.grad if self.last_gradient is None else self.last_gradient(name)
        found = [eager] if own is None else [own, eager]
        if not all(bool(gradient.isfinite().all()) for gradient in found):
            return NOT_JUDGED, "the last gradient is not finite"
        lr = rate if own is None else float(group["lr"])
        optimizer, steps = trainer.experiment.optimizer, trainer.step - phase.first_step
        tried = lr / MARGIN, min(steps, TRIED_STEPS)
        if all(moves(optimizer, weight, gradient, *tried) for gradient in found):
            stepped = own is not None and optimizer.state.get(weight)
            if stepped and comes_back(optimizer, weight, eager, lr):
                return STILL, "its steps add up to nothing"
            size = f"though its gradient is {float(eager.norm()):.3g} and its rate {lr:.3g}"
            none = "the training step makes no gradient for it"
            return PASSED_BY, f"{size}: {none if own is None else 'the optimizer leaves it out'}"
        if not all(bool(gradient.any()) for gradient in found):
            return STILL, "the gradient is 0"
        return STILL, f"steps are too small for {str(weight.dtype).removeprefix('torch.')}"


def _hashes(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    tensors = dict(model.named_parameters())
    return {name: quick_hash({name: tensors[name]}) for name in names}


def _steps(trainer: Trainer) -> int:
    """Steps of the coming epoch."""
    experiment = trainer.experiment
    return min(experiment.steps_per_epoch, len(experiment.schedule) - trainer.step)


def _nothing_to_judge(trainer: Trainer, phase: Phase) -> str:
    """Why nothing can be said of a phase; empty when it can."""
    if trainer.diverged:
        return "the run diverged"
    rows = [row for row in trainer.rows if row["epoch"] > phase.since]
    skipped = sum(row.get("perf/skipped_steps", 0) for row in rows)
    return "" if skipped < trainer.step - phase.first_step else "every step was skipped"


def _eager_gradients(trainer: Trainer, phase: Phase) -> dict[str, Tensor | None]:
    """Gradients of a copy of the network by name, as the epoch's last step saw images and drew.

    A copy has neither compiled graphs nor hooks of several devices.
    """
    experiment, train = trainer.experiment, trainer.experiment.dataset.train
    network, limit = copy.deepcopy(experiment.model).train(), trainer.settings.clip_grad_norm
    order = draws.order(trainer.seed, "order", train.ids, trainer.epoch)
    parts = draws.cut(order, trainer.batch_size)
    batch = (trainer.step - phase.epoch_step - 1) * trainer.settings.accumulate
    images, labels = next(train.batches([parts[batch]], trainer.epoch))
    drawn = draws.draw_each(trainer.seed, "dropout", np.array([trainer.step - 1]))
    with begun_at(int(drawn[0] >> np.uint64(1)), experiment.device):
        experiment.loss(network(images), labels).backward()
    weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if limit is not None:
        torch.nn.utils.clip_grad_norm_(weights.values(), limit)
    return {name: weight.grad for name, weight in weights.items()}
