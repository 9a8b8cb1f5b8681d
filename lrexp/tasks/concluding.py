"""What the best weights are worth: tested once training is over, and written down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrexp.config.errors import disk_full
from lrexp.folder.layout import CONFUSION, PER_CLASS, PREDICTIONS, WRONG_IMAGES
from lrexp.judge.evaluate import class_rows, confusion, worst_classes

if TYPE_CHECKING:
    from torch import Tensor

    from lrexp.config.schema import Trainer as Settings
    from lrexp.data.dataset import Split
    from lrexp.train.experiment import Experiment

log = logging.getLogger(__name__)

# A larger table of true against predicted classes is of no use as a file, and the scores of every
# class would be more than the rest of a run.
MANY_CLASSES = 1000


def best_tested(
    experiment: Experiment,
    settings: Settings,
    said: Callable[[Split], Tensor],
    folder: Path,
    alone: bool,
) -> dict[str, Any]:
    """Test the weights that the model has now on val, test and further sets, and write it down.

    That something cannot be written is a warning; of a point that a full disk takes the results of,
    which would be missed in the sweep, it is an error.

    Args:
        experiment: with the best weights.
        settings: the trainer's part of the config.
        said: (n, classes) logits of these weights for a split.
        folder: takes predictions, numbers by class, mix-ups.
        alone: no point of a sweep. The most wrong images are kept as well: the report is made from
            files alone.

    Returns:
        What summary.json has of it: `test`, `worst_classes`, and `leaks` with their effect.
    """
    from lrexp.data.leaks import effect
    from lrexp.record.predictions import (
        write_confusion,
        write_per_class,
        write_predictions,
        write_wrong_images,
    )
    from lrexp.train.measure import evaluate

    data = experiment.dataset
    names, classes = data.class_names, len(data.class_names)
    offered = {"val": data.val, "test": data.test, **data.eval_sets}
    splits = {name: split for name, split in offered.items() if split is not None}
    logits = {name: said(split) for name, split in splits.items()}
    own = experiment.metrics
    found = {name: evaluate(logits[name], split.labels, own) for name, split in splits.items()}
    confusions = {
        name: confusion(split.labels.cpu().numpy(), logits[name].argmax(1).cpu().numpy(), classes)
        for name, split in splits.items()
        if not found[name].multi_label and classes <= MANY_CLASSES
    }
    last = "test" if "test" in splits else "val"  # says most
    try:
        form = "all" if classes <= MANY_CLASSES else "top5"
        form = form if settings.predictions == "auto" else settings.predictions
        if form != "none":
            write_predictions(folder / PREDICTIONS, splits, logits, names, form)
        rows = {name: class_rows(one, names) for name, one in found.items()}
        write_per_class(folder / PER_CLASS, rows)
        if confusions:
            write_confusion(folder / CONFUSION, confusions, names)
    except OSError as error:
        if disk_full(error) and not alone:
            raise
        log.warning("what the best weights predict could not be written: %s", error)
    if alone:
        of_last = (splits[last], logits[last], found[last].losses, found[last].correct)
        try:
            write_wrong_images(folder / WRONG_IMAGES, last, *of_last, names)
        except Exception as error:  # an image that cannot be read again is no reason to fail
            log.warning("the most wrong images could not be kept: %s", error)
    results = {n: {**one.metrics, "images": len(one.losses)} for n, one in found.items()}
    test: dict[str, Any] = dict(results.get("test", {}))
    if data.eval_sets:
        test["eval_sets"] = {name: results[name] for name in data.eval_sets}
    worst = worst_classes(found[last], names, confusions.get(last))
    told = {"test": test, "worst_classes": [{"split": last, **row} for row in worst]}
    if data.leaks:
        has_twin = np.isin(data.val.rows, data.leaks.twins["val"])
        told["leaks"] = {**data.leaks.as_dict(), "effect": effect(found["val"].correct, has_twin)}
    return told


def write_report(folder: Path) -> None:
    """report.html; that it cannot be written is a warning."""
    try:
        from lrexp.report.run.page import write_run_report

        write_run_report(folder)
    except Exception as error:
        log.warning("report.html could not be written: %s", error)
        log.info("the report", exc_info=error)  # the file alone shows the traceback
