"""What `lrexp which` says on its way: what is going to be trained, and what is known so far."""

from __future__ import annotations

import math
from pathlib import Path

from lrexp.config.errors import few
from lrexp.config.names import shown_path
from lrexp.judge.comparison import Compared
from lrexp.judge.contenders import Contender
from lrexp.judge.ranking import Spread
from lrexp.judge.words import best_is
from lrexp.session.procedure import Procedure, Reached

NAN = math.nan


def opening_lines(plan: Procedure, folder: Path) -> list[str]:
    """Before anything is trained."""
    lines = [f"which  {shown_path(folder)}", *size_lines(plan)]
    return [*lines, *(f"note   {note}" for note in plan.notes)]


def _most(plan: Procedure) -> int:
    """Runs, as far as a budget goes."""
    size = plan.size
    return size.most if plan.budget is None else max(size.least, min(size.most, int(plan.budget)))


def size_lines(plan: Procedure) -> list[str]:
    """What is compared, and how many runs that takes."""
    size, count = plan.size, len(plan.ladders)
    seeds = "1 seed" if size.seeds == 1 else f"{size.seeds} seeds"
    looks = ", ".join(map(str, size.looks[:-1])) + " and " * (len(size.looks) > 1)
    looks += str(size.looks[-1])
    named = few([one.policy for one in plan.ladders])
    tried = sum(one.tries for one in plan.ladders)
    more = f"at most {size.extending} more where a best rate is at an edge"
    if plan.drawn is not None:
        more = "the better half of a policy's goes on to each further seed"
    lines = [
        f"       {count} policies ({named}); {plan.baseline} is the baseline",
        f"rates  {tried} configurations on {seeds}: {size.climbing} runs, {more}",
        f"looks  each policy's best on {looks} fresh seeds: {count * size.looks[0]} runs, at most"
        f" {count * size.looks[-1]}; what is decided stops",
        f"       in all {size.least} to {_most(plan)} runs; verdict on test"
        f" {(plan.metric or 'accuracy').replace('_', ' ')}, margin {100 * plan.margin:.3g} points",
    ]
    if plan.minutes is not None and plan.budget is not None:
        lines.append(f"budget {plan.minutes:g} minutes, about {plan.budget:.0f} runs")
    elif plan.budget is not None:
        lines.append(f"budget {plan.budget:.0f} runs")
    return lines


def climbed_lines(reached: Reached, plan: Procedure) -> list[str]:
    """What the ladders say so far: a line per policy, and one on the best of all."""
    lines, sign = list[str](), 1 if best_is(plan.monitor) == "lowest" else -1
    found = sorted(reached.contenders, key=lambda one: sign * _worth(one).mean)
    named = max((len(one.name) for one in found), default=0)
    wide = max((len(one.settings) for one in found), default=0)
    for one in found:
        edge = f", at the {one.edge} edge" if one.edge in ("lower", "upper") else ""
        lines.append(
            f"  {one.name:<{named}}  {one.settings:<{wide}}  {plan.monitor} {_mean(one)}"
            f"  (best of {one.tries}{edge})"
        )
    if not found:
        return ["nothing has finished"]
    if reached.next_look:  # the last of the ladders
        lines += [f"note   {note}" for note in reached.notes]
    best = found[0]
    seeds = f"{best.seeds} seed{'s' * (best.seeds != 1)}"
    return [
        *lines,
        f"{best_is(plan.monitor)} {plan.monitor}: {best.name} ({best.settings}), {_mean(best)} over"
        f" {seeds} on validation, by which it was chosen; nothing is confirmed yet",
    ]


def looked_lines(reached: Reached) -> list[str]:
    """What a look says: a line per comparison."""
    named = max(len(one.name) for one in reached.compared)
    return [f"  {one.name:<{named}}  {_measured(one)}" for one in reached.compared]


def progress_line(reached: Reached, plan: Procedure, pace_s: float) -> str:
    """What comes next, and what it costs."""
    runs = reached.next_runs
    took = "" if math.isnan(pace_s) else f", about {shown_time(pace_s * runs)}"
    cost = f"{runs} run{'s' * (runs != 1)}{took}"
    if not reached.next_look:
        return f"rates  {reached.notes[-1]}: {cost}"
    first, last = plan.fresh[0], plan.fresh[reached.next_look - 1]
    if not reached.compared:
        return f"look   {reached.next_look} fresh seeds ({first} to {last}) of all: {cost}"
    left = sum(one.word == "undecided" for one in reached.compared)
    of = f"{left} undecided of {len(reached.compared)}"
    return f"look   {of}: {reached.next_look} seeds of these and {plan.baseline}: {cost}"


def _measured(one: Compared) -> str:
    low, high = (100 * end for end in one.interval)
    seeds = one.difference.seeds
    found = f"{100 * one.difference.mean:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if math.isnan(low):
        found = f"{100 * one.difference.mean:+.1f} points"
    return f"{found} on {seeds} seed{'s' * (seeds != 1)}: {one.word}"


def _worth(one: Contender) -> Spread:
    """Of the monitor, over the seeds that it was chosen by."""
    there = [r for r in one.ladder if r.rate == one.rate and one.settings.endswith(r.variant)]
    return max(there, key=lambda r: len(r.variant)).worth if there else Spread(0, NAN, NAN)


def _mean(one: Contender) -> str:
    worth = _worth(one)
    return f"{worth.mean:.3g}" + ("" if math.isnan(worth.se) else f" ± {worth.se:.2g}")


def shown_time(seconds: float) -> str:
    minutes, rest = divmod(max(1, round(seconds)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
