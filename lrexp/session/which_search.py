"""Settings of every policy searched by Optuna: so many tries each, fewer of them on every seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrexp.config.errors import RunFailedError, UserError
from lrexp.config.schema import direction
from lrexp.grid.search.settings import OptunaSettings
from lrexp.grid.search.space import Open, Space
from lrexp.grid.search.study import ask, fresh_study, quiet, tell
from lrexp.judge.conclusion import Rung
from lrexp.judge.contenders import Contender, contenders
from lrexp.judge.ladders import Ladder, kept_on
from lrexp.runs.sweep import FINISHED, Sweep, SweepPoint
from lrexp.session.procedure import Procedure, asked_policy

BATCH = 5  # tries of a policy that are asked for at a time, each from what came of those before
AROUND = math.sqrt(10)  # weight decay is drawn from so many times less to so many times more
DECAY = "optimizer.weight_decay"

Train = Callable[[Mapping[str, Sequence[str]]], Sequence[SweepPoint]]


@dataclass
class Try:
    """A configuration of a policy."""

    policy: str
    number: int
    overrides: list[str]
    seeds: int = 1  # that it is trained on: the first ones

    @property
    def case(self) -> str:
        """Its name among the cases of the sweep."""
        return f"{self.policy} {self.number}"


def search(plan: Procedure, sweep: Callable[[], Sweep], train: Train) -> list[Contender]:
    """Every policy at its best of the tries that were drawn for it.

    All tries are trained on the first seed, and Optuna's TPE draws each from what the earlier ones
    of its policy came to on it. The better half by the mean of the monitor goes on to the second
    seed, the better quarter to the third; of those the best is taken. So every policy has the same
    number of tries and of runs. Everything follows from the plan and the results.

    Args:
        plan: with a search.
        sweep: reads the runs so far, their cases as `Try` names them.
        train: trains what is not there yet of cases, and returns their points.

    Raises:
        RunFailedError: where no policy has a run that finished.
    """
    sign = 1 if direction(plan.monitor) == "min" else -1
    spaces = {one.policy: space_of(one) for one in plan.ladders}
    tries = {one.policy: list[Try]() for one in plan.ladders}
    settings = OptunaSettings(
        direction=f"{direction(plan.monitor)}imize",
        sampler={"name": "tpe", "seed": plan.drawn, "n_startup_trials": BATCH}
        | {"multivariate": True, "constant_liar": True},
    )
    with quiet():
        studies = {policy: fresh_study(settings) for policy in tries}
        while open_ := [one for one in plan.ladders if len(tries[one.policy]) < one.tries]:
            new = []
            for ladder in open_:
                some, space = tries[ladder.policy], spaces[ladder.policy]
                count = min(BATCH, ladder.tries - len(some))
                if not space.searched:
                    new.append(Try(ladder.policy, 0, list(space.fixed)))
                    some.append(new[-1])
                    continue
                for trial in ask(studies[ladder.policy], count, settings, space, Path()):
                    (overrides,) = space.overrides(trial.params)
                    new.append(Try(ladder.policy, trial.number, overrides))
                    some.append(new[-1])
            found = _worth(plan, tries, train)
            for one in new:
                if spaces[one.policy].searched:
                    tell(studies[one.policy], one.number, found.get(one.case, sign * math.inf))
    for seeds in range(2, len(plan.seeds) + 1):
        found = _worth(plan, tries, train)
        for some in tries.values():
            there = [one for one in some if one.seeds == seeds - 1 and one.case in found]
            there.sort(key=lambda one: sign * found[one.case])
            for one in there[: kept_on(len(some), seeds)]:
                one.seeds = seeds
    _worth(plan, tries, train)
    return _best(plan, tries, sweep())


def space_of(ladder: Ladder) -> Space:
    """What is drawn of a policy: its rate as far as an extended ladder reaches, by its logarithm;
    its main setting among the values that a ladder has; a weight decay around one that is not 0."""
    found, wide = list[Open](), replace(ladder, down=2, up=2).rates
    if wide and ladder.decay:
        low, high = ladder.decay / AROUND, ladder.decay * AROUND
        found.append(Open(DECAY, "", low=low, high=high, log=True))
    if ladder.values:
        found.append(Open(ladder.setting, "", tuple(map(str, ladder.values))))
    if wide:
        found.append(Open(ladder.key, "", low=wide[0], high=wide[-1], log=True))
    return Space((f"lr_policy={ladder.policy}",), tuple(found), ((),))


def _worth(plan: Procedure, tries: Mapping[str, Sequence[Try]], train: Train) -> dict[str, float]:
    """Means of the monitor by case, once all are trained; without those that have no number.

    Every run of a try has to have finished for that: one that diverged has none.
    """
    axes = {
        one.case: [*one.overrides, f"seed={','.join(map(str, plan.seeds[: one.seeds]))}"]
        for some in tries.values()
        for one in some
    }
    found: dict[str, list[float]] = {case: [] for case in axes}
    for point in train(axes):
        value = point.best.get(plan.monitor, math.nan) if point.status == FINISHED else math.nan
        found[point.case].append(value)
    means = {case: sum(values) / len(values) for case, values in found.items() if values}
    return {case: mean for case, mean in means.items() if math.isfinite(mean)}


def _best(plan: Procedure, tries: Mapping[str, Sequence[Try]], sweep: Sweep) -> list[Contender]:
    """Of every policy the best of the tries that went furthest, with all of them as its rungs."""
    of_case = {one.case: one for some in tries.values() for one in some}
    asked = [replace(p, case=of_case[p.case].policy) for p in sweep.points if p.case in of_case]
    furthest = {policy: max(one.seeds for one in some) for policy, some in tries.items()}
    last = [
        replace(p, case=one.policy)
        for p in sweep.points
        if (one := of_case.get(p.case)) and one.seeds == furthest[one.policy]
    ]
    try:
        chosen = contenders(replace(sweep, points=tuple(last)))[0]
    except UserError as error:
        raise RunFailedError(error) from error
    rungs = {one.name: one.ladder for one in contenders(replace(sweep, points=tuple(asked)))[0]}
    best = []
    for one in chosen:
        name = asked_policy(one)
        ladder = tuple(map(_without_decay, rungs[one.name]))
        count = len(tries[name])
        best.append(
            replace(one, name=name, tries=count, edge="inside", lacks="", add="", ladder=ladder)
        )
    return best


def _without_decay(rung: Rung) -> Rung:
    """Tries of one main setting in one series, whatever their weight decay."""
    words = [word for word in rung.variant.split() if not word.startswith("weight_decay=")]
    return replace(rung, variant=" ".join(words))
