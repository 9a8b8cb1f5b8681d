"""What happens to a model's tensors while optimizers step, by hooks of torch, without waiting.

Tensors are compared by fingerprints of 8 bytes each, made where the tensor is; no copy is kept.
They, and the largest gradients of some steps, stay on the device until the end: a GPU is waited
for once, when all is read.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.models.layers import unwrapped
from lrexp.plan.plan import Plan, Row
from lrexp.use.findings import SAME, HeldGroup, Rates, Share
from lrexp.use.fingerprints import fingerprint, prints, read, readable, sharded


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters under the names they have when nothing inside is compiled."""
    return {plain_name(name): p for name, p in model.named_parameters()}


def plain_name(name: str) -> str:
    """A tensor's name without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")


class Stepped:
    """One optimizer: what its groups held at its steps, and which of the model's tensors.

    Args:
        optimizer: or a wrapper of it, with its groups.
        model: without wrappers.
        plan: rows by name; empty without a plan.
    """

    def __init__(self, optimizer: Any, model: nn.Module, plan: Mapping[str, Row]):
        self.optimizer, self._model, self._plan = optimizer, model, plan
        self._tensors: dict[str, Tensor] = {}
        self.groups: list[HeldGroup] = []
        self.where: dict[str, list[int]] = {}  # name → indices of the groups that hold it
        self.holder: dict[str, Tensor] = {}  # name → the tensor that is stepped for it
        self.foreign = 0  # tensors of it that are none of the model's
        self.trained: set[str] = set()  # names that required a gradient at a step
        self.gradients: set[str] = set()  # names that had one
        self.left_gradients: set[str] = set()  # names that had one while frozen
        self.frozen_since: dict[str, Tensor] = {}  # fingerprints of when it was frozen
        self.largest: dict[str, Tensor] = {}  # largest gradient of the steps looked at
        self.changed: dict[str, Tensor] = {}  # whether it had other bits after one of them
        self.skipped: Tensor | None = None  # steps in which a scaler found infinities
        self.steps = 0
        self.first_step = self.last_step = -1  # of all optimizers' steps
        self.highest_common = 0.0  # the largest rate of a tensor of scale 1
        self._shares: dict[tuple[int, float], Share] = {}
        self._now: list[tuple[int, Share]] = []  # shares that train now, with their group's index
        self._flags: dict[str, bool] = {}
        self._signature: list[tuple[int, int]] = []
        self._turned = 0  # the step at which what trains last changed
        self._equal = True
        self.index()

    @property
    def title(self) -> str:
        """Its class."""
        return type(self.optimizer).__name__.removeprefix("Lightning")

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether it is this one, or a wrapper of it: they share a group."""
        own = {id(group) for group in self.optimizer.param_groups}
        return optimizer is self.optimizer or any(id(g) in own for g in optimizer.param_groups)

    def index(self) -> None:
        """Find the model's tensors in its groups: themselves, or what shares their memory."""
        self._tensors = named_parameters(self._model)
        groups = self.optimizer.param_groups
        self._signature = [(id(group["params"]), len(group["params"])) for group in groups]
        del self.groups[len(groups) :]  # where a loop took some away
        for i, group in enumerate(groups[len(self.groups) :], len(self.groups)):
            rate, base = rate_of(group), rate_of(group, "initial_lr")
            label = str(group.get("name") or f"group {i}")
            base = rate if base is None else base
            self.groups.append(HeldGroup(label, base, rate, group.get("lr_scale")))
        known = {id(tensor) for tensor in self._tensors.values()}
        at: dict[int, list[int]] = {}
        others: dict[int, tuple[int, Tensor]] = {}
        held = [(i, p) for i, group in enumerate(groups) for p in group["params"]]
        for i, p in held:
            at.setdefault(id(p), []).append(i)
            if id(p) not in known and readable(p) and p.numel():
                others[p.untyped_storage().data_ptr()] = i, p
        self.where, self.holder, used = {}, {}, set[int]()
        for name, tensor in self._tensors.items():
            if id(tensor) in at:
                self.where[name], self.holder[name] = at[id(tensor)], tensor
            elif others and readable(tensor):
                found = others.get(tensor.untyped_storage().data_ptr())
                if found is not None:
                    self.where[name], self.holder[name] = [found[0]], found[1]
                    used.add(id(found[1]))
        self.foreign = len({id(p) for _, p in held} - known - used)
        for i, group in enumerate(self.groups):
            now = [name for name, at in self.where.items() if i in at]
            group.names = tuple(dict.fromkeys([*group.names, *now]))

    def look(self, step: int) -> None:
        """At a step: note rates, who trains, who has a gradient.

        Args:
            step: of all optimizers, from 0.
        """
        groups = self.optimizer.param_groups
        signature = [(id(group["params"]), len(group["params"])) for group in groups]
        regrouped = signature != self._signature
        if regrouped:
            self.index()
        flags = {name: self._tensors[name].requires_grad for name in self.where}
        if flags != self._flags or regrouped:
            self._turn(flags)
        rates = [self._rate(group) for group in groups]
        for group, rate in zip(self.groups, rates, strict=True):
            if rate is not None:
                group.hold(step, rate)
        self._compare(rates)
        for name in self.trained - self.gradients:
            if self._gradient(name) is not None:
                self.gradients.add(name)
        for name, trains in flags.items():
            if not trains and self._gradient(name) is not None:
                self.left_gradients.add(name)
        infinite = getattr(self.optimizer, "found_inf", None)  # a scaler's, for fused steps
        if isinstance(infinite, Tensor):
            self.skipped = (infinite > 0).long().sum() + (
                0 if self.skipped is None else self.skipped
            )
        self.first_step, self.last_step = (self.first_step if self.steps else step), step
        self.steps += 1
        if self._is_sampled():
            for name in self.trained & self.where.keys():
                gradient, rate = self._gradient(name), rates[self.where[name][0]]
                if flags[name] and gradient is not None and not sharded(gradient) and rate != 0:
                    size = _largest(gradient)
                    before = self.largest.get(name, size)
                    self.largest[name] = torch.maximum(before, size)

    def end_step(self, first: Mapping[str, Tensor]) -> None:
        """After a step: of some, note what became of the tensors.

        Args:
            first: fingerprints before the first step.
        """
        if self._is_sampled():
            now = prints({name: self._tensors[name] for name in self.where if self._flags[name]})
            for name in now.keys() & first.keys():
                other = now[name] != first[name].to(now[name].device)
                self.changed[name] = other | self.changed.get(name, other)

    def rates(self) -> Rates:
        """Its groups' rates beside what says how they are to relate."""
        for group, held in zip(self.groups, self.optimizer.param_groups, strict=False):
            group.scheduled = "initial_lr" in held
        return Rates(self._says, self.groups, list(self._shares.values()), self._equal)

    def planned(self) -> dict[str, float]:
        """The rate that each tensor was to have at its highest, by name."""
        if self._says == "began":
            bases = {name: self.groups[at[0]].base for name, at in self.where.items()}
            return {name: base for name, base in bases.items() if base is not None}
        shares = self._shares.values()
        top = max((share.scale for share in shares), default=1.0)
        peak = max((group.highest or 0.0 for group in self.groups), default=0.0)
        common = peak / top if self._equal and top else self.highest_common
        return {name: share.scale * common for share in shares for name in share.names}

    def _is_sampled(self) -> bool:
        """The first, second, fourth, eighth... step since what trains has changed."""
        since = self.steps - self._turned
        return since > 0 and not since & (since - 1)

    def _rate(self, group: Mapping[str, Any]) -> float | None:
        """Its rate; one that is kept on a GPU is waited for, so only at some steps."""
        lr, since = group.get("lr"), self.steps + 1 - self._turned
        waits = isinstance(lr, Tensor) and lr.device.type != "cpu"
        return None if waits and since & (since - 1) else rate_of(group)

    def _gradient(self, name: str) -> Tensor | None:
        own = self._tensors[name].grad
        return self.holder[name].grad if own is None else own

    def _turn(self, flags: dict[str, bool]) -> None:
        """What trains has changed: from here on others are to stay, or to move."""
        for name, trains in flags.items():
            if self._flags.get(name) and not trains and readable(self._tensors[name]):
                self.frozen_since[name] = fingerprint(self._tensors[name])
            elif trains:
                self.frozen_since.pop(name, None)
                self.trained.add(name)
        self._flags, self._turned = flags, self.steps
        self._now = []
        by_share: dict[tuple[int, float], list[str]] = {}
        for name, trains in flags.items():
            scale = self._scale(name)
            if trains and scale is not None:
                by_share.setdefault((self.where[name][0], scale), []).append(name)
        for (i, scale), names in by_share.items():
            share = self._shares.setdefault((i, scale), Share(self.groups[i], scale))
            share.names = tuple(dict.fromkeys([*share.names, *names]))
            self._now.append((i, share))

    @property
    def _says(self) -> str:
        if self._plan:
            return "plan"
        scales = {1.0 if group.lr_scale is None else group.lr_scale for group in self.groups}
        return "lr_scale" if len(scales) > 1 else "began"

    def _scale(self, name: str) -> float | None:
        """What its rate is to be a multiple of; None where nothing says it."""
        group = self.groups[self.where[name][0]]
        if self._plan:
            row = self._plan.get(name)
            steady = row is not None and not (row.frozen or row.g or row.measured)
            return row.lr_scale or None if row is not None and steady else None
        if self._says == "began":
            return group.began or None
        scale = 1.0 if group.lr_scale is None else float(group.lr_scale)
        return (scale * (group.base or 0.0) if self._own_bases() else scale) or None

    def _own_bases(self) -> bool:
        """Whether groups began at rates of their own that lr_scale is still to multiply."""
        bases = [(g.base, 1.0 if g.lr_scale is None else g.lr_scale) for g in self.groups]
        if not all(base and scale for base, scale in bases):
            return False
        return not (
            _equal([base for base, _ in bases if base])
            or _equal([base / scale for base, scale in bases if base])
        )

    def _compare(self, rates: Sequence[float | None]) -> None:
        """Add this step's rates to the sums, beside what the others say they were to be."""
        now = [(rates[i], share) for i, share in self._now]
        known = [(rate, share) for rate, share in now if rate is not None]
        if not any(rate for rate, _ in known):
            return
        commons = [rate / share.scale for rate, share in known if rate for _ in share.names]
        common = statistics.median_low(commons)
        self.highest_common = max(self.highest_common, common)
        for rate, share in known:
            share.held += rate
            share.expected += share.scale * common
        self._equal = self._equal and _equal([rate for rate, _ in known])


