"""How often a verdict is right, by truth that verdicts do not define.

    python scripts/verdict_table.py [--out FOLDER] [--draw 1] [--only PROBLEM] [--rows KIND]

Trains every problem of scripts/make_planted.py at up to 19 configurations, five seeds each, and
compares what the runs are said to have with what is so (`scripts/verdict_truth.py`). It is
resumable: what FOLDER holds is not run again. Verdicts are made anew from the run folders every
time, so that changed rules are judged on runs that are there. Rules are adjusted on draw 0 alone;
the table that is told is that of another draw: other images in every split.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from make_planted import PROBLEMS, make
from verdict_outcomes import outcomes_of
from verdict_truth import Count, Outcome, Truth, better, counted, truths, wilson

from lrexp.folder.layout import POINTS
from lrexp.judge.kinds.facts import facts_of
from lrexp.judge.verdicts import KINDS, verdicts
from lrexp.runs.run import read_run
from lrexp.runs.sweep import read_sweep

HERE = Path(__file__).resolve().parent
SEEDS = range(5)
RATES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
CASES = {
    "uniform": {"lr_policy": "uniform", "optimizer.lr": list(RATES)},
    "layerwise_decay": {"lr_policy": "layerwise_decay", "optimizer.lr": list(RATES[5:9])},
    "freeze_backbone": {"lr_policy": "freeze_backbone", "optimizer.lr": list(RATES[5:9])},
}
# What has to be so for a verdict to be right; of kinds that are not here no truth was found.
TRUE_IF = {
    "diverged": "diverged",
    "collapsed": "collapsed",
    "dead": "dead",
    "majority": "majority",
    "best_guesses": "best_guesses",
    "leak": "leak",
    "noisy_labels": "noisy_labels",
    "easier_validation": "easier_validation",
    "deteriorated": "rises",
    "overfitting": "overfitting",
    "overconfident": "overconfident",
    "unstable": "unstable",
    "thrashing": "too_fast",
    "too_slow": "too_slow",
    "frozen_in_effect": "frozen_in_effect",
    "frozen_random": "frozen_random",
    "plateau": "too_fast",
    "underfitting": "underfitting",
    "healthy": "healthy",
}
WORDS = {
    "diverged": "a loss was no finite number",
    "collapsed": "was above chance on new images, and is no more",
    "dead": "never above chance, largest class and untrained network",
    "majority": "at the end no better than the largest class",
    "best_guesses": "the best weights no better than it",
    "leak": "planted",
    "noisy_labels": "planted",
    "easier_validation": "planted",
    "rises": "test loss of the last weights above that of the best",
    "overfitting": "likewise, and neither dead nor collapsed",
    "overconfident": "likewise, and test accuracy is not below",
    "unstable": "a lower rate, or lowering it (cosine), is better",
    "too_fast": "a lower rate is better",
    "too_slow": "a higher rate is better",
    "frozen_in_effect": "a higher rate is better, or a group can be put back to its start",
    "frozen_random": "by the plan",
    "underfitting": "a larger network is better",
    "healthy": "none of the faults above",
}
# Said of these, a configuration is trained again as the advice has it: right if that is `better`.
TWINS = {
    "unstable": {"scheduler": "cosine"},  # or if a lower rate is
    "underfitting": {"model.channels": "10", "model.hidden": "50"},
}
# A fault counts as found by any of these; all others are found by their own kind.
GUESSES = ("dead", "majority", "collapsed", "best_guesses", "diverged")
FOUND_BY = {
    **dict.fromkeys(
        ("unstable", "thrashing"),
        ("unstable", "thrashing", "deteriorated", "collapsed", "dead", "diverged"),
    ),
    **dict.fromkeys(("dead", "majority", "best_guesses"), GUESSES),
    **dict.fromkeys(
        ("deteriorated", "overfitting", "overconfident"),
        ("deteriorated", "overfitting", "overconfident", *GUESSES),
    ),
    **dict.fromkeys(("noisy_labels", "easier_validation"), ("noisy_labels", "easier_validation")),
}
# True of many runs that it is not meant for.
NOT_RECALLED = ("frozen_in_effect", "thrashing", "plateau", "underfitting")
# What a run is told to be in the confusion table: the first of these that is so.
FIRST = ("diverged", "collapsed", "dead", "leak", "noisy_labels", "easier_validation")
FIRST += ("overfitting", "too_slow", "too_fast")


def cases_file(name: str, out: Path) -> Path:
    """Writes the policies of a problem with their rates."""
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump({policy: CASES[policy] for policy in PROBLEMS[name].policies}))
    return file


def command(
    name: str, out: Path, executor: str, twin: Outcome | None = None, kind: str = ""
) -> list[str]:
    """The words of the grid of a problem, or of a twin; `out` holds data, and gets cases."""
    problem = PROBLEMS[name]
    folder, axes = out / name, [f"cases={cases_file(name, out)}"]
    overrides = list(problem.overrides)
    if twin:
        folder, changes = twin_folder(out, twin, kind), TWINS[kind]
        overrides = [one for one in overrides if one.partition("=")[0] not in changes]
        overrides += [f"{key}={value}" for key, value in changes.items()]
        axes = [f"lr_policy={twin.policy}", f"optimizer.lr={twin.rate:g}"]
    words = [f"data.path={out / 'data' / name}", f"trainer.epochs={problem.epochs}"]
    if problem.finetuned:
        words.append("model.weights=bundled:simple_cnn_digits_0_4")
    return [
        *("-m", "data=hf", "data.channels=1", "data.batch_size=16", *words, *overrides),
        "data.normalize={mean: [0.3053], std: [1.0]}",  # as the digits of the package have it
        *(*axes, f"seed={','.join(map(str, SEEDS))}"),
        *("trainer.stats_every=4", "trainer.threads=1", "trainer.device=cpu", "logger=none"),
        *(f"hydra.launcher.executor={executor}", f"hydra.sweep.dir={folder}"),
    ]


def finished(sweep: Path) -> bool:
    """Whether every run of a sweep came to its end."""
    if not (sweep / POINTS).is_file():
        return False
    return all(point.status in ("finished", "diverged") for point in read_sweep(sweep).tried)


def twin_folder(out: Path, one: Outcome, kind: str) -> Path:
    """Where a configuration is trained as the advice of a kind has it."""
    changed = "_".join(TWINS[kind].values())
    return out / "twins" / f"{one.problem}_{one.policy}_{one.rate:g}_{changed}"


def run(folder: Path, words: list[str]) -> None:
    """Bring a grid to its end, from wherever it is."""
    if finished(folder):
        return
    if (folder / POINTS).is_file():
        words = ["-m", f"hydra.launcher.resume={folder}"]
    code = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "lrexp", *words], env=os.environ | {"PYTHONPATH": code}
    )
    if done.returncode:
        raise SystemExit(f"lrexp {shlex.join(words)} ended with {done.returncode}")


def said_of(folder: Path) -> list[dict[str, Any]]:
    """The verdicts on a run by today's rules, from its files alone; the first is the headline."""
    run = read_run(folder)
    monitor = str(run.config["trainer"]["monitor"])
    return verdicts(facts_of(run.rows, run.summary, monitor, run.plan))


