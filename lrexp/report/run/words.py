"""What came out of a run, in sentences and figures with their errors."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from lrexp.config.errors import UserError
from lrexp.folder.layout import PREDICTIONS
from lrexp.judge.kinds.stopping import stopped_in_words
from lrexp.judge.noise import Sample
from lrexp.judge.overfit import Overfit, overfitting
from lrexp.judge.verdicts import GUESSES
from lrexp.judge.words import (
    best_is,
    capital,
    diverged_in_words,
    gap_in_words,
    is_share,
    overfit_in_words,
    time_in_words,
    uneven,
)
from lrexp.report.html.page import duration, is_finite, number, plus_minus
from lrexp.report.run.findings import first_finding
from lrexp.runs.predictions import read_predictions
from lrexp.runs.run import Run

IN_HEADLINE = {"diverged", "overfitting", "overconfident", "deteriorated", *GUESSES}
MOST_SCORES = 2_000_000  # numbers in predictions.parquet that are read for one standard error


def headline(run: Run) -> str:
    """The run in a few sentences: the policy, its best, the gap, whether it overfits, the test."""
    best, test, policy = run.summary["best"], run.summary["test"], option_of_group(run, "lr_policy")
    if not run.summary.get("status"):
        return "summary.json cannot be read; this report shows what the other files hold."
    parts = [_ending(run), *(f"{capital(v['message'])}." for v in verdicts_of(run, GUESSES))]
    if first := first_finding(run):
        parts.append(f"{capital(str(first.get('message')))}.")
    if best:
        monitor, when = monitor_of(run), f"in epoch {best.get('epoch')}{_of_epochs(run)}"
        also = monitor != "val/accuracy" and "val/accuracy" in best
        balanced = _balanced(run, best.get("val/balanced_accuracy"))
        accuracy = f" (val accuracy {_val_accuracy(run)}{balanced})" if also else balanced
        what = f"{monitor} was {best_is(monitor)} {when}: {_best_value(run)}{accuracy}."
        parts.append(f"With lr_policy={policy}, {what}" if policy else capital(what))
        if {"gap/loss", "gap/loss_se"} <= best.keys():
            parts.append(f"The gap there is {gap_in_words(best, samples_of(run))}.")
        parts.append(_overfit_sentence(run))
    if "accuracy" in test:
        images = test.get("images")
        on = f" on {images:,} images never used for any choice" if images else ""
        balanced = _balanced(run, test.get("balanced_accuracy"))
        parts.append(f"Test accuracy is {_test_accuracy(run)}{balanced}{on}.")
    return " ".join(part for part in parts if part)


def _ending(run: Run) -> str:
    """How the run ended, where that is not simply its end."""
    done = len([row for row in run.rows if row["epoch"] > 0])
    epochs = f"{done} epoch{'s' * (done != 1)}"
    match run.status:
        case "diverged":
            reached = run.rows[-1]["epoch"] if run.rows else 0
            return f"{capital(diverged_in_words(run.summary['last'].get('epoch', reached)))}."
        case "failed":
            return (
                f"The run failed {f'after {epochs}' if done else 'before its first epoch ended'}."
            )
        case "interrupted":
            held = "; checkpoints/last.pt holds the state after the last of them" if done else ""
            return f"Interrupted after {epochs}{held}."
        case "finished" if by := run.summary.get("stopped_by"):
            return f"Stopped after {epochs}: {stopped_in_words(str(by), monitor_of(run))}."
        case "running":
            return f"The run goes on, or was killed: {epochs} so far."
    return "" if done else "Nothing was trained: the network as it was built."


def _overfit_sentence(run: Run) -> str:
    found = overfit_of(run)
    collapsed = found and any(v["kind"] == "collapsed" for v in verdicts_of(run, GUESSES))
    return "" if not found or collapsed else f"{capital(overfit_in_words(found.as_dict()))}."


def overfit_of(run: Run) -> Overfit | None:
    """What its rows say of overfitting."""
    return overfitting(run.rows, val_sample(run))


def val_sample(run: Run) -> Sample:
    """What validation's errors are taken over; for an older run its images."""
    return Sample.of_file(samples_of(run).get("val")) or Sample(images_of(run).get("val") or 2)


def samples_of(run: Run) -> dict[str, Any]:
    """Of each split what its errors are taken over; empty for an older run."""
    found = run.summary["data"].get("samples")
    return found if isinstance(found, dict) else {}


def verdicts_of(run: Run, kinds: Collection[str]) -> list[dict[str, Any]]:
    """Those of these kinds."""
    return [one for one in run.summary["verdicts"] if one.get("kind") in kinds]


