"""Lessons on networks that begin at random: rates, schedules, optimizers, the loop."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
from lesson.judging import (
    HOLDS,
    NO,
    UNDECIDED,
    Finding,
    Measured,
    Question,
    Two,
    Verdict,
    against,
    epochs_to,
    exact,
    fall_at_end,
    judged,
    over_seeds,
    pairs,
    plain,
)
from lesson.runs import Grid

from lrexp.judge import noise

MARGIN = 0.02  # of accuracy: the difference that matters
OVERFIT = ("overfitting", "overconfident")
GUESSING = ("diverged", "collapsed", "learned_nothing", "majority", "dead")
ON_TRAINING = "loss on training images"
RATES = ("0.002", "0.01", "0.05")
CHOOSING, JUDGING = range(3), range(3, 8)  # seeds


def kinds(grid: Grid, case: str) -> list[list[str]]:
    """The kinds of the verdicts of every run."""
    return [[one["kind"] for one in run.summary["verdicts"]] for run in grid.runs(case)]


def param_groups(grid: Grid) -> list[Finding]:
    from lesson.by_hand import rates_of_groups, two_layers

    def rates(case: str) -> list[float]:
        row = grid.runs(case)[0].rows[-1]
        return sorted(value for key, value in row.items() if key.startswith("lr/"))

    first, _, last = two_layers()
    given = {"params": last.parameters(), "lr": 0.01}
    torch_has = rates_of_groups({"params": first.parameters()}, given, lr=0.001)
    both, rest = rates("both"), rates("rest")
    two = "layer 1 at 0.001 and layer 2 at 0.01, SGD with momentum 0.9: two groups at these rates"
    lacks = f"it takes the default: rates {rest}, in torch.optim.SGD {torch_has}"
    return [
        exact(two, f"rates {both}", both == [0.001, 0.01]),
        exact("a group without a rate is an error", lacks, rest != torch_has, NO),
    ]


def too_high(grid: Grid) -> list[Finding]:
    rose = np.mean([np.diff(curve) > 0 for curve in grid.curves("0.5", "train/loss")])
    lost = sum(any(kind in GUESSING for kind in found) for found in kinds(grid, "0.5"))
    ends = np.mean([(c[0], c[-1]) for c in grid.curves("1e-5", "train/loss")], axis=0)
    bounced = (
        f"; train loss rose in {100 * rose:.0f} % of epochs,"
        f" {lost} of {len(grid.seeds)} runs ended at a guess"
    )
    crawled = f"; train loss {ends[0]:.4f} → {ends[1]:.4f}"
    high, low = (grid.accuracy(rate, "0.01") for rate in ("0.5", "1e-5"))
    plain = grid.accuracy("0.5 without momentum", "0.01")
    as_such = "0.5 is too high as such, without momentum too"
    return judged(
        [
            Question("0.5 is too high: it bounces", "lower", HOLDS, replace(high, note=bounced)),
            Question("1e-5 is too low: it crawls", "lower", HOLDS, replace(low, note=crawled)),
            Question("0.01 converges, beyond 90 %", "higher", HOLDS, grid.accuracy("0.01", 0.9)),
            Question(as_such, "lower", NO, plain, MARGIN),
        ]
    )


def lower_rate(grid: Grid) -> list[Finding]:
    def lowered(rate: str) -> Measured:
        falls, stays = (grid.last(f"{rate} {how}", "train_eval/loss") for how in ("falls", "stays"))
        return pairs(falls, stays, ON_TRAINING, 4)

    bounces = "the loss bounces at 0.1: 0.01 from epoch 9 on brings it down"
    crawls = "lowering helps whenever the loss does not fall: at 1e-5 too"
    return judged(
        [
            Question(bounces, "lower", HOLDS, lowered("0.1")),
            Question(crawls, "lower", NO, lowered("1e-5")),
        ]
    )


def one_batch(grid: Grid) -> list[Finding]:
    def of_predicted(rate: str) -> Measured:
        lowered = grid.last(rate, "train/loss") - grid.last(rate, "train_eval/loss")
        share = lowered / (float(rate) * grid.last(rate, "grad_norm") ** 2)
        said = f"at {rate} by {share.mean():.3f} of that, from 1"
        return Measured(against(over_seeds(share), 1.0), said, plain(3))

    first = grid.last("0.001", "train/loss")
    from_guess = against(over_seeds(first), math.log(10))
    begins = Measured(from_guess, f"{first.mean():.3f}, from ln 10", plain(3))
    small = "one small step lowers its batch's loss by rate × ‖gradient‖² (within a tenth)"
    return judged(
        [
            Question("a first loss is ln 10 = 2.303 (± 0.1)", "alike", HOLDS, begins, 0.1),
            Question(small, "alike", HOLDS, of_predicted("0.001"), 0.1),
            Question("a large one does so too", "alike", NO, of_predicted("10"), 0.1),
        ]
    )


def schedules(grid: Grid) -> list[Finding]:
    names = {"step": "StepLR(10, 0.1)", "plateau": "ReduceLROnPlateau"}
    found_here: dict[str, Two] = {  # expected of training loss and of test accuracy
        "step": (NO, NO),
        "plateau": (NO, NO),
        "step 16": (UNDECIDED, UNDECIDED),
        "plateau 16": (UNDECIDED, UNDECIDED),
    }
    asked = list[Question]()
    for case, (of_loss, of_test) in found_here.items():
        which, _, small = case.partition(" ")
        base = f"constant {small}".strip()
        ours, constant = (grid.last(one, "train_eval/loss") for one in (case, base))
        losses, better = pairs(ours, constant, ON_TRAINING), grid.accuracy(case, base)
        where = "bounces (0.1, batches of 16)" if small else "settles (0.1, batches of 32)"
        name = f"where a constant rate {where}, {names[which]}"
        asked += [
            Question(f"{name} converges lower", "lower", of_loss, losses),
            Question(f"{name} ends better on new images", "higher", of_test, better, MARGIN),
        ]
    return judged(asked)


def scheduler_order(grid: Grid) -> list[Finding]:
    from lesson.by_hand import rates_by_epoch

    ours = [row["lr/all"] for row in grid.runs("run")[0].rows]
    after, before = rates_by_epoch(False), rates_by_epoch(True)
    trained = f"StepLR(2, 0.5) from 0.1 trained at {ours}, torch the same"
    early = f"torch then trains at {before}: every drop an epoch early"
    moves = "the schedule moves on after the optimizer's step"
    return [
        exact(moves, trained, ours == after == [0.1, 0.1, 0.05, 0.05]),
        exact("scheduler.step() may come before optimizer.step()", early, before == after, NO),
    ]


def slow_head(grid: Grid) -> list[Finding]:
    falls = np.array([fall_at_end(curve) for curve in grid.curves("slow", "train_eval/loss")])
    said = f"over the last third it fell by {100 * falls.mean():.0f} %, from 5"
    still = Measured(against(over_seeds(falls), 0.05), said)
    worse = "later layers at a hundredth end worse than at one rate"
    plateau = "and that is an early plateau: the loss stands still"
    return judged(
        [
            Question(worse, "lower", HOLDS, grid.accuracy("slow", "one rate")),
            Question(plateau, "lower", NO, still),
        ]
    )


def relu_rule(grid: Grid) -> list[Finding]:
    from lesson.by_hand import rates_of_groups, two_layers

    from lrexp.__main__ import main

    with contextlib.redirect_stderr(io.StringIO()) as answer:
        code = main(["experiment=lessons/relu_rule", "logger=none"])
    said = answer.getvalue().splitlines()[0].removeprefix("error: ")
    refused = code == 2 and "ReLU" in said and "without parameters" in said
    groups = ({"params": part.parameters(), "lr": 0.1} for part in two_layers())
    silent = len(rates_of_groups(*groups, lr=0.1)) == 3
    torch_does = f"torch.optim takes a group without parameters{' in silence' * silent}"
    name = "a rate for a ReLU is refused in words, before anything trains"
    return [
        exact(name, f"exit code {code}: {said}", refused),
        exact("it is an AttributeError at run time", torch_does, not silent, NO),
    ]


def small_set(grid: Grid) -> list[Finding]:
    def beyond_noise(case: str) -> int:
        gaps, errors = grid.last(case, "gap/loss"), grid.last(case, "gap/loss_chance_se")
        both = zip(gaps.tolist(), errors.tolist(), strict=True)
        return sum(gap > 0 and noise.judged(gap, se, 2.0) == noise.CHANGED for gap, se in both)

    rows = [row for case in ("50", "all") for run in grid.runs(case) for row in run.rows]
    off = max(abs(r["gap/loss"] - (r["val/loss"] - r["train_eval/loss"])) for r in rows)
    few, many, count = beyond_noise("50"), beyond_noise("all"), len(grid.seeds)
    rise = sum(any(kind in OVERFIT for kind in found) for found in kinds(grid, "50"))
    gaps = pairs(grid.last("50", "gap/loss"), grid.last("all", "gap/loss"), "last gap")
    shown = f"gap beyond noise in {few} of {count} runs, and in {many} of {count}"
    known = "overfitting on 50 images shows as a gap, and on 1,079 after one epoch none does"
    worse = "such a gap means that validation got worse: every run is said to overfit"
    rule = "every row has gap = validation loss − train-eval loss"
    return [
        exact(rule, f"off by at most {off:.0e} in {len(rows)} rows", off < 1e-9),
        exact(known, shown, (few, many) == (count, 0)),
        exact(worse, f"said of {rise} of {count} runs", rise == count, NO),
        *judged([Question("fewer images make a larger gap", "higher", HOLDS, gaps)]),
    ]


def optimizers(grid: Grid) -> list[Finding]:
    def loss(case: str) -> float:
        found = [grid.runs(case)[seed].summary["best"].get("val/loss") for seed in CHOOSING]
        return float(np.mean([math.inf if one is None else one for one in found]))

    names = ("sgd", "adam", "rmsprop")
    best = {name: min((f"{name} {rate}" for rate in RATES), key=loss) for name in names}

    def epochs(name: str) -> np.ndarray:
        curves = grid.curves(best[name], "val/accuracy")
        return np.array([epochs_to(curves[seed], 0.9) for seed in JUDGING])

    def rate(name: str) -> str:
        chosen = best[name].partition(" ")[2]
        return chosen + ", the highest tried" * (chosen == RATES[-1])

    asked = list[Question]()
    sooner_here: dict[str, Verdict] = {"adam": HOLDS, "rmsprop": UNDECIDED}
    for name, title in (("adam", "Adam"), ("rmsprop", "RMSprop")):
        better = grid.accuracy(best[name], best["sgd"], JUDGING)
        sooner = pairs(epochs(name), epochs("sgd"), "epochs to 90 % of val", 1)
        ends = f"{title} (at {rate(name)}) ends better than SGD with momentum (at {rate('sgd')})"
        asked += [
            Question(ends, "higher", NO, better, MARGIN),
            Question(f"{title} is faster than it", "lower", sooner_here[name], sooner),
        ]
    same = grid.accuracy("adam 0.05", best["adam"], JUDGING)
    one = "one rate suits all: Adam at 0.05 is as good as at its own"
    return judged([*asked, Question(one, "alike", UNDECIDED, same, MARGIN)])


def step_order(grid: Grid) -> list[Finding]:
    from lesson.by_hand import missed_step, moved_without_backward

    start, one, two = (grid.weights(case)[0] for case in ("start", "one", "two"))
    missed = missed_step("step_order", start, one), missed_step("step_order", one, two)
    silent = not moved_without_backward()
    off = f"off by {missed[0]:.0e} and {missed[1]:.0e} of its length in steps 1 and 2"
    torch_does = f"torch {'moves no weight and says nothing' if silent else 'moves weights'}"
    name = "a step is −rate × the gradient of its batch here, with nothing left from the one before"
    return [
        exact(name, off, max(missed) < 1e-4),
        exact("a loop without backward() is an error", torch_does, not silent, NO),
    ]
