"""What a trainer needs to stop and go on: its state, and proof that it is the same run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrexp.config.errors import UserError
from lrexp.folder.checkpoint import all_weights, save_checkpoint
from lrexp.folder.layout import BEST, CHECKPOINTS, LAST, METRICS
from lrexp.judge.epoch import Row
from lrexp.optim.groups import (
    frozen_state,
    load_state_by_name,
    measured_groups,
    state_by_name,
    tensor_hash,
)
from lrexp.plan.plan import read_plan
from lrexp.train.average import Average
from lrexp.train.experiment import Experiment
from lrexp.train.measure import RunningTrain
from lrexp.train.ranks import collect
from lrexp.train.scales import scales_of

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

PUT_OFF_S = 10.0  # that files wait at least, and training that a kill may take
WAITS = 20  # times as long as writing them took, likewise


@dataclass
class Epoch:
    """The epoch that is being trained: where it began, and what its steps have shown so far."""

    first_step: int
    running: RunningTrain = field(default_factory=RunningTrain)
    started: float = field(default_factory=time.perf_counter)
    saved_s: float = 0.0  # of the time since, that went into states saved between steps
    seen: Row | None = None  # once its last step is done

    @property
    def began(self) -> float:
        """When it would have, had nothing been saved on the way."""
        return self.started + self.saved_s

    def state(self) -> dict[str, Any]:
        """All of it, with the time it took so far."""
        return {
            "first_step": self.first_step,
            "running": self.running.state(),
            "elapsed_s": time.perf_counter() - self.started,
            "saved_s": self.saved_s,
            "seen": self.seen,
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Epoch:
        """The epoch of a `state()`, as if it had been trained up to now."""
        epoch = cls(state["first_step"], seen=state["seen"], saved_s=state.get("saved_s", 0.0))
        epoch.running.load_state(state["running"])
        epoch.started -= state["elapsed_s"]
        return epoch


class FrozenProof:
    """Hashes of what never trains, tensors and buffers, before training and now.

    As it is trained with and, where there is an average of weights, as evaluations see it.
    """

    def __init__(self, experiment: Experiment, average: Average | None = None):
        self._experiment, self._average = experiment, average
        self.begin()

    def begin(self) -> None:
        """Take what there is now for the start."""
        self.before = self._hash(self._frozen())

    def as_dict(self) -> dict[str, Any]:
        """As summary.json has it."""
        frozen = self._frozen()
        now = {"before": self.before, "after": self._hash(frozen)}
        return {"tensors": len(frozen), **now, "identical": now["before"] == now["after"]}

    def _hash(self, frozen: dict[str, Tensor]) -> str:
        seen = self._average.seen_in(frozen) if self._average else None
        return tensor_hash(all_weights(frozen, seen))

    def _frozen(self) -> dict[str, Tensor]:
        experiment = self._experiment
        return frozen_state(experiment.model, experiment.plan, experiment.beside)


def fingerprints(experiment: Experiment) -> dict[str, str]:
    """Of the files that a run depends on."""
    found = {"data": experiment.dataset.fingerprint}
    weights = experiment.weights_fingerprint
    return found | ({"weights": weights} if weights else {})


def state_of(trainer: Trainer) -> dict[str, Any]:
    """All that the rest of a run depends on but the config and the files it names.

    The starting point that drift is measured from is rebuilt from those. Tensors are the live ones:
    save or copy the state.

    Of the rows, those are left out that metrics.jsonl surely has (`trainer.recorded`): with them
    every save would take longer than the one before.
    """
    experiment, current = trainer.experiment, trainer.current
    average = trainer.average.state() if trainer.average else None
    return {
        "model": experiment.model.state_dict(),
        "average": average,
        "optimizer": state_by_name(experiment.optimizer),
        "plan": experiment.plan.to_csv(),
        "lr_scale": scales_of(experiment),
        "rates": {group["name"]: group["lr"] for group in experiment.optimizer.param_groups},
        "factors": trainer.factors(trainer.step - 1) if trainer.step else {},
        "epoch": trainer.epoch,
        "step": trainer.step,
        "diverged": trainer.diverged,
        "rows_before": trainer.recorded,
        "rows": [dict(row) for row in trainer.rows[trainer.recorded :]],
        "best": {
            name: {"epoch": b.epoch, "value": b.value, "per_image": torch.from_numpy(b.per_image)}
            for name, b in trainer.track.bests.items()
        },
        "frozen_before": trainer.frozen.before,
        "learning": trainer.learning.state(),
        "plateau": experiment.plateau and experiment.plateau.state(),
        "fingerprints": fingerprints(experiment),
        "current": current and {**current.state(), "stats": trainer.stats.state()},
        "loss_scale": trainer.loss_scale and trainer.loss_scale.state(),
    }


def load_into(
    trainer: Trainer,
    state: dict[str, Any],
    allow_plan_change: bool = False,
    allow_data_change: bool = False,
    recorded: Sequence[Row] = (),
) -> None:
    """Take up a state of the same config, on a trainer that has not trained yet.

    Args:
        trainer: changed in place.
        state: of `state_of`.
        allow_plan_change: go on under another plan than the state's; the difference is logged. What
            no longer trains loses its optimizer state, what newly trains starts without.
        allow_data_change: go on with other data, or from other first weights, than the state's.
        recorded: rows of metrics.jsonl, of which those come back that the state left out.

    Raises:
        UserError: when the state's plan or data differ and that is not allowed, with the
            difference; when a row is missing.
    """
    experiment, rows = trainer.experiment, _all_rows(state, recorded)
    then, now = state["fingerprints"], fingerprints(experiment)
    others = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    _say(
        [f"{name}: {then.get(name)} → {now.get(name)}" for name in others],
        f"{' and '.join(others)} changed since the checkpoint",
        allow_data_change,
        "lrexp rerun RUN --resume --changed-data goes on",
    )
    changed = read_plan(state["plan"]).diff(experiment.plan)
    _say(
        changed,
        "the plan has changed since this state:",
        allow_plan_change,
        "allow_plan_change=True continues all the same",
    )
    experiment.model.load_state_dict(state["model"])
    average = state.get("average")  # a state of former versions has none
    if (average is None) != (trainer.average is None):
        given = f"trainer.ema={trainer.settings.ema or 'null'}"
        holds = "no average of the weights" if average is None else "an average of the weights"
        raise UserError(f"the state holds {holds}, and the settings say {given}")
    if trainer.average and average is not None:
        frozen = frozen_state(experiment.model, experiment.plan, experiment.beside)
        trainer.average.load_state({n: t for n, t in average.items() if n not in frozen})
    optimizer = experiment.optimizer
    trained = {name for group in optimizer.param_groups for name in group["names"]}
    kept = {name: values for name, values in state["optimizer"].items() if name in trained}
    load_state_by_name(optimizer, kept)
    for name, group in measured_groups(optimizer, experiment.plan).items():
        group["lr_scale"] = state["lr_scale"].get(name, group["lr_scale"])
    for group in optimizer.param_groups:  # the row has the last ones, if no step is left
        group["lr"] = state.get("rates", {}).get(group["name"], group["lr"])
    trainer.factors_then = state.get("factors", {})  # a state of former versions has none
    trainer.epoch, trainer.step = state["epoch"], state["step"]
    trainer.rows = rows
    trainer.track.diverged = state["diverged"]
    for name, best in trainer.track.bests.items():
        saved = state["best"][name]
        best.epoch, best.value = saved["epoch"], saved["value"]
        best.per_image = saved["per_image"].cpu().numpy().copy()
    if changed:
        trainer.frozen.begin()
    else:
        trainer.frozen.before = state["frozen_before"]
        trainer.learning.load_state(state.get("learning"), trainer)  # former versions had none
    if experiment.plateau and state["plateau"]:
        experiment.plateau.load_state(state["plateau"])
    if trainer.loss_scale and state.get("loss_scale"):
        trainer.loss_scale.load_state(state["loss_scale"])
    current = state["current"]
    trainer.current = current and Epoch.of_state(current)
    if current:
        trainer.stats.load_state(current["stats"])


def _all_rows(state: dict[str, Any], recorded: Sequence[Row]) -> list[Row]:
    """The rows of every epoch before a state, from the record and, the newest, the state itself.

    The record may be ahead of the state, which is an older one then, or behind it, as the state is
    saved first; never so far that a row is in neither.
    """
    before = state.get("rows_before", 0)  # a state of former versions has all rows
    rows = [dict(row) for row in (*recorded[:before], *state["rows"])]
    epochs = [int(row["epoch"]) for row in rows]
    first = min(1, *epochs) if epochs else 1  # 0 where a run began with evaluating
    if len(rows) < before or epochs != list(range(first, first + len(epochs))):
        known = {int(row["epoch"]) for row in recorded}
        lost = before - len(known & set(range(first, first + before)))
        raise UserError(
            f"{METRICS} lacks {lost} of the first {before} epochs, which {CHECKPOINTS}/{LAST} goes"
            f" on from\n  put the file back, or start a new run"
        )
    return rows


def save_last(trainer: Trainer, checkpoints: Path) -> None:
    """Write the state to last.pt; an OSError when that is not possible.

    Of several ranks the first one writes, and all of them must be here.
    """
    collect(trainer)
    if not trainer.ranks.first:
        return
    with saving(trainer):
        _save(trainer, checkpoints / LAST, trainer.state())


def save_best(trainer: Trainer, checkpoints: Path) -> None:
    """Write the weights to evaluate to best.pt if they are those of the best epoch so far.

    After last.pt: whoever goes on from there can do it again.
    """
    ended = trainer.current is None and trainer.ranks.first
    if ended and trainer.best.epoch == trainer.epoch:
        with trainer.averaged(), saving(trainer):
            weights = {"model": trainer.experiment.model.state_dict(), "epoch": trainer.epoch}
            data = trainer.experiment.dataset
            weights["class_names"] = list(data.class_names)
            weights["preprocessing"] = data.preprocessing.as_dict()  # for whoever loads it
            _save(trainer, checkpoints / BEST, weights)
    if trainer.put_off and time.perf_counter() >= trainer.write_at:
        started = time.perf_counter()
        with saving(trainer):
            write_put_off(trainer)
        now = time.perf_counter()
        trainer.write_at = now + max(PUT_OFF_S, WAITS * (now - started))


@contextmanager
def saving(trainer: Trainer) -> Iterator[None]:
    """Count the time in it as none of training: of the epoch that it interrupts, or between two."""
    started = time.perf_counter()
    try:
        yield
    finally:
        took_s = time.perf_counter() - started
        if trainer.current is None:
            trainer.saved_s += took_s
        else:
            trainer.current.saved_s += took_s


def _save(trainer: Trainer, file: Path, state: dict[str, Any]) -> None:
    """Write a state, or keep it until `write_put_off`.

    An epoch of a head on features takes less time than to write the backbone, which is the same
    after every one. Where a kill may take some of those epochs the file waits, `PUT_OFF_S` or until
    training ends: of its tensors those that train are copied.
    """
    if not (trainer.puts_off and trainer.cached):
        trainer.put_off.pop(file, None)
        write_put_off(trainer)  # the best weights from before, which this state refers to
        save_checkpoint(file, state, trainer.synced if file.name == LAST else False)
        return
    within, model = f"{trainer.cached.cut}.", state["model"]
    kept = {n: copied(t) if n.startswith(within) else t.detach() for n, t in model.items()}
    trainer.put_off[file] = copied({**state, "model": {}}) | {"model": kept}


def write_put_off(trainer: Trainer) -> None:
    """Write the states that waited; an OSError when that is not possible."""
    while trainer.put_off:
        file, state = next(iter(trainer.put_off.items()))
        save_checkpoint(file, state)
        del trainer.put_off[file]  # written, whatever interrupts


def copied(value: Any) -> Any:
    """A state whose tensors stay as they are now."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value.detach().clone() if isinstance(value, Tensor) else value


def _say(changes: list[str], what: str, allowed: bool, hint: str) -> None:
    """Say what has changed since a state was saved: an error, unless it is allowed."""
    said = "\n  ".join([what, *changes])
    if changes and not allowed:
        raise UserError(f"{said}\n  {hint}")
    if changes:
        log.warning(said)
