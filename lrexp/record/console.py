"""The terminal: a line per epoch while it trains, and in the end what came out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lrexp.config.errors import for_terminal
from lrexp.config.names import shown_path
from lrexp.folder.claim import resume_command
from lrexp.folder.layout import CHECKPOINTS, LAST, REPORT
from lrexp.judge.kinds.facts import INFO
from lrexp.judge.kinds.stopping import stopped_in_words
from lrexp.judge.noise import CHANGED
from lrexp.judge.verdicts import GUESSES, OVERFIT
from lrexp.judge.words import (
    best_is,
    brief,
    compact,
    diverged_in_words,
    gap_in_words,
    leak_effect_in_words,
    learning_in_words,
    overfit_in_words,
    time_in_words,
    uneven,
)
from lrexp.plan.plan import Plan, Row
from lrexp.record.recorders import RunInfo

log = logging.getLogger(__name__)

SHOWN = ("train/loss", "train_eval/loss", "val/loss", "gap/loss", "val/accuracy")
# heading, width
COLUMNS = (
    ("epoch", 5),
    ("train loss", 10),
    ("train-eval", 10),
    ("val loss", 8),
    ("gap ± se", 17),
    ("val acc", 7),  # or trainer.monitor, when no other column shows it
    ("lr", 15),
    ("s", 6),
)
# the columns of a narrow terminal: as many of these, in this order, as it has room for
FIRST = ("epoch", "val loss", "val acc", "gap ± se", "train-eval", "train loss", "lr", "s")
BETWEEN = "  "


class ConsoleRecorder:
    """Prints aligned lines; on a terminal with a progress bar below them.

    A narrow terminal gets fewer columns, lrexp.log always all of them. Lines of a point of a grid,
    which others may run beside, begin with its number.

    Args:
        info: of the run.
        steps_done: asked ten times a second for the progress bar, never by the training loop.
        wandb_where: where W&B keeps the run, if it does.
        console: where to print; standard output by default.
    """

    def __init__(
        self,
        info: RunInfo,
        steps_done: Callable[[], int],
        wandb_where: str | None = None,
        console: Console | None = None,
    ):
        self._info, self._wandb_where = info, wandb_where
        self._console = console or terminal(_Terminal)
        num = info.folder.name.partition("_")[0]
        self._point = f"[{num if num.isdigit() else info.folder.name}] " if info.sweep else ""
        wide = not self._console.is_terminal
        self._width = None if wide else self._console.width - len(self._point)
        for line in info.opening:
            self._line(brief(line))
        self._line(heading_line(info.monitor), heading_line(info.monitor, self._width))
        self._progress = _StepProgress(
            *(TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            console=self._console,
            transient=True,
            disable=not (self._console.is_terminal and info.steps and not info.sweep),
        )
        self._progress.steps_done = steps_done
        self._progress.add_task("steps", total=info.steps)
        self._progress.start()

    def row(self, row: dict[str, float]) -> None:
        """Print one epoch."""
        monitor = self._info.monitor
        self._line(epoch_line(row, monitor), epoch_line(row, monitor, self._width))

    def finish(self, summary: dict[str, Any]) -> None:
        """Print what came out: the best epoch, what the gap means, and where everything is."""
        if not self._progress.disable:
            self._progress.stop()
        for line in closing_lines(summary, self._info):
            self._line(line)
        if self._wandb_where:
            self._line(f"wandb  {self._wandb_where}")

    def _line(self, text: str, narrow: str | None = None) -> None:
        """Into the log, and on the terminal as it has room for."""
        shown = f"{self._point}{text if narrow is None else narrow}"
        self._console.print(for_terminal(shown), markup=False)
        log.info(text)


class _Terminal(Console):
    """Standard output. A reader that goes away is an error like any other, not the end."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("nobody reads the output any more")


C = TypeVar("C", bound=Console)


def terminal(kind: type[C]) -> C:
    """Standard output. In a notebook it is plain lines, as in a pipe.

    Kernels pass for terminals (FORCE_COLOR), but a bar that is drawn over fills their cells, and
    what rich has for notebooks makes a box of every line.
    """
    in_notebook = Console().is_jupyter
    how = {"force_jupyter": False, "force_terminal": False if in_notebook else None}
    return kind(highlight=False, soft_wrap=True, emoji=False, **how)  # type: ignore[arg-type]


class _StepProgress(Progress):
    """A progress bar that asks how far the run is whenever it is drawn."""

    steps_done: Callable[[], int]

    def get_renderables(self) -> Any:
        for task in self.task_ids:
            self.update(task, completed=self.steps_done())
        yield from super().get_renderables()