class Watch:
    """Sees what happens to a model from now on.

    Args:
        model: any module.
        optimizers: that step it; None: those that hold a tensor of it when they step.
        plan: of the model, or None.
    """

    def __init__(self, model: nn.Module, optimizers: Iterable[Any] | None, plan: Plan | None):
        self.model = unwrapped(model)
        self.plan = {} if plan is None else {row.name: row for row in plan.rows}
        self.stepped = [Stepped(o, self.model, self.plan) for o in optimizers or ()]
        self.steps = 0
        self.first: dict[str, Tensor] = {}  # fingerprints before the first step
        self.began = self._prints()
        self._finds = optimizers is None
        self._inside: Optimizer | None = None  # the one whose step it is

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before the step of any optimizer in the program."""
        if self._inside not in (None, optimizer) and not _is_stepping(self._inside):
            self._inside = None  # its step raised, and the loop went on
        if self._inside not in (None, optimizer) or (found := self._find(optimizer)) is None:
            return
        self._inside = found.optimizer = optimizer
        if not self.steps:
            self.first = self._prints()
        if not _has_closure(args, kwargs):
            found.look(self.steps)

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Hook after it: whether that was a step of the model."""
        if self._inside is not optimizer or (found := self._find(optimizer)) is None:
            return False
        self._inside = None
        if _has_closure(args, kwargs):  # its gradients are made within the step
            found.look(self.steps)
        found.end_step(self.first)
        self.steps += 1
        return True

    def evidence(self) -> Evidence:
        """All that was noted on devices, read now."""
        found: dict[tuple[str, str], Tensor] = {}
        for when, seen in (("began", self.began), ("first", self.first), ("now", self._prints())):
            found |= {(when, name): value for name, value in seen.items()}
        for i, stepped in enumerate(self.stepped):
            stepped.index()
            found |= {("frozen", name): value for name, value in stepped.frozen_since.items()}
            found |= {("largest", name): value for name, value in stepped.largest.items()}
            found |= {("changed", name): value for name, value in stepped.changed.items()}
            if stepped.skipped is not None:
                found["skipped", str(i)] = stepped.skipped
        return Evidence(read(found))

    def _prints(self) -> dict[str, Tensor]:
        """Fingerprints of parameters and buffers as they are; a tensor's own place goes with it."""
        self.tensors = named_parameters(self.model)
        return prints({**self.tensors, **dict(self.model.named_buffers())})

    def _find(self, optimizer: Optimizer) -> Stepped | None:
        for stepped in self.stepped:
            if stepped.holds(optimizer):
                return stepped
        if not self._finds:
            return None
        stepped = Stepped(optimizer, self.model, self.plan)
        if not stepped.where:
            return None
        self.stepped.append(stepped)
        return stepped