def key_figures(run: Run) -> list[tuple[str, Any, Any]]:
    """The row of figures under the headline."""
    best, last, test = run.summary["best"], run.summary["last"], run.summary["test"]
    monitor, found = monitor_of(run), []
    if best:
        when = f"epoch {best.get('epoch')}{_of_epochs(run)}"
        found.append((f"Best {monitor}", _best_value(run), when))
        if monitor != "val/accuracy" and "val/accuracy" in best:
            count = images_of(run).get("val")
            images = f"{count:,} images" if count else ""
            images += _balanced(run, best.get("val/balanced_accuracy"))
            found.append(("Val accuracy there", _val_accuracy(run), images))
    if "accuracy" in test:
        images = f"{test['images']:,} images" if test.get("images") else ""
        images += _balanced(run, test.get("balanced_accuracy"))
        found.append(("Test accuracy", _test_accuracy(run), images))
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
        if spent := time_in_words(timings):
            where = f"{where}; {spent}" if where else spent
        found.append(("Training took", duration(timings["train_s"]), where))
    return found


def remarks(run: Run) -> list[str]:
    """Verdicts and what else one should know before believing the figures."""
    first = first_finding(run)
    said = [
        capital(": ".join(filter(None, (str(verdict.get("message")), verdict.get("advice")))))
        for verdict in run.summary["verdicts"]
        if verdict.get("kind") not in IN_HEADLINE
        and verdict.get("severity") != "info"
        and verdict is not first
    ]
    advised = [*verdicts_of(run, GUESSES), *([first] if first else [])]
    said += [f"{capital(str(v['advice']))}." for v in advised if v.get("advice")]
    if (run.summary.get("frozen_proof") or {}).get("identical") is False:
        said.append("Frozen tensors changed while training: this should never happen.")
    return said


def settings_of(run: Run, name: str) -> dict[str, Any]:
    found = run.config.get(name)
    return found if isinstance(found, dict) else {}


def option_of_group(run: Run, group: str) -> str:
    """The name of what a config group was set to; empty when it is not known."""
    return str(settings_of(run, group).get("name") or "")


def monitor_of(run: Run) -> str:
    """The metric that decided the best epoch."""
    return str(settings_of(run, "trainer").get("monitor") or "val/loss")


def images_of(run: Run) -> dict[str, int]:
    """How many by split, where that is known."""
    found = run.summary["data"].get("images")
    return found if isinstance(found, dict) else {}


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


def _test_accuracy(run: Run) -> str:
    test = run.summary["test"]
    se = _accuracy_se(run, test["accuracy"], test.get("images"))
    return plus_minus(test["accuracy"], se, share=True)


def _val_accuracy(run: Run) -> str:
    accuracy = run.summary["best"]["val/accuracy"]
    se = _accuracy_se(run, accuracy, images_of(run).get("val"))
    return plus_minus(accuracy, se, share=True)


def _balanced(run: Run, share: Any) -> str:
    """The mean over classes, to be said beside an accuracy where classes are uneven."""
    return f", balanced {number(100 * share, 3)} %" if uneven(run.summary) and share else ""


def _accuracy_se(run: Run, share: Any, images: int | None) -> float | None:
    """√(p(1−p)/n) of a share of n images; None where it is not known, or it is 0.

    Images of one group are alike: an error that takes them for independent is too small.
    """
    if not images or not is_finite(share) or settings_of(run, "data").get("group_by"):
        return None
    return math.sqrt(share * (1 - share) / images) or None


def _best_value(run: Run) -> str:
    """The monitor at the best epoch, with its standard error where the files tell."""
    monitor, best = monitor_of(run), run.summary["best"]
    if monitor == "val/accuracy":
        return _val_accuracy(run)
    se = best.get(f"{monitor}_se")
    if monitor == "val/loss" and not settings_of(run, "data").get("group_by"):
        se = _val_loss_se(run, best.get(monitor))
    return plus_minus(best.get(monitor), se or None, share=is_share(monitor))


def _val_loss_se(run: Run, loss: Any) -> float | None:
    """s/√n of the per-image losses of the best weights; None where the files cannot tell, or their
    mean is not the loss that was recorded."""
    try:
        found = read_predictions(run.folder / PREDICTIONS, "val", MOST_SCORES)
    except UserError:  # a damaged or foreign file: the error is not known
        return None
    if found is None or found.labels.ndim != 1 or len(found.losses) < 2:  # several labels per image
        return None
    losses = found.losses
    if not isinstance(loss, float) or abs(losses.mean() - loss) > 1e-3 * max(1, loss):
        return None
    return float(losses.std(ddof=1) / math.sqrt(len(losses)))


def metric_text(name: str, value: Any, se: float | None = None) -> str:
    """As a table has it; what was measured and is no number is NaN, unlike what is missing."""
    points = name.startswith(("overfit/accuracy", "gap/accuracy"))
    if isinstance(value, float) and math.isnan(value) and not points:
        return "NaN"
    if name == "images":
        return number(value)
    text = plus_minus(value, se or None, 4 if se is None else 3, is_share(name))
    return text.replace(" %", " points") if points else text


def as_number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