def opening_lines(
    model: str,
    weights: str | None,
    data: str,
    plan: Plan,
    base_lr: float,
    split: dict[str, int],
    notes: Sequence[str] = (),
) -> list[str]:
    """What is about to be trained: the network, the images, and who learns how fast.

    Args:
        model: name of the network.
        weights: file it was loaded from, if it was.
        data: name of the data.
        plan: of the run.
        base_lr: optimizer.lr.
        split: number of images by split.
    """
    sizes = {name: sum(math.prod(r.shape) for r in rows) for name, rows in plan.groups.items()}
    total = sum(sizes.values())
    trained = sum(size for name, size in sizes.items() if not plan.groups[name][0].frozen)
    share = "all train" if trained == total else f"{trained:,} train"
    images = ", ".join(f"{count:,} {name}" for name, count in split.items())
    by_layer: dict[tuple[str, str], None] = {}  # with and without weight decay are one entry
    for name, rows in plan.groups.items():
        rate = _rate_in_words(rows[0], base_lr)
        by_layer[name.removesuffix("_decay").removesuffix("_no"), rate] = None
    rates = [f"{name} {rate}" for name, rate in by_layer]
    if len(rates) > 7:
        rates = [*rates[:3], f"... {len(rates) - 6} more ...", *rates[-3:]]
    fresh = [row.name for row in plan.rows if row.source == "fresh"]
    loaded = f"{len(plan.rows) - len(fresh)} of {len(plan.rows)} tensors of {weights}"
    return [
        f"model  {model}: {total:,} parameters, {share}",
        *([f"loaded {loaded}; fresh: {', '.join(fresh) or 'none'}"] if weights else []),
        f"data   {data}: {images} images",
        *notes,
        f"rates  {', '.join(rates)}",
    ]


def _rate_in_words(row: Row, base_lr: float) -> str:
    """`0.05`, `0.05 from epoch 4 to 9`, `measured`, or `frozen`."""
    if row.frozen:
        return "frozen"
    start = f" from epoch {row.trainable_from + 1}" if row.trainable_from else ""
    end = f" to epoch {row.trainable_until}" if row.trainable_until is not None else ""
    rate = "measured" if row.measured else f"{base_lr * row.lr_scale:.3g}"
    return f"{rate}{start}{end}"


def heading_line(monitor: str, width: int | None = None) -> str:
    """The headings over the lines of epochs, of the columns that have room in a width."""
    names = {} if monitor in SHOWN else {"val acc": "monitor"}
    return _aligned({heading: names.get(heading, heading) for heading, _ in COLUMNS}, width)


def epoch_line(
    row: dict[str, float], monitor: str = "val/accuracy", width: int | None = None
) -> str:
    """One epoch as an aligned line; what was not measured is a dash.

    Args:
        row: of the epoch.
        monitor: takes the place of the accuracy when no other column shows it.
        width: in characters; None: of all columns.
    """
    train, elapsed = row.get("train/loss"), row["perf/epoch_s"]
    cells = {
        "epoch": f"{row['epoch']}",
        "train loss": "-" if train is None else compact(train, 4),
        "train-eval": compact(row["train_eval/loss"], 4),
        "val loss": compact(row["val/loss"], 4),
        "gap ± se": f"{compact(row['gap/loss'], 3)} ± {compact(row['gap/loss_se'], 3)}",
        "val acc": _metric("val/accuracy" if monitor in SHOWN else monitor, row),
        "lr": _rates([value for key, value in row.items() if key.startswith("lr/")]),
        "s": f"{elapsed:.3f}" if elapsed < 10 else f"{elapsed:.0f}",
    }
    return _aligned(cells, width)


def _aligned(cells: Mapping[str, str], width: int | None) -> str:
    """Cells by heading in the order of the columns, as many of them as fit."""
    widths, left, kept = dict(COLUMNS), math.inf if width is None else width, set[str]()
    for heading in FIRST:
        needs = widths[heading] + len(BETWEEN) * bool(kept)
        if needs <= left:
            kept.add(heading)
            left -= needs
    return BETWEEN.join(cells[heading].rjust(w) for heading, w in COLUMNS if heading in kept)