@dataclass(frozen=True)
class Evidence:
    """Numbers by when and whose they are: fingerprints, and largest gradients."""

    numbers: Mapping[tuple[str, str], Any]

    def changed(self, name: str, *begins: str) -> bool | None:
        """Whether a tensor has other bits now than at the first of these times that is known."""
        known = (value for b in begins if (value := self.numbers.get((b, name))) is not None)
        before, now = next(known, None), self.numbers.get(("now", name))
        return None if before is None or now is None else before != now

    def changed_at_a_step(self, name: str) -> bool:
        """Whether it had other bits after a step than before the first."""
        return bool(self.numbers.get(("changed", name)))

    def largest(self, name: str) -> float | None:
        """Its largest gradient of the steps that were looked at; None where none was."""
        return self.numbers.get(("largest", name))

    def all_skipped(self, optimizer: int, steps: int) -> bool:
        """Whether a scaler had every step of an optimizer skipped."""
        return self.numbers.get(("skipped", str(optimizer))) == steps


def rate_of(group: Mapping[str, Any], key: str = "lr") -> float | None:
    """A group's rate; None where it has none, as optimizers that find their own."""
    rate = group.get(key)
    return None if rate is None else float(rate)


def momentum_of(optimizer: Any, tensor: Tensor) -> bool:
    """Whether an optimizer keeps tensors of the size of one of its own, such as momentum."""
    state: Mapping[Hashable, Any] = optimizer.state.get(tensor, {})
    return any(isinstance(v, Tensor) and v.shape == tensor.shape for v in state.values())


def _is_stepping(optimizer: Any) -> bool:
    """Whether a call of a method of an optimizer's is under way."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return kwargs.get("closure") is not None or any(callable(arg) for arg in args[1:])


def _largest(gradient: Tensor) -> Tensor:
    """Of its absolute values: () float32, where it is."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    if not values.numel():
        return torch.zeros((), device=values.device)
    return torch.linalg.vector_norm(values, float("inf")).float()


def _equal(rates: Sequence[float]) -> bool:
    return not rates or max(rates) - min(rates) <= SAME * max(rates)
