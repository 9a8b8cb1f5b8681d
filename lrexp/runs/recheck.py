"""What `rerun --check` compares: a run against the saved one of the same config; its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lrexp.config.check import config_id
from lrexp.config.errors import UserError
from lrexp.folder.environment import source_hash
from lrexp.folder.layout import BEST, CHECKPOINTS, LAST
from lrexp.plan.plan import difference_lines
from lrexp.runs.differences import (
    CurveDifference,
    SavedRun,
    change_lines,
    curve_differences,
    environment_changes,
    lone_epochs,
)

IDENTICAL, DIFFER, OTHER_CONFIG = 0, 3, 4  # exit codes of --check
FINAL, BEST = f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{BEST}"
# Runs that were trained together round otherwise than alone. Of a metric, relative to the larger
# of 1 and its value (one image more or less among a few hundred is classified right); of all
# weights, the norm of the difference relative to theirs. Runs that settle stay below 1e-6 in both.
STACKED_METRIC = 1e-2
STACKED_WEIGHTS = 1e-3
MOST_METRICS = 12  # that are listed


def refuse_uncheckable(saved: SavedRun) -> None:
    """Raise a UserError for a run that left nothing to compare with."""
    if not saved.rows and saved.weights is None and not saved.summary.get("weights_hash"):
        raise UserError(
            f"{saved.file} came without numbers: --check has nothing to compare with\n"
            "  it needs the run's metrics.jsonl or a checkpoint beside it; leave out --check to run"
        )
    if not saved.rows and not saved.whole:
        raise UserError(
            f"{saved.folder} was {saved.status} before its first epoch had ended:"
            " --check has nothing to compare with\n  leave out --check to run"
        )


def edited(saved: SavedRun) -> bool:
    """Whether config.yaml is no longer what the same code once ran."""
    ran = saved.summary.get("config_id")
    if "seed" in saved.summary and saved.summary["seed"] != saved.config.get("seed"):
        return True  # no config_id depends on it
    if ran is None or saved.environment.get("code_hash") != source_hash():
        return False  # another version may number configs otherwise
    return ran != config_id(OmegaConf.create(saved.config))


def data_lines(saved: SavedRun, again: SavedRun) -> list[str]:
    """What only building could show: other data, other weights, another plan."""
    was, now = saved.environment.get("fingerprints"), again.environment.get("fingerprints")
    changes = (
        environment_changes({"fingerprints": was}, {"fingerprints": now}) if was and now else []
    )
    lines = [f"data   {line}" for line in change_lines(changes)]
    if saved.plan is not None and again.plan is not None:
        lines += [f"plan   {line}" for line in difference_lines(saved.plan.diff(again.plan))]
    return lines


def verdict(saved: SavedRun, again: SavedRun) -> tuple[int, list[str]]:
    """What a rerun of the same config came to, against the run itself.

    Returns:
        IDENTICAL or DIFFER, and the lines that say so. A run that was trained together with others
        is held to `STACKED_METRIC` and `STACKED_WEIGHTS`, any other to the bit.
    """
    curves = curve_differences(saved.rows, again.rows)
    missing, new = lone_epochs(saved.rows, again.rows) if saved.rows else ([], [])
    weights = _Weights(saved, again)
    compared = _compared(saved, weights)
    lines: list[str] = []
    if saved.stacked:
        apart = weights.apart() if weights.known else None
        largest = max((relative(d) for d in curves), default=0.0)
        stated = f"metrics {STACKED_METRIC:g}, weights {STACKED_WEIGHTS:g} of their norm"
        lines.append(
            "check  the run was trained stacked, together with others, which rounds otherwise: "
            f"compared within {stated}"
        )
        within = largest <= STACKED_METRIC and (apart or 0.0) <= STACKED_WEIGHTS
        if within and not missing and not new:
            found = f"metrics within {largest:.1e}"
            found += "" if apart is None else f", weights within {apart:.1e}"
            lines.append(f"check  identical within the tolerance: {found}")
            return IDENTICAL, [*weights.notes, *lines]
    elif not curves and not missing and not new and not weights.differ:
        return IDENTICAL, [*weights.notes, f"check  identical: {compared}: equal bit for bit"]
    first = min([d.first_epoch for d in curves] + missing + new, default=None)
    where = f", first in epoch {first}" if first is not None else ""
    lines.append(f"check  same config, numbers differ{where} ({compared})")
    lines += _curve_lines(curves)
    if missing or new:
        lines.append(f"check  epochs that only one has: {', '.join(map(str, [*missing, *new]))}")
    if weights.differ:
        lines.append(f"check  {weights.what} differ{weights.distance()}")
    lines += [f"cause  {line}" for line in _causes(saved, again)]
    return DIFFER, [*weights.notes, *lines]


def _compared(saved: SavedRun, weights: _Weights) -> str:
    epochs = "1 epoch" if len(saved.rows) == 1 else f"{len(saved.rows)} epochs"
    if not saved.whole:
        epochs += f", all that it had when it was {saved.status}"
    return ", ".join([epochs] * bool(saved.rows) + [weights.what] * weights.known)


def _causes(saved: SavedRun, again: SavedRun) -> list[str]:
    """What may explain that numbers differ, most likely causes first."""
    changed = change_lines(environment_changes(saved.environment, again.environment))
    lines = _changed_on_the_way(saved) + changed
    if not lines:
        nothing = "nothing that was recorded of code, packages, machine and data differs"
        unknown = "unknown: nothing is recorded of code, packages, machine and data"
        lines = [nothing if saved.environment else unknown]
    if saved.stacked:
        jumps = "at rates so high that a run jumps about, rounding alone leads it elsewhere"
        lines = [f"trained stacked: {jumps}", *lines]
    return lines


def _changed_on_the_way(saved: SavedRun) -> list[str]:
    """What was other from some epoch on, when the run was stopped and went on."""
    resumed = saved.summary.get("resumed")
    points = [p for p in resumed if isinstance(p, dict)] if isinstance(resumed, list) else []
    return [
        f"it went on after epoch {point.get('epoch')} with {line}"
        for point in points
        for key in ("changes", "environment")
        for line in point.get(key) or ()
    ]


def relative(difference: CurveDifference) -> float:
    """|b − a| / max(1, |a|)."""
    return difference.largest / max(1.0, abs(difference.was))


def _curve_lines(curves: list[CurveDifference]) -> list[str]:
    """A line per metric: how far apart at most, and where."""
    if not curves:
        return []
    lines = [
        f"       {'metric':<32} {'largest':>10} {'epoch':>6} {'was':>14} {'is':>14} {'from':>5}"
    ]
    lines += [
        f"       {d.metric[:32]:<32} {d.largest:>10.3g} {d.epoch:>6} {d.was:>14.8g} {d.now:>14.8g}"
        f" {d.first_epoch:>5}"
        for d in curves[:MOST_METRICS]
    ]
    left = len(curves) - MOST_METRICS
    return [*lines, f"       and {left} more metrics"] if left > 0 else lines


class _Weights:
    """The final weights of a run and of its rerun; the best ones where a run has no others.

    Of a run that was stopped those of its last row, where it saved them.
    """

    def __init__(self, saved: SavedRun, again: SavedRun):
        self.notes: list[str] = []  # what could not be read
        self._was, self._is = saved.weights, None
        of_best = self._was is not None and self._was.name == BEST
        hash_of_final = saved.summary.get("weights_hash") if saved.whole else None
        self.what = "best weights" if of_best and not hash_of_final else "final weights"
        if not saved.whole:
            epoch = saved.rows[-1]["epoch"] if saved.rows else None
            self.what = f"weights of epoch {epoch}"
            if of_best or _epoch_ended(self._was) != epoch:
                self._was = None
        if again.folder is not None:
            self._is = again.folder / (BEST if of_best else FINAL)
        if hash_of_final:
            self._pair = (hash_of_final, again.summary.get("weights_hash"))
        else:
            self._pair = (self._hash(self._was), self._hash(self._is))
        self.known = self._pair[0] is not None

    @property
    def differ(self) -> bool:
        return self.known and self._pair[0] != self._pair[1]

    def apart(self) -> float | None:
        """‖w' − w‖ / ‖w‖ over all floating-point tensors; None where one is not to be had."""
        was, now = self._model(self._was), self._model(self._is)
        if was is None or now is None or was.keys() != now.keys():
            return None
        pairs = [(was[n].double(), now[n].double()) for n in was if was[n].is_floating_point()]
        norm = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
        return sum(float((b - a).square().sum()) for a, b in pairs) ** 0.5 / (norm or 1.0)

    def distance(self) -> str:
        apart = self.apart()
        return "" if apart is None else f" by {apart:.2g} of their norm"

    def _hash(self, file: Path | None) -> str | None:
        from lrexp.optim.groups import tensor_hash

        model = self._model(file)
        return None if model is None else tensor_hash(model)

    def _model(self, file: Path | None) -> dict[str, Any] | None:
        """The weights in a checkpoint; None when there are none that can be read."""
        from lrexp.folder.checkpoint import load_checkpoint

        if file is None or not file.is_file():
            return None
        try:
            return load_checkpoint(file)["model"]
        except Exception as error:
            note = f"check  {file.name} cannot be read, weights are not compared: {error}"
            self.notes += [note] if note not in self.notes else []
            return None


def _epoch_ended(file: Path | None) -> int | None:
    """The epoch whose end a state is of; None when it is from within one, or cannot be read."""
    from lrexp.folder.checkpoint import load_checkpoint

    try:
        state = load_checkpoint(file) if file else {}
        return state.get("epoch") if state.get("current") is None else None
    except Exception:  # whatever a reader makes of bytes that nobody wrote
        return None