def closing_lines(summary: dict[str, Any], info: RunInfo) -> list[str]:
    """The last lines of a run: status, best epoch, test, the gap in words, the folder."""
    best, last, status = summary["best"], summary["last"], summary["status"]
    monitor, saved = info.monitor, (info.folder / CHECKPOINTS / LAST).exists()
    held = "checkpoints/last.pt holds the state" if saved else "no state was saved yet"
    lines: list[str] = []
    if status == "diverged":
        lines = [diverged_in_words(last["epoch"])]
    elif status == "interrupted":
        lines = [f"interrupted; {held}"]
    elif status == "failed":
        lines = [f"failed: {summary['error']}"]
    elif status == "finished" and last.get("step", info.steps) < info.steps:
        why = stopped_in_words(summary.get("stopped_by") or "trainer.patience", monitor)
        lines = [f"stopped after epoch {last['epoch']}: {why}"]
    if best:
        said_anyway = monitor in ("val/loss", "val/accuracy")
        value = "" if said_anyway else f", {_metric(monitor, best)}"
        balanced = uneven(summary)
        of_val = {key: best.get(f"val/{key}") for key in ("accuracy", "balanced_accuracy")}
        lines.append(
            f"best   epoch {best['epoch']} ({best_is(monitor)} {monitor}{value}):"
            f" val loss {best['val/loss']:.3f}, val {_accuracy(of_val, balanced)}"
        )
        test = summary["test"]
        if "loss" in test:
            lines.append(f"test   {_result_in_words(test, balanced)} never used for any choice")
        for name, result in test.get("eval_sets", {}).items():
            lines.append(f"test/{name}  {_result_in_words(result, balanced)}")
        if summary["worst_classes"]:
            lines.append(f"worst  {worst_in_words(summary['worst_classes'])}")
        if words := leak_effect_in_words(summary):
            lines.append(f"leaks  {words}")
        lines.append(f"gap    {gap_in_words(best, summary['data'].get('samples') or {})}")
        kinds = {verdict["kind"] for verdict in summary["verdicts"]}
        found, words = summary["overfit"], ""
        judged = kinds & {*GUESSES, *OVERFIT}  # said below
        if found and not judged and CHANGED in (found["loss_says"], found["accuracy_says"]):
            words = overfit_in_words(found)
        settled = kinds & {"too_slow", "healthy", *GUESSES}
        if not words and not settled and best["epoch"] >= last["epoch"] >= 3:
            epochs = info.ends_by == "trainer.epochs"
            longer = "more epochs" if epochs else f"more steps ({info.ends_by} ended it here)"
            words = f"{monitor} was best in the last epoch: {longer} or higher rates may help"
            words = words if status == "finished" else ""
        lines += [f"       {words}"] if words else []
    if (proof := summary.get("learning_proof")) and proof["reasons"]:
        lines.append(f"learnt {learning_in_words(proof)}")
    lines += verdict_lines(summary["verdicts"])
    if words := time_in_words(summary.get("timings") or {}):
        lines.append(f"time   {words}")
    lines.append(f"run    {shown_path(info.folder)}")
    if (report := info.folder / REPORT).is_file():
        lines.append(f"report {shown_path(report)}")
    if status in ("interrupted", "failed") and saved and not info.sweep:
        lines.append(f"resume {resume_command(info.folder)}")
    return lines


def verdict_lines(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The headline with what to do about it, and how many more there are.

    That a run diverged is the first thing said of it, with its advice, and not said again.
    """
    left = [one for one in verdicts if one["kind"] != "diverged"]
    if not left:
        return []
    first, *rest = left
    advice = "" if first["severity"] == INFO or not first.get("advice") else f"; {first['advice']}"
    lines = [f"found  {first['message']}{advice}"]
    if rest:
        kinds = ", ".join(one["kind"] for one in rest)
        lines.append(f"       and {len(rest)} more: {kinds} (summary.json and report say what of)")
    return lines


def _result_in_words(result: dict[str, float], balanced: bool) -> str:
    """Loss and accuracy of a test set."""
    accuracy = _accuracy(result, balanced)
    if "label_accuracy" in result:
        label = f"{100 * result['label_accuracy']:.1f}%"
        accuracy = f"{accuracy} (all labels right; single labels {label})"
    return f"loss {result['loss']:.3f}, {accuracy} on {result['images']:,} images"


def _accuracy(found: Mapping[str, Any], balanced: bool) -> str:
    """`accuracy 90.0%`, and where classes are uneven the mean over classes beside it."""
    mean = f" (balanced {100 * found['balanced_accuracy']:.1f}%)" if balanced else ""
    return f"accuracy {100 * found['accuracy']:.1f}%{mean}"


def worst_in_words(classes: list[dict[str, Any]]) -> str:
    """The classes that are found least often, and what they are taken for.

    Args:
        classes: one or more, those of `judge.evaluate.worst_classes` with their `split`.
    """
    words = []
    for i, row in enumerate(classes):
        found, taken = ("", "") if i else (" found", " taken")  # the first says what is counted
        count = f"{row['found']:,} of {row['images']:,}{found}"
        mixed = f", {row['times']:,}{taken} for {row['taken_for']}" if "taken_for" in row else ""
        words.append(f"{row['class']} ({count}{mixed})")
    return f"classes on {classes[0]['split']}: {', '.join(words)}"


def _metric(name: str, row: dict[str, float]) -> str:
    """A metric in at most 7 characters: accuracies in percent."""
    if name not in row:
        return "-"
    return f"{100 * row[name]:.1f}%" if "accuracy" in name else f"{row[name]:.3g}"


def _rates(rates: list[float]) -> str:
    if not rates:
        return "-"
    moving = [rate for rate in rates if rate] or [0.0]  # what is frozen for now has rate 0
    low, high = min(moving), max(moving)
    return f"{high:.3g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g}..{high:.2g}"
