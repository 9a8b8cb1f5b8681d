"""What the best weights are worth: tested once training is over, and written down."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrexp.folder.layout import CONFUSION, PER_CLASS, PREDICTIONS, WRONG_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

    from lrexp.data.dataset import Dataset, Split
    from lrexp.judge.evaluate import Evaluation
    from lrexp.train.experiment import Experiment

log = logging.getLogger(__name__)

CONFUSION_CLASSES = 1000  # a larger table of true against predicted classes is of no use as a file


@dataclass(frozen=True)
class Tested:
    """What the best weights make of val, test and further sets: logits, and how good they are."""

    splits: dict[str, Split]
    logits: dict[str, Tensor]  # each (n, classes)
    found: dict[str, Evaluation]
    confusions: dict[str, np.ndarray]  # each (classes, classes); none of many classes or labels

    @property
    def last(self) -> str:
        """The split that says most."""
        return "test" if "test" in self.splits else "val"


def tested(experiment: Experiment, batch_size: int) -> Tested:
    """Test the weights that the model has now.

    Args:
        experiment: with the best weights.
        batch_size: images at a time.
    """
    from lrexp.judge.evaluate import confusion
    from lrexp.train.measure import evaluate, logits_of

    data = experiment.dataset
    splits = {"val": data.val, "test": data.test, **data.eval_sets}
    there = {name: split for name, split in splits.items() if split is not None}
    logits = {name: logits_of(experiment.model, split, batch_size) for name, split in there.items()}
    found = {name: evaluate(logits[name], split.labels) for name, split in there.items()}
    classes = len(data.class_names)
    confusions = {
        name: confusion(split.labels.cpu().numpy(), logits[name].argmax(1).cpu().numpy(), classes)
        for name, split in there.items()
        if not found[name].multi_label and classes <= CONFUSION_CLASSES
    }
    return Tested(there, logits, found, confusions)


def in_summary(tested: Tested, data: Dataset) -> dict[str, Any]:
    """What summary.json has of it: `test` and `worst_classes`."""
    from lrexp.judge.evaluate import worst_classes

    results = {
        name: {**evaluation.metrics, "images": len(evaluation.losses)}
        for name, evaluation in tested.found.items()
    }
    test: dict[str, Any] = dict(results.get("test", {}))
    if data.eval_sets:
        test["eval_sets"] = {name: results[name] for name in data.eval_sets}
    last = tested.last
    worst = worst_classes(tested.found[last], data.class_names, tested.confusions.get(last))
    return {"test": test, "worst_classes": [{"split": last, **row} for row in worst]}


def write_tested(tested: Tested, folder: Path, class_names: tuple[str, ...]) -> None:
    """Predictions, numbers by class and mix-ups; that they cannot be written is a warning."""
    from lrexp.judge.evaluate import class_rows
    from lrexp.record.predictions import write_confusion, write_per_class, write_predictions

    table = {name: class_rows(one, class_names) for name, one in tested.found.items()}
    try:
        file = folder / PREDICTIONS
        write_predictions(file, tested.splits, tested.logits, class_names)
        write_per_class(folder / PER_CLASS, table)
        if tested.confusions:
            write_confusion(folder / CONFUSION, tested.confusions, class_names)
    except OSError as error:
        log.warning("what the best weights predict could not be written: %s", error)


def keep_wrong_images(tested: Tested, folder: Path, class_names: tuple[str, ...]) -> None:
    """The pixels that the report shows: it is made from files alone."""
    from lrexp.record.predictions import write_wrong_images

    name = tested.last
    split, logits, found = tested.splits[name], tested.logits[name], tested.found[name]
    file = folder / WRONG_IMAGES
    try:
        write_wrong_images(file, name, split, logits, found.losses, found.correct, class_names)
    except Exception as error:  # an image that cannot be read again is no reason to fail
        log.warning("the most wrong images could not be kept: %s", error)


def write_report(folder: Path) -> None:
    """report.html; that it cannot be written is a warning."""
    try:
        from lrexp.report.run.page import write_run_report

        write_run_report(folder)
    except Exception as error:
        log.warning("report.html could not be written: %s", error)
        log.info("the report", exc_info=error)  # the file alone shows the traceback
