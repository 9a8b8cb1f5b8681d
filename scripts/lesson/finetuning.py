"""Lessons on networks that know something: freezing, slower layers, and leaks between splits."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from lesson.judging import (
    HOLDS,
    NO,
    UNDECIDED,
    Finding,
    Measured,
    Question,
    Two,
    apart,
    epochs_to,
    exact,
    judged,
    over_seeds,
    pairs,
)
from lesson.runs import Grid, train
from lesson.scratch import MARGIN

from lrexp.folder.layout import BEST
from lrexp.judge.crossed import crossed
from lrexp.runs.run import Run

KNOWN = "bundled:simple_cnn_digits_0_4"
FROZEN = "lr_policy.rules=[{layers: backbone, frozen: true}]"


def frozen_backbone(grid: Grid) -> list[Finding]:
    import torch

    from lrexp.models.weights import read_weights

    loaded = read_weights(KNOWN).tensors
    names = [name for name in loaded if not name.startswith("head.")]
    kept = [all(torch.equal(w[n], loaded[n]) for n in names) for w in grid.weights("frozen")]
    proofs = sum(run.summary["frozen_proof"]["identical"] for run in grid.runs("frozen"))
    said = (
        f"{len(names)} tensors as loaded, to the bit, in {sum(kept)} of {len(kept)} runs;"
        f" {proofs} proofs in summary.json"
    )
    same = "a frozen backbone is unchanged by a fast head"
    enough = "the head alone learns as much as everything (within 2 points)"
    accuracy = grid.accuracy("frozen", "all")
    return [
        exact(same, said, all(kept) and proofs == len(kept)),
        *judged([Question(enough, "alike", NO, accuracy, MARGIN)]),
    ]


def lr_zero(grid: Grid) -> list[Finding]:
    import torch
    from lesson.by_hand import build, composed, log_ratios, stepper

    from lrexp.__main__ import main

    model = build(composed("lr_zero")).model
    start = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = [n for n, _ in model.named_parameters() if not n.startswith("linear.")]
    statistics = [name for name in start if "running_" in name]

    def changed(case: str, names: Iterable[str]) -> int:
        (now,) = grid.weights(case)
        return sum(not torch.equal(now[name], start[name]) for name in names)

    of_zero, of_frozen = (changed(case, backbone) for case in ("zero", "frozen"))
    moved, still = (changed(case, statistics) for case in ("zero", "frozen"))
    with contextlib.redirect_stderr(io.StringIO()) as answer:
        rule = "lr_policy.rules=[{layers: backbone, scale: 0}]"
        code = main(["experiment=lessons/lr_zero", rule])
    refused = answer.getvalue().splitlines()[0].removeprefix("error: ")
    ratios = log_ratios(stepper("lr_zero"), stepper("lr_zero", FROZEN))
    said = f"time of a step at rate zero over that of a frozen one ({len(ratios)} repeats)"
    cost = Measured(over_seeds(ratios), said, lambda ln: f"{math.exp(ln):.2f}")
    return [
        exact("a rate of 0 can be asked for", f"exit code {code}: {refused}", code == 0, NO),
        exact(
            "a rate of zero (1e-50, 0 to float32) keeps the weights",
            f"{of_zero} of {len(backbone)} tensors changed; frozen: {of_frozen}",
            of_zero == of_frozen == 0,
        ),
        exact(
            "and so it is freezing: BatchNorm's statistics stay too",
            f"{moved} of {len(statistics)} moved; frozen: {still}",
            moved == still,
            NO,
        ),
        *judged([Question("a step costs no more than a frozen one", "alike", NO, cost, 0.1)]),
    ]


def last_layers(grid: Grid) -> list[Finding]:
    beats = "training the last layers too, at a tenth, beats the head alone"
    enough = "that is as good as training everything (within 2 points)"
    return judged(
        [
            Question(beats, "higher", HOLDS, grid.accuracy("last", "head")),
            Question(enough, "alike", UNDECIDED, grid.accuracy("last", "all"), MARGIN),
        ]
    )


def old_digits(grid: Grid, cases: Sequence[str]) -> dict[str, np.ndarray]:
    """Whether test images of 0-4 are still known, with the old head on every run's backbone.

    Returns:
        Case → (S, n) 0 or 1; `before` → (1, n), of the network that all runs begin with.
    """
    from lrexp.models.weights import read_weights, save_weights

    folder = grid.folder.with_name(f"{grid.folder.name}_old")
    folder.mkdir(exist_ok=True)
    loaded, files = read_weights(KNOWN).tensors, {"before": KNOWN}
    head = {name: value for name, value in loaded.items() if name.startswith("head.")}
    for case in cases:
        for seed, weights in zip(grid.seeds, grid.weights(case, BEST), strict=True):
            file = folder / f"{case}_{seed}.safetensors"
            save_weights({**weights, **head}, file, tuple("01234"))
            files[f"{case} {seed}"] = str(file)
    asked = {name: f"'model.weights=\"{file}\"'" for name, file in files.items()}
    fixed = ("data.classes=[0,1,2,3,4]", "data.limit=null", "lr_policy=uniform", "trainer.epochs=0")
    old = train(folder / "runs", "differential", asked, [0], *fixed)

    def right(name: str) -> np.ndarray:
        return old.predictions(name, "test")[0].right

    found = {case: np.stack([right(f"{case} {seed}") for seed in grid.seeds]) for case in cases}
    return {"before": right("before")[None], **found}


def moved_at_best(run: Run) -> float:
    """Drift of the convolution at the best epoch."""
    group = next(row.group for row in run.plan.rows if row.name.startswith("conv"))
    return run.rows[int(run.summary["best"]["epoch"]) - 1][f"drift/{group}"]


def differential(grid: Grid) -> list[Finding]:
    slower = {"per_layer": "a tenth below the head", "layerwise_decay": "0.75 per layer"}
    found_here: dict[str, Two] = {
        "per_layer": (HOLDS, UNDECIDED),
        "layerwise_decay": (UNDECIDED, NO),
    }
    known, asked = old_digits(grid, ["uniform", *slower]), list[Question]()
    of_one, before = known["uniform"], 100 * known["before"].mean()
    for case, name in slower.items():
        of_old, of_new = found_here[case]
        moved = [grid.numbers(which, moved_at_best).mean() for which in (case, "uniform")]
        accuracy = 100 * known[case].mean()
        said = (
            f"old digits {accuracy:.1f} against {100 * of_one.mean():.1f} % ({before:.1f} before)"
        )
        note = f"; convolution moved by {moved[0]:.2f} against {moved[1]:.2f} of its size"
        kept = Measured(crossed(known[case] - of_one), said, note=note)
        better = grid.accuracy(case, "uniform")
        asked += [
            Question(f"{name} keeps what was learned better than one rate", "higher", of_old, kept),
            Question(f"{name} is better on the new digits", "higher", of_new, better, MARGIN),
        ]

    def epochs(case: str) -> np.ndarray:
        return np.array([epochs_to(c, 0.8) for c in grid.curves(case, "val/accuracy")])

    sooner = pairs(epochs("per_layer"), epochs("uniform"), "epochs to 80 % of val", 1)
    gaps = pairs(grid.last("per_layer", "gap/loss"), grid.last("uniform", "gap/loss"), "last gap")
    name = slower["per_layer"]
    return judged(
        [
            *asked,
            Question(f"{name} converges in fewer epochs", "lower", NO, sooner),
            Question(f"{name} has a smaller gap", "lower", NO, gaps),
        ]
    )


def fast_part(grid: Grid) -> list[Finding]:
    asked = list[Question]()
    found_here: dict[str, Two] = {  # expected of gap and of validation loss
        "convolution": (HOLDS, UNDECIDED),
        "hidden layer": (NO, NO),
        "head": (UNDECIDED, UNDECIDED),
    }
    for part, (of_gap, of_loss) in found_here.items():
        gaps, losses = (
            pairs(grid.last(part, key), grid.last("one rate", key), what)
            for key, what in (("gap/loss", "last gap"), ("val/loss", "last val loss"))
        )
        name = f"four times the rate in the {part}"
        asked += [
            Question(f"{name} overfits it: the gap is larger", "higher", of_gap, gaps),
            Question(f"{name} does worse on new images", "higher", of_loss, losses),
        ]
    return judged(asked)


def leakage(grid: Grid) -> list[Finding]:
    import pyarrow.parquet as pq

    assert grid.data is not None
    tracks = {
        split: np.array(pq.read_table(grid.data / f"{file}.parquet")["track"].to_pylist())
        for split, file in (("val", "train"), ("test", "test"))
    }
    asked, names = list[Question](), {"random": "split at random", "track": "split by track"}
    for case, name in names.items():
        measured = {}
        for split, of_rows in tracks.items():
            found = grid.predictions(case, split)
            rows = [int(item.rpartition(" ")[2]) for _, item in found[0].images]
            measured[split] = crossed(np.stack([one.right for one in found]), of_rows[rows])
        val, test = measured["val"], measured["test"]
        said = f"{100 * val.mean:.1f} % of val, {100 * test.mean:.1f} % of new tracks"
        claim = f"{name}, validation looks better than it is"
        better = Measured(apart(val, test), said)
        asked.append(
            Question(claim, "higher", HOLDS if case == "random" else UNDECIDED, better, 0.05)
        )
    return judged(asked)
