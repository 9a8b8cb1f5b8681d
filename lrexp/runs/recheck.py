"""What `rerun --check` compares: a run against the saved one of the same config; its verdict."""

from __future__ import annotations

from dataclasses import dataclass
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
    alone = sorted([*missing, *new])
    weights = _weights(saved, again)
    apart = weights.apart
    epochs = "1 epoch" if len(saved.rows) == 1 else f"{len(saved.rows)} epochs"
    if not saved.whole:
        epochs += f", all that it had when it was {saved.status}"
    compared = ", ".join([epochs] * bool(saved.rows) + [weights.what] * weights.known)
    lines = list(weights.notes)
    if saved.stacked:
        lines.append(
            "check  the run was trained stacked, together with others, which rounds otherwise: "
            f"compared within metrics {STACKED_METRIC:g}, weights {STACKED_WEIGHTS:g} of their norm"
        )
        largest = max((d.largest / max(1.0, abs(d.was)) for d in curves), default=0.0)
        if largest <= STACKED_METRIC and (apart or 0.0) <= STACKED_WEIGHTS and not alone:
            found = f"metrics within {largest:.1e}"
            found += "" if apart is None else f", weights within {apart:.1e}"
            return IDENTICAL, [*lines, f"check  identical within the tolerance: {found}"]
    elif not curves and not alone and not weights.differ:
        return IDENTICAL, [*lines, f"check  identical: {compared}: equal bit for bit"]
    first = min([*alone, *(d.first_epoch for d in curves)], default=None)
    where = f", first in epoch {first}" if first is not None else ""
    lines.append(f"check  same config, numbers differ{where} ({compared})")
    lines += _curve_lines(curves)
    if alone:
        lines.append(f"check  epochs that only one has: {', '.join(map(str, alone))}")
    if weights.differ:
        by = "" if apart is None else f" by {apart:.2g} of their norm"
        lines.append(f"check  {weights.what} differ{by}")
    return DIFFER, [*lines, *(f"cause  {line}" for line in _causes(saved, again))]


def _causes(saved: SavedRun, again: SavedRun) -> list[str]:
    """What may explain that numbers differ, most likely causes first."""
    lines = []
    if saved.stacked:
        jumps = "at rates so high that a run jumps about, rounding alone leads it elsewhere"
        lines = [f"trained stacked: {jumps}"]
    resumed = saved.summary.get("resumed")
    changed = [
        f"it went on after epoch {point.get('epoch')} with {line}"
        for point in (resumed if isinstance(resumed, list) else [])
        if isinstance(point, dict)
        for key in ("changes", "environment")
        for line in point.get(key) or ()
    ]
    changed += change_lines(environment_changes(saved.environment, again.environment))
    nothing = "nothing that was recorded of code, packages, machine and data differs"
    unknown = "unknown: nothing is recorded of code, packages, machine and data"
    return [*lines, *(changed or [nothing if saved.environment else unknown])]


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


@dataclass(frozen=True)
class _Weights:
    """How the weights of a run and of its rerun compare."""

    what: str  # which weights
    known: bool  # whether the run's can be compared
    differ: bool
    apart: float | None  # ‖w' − w‖ / ‖w‖ over all floating-point tensors, where it was looked at
    notes: list[str]  # what could not be read


def _weights(saved: SavedRun, again: SavedRun) -> _Weights:
    """The final weights of both; the best ones where the run has no others.

    Of a run that was stopped those of its last row, where it saved them.
    """
    from lrexp.optim.groups import tensor_hash

    notes: list[str] = []
    file = saved.weights
    name = BEST if file is not None and file.name == BEST else LAST
    what, final = "best weights" if name == BEST else "final weights", None
    if not saved.whole:
        epoch = saved.rows[-1]["epoch"]
        what, state = f"weights of epoch {epoch}", _state(file, notes)
        if name == BEST or state.get("current") is not None or state.get("epoch") != epoch:
            file = None  # it is of another epoch, or from within one
    elif final := saved.summary.get("weights_hash"):
        what = "final weights"
    rerun = again.folder / CHECKPOINTS / name if again.folder else None
    models, hashes = None, (final, again.summary.get("weights_hash"))
    if not final:
        models = [_state(one, notes).get("model") for one in (file, rerun)]
        hashes = tuple(None if model is None else tensor_hash(model) for model in models)
    differ = hashes[0] is not None and hashes[0] != hashes[1]
    apart = None
    if differ or saved.stacked:
        was, now = models or (_state(one, notes).get("model") for one in (file, rerun))
        if was is not None and now is not None and was.keys() == now.keys():
            pairs = [(was[n].double(), now[n].double()) for n in was if was[n].is_floating_point()]
            norm = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
            apart = sum(float((b - a).square().sum()) for a, b in pairs) ** 0.5 / (norm or 1.0)
    return _Weights(what, hashes[0] is not None, differ, apart, list(dict.fromkeys(notes)))


def _state(file: Path | None, notes: list[str]) -> dict[str, Any]:
    """What a checkpoint holds; empty when there is none that can be read."""
    from lrexp.folder.checkpoint import load_checkpoint

    if file is None or not file.is_file():
        return {}
    try:
        state = load_checkpoint(file)
        return state | {"model": state["model"]}
    except Exception as error:  # whatever a reader makes of bytes that nobody wrote
        notes.append(f"check  {file.name} cannot be read, weights are not compared: {error}")
        return {}
