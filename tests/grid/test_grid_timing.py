"""Timing a few steps says how fast points train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from trainers import trainer_of

from lrexp.grid.auto import pool_may_pay, pool_pays
from lrexp.grid.stack.probe import clones, steps_per_s
from lrexp.train.loop import Trainer


@pytest.fixture
def trainer(compose: Callable[..., Any]) -> Trainer:
    config = compose("experiment=smoke", "trainer.device=cpu", "data.leak_check=skip")
    return trainer_of(config)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Time passes only while a step is taken: the next of `s` seconds, the last one again."""
    now = {"now": 0.0, "steps": 0}
    monkeypatch.setattr("time.perf_counter", lambda: now["now"])
    return now


def slow_steps(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float], step_s: Any) -> None:
    set_rates = Trainer.set_rates

    def counted(self: Trainer, step: int) -> None:
        clock["steps"] += 1
        clock["now"] += step_s(clock["steps"])
        set_rates(self, step)

    monkeypatch.setattr(Trainer, "set_rates", counted)


def test_the_rate_is_that_of_the_steps(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    slow_steps(monkeypatch, clock, lambda step: 5.0 if step <= 2 else 0.01)  # warm-up is left out
    assert steps_per_s(clones(trainer, [0]), 0.1) == pytest.approx(100)


def test_a_disturbance_does_not_count(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    slow_steps(monkeypatch, clock, lambda step: 1.0 if step == 4 else 0.01)
    assert steps_per_s(clones(trainer, [0]), 0.05) == pytest.approx(100)


def test_a_stack_counts_the_steps_of_every_member(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    slow_steps(monkeypatch, clock, lambda step: 0.01)  # every member's, one after the other
    assert steps_per_s(clones(trainer, [0, 1, 0]), 0.1) == pytest.approx(100)


def test_what_is_timed_leaves_the_trainer_as_it_was(trainer: Trainer) -> None:
    before = {k: v.clone() for k, v in trainer.experiment.model.state_dict().items()}
    limit = trainer.settings.limit_train_batches
    steps_per_s(clones(trainer, [0, 1]), 0.01)
    steps_per_s(clones(trainer, [0]), 0.01)
    assert (trainer.step, trainer.epoch, trainer.settings.limit_train_batches) == (0, 0, limit)
    assert not trainer.experiment.optimizer.state
    for name, tensor in trainer.experiment.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_workers_are_judged_by_whole_runs_not_by_their_steps_alone() -> None:
    """Building, evaluating and recording a run takes as long in a stack, half as long in two."""
    assert not pool_may_pay(0.2, 5, 2), "they would take longer to start"
    assert pool_may_pay(4.5, 25, 2), "4.5 s of steps, and 12.5 s beside them"
    assert not pool_may_pay(4.5, 25, 1)
    assert not pool_may_pay(0.0, 200, 2), "nothing is known of its steps"
    assert pool_pays(4.5, 25, 2, here=2000.0, there=1000.0), "most of it is beside the steps"
    assert not pool_pays(100.0, 25, 2, here=2000.0, there=1000.0), "most of it is steps"
    assert not pool_pays(4.5, 25, 2, here=2000.0, there=0.0), "they could not be timed"
