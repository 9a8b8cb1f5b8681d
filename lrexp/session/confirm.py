"""The best configurations of a sweep, trained again on fresh seeds, and compared on test images."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lrexp.config.errors import RunFailedError, UserError
from lrexp.config.names import shown_path
from lrexp.config.quoting import pasted
from lrexp.folder.files import strict_json, write_atomically
from lrexp.folder.layout import CONFIRM, EXPLORED, OF_COMPARISON, OF_SWEEP, PROTOCOL
from lrexp.judge.concluding import conclude, metric_of
from lrexp.judge.conclusion import Conclusion
from lrexp.judge.contenders import Contender, contenders, refuse_baseline
from lrexp.runs.run import content, is_sweep, json_object, named_folder, read_summary
from lrexp.runs.scores import Tried, read_tried
from lrexp.runs.sweep import DIVERGED, FAILED, FINISHED, Sweep, SweepPoint, read_sweep
from lrexp.session.others import refuse_leading_out
from lrexp.session.sweep import Say
from lrexp.session.trials import Trials, launched_with, loader_for, train_trials

SEEDS = 10
FIRST_SEED = 1000  # of confirmations, which sweeps that count from 0 do not come to


@dataclass(frozen=True)
class Asked:
    """What a command line asks for; None of what it leaves to us, or as it was."""

    seeds: int | None = None
    baseline: str | None = None
    margin: float | None = None
    metric: str | None = None
    how: tuple[str, ...] = ()  # overrides of the launcher; none: as it was begun, as the sweep was


@dataclass(frozen=True)
class Protocol:
    """What is compared and how, fixed before anything is trained."""

    baseline: str
    metric: str  # of judge.concluding.METRICS
    margin: float
    monitor: str  # what chose the configurations
    seeds: tuple[int, ...]
    looks: tuple[int, ...]  # seeds of every time that it was asked for
    contenders: tuple[Contender, ...]
    remarks: tuple[str, ...]  # who is not among them, and why
    before: tuple[str, ...]  # words in front of the overrides of a command

    def text(self) -> str:
        """protocol.json."""
        return strict_json(asdict(self), indent=1) + "\n"


def read_protocol(folder: Path) -> Protocol | None:
    """The protocol of a folder of confirmed runs; None when there is none.

    Raises:
        UserError: when it cannot be read.
    """
    return content(folder / PROTOCOL, _protocol_of, None)


def _protocol_of(text: str) -> Protocol:
    saved = json_object(text)
    lists: dict[str, Any] = {
        "contenders": tuple(map(Contender.of_dict, saved["contenders"])),
        **{key: tuple(map(int, saved[key])) for key in ("seeds", "looks")},
        **{key: tuple(map(str, saved[key])) for key in ("remarks", "before")},
    }
    return Protocol(**{**saved, **lists, "margin": float(saved["margin"])})


@dataclass(frozen=True)
class Confirmed:
    """What a confirmation came to."""

    folder: Path
    conclusion: Conclusion


def sweep_of(name: str) -> Path:
    """The sweep that a word means: a sweep's folder, or that of its confirmed runs.

    Raises:
        UserError: when there is none.
    """
    folder = named_folder(name)
    if folder.name.endswith(CONFIRM) and (folder / PROTOCOL).is_file():
        folder = folder.with_name(folder.name.removesuffix(CONFIRM))
        if not folder.is_dir():
            raise UserError(f"the sweep of {shown_path(folder)}{CONFIRM} is gone: {folder}")
    if (folder / EXPLORED).is_dir():
        raise UserError(
            f"{shown_path(folder)} is of lrexp which, which has confirmed what it found: see its"
            " which.html"
        )
    if not is_sweep(folder):
        raise UserError(
            f"{shown_path(folder)} is no sweep: a sweep is what lrexp -m makes\n"
            "  lrexp -m lr_policy=A,B optimizer.lr=0.01,0.1 seed=0,1,2 is one"
        )
    return folder


def confirm(name: str, asked: Asked, say: Say) -> Confirmed:
    """Train the best configurations of a sweep again on fresh seeds, and compare them.

    The same words again go on with what was stopped; more seeds extend it.

    Args:
        name: of the sweep's folder, or `latest`.
        asked: what a verdict is to be on.
        say: takes a line for whoever waits.

    Raises:
        UserError: for a sweep that has nothing to confirm, or has not ended; for words that
            contradict those it was begun with; for runs that cannot be compared.
        RunFailedError: when runs failed, or could not be trained at all.
    """
    for override in asked.how:
        if not re.match(r"hydra(/launcher=|\.launcher\.(?!resume|only|allow))", override):
            said = "is not for lrexp confirm, which trains what the sweep has; hydra/launcher=NAME"
            raise UserError(f"{override}: {said} and hydra.launcher.KEY=VALUE say where")
    where = sweep_of(name)
    folder, sweep = where.with_name(f"{where.name}{CONFIRM}"), read_sweep(where, say)
    refuse_leading_out(folder, (PROTOCOL, *OF_COMPARISON, *OF_SWEEP))
    begun = read_protocol(folder)
    if begun is None:
        plan = make_protocol(sweep, asked)
    else:
        plan = extended(begun, asked, folder, [point.seed for point in sweep.points])
        for line in _changed_since(begun, sweep, folder):
            say(line)
    again = " ".join(
        ["lrexp confirm", shlex.quote(shown_path(where)), *(pasted(word) for word in asked.how)]
    )
    if begun is None or plan.seeds != begun.seeds or not _complete(folder, plan):
        for line in _announced(plan, any(point.test for point in sweep.tried)):
            say(line)
        names = [one.name for one in plan.contenders]
        before = read_sweep(folder) if begun and is_sweep(folder) else sweep
        trials = Trials(
            folder,
            {one.name: one.asked for one in plan.contenders},
            dict.fromkeys(names, plan.seeds),
            asked.how or launched_with(before),
            {one.name: one.ran_with for one in plan.contenders if one.ran_with},
        )

        def begin() -> None:
            write_atomically(folder / PROTOCOL, plan.text())

        try:
            train_trials(loader_for(where), trials, say, begin)
        except BaseException:
            if (folder / PROTOCOL).is_file():
                say(f"go on  {again}")
            raise
    asked_for = [point for point in read_sweep(folder).tried if not point.former]
    undone = [point for point in asked_for if point.status not in (FINISHED, DIVERGED)]
    if undone:
        said = UserError(_unfinished(undone, again))
        failed = any(point.status == FAILED for point in undone)
        raise RunFailedError(said) if failed else said
    return Confirmed(folder, conclusion_of(read_tried(folder), plan))


def make_protocol(sweep: Sweep, asked: Asked) -> Protocol:
    """What is confirmed of a sweep, and how.

    Raises:
        UserError: when the sweep has not ended, has nothing to compare, or not what was asked for.
    """
    refuse_unended(sweep)
    found, remarks = contenders(sweep)
    baseline = asked.baseline or "uniform"
    refuse_baseline(baseline, found)
    finished = next(point for point in sweep.tried if point.status == FINISHED)
    classes = read_summary(sweep.folder / finished.folder, [])["data"].get("classes")
    metric = metric_of(classes if isinstance(classes, Mapping) else {}, asked.metric)
    count = SEEDS if asked.seeds is None else asked.seeds
    return Protocol(
        baseline=baseline,
        metric=metric,
        margin=0.02 if asked.margin is None else asked.margin,
        monitor=sweep.monitor,
        seeds=fresh_seeds(count, [point.seed for point in sweep.points]),
        looks=(count,),
        contenders=tuple(found),
        remarks=tuple(remarks),
        before=sweep.before,
    )


def refuse_unended(sweep: Sweep) -> None:
    """Raise UserError when points of a sweep have no result; a failed one is a result here."""
    ended = (FINISHED, DIVERGED, FAILED)
    asked = [point for point in sweep.tried if not point.former]
    if any(point.settings.get("task.name") == "plan" for point in asked):
        raise UserError(
            f"{shown_path(sweep.folder)} was only planned: the same line without task=plan trains"
        )
    tests = (point for point in asked if point.settings.get("task.name", "train") != "train")
    if other := next(tests, None):
        task = other.settings["task.name"]
        said = f"{shown_path(sweep.folder)} holds no trained runs"
        raise UserError(f"{said}: the same line without task={task} trains")
    undone = [point for point in asked if point.status not in ended]
    if undone:
        again = pasted(f"hydra.launcher.resume={shown_path(sweep.folder)}")
        hint = f"\n  run them with: lrexp -m {again}" * sweep.resumable
        raise UserError(
            f"{shown_path(sweep.folder)} has not ended: {len(undone)} of {len(asked)} points have"
            f" no result{hint}"
        )


def fresh_seeds(count: int, used: Sequence[Any]) -> tuple[int, ...]:
    """The first seeds from 1000 up that were not used.

    >>> fresh_seeds(3, [0, 1, 1001])
    (1000, 1002, 1003)
    """
    taken = {seed for seed in used if isinstance(seed, int)}  # a file may say anything
    fresh = (seed for seed in itertools.count(FIRST_SEED) if seed not in taken)
    return tuple(itertools.islice(fresh, count))


def conclusion_of(tried: Tried, plan: Protocol) -> Conclusion:
    """What the runs say by the protocol."""
    runs = [one for tries in tried.tries.values() for one in tries.values()]
    took = sum(one.took_s for one in {one.folder: one for one in runs}.values())
    remarks = list(plan.remarks)
    if len(plan.looks) > 1:
        looks = ", then ".join(map(str, plan.looks))
        remarks.append(
            f"Seeds were added after a look ({looks}): a claim is wrong in more than 5 % of such"
            " comparisons. lrexp which looks several times and counts it."
        )
    return conclude(
        tried,
        plan.contenders,
        plan.baseline,
        plan.metric,
        plan.margin,
        remarks=remarks,
        before=plan.before,
        cost=(("runs", f"{len(runs)}"), ("time in runs", _time(took))),
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def extended(begun: Protocol, asked: Asked, folder: Path, used: Sequence[Any]) -> Protocol:
    """The protocol as it was begun, with more seeds where these are asked for."""
    for key in ("baseline", "metric", "margin"):
        was, now = getattr(begun, key), getattr(asked, key)
        if now is not None and now != was:
            raise UserError(
                f"--{key} {_shown(now)}: this confirmation was begun with {_shown(was)}, which"
                " cannot change once results may have been seen\n"
                f"  leave it out, or move {shown_path(folder)} away to begin anew"
            )
    count = len(begun.seeds) if asked.seeds is None else asked.seeds
    if count < len(begun.seeds):
        raise UserError(
            f"--seeds {count}: this confirmation was begun with {len(begun.seeds)}; more can be"
            " added, and none left out"
        )
    if count == len(begun.seeds):
        return begun
    more = fresh_seeds(count - len(begun.seeds), [*used, *begun.seeds])
    return replace(begun, seeds=(*begun.seeds, *more), looks=(*begun.looks, count))


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _changed_since(begun: Protocol, sweep: Sweep, folder: Path) -> list[str]:
    """A line where the sweep has gone on since, and would have others confirmed."""
    try:
        now = {one.name: one.overrides for one in contenders(sweep)[0]}
    except UserError:
        return []
    then = {one.name: one.overrides for one in begun.contenders}
    if now == then:
        return []
    other = [name for name in {**then, **now} if now.get(name) != then.get(name)]
    return [
        f"note   the sweep has changed: its best of {', '.join(other)} are others now; this goes on"
        f" with those it was begun with (move {shown_path(folder)} away to begin anew)"
    ]


def _complete(folder: Path, plan: Protocol) -> bool:
    """Whether every run is there."""
    try:
        tried = read_tried(folder)
    except UserError:
        return False
    return not tried.undone and tried.seeds([one.name for one in plan.contenders]) == plan.seeds


def _announced(plan: Protocol, has_test: bool) -> list[str]:
    """What is going to be trained, and what the verdict is going to be on."""
    count = len(plan.contenders) * len(plan.seeds)
    first, last = plan.seeds[0], plan.seeds[-1]
    words = plan.metric.replace("_", " ")
    named = max(len(one.name) for one in plan.contenders)
    lines = [
        f"confirm {len(plan.contenders)} configurations on {len(plan.seeds)} fresh seeds"
        f" ({first} to {last}): {count} runs"
    ]
    for one in plan.contenders:
        mark = "  baseline" if one.name == plan.baseline else ""
        tries = f"best of {one.tries} by {plan.monitor}" if one.tries > 1 else "the only one"
        lines.append(f"  {one.name.ljust(named)}  {one.settings}  ({tries}){mark}")
    images = "test images" if has_test else "val images, for want of a test split: exploratory"
    lines.append(f"verdict on {words} of {images}; margin {100 * plan.margin:.3g} points")
    return [*lines, *(f"note   {remark}" for remark in plan.remarks)]


def _unfinished(undone: Sequence[SweepPoint], again: str) -> str:
    listed = [f"{p.folder}: {p.why or p.status}" for p in undone[:3]]
    more = f"\n  and {len(undone) - 3} more" if len(undone) > 3 else ""
    runs = "1 run has" if len(undone) == 1 else f"{len(undone)} runs have"
    said = "\n  ".join(listed)
    return f"nothing is concluded: {runs} no result\n  {said}{more}\n  go on with: {again}"
