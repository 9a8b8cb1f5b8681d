"""What of a loop was not meant, in words: numbers and names in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lrexp.config.errors import few
from lrexp.use.certified import Finding, TensorRow, count

NAMED = 4  # tensors that a sentence names
OFF = 0.05  # a rate that is further than this share from its planned ratio is another rate
TOO_SMALL = "steps too small"
LOW_PRECISION = ("bfloat16", "float16")
STILL = "meant to train and not moved"
SAME = 1e-6  # rates that differ by no more than this share are equal


@dataclass
class HeldGroup:
    """What a parameter group of an optimizer held, step by step."""

    label: str
    base: float | None  # its rate before a schedule: initial_lr, or lr when it was first seen
    began: float | None  # lr when it was first seen
    lr_scale: float | None  # its field of that name
    first_step: int = -1
    changed_step: int = -1  # the last at which its rate was another than before
    last: float | None = None
    lowest: float | None = None
    highest: float | None = None
    scheduled: bool = True  # has initial_lr, which a scheduler gives to those it knows
    names: tuple[str, ...] = ()  # of the model's tensors in it

    def hold(self, step: int, lr: float) -> None:
        """Note its rate at a step."""
        if self.lowest is None or self.highest is None:
            self.first_step, self.lowest, self.highest = step, lr, lr
        elif lr != self.last:
            self.changed_step = step
            self.lowest, self.highest = min(self.lowest, lr), max(self.highest, lr)
        self.last = lr


@dataclass
class Share:
    """Tensors of one group that are to have one rate."""

    group: HeldGroup
    scale: float
    names: tuple[str, ...] = ()
    held: float = 0.0  # sum of its rates over steps
    expected: float = 0.0  # sum of what they were to be, by the rates of the others

    @property
    def factor(self) -> float:
        """How many times the planned rate it had."""
        return self.held / self.expected if self.expected else 1.0


@dataclass
class Rates:
    """The rates of one optimizer's groups, beside what says how they are to relate."""

    says: str  # plan, lr_scale, or began: as they stood when the loop began
    groups: list[HeldGroup]
    shares: list[Share]
    equal: bool  # at every step all held the same


def findings_of(
    rows: Sequence[TensorRow], rates: Sequence[Rates], steps: int, foreign: int | None
) -> Iterator[Finding]:
    """What was not meant, and notes, of what was seen.

    Args:
        rows: every tensor of the model.
        rates: of every optimizer.
        steps: that were seen.
        foreign: tensors of the optimizers that the model does not have; None without optimizers.
    """
    yield from _unseen(rows, steps)
    if foreign is not None:
        yield from _groups(rows, foreign)
    if steps:
        yield from _moving(rows)
        yield from _still(rows)
    for of_optimizer in rates:
        lost = list(_lost(of_optimizer))
        yield from lost
        yield from _ratios(of_optimizer, {name for finding in lost for name in finding.tensors})


def statistics_moved(names: Sequence[str]) -> Finding:
    """Of buffers that go with frozen modules and changed.

    Args:
        names: of buffers.
    """
    why = "model.train() lets BatchNorm take in every batch, whether its weights train or not"
    return Finding(
        "frozen_statistics",
        True,
        tuple(names),
        _sentence(names, "of frozen BatchNorm changed", why, "buffer"),
        "call .eval() on the frozen modules after every model.train()",
    )


def rates_differ(layers: dict[str, list[TensorRow]]) -> Iterator[Finding]:
    """A note where tensors of one layer had different rates.

    Args:
        layers: rows by layer.
    """
    mixed, said = [], []
    for layer, rows in layers.items():
        rates = {row.highest for row in rows if row.trained and row.highest}
        if rates and max(rates) > min(rates) * (1 + OFF):
            mixed += [row.name for row in rows]
            said.append(f"{layer} {min(rates):.3g} to {max(rates):.3g}")
    if said:
        message = f"rates differ within a layer: {few(said, NAMED)}"
        yield Finding("within_layer", False, tuple(mixed), message, "fine if it is meant")


def decay_differs(names: Sequence[str], first: str) -> Finding:
    """A note of tensors whose group has another weight decay than the plan."""
    message = _sentence(names, "with another weight decay than planned", first)
    advice = "set weight_decay of their groups, or plan with the decay that is used"
    return Finding("weight_decay", False, tuple(names), message, advice)


def needless_gradients(names: Sequence[str]) -> Finding:
    """A note of tensors that the plan freezes, that nothing moves, and that require a gradient."""
    message = _sentence(names, "frozen by the plan require a gradient", "it is made for nothing")
    advice = "requires_grad_(False) saves the backward pass, and keeps them from a clipping norm"
    return Finding("needless_gradient", False, tuple(names), message, advice)


