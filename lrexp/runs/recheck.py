"""What `rerun --check` compares: a run against the saved one of the same config; its verdict."""

from __future__ import annotations

import math
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
    number,
)
from lrexp.runs.rounding import MULTIPLE, SURELY, compare_rows, weights_allowed

IDENTICAL, DIFFER, OTHER_CONFIG, CANNOT_TELL = 0, 3, 4, 5  # exit codes of --check
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


def rounds_otherwise(saved: SavedRun, again: SavedRun) -> bool:
    """Whether a run was trained together with others, and its rerun has not its very numbers.

    What `verdict` then needs is the rerun's twin.
    """
    return saved.stacked and not _compared(saved, again).equal


def verdict(
    saved: SavedRun, again: SavedRun, twin: SavedRun | None = None
) -> tuple[int, list[str]]:
    """What a rerun of the same config came to, against the run itself.

    Args:
        saved: the run.
        again: its rerun.
        twin: of the rerun, where rounding may make a difference; None: every number is held to the
            bit.

    Returns:
        IDENTICAL, DIFFER or CANNOT_TELL, and the lines that say so.
    """
    found = _compared(saved, again)
    notes = found.weights.notes
    if found.equal:
        return IDENTICAL, [*notes, f"check  identical: {found.what}: equal bit for bit"]
    if twin is not None:
        return _by_rounding(saved, again, twin, found)
    first = min([*found.alone, *(d.first_epoch for d in found.curves)], default=None)
    where = f", first in epoch {first}" if first is not None else ""
    lines = [*notes, f"check  same config, numbers differ{where} ({found.what})"]
    return DIFFER, [*lines, *_difference_lines(saved, again, found)]


@dataclass(frozen=True)
class _Compared:
    """How a run and its rerun compare, to the bit."""

    curves: list[CurveDifference]
    alone: list[int]  # epochs that only one has
    weights: _Weights
    what: str  # was compared

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.curves or self.alone or self.weights.differ)


def _compared(saved: SavedRun, again: SavedRun) -> _Compared:
    missing, new = lone_epochs(saved.rows, again.rows) if saved.rows else ([], [])
    weights = _weights(saved, again)
    epochs = "1 epoch" if len(saved.rows) == 1 else f"{len(saved.rows)} epochs"
    if not saved.whole:
        epochs += f", all that it had when it was {saved.status}"
    what = ", ".join([epochs] * bool(saved.rows) + [weights.what] * weights.known)
    curves = curve_differences(saved.rows, again.rows)
    return _Compared(curves, sorted([*missing, *new]), weights, what)


def _difference_lines(saved: SavedRun, again: SavedRun, found: _Compared) -> list[str]:
    lines = _curve_lines(found.curves)
    if found.alone:
        lines.append(f"check  epochs that only one has: {', '.join(map(str, found.alone))}")
    if found.weights.differ:
        apart = found.weights.apart
        by = "" if apart is None else f" by {apart:.2g} of their norm"
        lines.append(f"check  {found.weights.what} differ{by}")
    return [*lines, *(f"cause  {line}" for line in _causes(saved, again))]


