"""What `lrexp which` is going to do, fixed before anything is trained, and how it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lrexp.config.errors import RunFailedError, UserError, few
from lrexp.folder.files import strict_json
from lrexp.folder.layout import PROTOCOL
from lrexp.judge.comparison import Compared, Images, Scores
from lrexp.judge.contenders import Contender
from lrexp.judge.ladders import Ladder, Size, extended
from lrexp.judge.looks import looked, open_at
from lrexp.judge.tuning import LACKS
from lrexp.runs.run import content, json_object
from lrexp.runs.sweep import POLICY

FIRST_FRESH = 1000  # after the first seed that rates are chosen by: the seeds of the comparison


@dataclass(frozen=True)
class Procedure:
    """Policies, what is tried of each, and by what they are compared."""

    overrides: tuple[str, ...]  # that all runs have
    how: tuple[str, ...]  # overrides of the launcher
    ladders: tuple[Ladder, ...]  # as they are begun with
    seeds: tuple[int, ...]  # that rates are chosen by
    fresh: tuple[int, ...]  # of the comparison
    looks: tuple[int, ...]  # so many of them at a time
    baseline: str
    metric: str | None  # None: accuracy, balanced where classes are uneven
    margin: float
    monitor: str
    budget: float | None = None  # runs
    minutes: float | None = None  # that the budget was given in
    notes: tuple[str, ...] = ()  # what belongs beside a conclusion
    config_dir: str | None = None
    drawn: int | None = None  # seed of a search, which takes the place of ladders

    @property
    def size(self) -> Size:
        """What it takes."""
        return Size(self.ladders, len(self.seeds), self.looks)

    def text(self) -> str:
        """protocol.json."""
        return strict_json(asdict(self), indent=1) + "\n"


def read_procedure(folder: Path) -> Procedure | None:
    """The protocol of a folder; None when there is none.

    Raises:
        UserError: when it cannot be read.
    """
    return content(folder / PROTOCOL, _procedure_of, None)


def _procedure_of(text: str) -> Procedure:
    saved = json_object(text)
    lists: dict[str, Any] = {
        "ladders": tuple(map(Ladder.of_dict, saved["ladders"])),
        **{key: tuple(map(int, saved[key])) for key in ("seeds", "fresh", "looks")},
        **{key: tuple(map(str, saved[key])) for key in ("overrides", "how", "notes")},
    }
    return Procedure(**{**saved, **lists, "margin": float(saved["margin"])})


class Bench(Protocol):
    """Trains what is asked for and reads it back; what is there already is only read."""

    def climb(self, ladders: Sequence[Ladder]) -> Sequence[Contender]:
        """Every policy at its best on its ladder, but those of which no run finished."""
        ...

    def compare(
        self, contenders: Sequence[Contender], seeds: Mapping[str, Sequence[int]]
    ) -> tuple[Mapping[str, Scores], Images]:
        """What configurations scored on their seeds, in this order."""
        ...

    def affordable(self, runs: int) -> float:
        """How many runs the budget pays for in all, after so many; infinite without one."""
        ...


@dataclass(frozen=True)
class Reached:
    """How far it has come."""

    contenders: tuple[Contender, ...]
    ladders: tuple[Ladder, ...]
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # that were compared on
    compared: tuple[Compared, ...] = ()  # none before the first look
    next_look: int = 0  # seeds that those undecided would need next; 0: there is nothing to do
    next_runs: int = 0  # that this would take
    finished: bool = False
    notes: tuple[str, ...] = ()  # why it did not go further


def proceed(plan: Procedure, bench: Bench) -> Iterator[Reached]:
    """Carry a procedure out, step by step: ladders, their extensions, then look after look.

    Everything follows from the plan and the results, so that what was stopped goes on where it was
    and comes to the same. Yields after every step, and in the end with `finished`.

    Raises:
        RunFailedError: where no run of the baseline finished, or none of any other.
    """
    ladders, notes = list(plan.ladders), list[str]()
    contenders = bench.climb(ladders)
    spent = plan.size.climbing
    reserve = len(ladders) * plan.looks[-1]
    while True:
        longer = extended(ladders, {one.policy: _edge(one.policy, contenders) for one in ladders})
        if longer == ladders:
            break
        runs = Size(tuple(longer), len(plan.seeds), plan.looks).climbing
        if runs + reserve > bench.affordable(spent):
            named = [new.policy for old, new in zip(ladders, longer, strict=True) if old != new]
            notes.append(
                f"The budget left no runs for further rates of {', '.join(named)}, best at the edge"
                " of those tried."
            )
            break
        yield _climbed(contenders, ladders, longer, plan, runs - spent)
        ladders, spent = longer, runs
        contenders = bench.climb(ladders)
    _refuse_lonely(contenders, plan)
    who = [one.name for one in contenders]
    if lost := [one.policy for one in ladders if one.policy not in who]:
        notes.append(f"Left out, as none of its runs finished at any rate tried: {few(lost)}.")
    reached = Reached(
        tuple(contenders),
        tuple(ladders),
        next_look=plan.looks[0],
        next_runs=len(who) * plan.looks[0],
        notes=tuple(notes),
    )
    yield reached
    seeds = dict.fromkeys(who, plan.fresh[: plan.looks[0]])
    while True:
        spent += reached.next_runs
        scores, images = bench.compare(contenders, seeds)
        compared = tuple(looked(scores, plan.baseline, images, plan.margin, plan.looks))
        look, names = open_at(compared, plan.looks)
        further = dict.fromkeys((plan.baseline, *names), plan.fresh[:look]) if look else {}
        runs = sum(len(more) - len(seeds[name]) for name, more in further.items())
        over = look > 0 and spent + runs > bench.affordable(spent)
        if over:
            notes.append(
                f"The budget is used up: {look} seeds of those undecided would take {runs} more"
                " runs."
            )
        reached = Reached(
            tuple(contenders),
            tuple(ladders),
            dict(seeds),
            compared,
            look,
            runs,
            over or not look,
            tuple(notes),
        )
        yield reached
        if reached.finished:
            return
        seeds |= further


def ladder_axes(plan: Procedure) -> dict[str, list[str]]:
    """The ladders as cases of a grid, a policy each."""
    seeds = f"seed={','.join(map(str, plan.seeds))}"
    return {one.policy: [*one.axes, seeds] for one in plan.ladders}


def tuned(one: Contender, ladder: Ladder) -> Contender:
    """The same, with the rate beyond where its best lies at an edge of its ladder.

    How often it was tried is not held against it: every policy has the same rates, and its main
    setting, where it has one, besides (see `tries_words`).
    """
    beyond = {"lower": replace(ladder, down=ladder.down + 1).rates[:1]}
    beyond |= {"upper": replace(ladder, up=ladder.up + 1).rates[-1:]}
    lacks = LACKS.get(one.edge, "") if ladder.key else ""
    further = [rate for rate in beyond.get(one.edge, ()) if rate not in ladder.rates]
    add = "".join(f"{ladder.key}={rate:g}" for rate in further)
    return replace(one, lacks=lacks, add=add)


def on_ladders(found: Sequence[Contender], ladders: Sequence[Ladder]) -> list[Contender]:
    """The best of ladders, by the policies that were asked for: see `tuned`.

    A policy of the user's own file may be called otherwise than the option that it sets.
    """
    of_policy = {one.policy: one for one in ladders}
    named = [replace(one, name=asked_policy(one)) for one in found]
    return [tuned(one, of_policy[one.name]) for one in named]


def asked_policy(one: Contender) -> str:
    """The policy among a contender's overrides, as every ladder has one."""
    pairs = (override.partition("=") for override in one.asked)
    return next(value for key, _, value in pairs if key == POLICY)


def _climbed(
    contenders: Sequence[Contender],
    ladders: Sequence[Ladder],
    longer: Sequence[Ladder],
    plan: Procedure,
    runs: int,
) -> Reached:
    """Before ladders are extended, by so many runs."""
    added = [
        f"{new.policy} to {new.rates[0] if new.down > old.down else new.rates[-1]:g}"
        for old, new in zip(ladders, longer, strict=True)
        if old != new
    ]
    note = f"best at an edge: {', '.join(added)}"
    return Reached(tuple(contenders), tuple(ladders), next_runs=runs, notes=(note,))


def _edge(policy: str, contenders: Sequence[Contender]) -> str:
    return next((one.edge for one in contenders if one.name == policy), "")


def _refuse_lonely(contenders: Sequence[Contender], plan: Procedure) -> None:
    names = [one.name for one in contenders]
    if plan.baseline not in names:
        said = f"no run of {plan.baseline}, the baseline, finished at any rate tried"
        raise RunFailedError(UserError(said))
    if len(names) < 2:
        said = f"of {names[0]} alone a run finished: there is nothing to compare it with"
        raise RunFailedError(UserError(said))