def _unseen(rows: Sequence[TensorRow], steps: int) -> Iterator[Finding]:
    if steps:
        return
    moved = [row.name for row in rows if row.moved]
    if moved:
        yield _fault(
            "no_step_seen",
            moved,
            _sentence(moved, "moved", "no step of the optimizer was seen"),
            "give certify the optimizer that steps, or none: it then finds who steps the model;"
            " begin before a step is captured or compiled",
        )
    else:
        message = "no optimizer step was made: only the groups are judged"
        yield Finding("no_step", False, (), message, "train within the block")


def _groups(rows: Sequence[TensorRow], foreign: int) -> Iterator[Finding]:
    """Who is in no group, in two, or frozen though meant to train."""
    outside = [r for r in rows if r.meant and r.trains and not r.groups and not r.not_judged]
    if outside:
        names = [row.name for row in outside]
        made = "it was built before they were unfrozen or made"
        if foreign:
            made = (
                f"it holds {count(foreign, 'tensor')} that the model does not have: a layer was"
                " replaced, or the model copied, after it was built"
            )
        what = "meant to train and in no group of the optimizer"
        advice = (
            "build the optimizer after that, or optimizer.add_param_group({'params': [...]});"
            " what is not to train: requires_grad_(False)"
        )
        if any(row.moved for row in outside):
            made, advice = "another one moves some", "give certify a list of all optimizers"
        yield _fault("no_group", names, _sentence(names, what, made), advice)
    if twice := [row for row in rows if row.twice]:
        names = [row.name for row in twice]
        where = " and ".join(twice[0].groups)
        message = _sentence(names, "in more than one group", f"{where}, and all of them step it")
        yield _fault("two_groups", names, message, "leave every tensor in one group")
    if shut := [row.name for row in rows if row.meant and row.shut]:
        message = _sentence(shut, "meant to train and frozen", "requires_grad is False")
        advice = "requires_grad_(True), and in a group, as long as the plan trains them"
        yield _fault("frozen", shut, message, advice)


def _moving(rows: Sequence[TensorRow]) -> Iterator[Finding]:
    """Who moved though frozen, or at rate 0."""
    moved = [row for row in rows if not row.meant and row.moved and not row.not_judged]
    causes: dict[tuple[str, str], list[str]] = {}
    for row in moved:
        causes.setdefault(_why_frozen_moves(row), []).append(row.name)
    for (why, advice), names in causes.items():
        message = _sentence(names, "frozen and yet moved", why)
        yield _fault("frozen_moves", names, message, advice)
    zero = [r for r in rows if r.meant and r.trained and r.highest == 0 and r.moved]
    if zero:
        names = [row.name for row in zero]
        decay = max(row.weight_decay for row in zero)
        by = f"weight decay ({decay:g}) that does not go by the rate" if decay else "not by a rate"
        advice = "to freeze: requires_grad_(False), grad = None, and no group" + (
            " with decay" if decay else "; what else writes to them: an EMA, a copy?"
        )
        message = _sentence(names, "at rate 0 in every step and yet moved", by)
        yield _fault("moves_at_rate_0", names, message, advice)


def _why_frozen_moves(row: TensorRow) -> tuple[str, str]:
    """The cause and the mend."""
    if row.trains:
        return (
            "the plan freezes them, and requires_grad is True",
            "requires_grad_(False) on them, and leave them out of the groups",
        )
    if not row.left_gradient:
        return (
            "not by the optimizer: something else writes to them (an EMA, a copy, load_state_dict)",
            "leave frozen tensors out of it, or begin after it",
        )
    decay = f"weight decay ({row.weight_decay:g})" if row.weight_decay else ""
    by = " and ".join(filter(None, (decay, "momentum" if row.momentum else "")))
    return (
        f"a gradient from before is still there, so that the optimizer steps on by {by or 'it'}",
        "set .grad = None when freezing (zero_grad(set_to_none=True)), or leave them out of groups",
    )


