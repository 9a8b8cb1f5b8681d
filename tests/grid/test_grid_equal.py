"""Points that would train alike are found before they train."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_points import composing

from lrexp.config.errors import ConfigError

PER_LAYER = ["lr_policy=per_layer", "lr_policy.rules=[{match: '*', lr: 0.05}]"]


@pytest.fixture(scope="module")
def same() -> Iterator[Callable[..., Any]]:
    """A function from overrides to what every point of the grid runs as."""
    with composing() as points:
        yield lambda *overrides: [p.same_as for p in points(*overrides, equal=True)]


@pytest.mark.parametrize(
    "axis",
    [
        "lr_policy.default.scale=1,2",  # a rule takes every parameter before
        "name=a,b",
    ],
)
def test_a_key_that_changes_nothing_runs_once(same: Callable[..., Any], axis: str) -> None:
    assert same(*PER_LAYER, axis, "seed=1,2") == [None, None, 0, 1]


def test_equal_plans_are_equal_however_they_are_written(
    same: Callable[..., Any], tmp_path: Path
) -> None:
    by_part = "[{layers: head, lr: 0.05}, {layers: backbone, lr: 0.05}]"
    axis = f"lr_policy.rules=[{{match: '*', lr: 0.05}}],{by_part}"
    assert same("lr_policy=per_layer", axis, "seed=1,2") == [None, None, 0, 1]
    (tmp_path / "mine.yaml").write_text(
        "one: {lr_policy: uniform}\n"
        "two: {lr_policy: layerwise_decay, lr_policy.decay: 1.0}\n"
        "three: {lr_policy: layerwise_decay, lr_policy.decay: 0.99}\n"
    )
    assert same(f"cases={tmp_path / 'mine.yaml'}") == [None, 0, None]


def test_a_base_rate_that_no_parameter_follows_is_refused(same: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.02.*changes nothing"):
        same(*PER_LAYER, "optimizer.lr=0.1,0.02")


def test_what_only_the_images_can_tell_refuses_no_grid(same: Callable[..., Any]) -> None:
    """Of some of the classes nobody knows the number of images, nor what max_steps leaves."""
    some = ("data.classes=[2,8]", "data.batch_size=1", "trainer.epochs=5", "trainer.max_steps=425")
    lengths = ("lr_policy=lp_ft", "lr_policy.head_epochs=2", "optimizer.lr=0.1,0.2")
    assert same(*some, *lengths) == [None, None]


def test_equal_schedules_are_equal_however_they_are_written(same: Callable[..., Any]) -> None:
    # 1,079 images in batches of 16 are 68 steps an epoch, 1,020 in 15 epochs
    assert same("scheduler.warmup=0.2,'3 epochs','204 steps'") == [None, 0, 0]
    assert same("scheduler=step", "scheduler.gamma=1,0.5") == [None, None]


@pytest.mark.parametrize(
    "axis",
    [
        *("seed=1,2", "data.seed=1,2", "optimizer.lr=0.1,0.2", "optimizer.weight_decay=0,1e-4"),
        *("optimizer.momentum=0.9,0.8", "scheduler=constant,cosine", "data.batch_size=16,32"),
        *("trainer.epochs=5,6", "model.hidden=50,51", "lr_policy=uniform,layerwise_decay"),
        *("trainer.monitor=val/loss,val/accuracy", "loss.label_smoothing=0,0.1"),
        *("scheduler.warmup='203 steps','204 steps'", "model=simple_cnn,mlp", "optimizer=sgd,adam"),
    ],
)
def test_what_may_change_a_result_runs_twice(same: Callable[..., Any], axis: str) -> None:
    assert same(axis) == [None, None]


def test_a_measured_rate_depends_on_the_base_rate(same: Callable[..., Any]) -> None:
    assert same("lr_policy=auto_rgn", "optimizer.lr=0.1,0.2") == [None, None]


def test_where_the_schedule_is_not_known_both_run(same: Callable[..., Any]) -> None:
    estimated = ["data.classes=[0,1]", "scheduler.warmup=0.2,'3 epochs'"]
    assert same(*estimated) == [None, None]
    assert same("data.classes=[0,1]", "seed=1,1") == [None, 0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["lr_policy=uniform,layerwise_decay", "scheduler=constant,cosine"], 1),
        (["lr_policy=uniform,freeze_backbone"], 2),
        (["lr_policy=auto_rgn,uniform"], 2),  # one that measures is no judge of the other
        (["scheduler=one_cycle", "scheduler.momentum=[0.9,0.0],[0.9,0.8],null"], 2),
        (["data.augment=none,basic", "data.seed=0,1"], 4),
    ],
)
def test_points_that_one_of_them_can_stand_for_may_train_together(
    overrides: list[str], expected: int
) -> None:
    with composing() as points:
        found = points(*overrides, equal=True)
    assert len({point.alike for point in found}) == expected


@pytest.mark.slow
def test_it_takes_little_time_per_point() -> None:
    from lrexp.grid.points.equal import find_equal

    with composing() as points:
        found = points("cases=policies", "optimizer.lr=0.01,0.02,0.05")
    find_equal(found[:1])  # imports
    gc.freeze()  # what tests before have left is not looked at again and again
    started = time.process_time()
    try:
        assert find_equal(found) == {}
    finally:
        gc.unfreeze()
    assert (time.process_time() - started) / len(found) < 0.06  # about 0.01 on an idle machine