@dataclass(frozen=True)
class Judged:
    """A run, what is said of it, and what is so."""

    outcome: Outcome
    said: list[dict[str, Any]]
    truth: Truth

    @property
    def kinds(self) -> list[str]:
        """Of its verdicts; the first is the headline."""
        return [one["kind"] for one in self.said]

    @property
    def first(self) -> str:
        """What it is above all; `unclear` where nothing is sure."""
        sure = (name for name in FIRST if self.truth[name])
        unclear = any(self.truth[name] is None for name in FIRST)
        return next(sure, "unclear" if unclear else "healthy")


def compare_twins(judged: Sequence[Judged], kind: str, out: Path, executor: str | None) -> None:
    """Sets the truth of a kind where it is said: whether what it advises is better.

    Args:
        judged: runs; their truth gets `kind`.
        kind: of TWINS.
        out: holds the grids.
        executor: that trains what is not there; None: then it is not known.
    """
    alike: dict[tuple[str, str, float], list[Judged]] = {}
    for one in judged:
        o = one.outcome
        alike.setdefault((o.problem, o.policy, o.rate), []).append(one)
    for runs in alike.values():
        first = runs[0].outcome
        folder = twin_folder(out, first, kind)
        if kind == "unstable" and runs[0].truth["too_fast"]:
            found = True
        elif not any(kind in one.kinds for one in runs):
            continue
        else:
            if executor and not finished(folder):
                run(folder, command(first.problem, out, executor, first, kind))
            if not finished(folder):
                continue
            tests = {point.seed: point.test for point in read_sweep(folder).tried}
            theirs = [tests[one.outcome.seed].get("accuracy", 0.0) for one in runs]
            found = better(theirs, [one.outcome.accuracy for one in runs])
        for one in runs:
            one.truth[kind] = found


def counts_of(judged: Sequence[Judged], kind: str) -> tuple[Count, Count]:
    """How often a kind was said and so, and how often any of those that it is found by."""
    true = [one.truth.get(TRUE_IF[kind]) for one in judged]
    own, found = ({kind}, {*FOUND_BY.get(kind, (kind,))})
    said = ([not kinds.isdisjoint(one.kinds) for one in judged] for kinds in (own, found))
    first, second = (counted(some, true) for some in said)
    return first, second


