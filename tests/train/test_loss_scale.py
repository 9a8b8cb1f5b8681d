"""float16: steps that overflow are skipped, counted, and leave no trace in what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainers import Silent

from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.optim.groups import state_by_name
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, SKIPPED = 8, "perf/skipped_steps"
RUN = (
    "data.limit=128", "data.batch_size=16", "trainer.epochs=1", "trainer.stats_every=1",
    "optimizer=adamw", "scheduler=linear",
)  # fmt: skip
HALF = (*RUN, "trainer.precision=fp16")
TOO_HIGH = 2.0**21  # gradients of logits times it are no float16, until it was halved a few times
Prepare = Callable[..., Trainer]


def scaled_too_high(prepare: Prepare, scale: float = TOO_HIGH, *more: str) -> Trainer:
    trainer = prepare(*HALF, *more)
    assert trainer.loss_scale is not None
    trainer.loss_scale.load_state({**trainer.loss_scale.state(), "scale": scale})
    return trainer


def test_a_step_that_overflows_changes_nothing_and_is_a_step(prepare: Prepare) -> None:
    trainer, plain = scaled_too_high(prepare), prepare(*RUN)
    model, seen = trainer.experiment.model, list[list[Tensor]]()

    def watch(loss: Tensor) -> bool:
        seen.append([p.detach().clone() for p in model.parameters()])
        return False

    row = trainer.train_epoch(watch=watch)
    still = [all(torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in pairwise(seen)]
    assert row["perf/skipped_steps"] == 1 + sum(still)
    assert 2 <= row["perf/skipped_steps"] <= STEPS - 2
    assert trainer.step == STEPS
    taken = STEPS - row["perf/skipped_steps"]
    counts = {float(s["step"]) for s in state_by_name(trainer.experiment.optimizer).values()}
    assert counts == {taken}
    expected = plain.train_epoch()
    rates = [key for key in expected if key.startswith("lr/")]
    assert all(row[key] == expected[key] for key in rates)  # the schedule follows attempts
    assert "perf/skipped_steps" not in expected
    sizes = [key for key in expected if key.startswith("update_ratio/") or key == "grad_norm"]
    assert len(sizes) > 1
    for key in sizes:
        assert row[key] > 0, key
        assert math.isfinite(row[key]), key
        assert row[key] == pytest.approx(expected[key], rel=0.8), key


def test_sizes_of_gradients_are_those_of_the_loss_and_clipped_by(prepare: Prepare) -> None:
    """Not of the scaled loss, whose gradients are 65,536 times as large."""
    one = "trainer.max_steps=1", "trainer.clip_grad_norm=0.5", "optimizer=sgd"
    plain, half = prepare(*RUN, *one), prepare(*HALF, *one)
    rows = [trainer.train_epoch() for trainer in (plain, half)]
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=0.01)
    for ours, theirs in zip(
        half.experiment.model.parameters(), plain.experiment.model.parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_of_an_epoch_that_took_no_step_no_size_is_told(prepare: Prepare) -> None:
    trainer = scaled_too_high(prepare, 2.0**100)
    trainer.run(Silent())
    (row,) = trainer.rows
    assert row["perf/skipped_steps"] == STEPS
    assert "grad_norm" not in row
    assert not [key for key in row if key.startswith("update_ratio/")]
    assert all(value == 0 for key, value in row.items() if key.startswith("drift/"))


@pytest.mark.parametrize("cut", [2, 6])
def test_scale_and_skipped_steps_go_on_with_a_run(
    prepare: Prepare, cut: int, tmp_path: Path
) -> None:
    whole, begun, rest = scaled_too_high(prepare), scaled_too_high(prepare), prepare(*HALF)
    whole.run(Silent())

    def stop(loss: Tensor) -> bool:
        return begun.step == cut

    with pytest.raises(KeyboardInterrupt):
        begun.train_epoch(watch=lambda loss: stop(loss) and _interrupted())
    save_checkpoint(tmp_path / "last.pt", begun.state())
    rest.load_state(load_checkpoint(tmp_path / "last.pt"))
    rest.run(Silent())
    assert rest.state()["loss_scale"] == whole.state()["loss_scale"]
    times = [key for key in whole.rows[0] if key.startswith("perf/") and key != SKIPPED]
    exact = [{k: v for k, v in r.items() if k not in times} for r in (rest.rows + whole.rows)]
    assert exact[0] == exact[1]
    ours, theirs = rest.experiment.model.state_dict(), whole.experiment.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _interrupted() -> bool:
    raise KeyboardInterrupt
