"""Monitors that select badly are said; the setting that ends training is named."""

from __future__ import annotations

from typing import Any

import pytest

from lrexp.config.schema.training import MONITORS
from lrexp.judge.settings import ends_training, monitor_notes


@pytest.mark.parametrize("monitor", MONITORS)
def test_every_monitor_but_those_of_validation_has_a_note(compose: Any, monitor: str) -> None:
    config = compose()
    config.trainer.monitor = monitor
    notes = monitor_notes(config)
    if monitor.startswith("val/"):
        assert notes == []
    else:
        (note,) = notes
        assert note.startswith(f"trainer.monitor={monitor}: ")
        assert "; val/loss is the usual choice" in note


def test_a_plateau_that_follows_such_a_metric_has_its_own_note(compose: Any) -> None:
    config = compose("scheduler=plateau", "scheduler.monitor=gap/loss")
    (note,) = monitor_notes(config)
    assert note.startswith("scheduler.monitor=gap/loss: the gap grows as the network learns")
    config = compose("scheduler=plateau", "scheduler.monitor=overfit/loss")
    assert "never below, so the rate falls" in monitor_notes(config)[0]


@pytest.mark.parametrize(
    ("max_steps", "said"),
    [
        (None, "trainer.epochs"),
        (31, "trainer.epochs"),
        (30, "trainer.epochs and trainer.max_steps"),
        (29, "trainer.max_steps"),
    ],
)
def test_what_is_reached_first_ends_training(
    compose: Any, max_steps: int | None, said: str
) -> None:
    config = compose("trainer.epochs=3")
    config.trainer.max_steps = max_steps
    assert ends_training(config.trainer, 10) == said