def confusion_lines(judged: Sequence[Judged]) -> list[str]:
    """Headlines of runs against what they are above all, as Markdown."""
    columns = [*FIRST, "unclear", "healthy"]
    pairs = Counter((one.kinds[0] if one.said else "nothing", one.first) for one in judged)
    rows = [kind for kind in (*KINDS, "nothing") if any(pairs[kind, c] for c in columns)]
    lines = [f"| headline | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for kind in rows:
        lines.append(f"| {kind} | {' | '.join(str(pairs[kind, c] or '') for c in columns)} |")
    return lines


def kind_lines(judged: Sequence[Judged]) -> list[str]:
    """Precision and recall of every kind, with 95 % intervals (Wilson), as Markdown."""
    heads = ("kind", "is right if", "said", "unclear", "precision", "recall")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for kind, name in TRUE_IF.items():
        own, found = counts_of(judged, kind)
        said = own.right + own.wrong + own.unclear
        cells = [kind, WORDS[name], str(said), str(own.unclear or "")]
        recall = "" if kind in NOT_RECALLED else share(found.recall)
        lines.append(f"| {' | '.join([*cells, share(own.precision), recall])} |")
    without = Counter(kind for one in judged for kind in one.kinds if kind not in TRUE_IF)
    return [*lines, *(f"| {kind} | not known | {n} | | | |" for kind, n in without.items())]


def share(counts: tuple[int, int]) -> str:
    """`0.95 (19/20; 0.76-0.99)`; empty of none."""
    right, of = counts
    low, high = wilson(right, of)
    return f"{right / of:.2f} ({right}/{of}; {low:.2f}-{high:.2f})" if of else ""


def row_lines(judged: Sequence[Judged], kind: str) -> list[str]:
    """Runs of which a kind is wrongly said, or wrongly not said."""
    lines = []
    for one in judged:
        said, true = kind in one.kinds, one.truth.get(TRUE_IF[kind])
        found = not {*FOUND_BY.get(kind, (kind,))}.isdisjoint(one.kinds)
        if true is None or (found if true else not said):
            continue
        o = one.outcome
        words = "said, not so:" if said else "so, not said:"
        lines.append(
            f"{words:<14} {o.problem} {o.policy} lr={o.rate:g} seed={o.seed}"
            f" accuracy {o.accuracy:.3f} rise {o.rise[0]:.3f}±{o.rise[1]:.3f}"
            f" said: {', '.join(one.kinds) or 'nothing'};"
            f" so: {', '.join(k for k, v in one.truth.items() if v)}"
        )
        lines += [f"    {v['message']}" for v in one.said if v["kind"] == kind]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/verdicts"))
    parser.add_argument("--draw", type=int, default=1, help="of images; rules are made on 0")
    parser.add_argument("--only", choices=PROBLEMS, action="append", help="again for several")
    parser.add_argument("--executor", default="auto")
    parser.add_argument("--there", action="store_true", help="judge what is there, train nothing")
    parser.add_argument("--rows", choices=TRUE_IF, action="append", help="list runs it is wrong of")
    asked = parser.parse_args(argv)
    logging.getLogger("lrexp").setLevel(logging.ERROR)  # the runs have said it
    out = asked.out.resolve() / f"draw{asked.draw}"
    out.mkdir(parents=True, exist_ok=True)
    judged: list[Judged] = []
    for name in asked.only or PROBLEMS:
        if not asked.there:
            make(name, out / "data" / name, asked.draw)
            run(out / name, command(name, out, asked.executor))
        if not finished(out / name):
            print(f"{name} is not finished")
            continue
        planted = PROBLEMS[name].planted
        outcomes = outcomes_of(name, out / name, out / f"{name}.json", planted)
        said = [said_of(out / name / one.folder) for one in outcomes]
        judged += [Judged(*each) for each in zip(outcomes, said, truths(outcomes), strict=True)]
    for kind in TWINS:
        compare_twins(judged, kind, out, None if asked.there else asked.executor)
    configurations = len({(o.outcome.problem, o.outcome.policy, o.outcome.rate) for o in judged})
    print(f"draw {asked.draw}: {len(judged)} runs of {configurations} configurations\n")
    print("\n".join([*confusion_lines(judged), "", *kind_lines(judged)]))
    for kind in asked.rows or ():
        print("\n".join(["", f"{kind}:", *row_lines(judged, kind)]))


if __name__ == "__main__":
    main()
