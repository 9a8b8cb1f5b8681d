"""Schedules against torch's own schedulers, closed forms, and the rates a run really had."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from lrexp.build import build, build_schedule
from lrexp.schedulers import SCHEDULES, constant, cosine, step, with_warmup
from lrexp.train import Trainer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_rates(make: Callable[..., LRScheduler], lr: float, moves: int) -> list[float]:
    """Rates at every move of a torch scheduler on an optimizer that really steps."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(moves):
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    return rates


def test_constant_is_1() -> None:
    assert constant(5, 2) == [1.0] * 5


def test_step_2_half_from_a_tenth_trains_four_epochs_with_the_known_rates(compose: Any) -> None:
    config = compose(
        "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5", "optimizer.lr=0.1",
        "trainer.epochs=4", "trainer.limit_train_batches=3", "lr_policy=per_layer",
        "lr_policy.rules=[{match:'conv.*',scale:0.1}]", "lr_policy.default.scale=1",
    )  # fmt: skip
    trainer = Trainer(build(config), config.trainer, config.data.batch_size, config.seed)
    used: list[float] = []
    step_of = trainer.experiment.optimizer.step

    def noting(*args: Any) -> Any:
        used.append(trainer.experiment.optimizer.param_groups[1]["lr"])
        return step_of(*args)

    trainer.experiment.optimizer.step = noting  # type: ignore[method-assign]
    trainer.run(Silent())
    names = [group["name"] for group in trainer.experiment.optimizer.param_groups]
    assert names == ["conv", "hidden_to_head"]
    assert [row["lr/hidden_to_head"] for row in trainer.rows] == [0.1, 0.1, 0.05, 0.05]
    assert [row["lr/conv"] for row in trainer.rows] == pytest.approx([0.01, 0.01, 0.005, 0.005])
    assert used == [0.1] * 6 + [0.05] * 6


class Silent:
    def row(self, row: dict[str, float]) -> None: ...


@pytest.mark.parametrize(("size", "gamma"), [(1, 0.9), (2, 0.5), (5, 0.1), (3, 1.5)])
def test_step_is_torchs_steplr_moved_once_an_epoch(size: int, gamma: float) -> None:
    per_epoch, epochs = 4, 11
    table = step(per_epoch * epochs, per_epoch, step_size=size, gamma=gamma)
    expected = torch_rates(lambda o: StepLR(o, size, gamma), 0.3, epochs)
    assert [0.3 * s for s in table[::per_epoch]] == pytest.approx(expected, rel=1e-12)
    assert all(len(set(table[e * 4 : e * 4 + 4])) == 1 for e in range(epochs))
    # Training that ends within an epoch has the first part of the table.
    assert step(9, per_epoch, step_size=size, gamma=gamma) == table[:9]


@pytest.mark.parametrize("floor", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 7, 500])
def test_cosine_is_the_closed_form_and_torchs_own(steps: int, floor: float) -> None:
    table = cosine(steps, 3, floor=floor)
    closed = [floor + (1 - floor) * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps)]
    assert table == pytest.approx(closed, abs=1e-9)
    theirs = torch_rates(lambda o: CosineAnnealingLR(o, steps, eta_min=0.2 * floor), 0.2, steps)
    assert [0.2 * s for s in table] == pytest.approx(theirs, abs=1e-9)


def test_cosine_starts_at_1_falls_and_stays_above_its_floor() -> None:
    table = cosine(100, 10, floor=0.1)
    assert table[0] == 1.0
    assert all(a > b for a, b in itertools.pairwise(table))
    assert 0.1 < table[-1] < 0.1 + 0.9 * (math.pi / 100) ** 2 / 4 + 1e-12


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [1, 3, 10])
def test_warmup_rises_linearly_and_hands_over_the_remaining_steps(name: str, warmup: int) -> None:
    settings: dict[str, dict[str, float]] = {
        "constant": {},
        "step": {"step_size": 2, "gamma": 0.5},
        "cosine": {"floor": 0.1},
    }

    def main(steps: int, per_epoch: int) -> list[float]:
        return SCHEDULES[name](steps, per_epoch, **settings[name])

    table = with_warmup(main, warmup, 24, 4)
    assert len(table) == 24
    assert table[:warmup] == pytest.approx([(t + 1) / (warmup + 1) for t in range(warmup)])
    assert table[warmup:] == main(24 - warmup, 4)
    assert table[warmup] == 1.0
    # Continuous: the step into the main schedule is as high as every step of the rise.
    assert table[warmup] - table[warmup - 1] == pytest.approx(table[0])


def test_warmup_then_cosine_is_torchs_sequential_scheduler() -> None:
    def sequential(optimizer: torch.optim.Optimizer) -> LRScheduler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own use of a deprecated argument
            rise = LinearLR(optimizer, 1 / 6, 1.0, 5)
            return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, 15)], [5])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch_rates(sequential, 1.0, 20)
    table = with_warmup(lambda t, e: cosine(t, e, floor=0.0), 5, 20, 4)
    assert table == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("warmup", "rising"),
    [("0", 0), ("0.1", 34), ("'2 epochs'", 136), ("'7 steps'", 7), ("'1 epoch'", 68)],
)
def test_warmup_may_be_a_share_epochs_or_steps(compose: Any, warmup: str, rising: int) -> None:
    config = compose("scheduler=cosine", f"scheduler.warmup={warmup}", "trainer.epochs=5")
    table = build_schedule(config, 1079)  # 68 steps an epoch, 340 in all
    assert len(table) == 340
    assert table.index(1.0) == rising
    assert table[rising:] == cosine(340 - rising, 68, floor=0.0)


@pytest.mark.parametrize("scheduler", SCHEDULES)
@pytest.mark.parametrize("warmup", ["0", "'2 epochs'", "0.5"])
def test_no_epochs_means_no_steps(compose: Any, scheduler: str, warmup: str) -> None:
    config = compose(f"scheduler={scheduler}", f"scheduler.warmup={warmup}", "trainer.epochs=0")
    assert build_schedule(config, 1079) == []


def test_a_warmup_as_long_as_training_is_refused(compose: Any) -> None:
    from lrexp.errors import ConfigError

    for warmup in ("'5 epochs'", "'340 steps'", "'9 epochs'"):
        config = compose(f"scheduler.warmup={warmup}", "trainer.epochs=5")
        with pytest.raises(ConfigError, match=r"scheduler\.warmup.*training has 340"):
            build_schedule(config, 1079)


def test_ratios_between_groups_hold_at_every_step(compose: Any) -> None:
    from lrexp.optim import set_rates

    config = compose(
        "scheduler=cosine", "scheduler.warmup=0.2", "scheduler.floor=0.05",
        "lr_policy=layerwise_decay", "lr_policy.decay=0.5", "trainer.epochs=2",
    )  # fmt: skip
    experiment = build(config)
    groups = experiment.optimizer.param_groups
    assert [group["lr_scale"] for group in groups] == [0.25, 0.5, 1.0]
    seen = set()
    for s in experiment.schedule:
        set_rates(experiment.optimizer, experiment.base_lr, s)
        head = groups[2]["lr"]
        assert head == pytest.approx(0.05 * s)
        assert [group["lr"] for group in groups[:2]] == pytest.approx([head / 4, head / 2])
        seen.add(head)
    assert len(seen) > 100
