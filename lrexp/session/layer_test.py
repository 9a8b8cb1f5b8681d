"""task=layer_test: grids in which one layer's rate at a time is multiplied, and what they say."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lrexp.config.errors import RunFailedError, UserError
from lrexp.config.names import shown_path
from lrexp.folder.claim import Claim, link_latest
from lrexp.folder.files import strict_json, write_atomically
from lrexp.folder.layout import (
    FOLDERS_OF_LAYER_TEST,
    LAYER_CHECK,
    LAYER_POLICY,
    LAYER_RUNS,
    OF_LAYER_TEST,
    PROTOCOL,
    WANDB,
)
from lrexp.judge.layer_test import (
    LayerTest,
    Outcome,
    difference,
    factor_words,
    judge_layers,
    multipliers,
    sentence,
)
from lrexp.judge.ranking import spread
from lrexp.plan.multiplied import Rules
from lrexp.runs.run import is_sweep
from lrexp.runs.scores import Tried, read_tried
from lrexp.runs.sweep import FAILED, SEED
from lrexp.session.layer_test_asked import (
    BASE,
    TOGETHER,
    Design,
    case_name,
    refuse_changed,
)
from lrexp.session.others import refuse_leading_out
from lrexp.session.sweep import Around, Say
from lrexp.session.trials import failures, problems_only, train_cases

Show = Callable[[Path, LayerTest], Path]  # keeps what was found in its folder, as a page and files


@dataclass(frozen=True)
class Answer:
    """What it came to."""

    folder: Path
    found: LayerTest
    page: Path
    undone: int  # runs without a result; one that diverged is a result

    @property
    def offline(self) -> bool:
        """Whether W&B kept runs here that it can upload."""
        return any(self.folder.glob(f"*/*/{WANDB}/offline-run-*"))


def begin_layer_test(design: Design, say: Say, show: Show) -> Answer:
    """Carry a test of layers out in its folder, or go on with it there.

    With trainer.resume=auto a folder that holds the same test goes on: what is done is read, and
    seeds may have been added by task.repeats.

    Args:
        design: what is trained, see `layer_test_asked`.
        say: takes a line for whoever waits.
        show: keeps what was found.

    Raises:
        UserError: for a mistake that is found before anything is trained; the folder is not there
            then.
        RunFailedError: when runs of the baseline could not be trained.
    """
    folder = design.folder
    refuse_leading_out(folder, (*OF_LAYER_TEST, *FOLDERS_OF_LAYER_TEST), itself=False)
    resumed, looks = design.resume and (folder / PROTOCOL).is_file(), list[int]()
    if resumed:
        looks = refuse_changed(folder, design)
    claim = Claim(folder, resumed=resumed, names=OF_LAYER_TEST)

    def begin() -> None:
        seeds = [*looks, len(design.seeds)]
        protocol = {"saved": design.saved, "looks": list(dict.fromkeys(seeds))}
        write_atomically(folder / PROTOCOL, strict_json(protocol, indent=1) + "\n")
        link_latest(folder)

    try:
        return _carry_out(replace(design, looks=tuple(looks)), say, show, begin)
    except BaseException:
        if (folder / PROTOCOL).is_file():
            where = shlex.quote(shown_path(folder))
            again = f"the same line with hydra.run.dir={where} trainer.resume=auto"
            with suppress(OSError):
                say(f"go on  {again}")
        raise
    finally:
        if (folder / PROTOCOL).is_file():
            claim.release()
        else:
            claim.undo()


def _carry_out(design: Design, say: Say, show: Show, begin: Callable[[], object]) -> Answer:
    said = set[str]()
    runs = design.folder / LAYER_RUNS
    _train(design, runs, design.cases, design.seeds, say, begin, said)
    tried = read_tried(runs, "val")
    found = _found(design, tried)
    chosen = multipliers(found.changes)
    if chosen and design.check and design.fresh:
        names = ", ".join(f"{design.parts[p].name} {factor_words(f)}" for p, f in chosen.items())
        say(f"check  together on {len(design.fresh)} fresh seeds: {names}")
        checked = design.folder / LAYER_CHECK / _sweep_name(chosen)
        cases = {BASE: (), TOGETHER: design.rules(chosen).overrides}
        _train(design, checked, cases, design.fresh, say, lambda: None, said)
        found = _with_check(found, design, read_tried(checked, "val"))
    paste = design.rules(chosen).overrides if chosen else ()
    found = replace(found, sentence=sentence(found), paste=tuple(paste))
    _keep_policy(design, found, chosen)
    return Answer(design.folder, found, show(design.folder, found), len(tried.undone))


def _sweep_name(chosen: Mapping[int, float]) -> str:
    """A folder for every choice of multipliers: more seeds may lead to another one."""
    return "_".join(f"{part}x{factor:g}" for part, factor in chosen.items())[:80]


def _train(
    design: Design,
    folder: Path,
    cases: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    say: Say,
    begin: Callable[[], object],
    said: set[str],
) -> None:
    """Train what the folder has no result of yet."""
    axes = {
        name: [*overrides, f"{SEED}={','.join(map(str, seeds))}"]
        for name, overrides in cases.items()
    }
    around = Around(problems_only(say), begin=begin, close=failures, said=said)
    train_cases(design.loader(), folder, axes, [*design.how, *design.common], around)
    if not is_sweep(folder):
        raise UserError(f"{shown_path(folder)} holds no runs")


def _found(design: Design, tried: Tried) -> LayerTest:
    """What the runs say, without the check of all multipliers together.

    Raises:
        RunFailedError: when the baseline lacks a run.
    """
    base = _outcome(tried, BASE, design.seeds)
    if base is None:
        _refuse_undone(tried)
    assert base is not None
    outcomes = {
        (part, factor): _outcome(tried, case_name(design.parts, part, factor), design.seeds)
        for part, factor in design.pairs
    }
    losses, right = (spread(tuple(_means(values))) for values in (base.losses, base.right))
    ran = [one for some in tried.tries.values() for one in some.values()]
    took = sum(one.took_s for one in {one.folder: one for one in ran}.values())
    remarks = [*design.notes]
    if base.lost:
        remarks.append(f"The baseline diverged in {base.lost} of {len(design.seeds)} seeds.")
    if undone := tried.undone:
        remarks.append(
            f"{len(undone)} runs have no result, such as {undone[0].folder}:"
            f" {undone[0].why or undone[0].status}. What they belong to is not measured."
        )
    if looks := [count for count in design.looks if count < len(design.seeds)]:
        counts = ", then ".join(map(str, looks))
        remarks.append(
            f"Seeds were added after a look ({counts}): a claim is wrong in more than 5 % of such"
            " tests."
        )
    return LayerTest(
        sentence="",
        policy=design.policy,
        base_lr=design.base_lr,
        parts=tuple(design.parts),
        factors=tuple(design.factors),
        seeds=tuple(design.seeds),
        images=len(tried.images),
        monitor=tried.monitor,
        loss=losses.mean,
        loss_se=losses.se,
        accuracy=right.mean,
        accuracy_se=right.se,
        changes=tuple(judge_layers(base, outcomes, tried.groups)),
        remarks=tuple(remarks),
        cost=(("runs", str(len(ran))), ("seconds in runs", f"{took:.0f}")),
    )


def _means(values: np.ndarray) -> list[float]:
    """Of seeds that did not diverge."""
    return [float(row.mean()) for row in values if np.isfinite(row).all()]


def _outcome(tried: Tried, name: str, seeds: Sequence[int]) -> Outcome | None:
    """Of one case; None where a run has no result."""
    tries = tried.tries.get(name, {})
    if any(seed not in tries for seed in seeds):
        return None
    blank = np.full(len(tried.images), math.nan)
    rows = [tries[seed] for seed in seeds]
    return Outcome(
        np.stack([blank if one.losses is None else one.losses for one in rows]),
        np.stack([blank if one.right is None else one.right for one in rows]),
    )


def _with_check(found: LayerTest, design: Design, tried: Tried) -> LayerTest:
    base, both = (_outcome(tried, name, design.fresh) for name in (BASE, TOGETHER))
    if base is None or both is None:
        return found
    ran = sum(len(some) for some in tried.tries.values())
    cost = (*found.cost, ("runs of the check", str(ran)))
    together = difference(base, both, tried.groups)
    return replace(found, together=together, fresh=tuple(design.fresh), cost=cost)


def _refuse_undone(tried: Tried) -> None:
    one = tried.undone[0] if tried.undone else None
    why = f", such as {one.folder}: {one.why or one.status}" if one else ""
    said = UserError(f"nothing is concluded: the baseline lacks runs{why}")
    failed = any(point.status == FAILED for point in tried.undone)
    raise RunFailedError(said) if failed else said


def _keep_policy(design: Design, found: LayerTest, chosen: Mapping[int, float]) -> None:
    """Write the policy's file, or take away that of an earlier look."""
    file = design.folder / LAYER_POLICY
    if not chosen:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(exist_ok=True)
    rules: Rules = design.rules(chosen)
    folder = shlex.quote(shown_path(design.folder))
    lines = [
        f"Rates by layer, measured by task=layer_test around lr_policy={design.policy}:",
        *(f"  {design.parts[part].name}: {factor_words(f)}" for part, f in chosen.items()),
        *found.sentence.splitlines(),
        f"  python -m lrexp --config-dir {folder} lr_policy={file.stem}",
    ]
    write_atomically(file, rules.yaml(lines))
