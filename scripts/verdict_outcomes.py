"""Tests the best, the last and the first weights of trained runs: the outcomes of verdict_truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from verdict_truth import Difference, Outcome

from lrexp.config.saved import read_saved_config
from lrexp.folder.layout import BEST, CHECKPOINTS, LAST
from lrexp.judge.epoch import paired_difference
from lrexp.judge.evaluate import Evaluation
from lrexp.runs.run import read_run
from lrexp.runs.sweep import read_sweep

if TYPE_CHECKING:
    from torch import Tensor

    from lrexp.build.data import Datasets
    from lrexp.train.experiment import Experiment


def outcomes_of(problem: str, sweep: Path, file: Path, planted: Sequence[str]) -> list[Outcome]:
    """Of every run of a sweep that came to an end; what was measured before is read from `file`."""
    from lrexp.build.data import Datasets

    if file.is_file():
        return [_read(one) for one in json.loads(file.read_text())]
    datasets, found = Datasets(), []
    for point in read_sweep(sweep).tried:
        if point.status in ("finished", "diverged"):
            found.append(_outcome(problem, sweep / point.folder, datasets, tuple(planted)))
    file.write_text(json.dumps([asdict(one) for one in found]))
    return found


def _read(saved: dict[str, Any]) -> Outcome:
    for key in ("rise", "fall", "peak", "above_largest", "planted"):
        saved[key] = tuple(saved[key])
    for key in ("best_learned", "last_learned"):
        saved[key] = tuple(map(tuple, saved[key]))
    return Outcome(**saved)


def _outcome(problem: str, folder: Path, datasets: Datasets, planted: tuple[str, ...]) -> Outcome:
    from omegaconf import OmegaConf

    from lrexp.build.experiment import build
    from lrexp.config.check import check
    from lrexp.folder.checkpoint import load_checkpoint

    ran = read_run(folder)
    summary = ran.summary
    config = check(OmegaConf.create(read_saved_config(folder)))[1]
    experiment = build(config, datasets)
    test = experiment.dataset.test
    assert test is not None
    labels = test.labels.cpu().numpy()
    counts = np.bincount(experiment.dataset.train.labels.cpu().numpy())
    largest = (labels == counts.argmax()).astype(float)
    first = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    facts: dict[str, Any] = {
        "problem": problem,
        "policy": config.lr_policy.name,
        "rate": config.optimizer.lr,
        "seed": config.seed,
        "folder": folder.name,
        "status": summary["status"],
        "random_frozen": bool(experiment.plan.frozen_random),
        "planted": planted,
    }
    nothing: Difference = (0.0, 0.0)
    if summary["status"] == "diverged":
        return Outcome(
            **facts,
            accuracy=float(largest.mean()),
            last_accuracy=float(largest.mean()),
            **dict.fromkeys(("rise", "fall", "peak", "above_largest"), nothing),
            **dict.fromkeys(("best_learned", "last_learned"), ()),
            undone={},
        )
    files = {name: folder / CHECKPOINTS / name for name in (BEST, LAST)}
    weights = {name: load_checkpoint(file)["model"] for name, file in files.items()}
    untrained, best, last = (
        _tested(experiment, state) for state in (first, weights[BEST], weights[LAST])
    )
    found = np.bincount(labels, minlength=len(counts))
    balance = len(labels) / (np.count_nonzero(found) * found[labels])  # (n,) of each image

    peak = max(row["val/balanced_accuracy"] for row in ran.rows)
    chance = max(1 / np.count_nonzero(found), untrained.balanced_accuracy)
    images = len(experiment.dataset.val)

    def learned(one: Evaluation) -> tuple[Difference, ...]:
        others = (largest, untrained.correct)
        return tuple(paired_difference(balance * one.correct, balance * other) for other in others)

    return Outcome(
        **facts,
        accuracy=best.accuracy,
        last_accuracy=last.accuracy,
        peak=(peak - chance, math.sqrt(max(peak * (1 - peak), chance * (1 - chance)) / images)),
        rise=paired_difference(last.losses, best.losses),
        fall=paired_difference(best.correct, last.correct),
        best_learned=learned(best),
        last_learned=learned(last),
        above_largest=paired_difference(last.correct, largest),
        undone=_undone(experiment, first, weights[LAST], last),
    )


def _undone(
    experiment: Experiment, first: Mapping[str, Tensor], last: Mapping[str, Tensor], now: Evaluation
) -> dict[str, tuple[float, float]]:
    """By group that trains: how far loss and accuracy go when its tensors are as they began."""
    found = {}
    for group, rows in experiment.plan.groups.items():
        if any(row.frozen for row in rows):
            continue
        names = {row.name for row in rows}
        mixed = {name: first[name] if name in names else value for name, value in last.items()}
        one = _tested(experiment, mixed)
        found[group] = abs(one.loss - now.loss), abs(one.accuracy - now.accuracy)
    return found


def _tested(experiment: Experiment, state: Mapping[str, Tensor]) -> Evaluation:
    from lrexp.train.measure import evaluate_split

    assert experiment.dataset.test is not None
    experiment.model.load_state_dict(state)
    return evaluate_split(experiment.model, experiment.dataset.test, 4096)
