"""What summary.json has of a run before its first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lrexp.tasks.opening import known_at_start


def test_what_is_odd_about_data_and_plan_is_in_the_summary(
    prepare: Callable[..., Any], compose: Callable[..., Any]
) -> None:
    late = ("lr_policy=gradual_unfreeze", "lr_policy.every=9", "trainer.epochs=2")
    overrides = ("experiment=smoke", *late, "trainer.deterministic=true")
    known = known_at_start(prepare(*overrides), compose(*overrides))
    on_data, on_plan = known["remarks"]
    assert on_data.startswith("deterministic algorithms alone")
    assert on_plan.startswith("4 tensors would first train after the last epoch")