def _still(rows: Sequence[TensorRow]) -> Iterator[Finding]:
    """Who was to train, had what it takes, and has not moved."""
    trained = [row for row in rows if row.meant and row.trains and row.trained and row.groups]
    still = [row for row in trained if row.moved is False and not row.not_judged]
    if without := [row.name for row in still if not row.gradient]:
        yield _fault(
            "no_gradient",
            without,
            _sentence(without, STILL, "no gradient came at any step"),
            "the loss does not depend on them, something detaches them, or a graph was compiled"
            " while they were frozen: compile after unfreezing; unused on purpose:"
            " requires_grad_(False)",
        )
    if left := [row for row in still if row.gradient]:
        first = left[0]
        why = f"gradient {first.largest_gradient:.3g} at rate {first.highest:.3g} would move it"
        if len(left) > 1:
            why = f"gradients (the first {first.largest_gradient:.3g} at rate {first.highest:.3g})"
            why += " would move them"
        yield _fault(
            "still",
            [row.name for row in left],
            _sentence([row.name for row in left], STILL, f"{why}, and the optimizer does not"),
            "does its step leave them out, or does something put the old values back?",
        )
    lost = [r for r in trained if r.not_judged == TOO_SMALL and r.dtype in LOW_PRECISION]
    matrices = [r for r in trained if len(r.shape) > 1]  # a bias of 0 moves at any rate
    if matrices and not lost and all(r.not_judged == TOO_SMALL for r in matrices):
        first = matrices[0]
        why = f"no step changes a {first.dtype}: the first has gradient"
        why += f" {first.largest_gradient:.3g} at rate {first.highest:.3g}"
        names = tuple(row.name for row in matrices)
        advice = "is the rate meant? After a warmup's first steps it should be far higher"
        yield Finding("too_small", False, names, _sentence(names, STILL, why), advice)
    if lost:
        of = f"the first has gradient {lost[0].largest_gradient:.3g} at rate {lost[0].highest:.3g}"
        message = _sentence(
            [r.name for r in lost], STILL, f"steps are lost in {lost[0].dtype}; {of}"
        )
        advice = "keep the weights in float32 and compute in less: autocast"
        wide = any(len(row.shape) > 1 for row in lost)  # a bias before BatchNorm has no gradient
        names = tuple(row.name for row in lost)
        yield Finding("lost_in_rounding", wide, names, message, advice)


def _lost(rates: Rates) -> Iterator[Finding]:
    """Groups that came after the scheduler, which leaves them alone or scales them from there."""
    known = [group for group in rates.groups if group.scheduled]
    for group in rates.groups if known else ():
        if group.scheduled or group.highest is None or group.began is None:
            continue
        others = any(g.changed_step > group.first_step for g in known)
        said = (
            f"{group.label} ({few(group.names, NAMED)}) was added after the scheduler was built, "
        )
        if others and group.changed_step < 0:
            what = f"which has lost it: it held {group.highest:.3g} while the others' rates changed"
        elif group.highest > group.began * (1 + OFF):
            what = f"which re-scaled it: from the {group.began:.3g} it came with to"
            what = f"{what} {group.highest:.3g}"
        else:
            continue
        yield Finding(
            "scheduler_group",
            True,
            group.names,
            said + what,
            "give the optimizer all groups before the scheduler is built (what trains later too,"
            " with requires_grad off), or build the scheduler anew",
        )


def _ratios(rates: Rates, lost: set[str]) -> Iterator[Finding]:
    """Rates that do not relate as is said."""
    judged = (share for share in rates.shares if share.held and share.expected)  # not rate 0
    shares = [share for share in judged if not lost & {*share.names}]
    if len(shares) < 2:
        return
    scales = [share.scale for share in shares]
    differ = max(scales) > min(scales) * (1 + SAME)
    names = [name for share in shares for name in share.names]
    off = [share for share in shares if abs(share.factor - 1) > OFF]
    if differ and rates.equal:
        between = f"{min(scales):.3g} to {max(scales):.3g}"
        if rates.says == "began":
            why = f"their groups began with {between}, and a scheduler overwrote it"
            advice = (
                "give the scheduler a rate per group (OneCycleLR(max_lr=[...])), or take one that"
                " multiplies (LambdaLR)"
            )
        else:
            whose = "the plan" if rates.says == "plan" else "lr_scale of their groups"
            why = f"{whose} goes from {between}, and nobody multiplies by it"
            advice = (
                "group['lr'] *= group['lr_scale'] for every group before a torch scheduler is"
                " built; timm's schedulers multiply by it themselves, from their first step on"
            )
        message = _sentence(names, "at one rate in every step", why)
        yield _fault("scale_ignored", names, message, advice)
    elif off and rates.says != "began":
        names = [name for share in off for name in share.names]
        worst = max(off, key=lambda share: max(share.factor, 1 / max(share.factor, 1e-12)))
        low = min(shares, key=lambda share: share.scale)
        reference = max(shares, key=lambda share: share.scale)
        ratio = low.held / reference.held if reference.held else 0.0
        wanted = low.scale / reference.scale
        if differ and ratio and abs(ratio / wanted**2 - 1) < OFF:
            names = [n for share in shares if share.scale < reference.scale for n in share.names]
            why = "lr_scale was multiplied in twice"
            advice = "a scheduler multiplies by it, so give the groups the base rate as lr"
        else:
            why = f"beside the others {worst.group.label} had {worst.factor:.3g} times its rate"
            advice = "a scheduler overwrites or re-scales groups: one that multiplies keeps ratios"
        yield _fault("rates", names, _sentence(names, "at other rates than meant", why), advice)


def _fault(kind: str, names: Iterable[str], message: str, advice: str) -> Finding:
    return Finding(kind, True, tuple(names), message, advice)


def _sentence(names: Sequence[str], what: str, why: str, noun: str = "tensor") -> str:
    """`2 tensors WHAT (a, b): WHY`."""
    return f"{count(len(names), noun)} {what} ({few(names, NAMED)}): {why}"