def _by_rounding(
    saved: SavedRun, again: SavedRun, twin: SavedRun, found: _Compared
) -> tuple[int, list[str]]:
    """The verdict on a run that was trained together with others, by what rounding does to it."""
    lines = [
        *found.weights.notes,
        "check  the run was trained stacked, together with others, which rounds otherwise: allowed"
        f" is {MULTIPLE:g} × what a twin differs by whose weights are moved by 1e-7",
    ]
    rows = compare_rows(saved.rows, again.rows, twin.rows, _fewest_images(saved))
    apart, allowed = found.weights.apart, None
    if rows.untold is None:
        allowed = weights_allowed(_twin_apart(again, twin, found.weights.file), again.rows)
    beyond = apart / allowed if apart is not None and allowed is not None else 0.0
    wrong = [*rows.differ[:3]]
    if beyond > SURELY:
        wrong.append(f"{found.weights.what} ({apart:.1e} of their norm, {allowed:.1e} allowed)")
    if found.alone and rows.untold is None and not _patience(saved):
        wrong.append("epochs that only one has")
    if wrong:
        said = ", ".join(wrong)
        lines.append(f"check  same config, numbers differ by more than rounding: {said}")
        return DIFFER, [*lines, *_difference_lines(saved, again, found)]
    if rows.untold is not None:
        so_far = f"; before it they agree within {rows.largest:.1e}" if rows.largest else ""
        why = f"from epoch {rows.untold} on rounding alone leads such a run elsewhere{so_far}"
    elif found.alone:
        why = "it ended in another epoch, as trainer.patience or stop_on decide where values tie"
    elif rows.doubtful:
        why = f"{rows.doubtful[0]} is farther away than rounding should lead it, though not by much"
    elif apart is not None and (allowed is None or beyond > 1):
        why = f"rounding alone may lead {found.weights.what} about as far as they are away"
    else:
        said = f"metrics within {rows.largest:.1e} of {rows.allowed:.1e}"
        said += "" if apart is None else f", {found.weights.what} {apart:.1e} of {allowed:.1e}"
        return IDENTICAL, [*lines, f"check  identical within what is allowed: {said}"]
    return CANNOT_TELL, [*lines, f"check  cannot tell whether it is reproduced: {why}"]


def _fewest_images(saved: SavedRun) -> int | None:
    """How many images the smallest set has that the share of right ones is taken over."""
    data, trainer, rows = saved.summary.get("data"), saved.config.get("trainer"), saved.rows
    images = data.get("images") if isinstance(data, dict) else None
    counts = [images.get(split) for split in ("train", "val")] if isinstance(images, dict) else []
    counts.append(trainer.get("train_eval_limit") if isinstance(trainer, dict) else None)
    per_step = saved.config.get("data", {}).get("batch_size")
    if rows and isinstance(per_step, int):
        per_step *= trainer.get("accumulate", 1) if isinstance(trainer, dict) else 1
        counts.append(int(number(rows[0].get("step"))) * per_step)
    return min((count for count in counts if isinstance(count, int) and count > 0), default=None)


def _patience(saved: SavedRun) -> bool:
    """Whether the run may end early."""
    trainer = saved.config.get("trainer")
    return isinstance(trainer, dict) and bool(trainer.get("patience") or trainer.get("stop_on"))


def _causes(saved: SavedRun, again: SavedRun) -> list[str]:
    """What may explain that numbers differ, most likely causes first."""
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
    return changed or [nothing if saved.environment else unknown]


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

    file: str  # of a checkpoint, that has them
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
        apart = _apart(*(models or [_state(one, notes).get("model") for one in (file, rerun)]))
    known = hashes[0] is not None
    return _Weights(name, what, known, differ, apart, list(dict.fromkeys(notes)))


def _twin_apart(again: SavedRun, twin: SavedRun, name: str) -> float | None:
    """As `_Weights.apart`, between a rerun and its twin."""
    files = [run.folder and run.folder / CHECKPOINTS / name for run in (again, twin)]
    return _apart(*(_state(file, []).get("model") for file in files))


def _apart(was: Any, now: Any) -> float | None:
    """See `_Weights.apart`, of two networks' tensors; infinite where one alone is not finite."""
    if was is None or now is None or was.keys() != now.keys():
        return None
    pairs = [(was[n].double(), now[n].double()) for n in was if was[n].is_floating_point()]
    if any((a.isfinite() != b.isfinite()).any() for a, b in pairs):
        return math.inf
    pairs = [(a.nan_to_num(0.0, 0.0, 0.0), b.nan_to_num(0.0, 0.0, 0.0)) for a, b in pairs]
    norm = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
    return sum(float((b - a).square().sum()) for a, b in pairs) ** 0.5 / (norm or 1.0)


def _state(file: Path | None, notes: list[str]) -> dict[str, Any]:
    """What a checkpoint holds; empty when there is none that can be read."""
    from lrexp.folder.checkpoint import all_weights, load_checkpoint

    if file is None or not file.is_file():
        return {}
    try:
        state = load_checkpoint(file)
        return state | {"model": all_weights(state["model"], state.get("average"))}
    except Exception as error:  # whatever a reader makes of bytes that nobody wrote
        notes.append(f"check  {file.name} cannot be read, weights are not compared: {error}")
        return {}
