"""What came out of a run, in sentences and figures with their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError
from lrexp.config.schema import MONITORS
from lrexp.folder.layout import PREDICTIONS
from lrexp.judge.words import gap_in_words, is_share, leak_effect_in_words, overfit_in_words
from lrexp.report.html.page import duration, number, percent, plus_minus
from lrexp.runs.predictions import read_predictions
from lrexp.runs.run import Run

MOST_SCORES = 2_000_000  # numbers in predictions.parquet that are read for one standard error


def headline(run: Run) -> str:
    """The run in a few sentences: the policy, its best, the gap, whether it overfits, the test."""
    best, last, policy = run.summary["best"], run.summary["last"], option_of_group(run, "lr_policy")
    if not run.summary.get("status"):
        return "summary.json cannot be read; this report shows what the other files hold."
    parts = [_ending(run)]
    if best:
        monitor = monitor_of(run)
        better = "lowest" if MONITORS.get(monitor) == "min" else "highest"
        value = _metric(monitor, best.get(monitor), _monitor_se(run))
        accuracy = best.get("val/accuracy")
        also = "" if monitor == "val/accuracy" or accuracy is None else (
            f" (val accuracy {_metric('val/accuracy', accuracy, _accuracy_se(run, accuracy))})"
        )  # fmt: skip
        with_policy = f"With lr_policy={policy}, " if policy else ""
        what = (
            f"{monitor} was {better} in epoch {best.get('epoch')}{_of_epochs(run)}: {value}{also}."
        )
        parts.append(with_policy + what if with_policy else what[0].upper() + what[1:])
        if {"gap/loss", "gap/loss_se"} <= best.keys():
            parts.append(f"The gap there is {gap_in_words(best)}.")
        parts.append(_overfit_sentence(best, last))
    test = run.summary["test"]
    if "accuracy" in test:
        accuracy = test["accuracy"]
        images = test.get("images")
        se = None if _grouped(run) else _binomial_se(accuracy, images)
        on = f" on {images:,} images never used for any choice" if images else ""
        parts.append(f"Test accuracy is {_metric('test/accuracy', accuracy, se)}{on}.")
    return " ".join(part for part in parts if part)


def _ending(run: Run) -> str:
    """How the run ended, where that is not simply its end."""
    done, status = len([row for row in run.rows if row["epoch"] > 0]), run.status
    epochs = f"{done} epoch{'s' * (done != 1)}"
    last = run.summary["last"].get("epoch", run.rows[-1]["epoch"] if run.rows else 0)
    if status == "diverged":
        return (
            f"Diverged in epoch {last}: the loss is no longer a finite number; a lower optimizer.lr"
            " or a scheduler.warmup usually helps."
        )
    if status == "failed":
        return (
            f"The run failed after {epochs}."
            if done
            else "The run failed before its first epoch ended."
        )
    if status == "interrupted":
        held = "checkpoints/last.pt holds the state after the last of them" if done else ""
        return f"Interrupted after {epochs}{'; ' * bool(held)}{held}."
    if status == "running":
        return f"The run goes on, or was killed: {epochs} so far."
    if not done:
        return "Nothing was trained: the network as it was built."
    return ""


def _overfit_sentence(best: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    keys = {"overfit/loss", "overfit/loss_se", "overfit/accuracy", "overfit/accuracy_se"}
    if not (keys <= last.keys() and "train_eval/loss" in last and "train_eval/loss" in best):
        return ""
    if not math.isfinite(last["overfit/loss"]) or not last.get("epoch"):
        return ""
    if words := overfit_in_words(dict(best), dict(last)):
        return words[0].upper() + words[1:] + "."
    rise, se = last["overfit/loss"], last["overfit/loss_se"]
    if last["epoch"] < 2:
        return ""
    if rise <= 0:
        return "Val loss was at its best in the last epoch: training on has not hurt."
    return (
        "Training on did not hurt beyond noise: val loss ends"
        f" {plus_minus(rise, se)} above its best (paired over images)."
    )


def key_figures(run: Run) -> list[tuple[str, Any, Any]]:
    """The row of figures under the headline."""
    best, last, test = run.summary["best"], run.summary["last"], run.summary["test"]
    monitor, found = monitor_of(run), []
    if best:
        value = _metric(monitor, best.get(monitor), _monitor_se(run))
        found.append((f"Best {monitor}", value, f"epoch {best.get('epoch')}{_of_epochs(run)}"))
        accuracy = best.get("val/accuracy")
        if monitor != "val/accuracy" and accuracy is not None:
            se = _accuracy_se(run, accuracy)
            images = _images(run, "val")
            found.append(("Val accuracy there", _metric("accuracy", accuracy, se), images))
    if "accuracy" in test:
        se = None if _grouped(run) else _binomial_se(test["accuracy"], test.get("images"))
        images = f"{test['images']:,} images" if test.get("images") else ""
        found.append(("Test accuracy", _metric("accuracy", test["accuracy"], se), images))
    if is_finite(best.get("gap/loss")):
        gap = plus_minus(best["gap/loss"], best.get("gap/loss_se"))
        found.append(("Gap at the best epoch", gap, "val − train-eval loss"))
    if is_finite(last.get("overfit/loss")) and last.get("epoch"):
        rise = plus_minus(last["overfit/loss"], last.get("overfit/loss_se"))
        found.append(("Val loss above its best", rise, f"at the end, epoch {last.get('epoch')}"))
    parameters, timings = run.summary["parameters"], run.summary["timings"]
    if "total" in parameters:
        part = parameters.get("trainable")
        share = "all train" if part == parameters["total"] else f"{number(part)} train"
        found.append(("Parameters", number(parameters["total"]), share))
    if "train_s" in timings:
        others, where = run.summary.get("members"), run.summary.get("device")
        if isinstance(others, int) and others > 1:
            where = f"{where}, together with {others - 1} other{'s' * (others > 2)}"
        found.append(("Training took", duration(timings["train_s"]), where))
    return found


def remarks(run: Run) -> list[Any]:
    """Verdicts and what else one should know before believing the figures."""
    said = []
    for verdict in run.summary["verdicts"]:
        if isinstance(verdict, dict) and verdict.get("kind") != "diverged":  # the headline says it
            advice = verdict.get("advice")
            line = f"{verdict.get('message')}{': ' * bool(advice)}{advice or ''}"
            said.append(line[:1].upper() + line[1:])
    proof = run.summary.get("frozen_proof") or {}
    if proof.get("identical") is False:
        said.append("Frozen tensors changed while training: this should never happen.")
    return said


def leak_remarks(run: Run) -> list[str]:
    """What images with a twin in the training set do to val accuracy."""
    try:
        twins = leak_effect_in_words(run.summary)
    except (KeyError, TypeError):  # written by another version
        return []
    return [f"Copies across splits: {twins}"] if twins else []


def settings_of(run: Run, name: str) -> dict[str, Any]:
    found = run.config.get(name)
    return found if isinstance(found, dict) else {}


def option_of_group(run: Run, group: str) -> str:
    """The name of what a config group was set to; empty when it is not known."""
    return str(settings_of(run, group).get("name") or "")


def monitor_of(run: Run) -> str:
    """The metric that decided the best epoch."""
    return str(settings_of(run, "trainer").get("monitor") or "val/loss")


def _of_epochs(run: Run) -> str:
    done = run.rows[-1]["epoch"] if run.rows else 0
    return f" of {done}" if done > 1 else ""


def setting_words(run: Run) -> str:
    """Network, data, optimizer and schedule in a line."""
    optimizer, model, data = (settings_of(run, name) for name in ("optimizer", "model", "data"))
    if not (optimizer and model and data):
        return ""
    rate, schedule = as_rate(optimizer.get("lr")), option_of_group(run, "scheduler")
    return (
        f"{model.get('name')} on {data.get('name')}, {optimizer.get('name')} at {rate}, {schedule},"
        f" seed {run.config.get('seed')}"
    )


def as_rate(value: Any) -> str:
    """A learning rate in at most three digits: `0.05`, `1e-05`."""
    return f"{value:.3g}" if isinstance(value, int | float) else number(value)


def _images(run: Run, split: str) -> str:
    sizes = run.summary["data"].get("images")
    count = sizes.get(split) if isinstance(sizes, dict) else None
    return f"{count:,} images" if isinstance(count, int) else ""


def _binomial_se(share: Any, images: Any) -> float | None:
    """√(p(1−p)/n): the standard error of a share of n images."""
    if not isinstance(share, int | float) or not isinstance(images, int) or not images:
        return None
    return math.sqrt(share * (1 - share) / images) if 0 <= share <= 1 else None


def _grouped(run: Run) -> bool:
    """Images of one group are alike: errors that take them for independent are too small."""
    return bool(settings_of(run, "data").get("group_by"))


def _accuracy_se(run: Run, accuracy: Any) -> float | None:
    sizes = run.summary["data"].get("images")
    images = sizes.get("val") if isinstance(sizes, dict) else None
    return None if _grouped(run) else _binomial_se(accuracy, images)


def _monitor_se(run: Run) -> float | None:
    """The standard error of the monitor at the best epoch, where the files tell."""
    monitor, best = monitor_of(run), run.summary["best"]
    if monitor == "val/accuracy":
        return _accuracy_se(run, best.get(monitor))
    if monitor in ("gap/loss", "gap/accuracy", "overfit/loss", "overfit/accuracy"):
        return best.get(f"{monitor}_se")
    if monitor == "val/loss" and not _grouped(run):
        return _val_loss_se(run.folder, best.get(monitor))
    return None


def _val_loss_se(folder: Path, loss: Any) -> float | None:
    """s/√n of the per-image losses of the best weights; None where the files cannot tell, or their
    mean is not the loss that was recorded."""
    try:
        found = read_predictions(folder / PREDICTIONS, "val", MOST_SCORES)
    except UserError:  # a damaged or foreign file: the error is not known
        return None
    if found is None or found.labels.ndim != 1 or len(found.losses) < 2:  # several labels per image
        return None
    losses, known = found.losses, isinstance(loss, float)
    if not known or abs(losses.mean() - loss) > 1e-3 * max(1, loss):
        return None
    return float(losses.std(ddof=1) / math.sqrt(len(losses)))


def _metric(name: str, value: Any, se: float | None) -> str:
    """A metric with its error where that is known: `0.172 ± 0.037`, `95.0 ± 1.2 %`."""
    if is_share(name):
        if se and isinstance(value, int | float) and math.isfinite(value):
            return f"{100 * value:.1f} ± {100 * se:.1f} %"
        return percent(value)
    return plus_minus(value, se) if se else number(value)


def metric_text(name: str, value: Any, se: float | None = None) -> str:
    if name.startswith(("overfit/accuracy", "gap/accuracy")):
        return _metric(name, value, se).replace(" %", " points")
    if isinstance(value, float) and math.isnan(value):
        return "NaN"  # measured, unlike what is missing
    if name == "images":
        return number(value)
    return _metric(name, value, se) if is_share(name) else number(value, 4)


def is_finite(value: Any) -> bool:
    """Whether something is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def as_number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
