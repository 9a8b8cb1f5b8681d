"""A ramp of rates: the steps are those of training, and everything is as before afterwards."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lrexp.build.ramp import build_ramp
from lrexp.config.errors import ConfigError
from lrexp.data import draws
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.judge.range_test import Ramp, ramp_rates
from lrexp.train.loop import Trainer
from lrexp.train.ramp import climb, restored

pytestmark = pytest.mark.usefixtures("one_thread")

Compose = Callable[..., Any]
STEPS = 20
BASE = (
    "task=range_test", "trainer.device=cpu", "data.leak_check=skip", "data.limit=100",
    "data.batch_size=16", f"task.steps={STEPS}", "task.lr_from=0.001", "task.lr_to=0.5",
    "task.stop_factor=1e9",
)  # fmt: skip


def climber(config: Any, seed: int = 0) -> tuple[Trainer, Ramp]:
    config = replace(config, seed=seed)
    task = config.task
    rates = ramp_rates(task.lr_from, task.lr_to, task.steps)
    trainer = Trainer(build_ramp(config).experiment, config.trainer, config.data.batch_size, seed)
    return trainer, Ramp(seed, rates, task.smoothing, task.stop_factor)


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)],
)
def test_a_ramp_is_torch_at_rising_rates_bit_for_bit(
    compose: Compose, optimizer: str, make: Callable[..., Any]
) -> None:
    chosen = (f"optimizer={optimizer}", "optimizer.weight_decay=0")
    config = compose(*BASE, *chosen, "scheduler=cosine", "scheduler.warmup=0.1")
    trainer, ramp = climber(config)
    model = copy.deepcopy(trainer.experiment.model).train()
    climb([trainer], [ramp])

    train = trainer.experiment.dataset.train
    settings = {k: v for k, v in vars(config.optimizer).items() if k not in ("name", "lr")}
    plain = make(model.parameters(), lr=1.0, **settings)
    low, high = (rate / config.optimizer.lr for rate in (0.001, 0.5))
    expected: list[float] = []
    epoch = 0
    while len(expected) < STEPS:  # several passes over 100 images
        epoch += 1
        order = draws.order(0, "order", train.ids, epoch)
        for batch in draws.cut(order, config.data.batch_size)[: STEPS - len(expected)]:
            images, labels = next(train.batches([batch], epoch))
            factor = low * (high / low) ** (len(expected) / (STEPS - 1))
            plain.param_groups[0]["lr"] = config.optimizer.lr * factor
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            plain.zero_grad()
            loss.backward()
            plain.step()
            expected.append(loss.item())
    assert epoch > 2
    assert ramp.losses == expected
    assert max(ramp.losses) - min(ramp.losses) > 0.1


def test_stacked_ramps_are_those_of_each_alone(compose: Compose) -> None:
    config = compose(*BASE)
    alone = [climber(config, seed) for seed in (0, 1)]
    for trainer, ramp in alone:
        climb([trainer], [ramp])
    trainers, ramps = map(list, zip(*(climber(config, seed) for seed in (0, 1)), strict=True))
    climb(trainers, ramps, StackedTrainer(trainers))
    for (_, own), together in zip(alone, ramps, strict=True):
        assert together.losses == pytest.approx(own.losses, rel=1e-3)
    assert ramps[0].losses[0] != ramps[1].losses[0]


def test_a_stacked_ramp_that_ends_early_takes_no_more_losses(compose: Compose) -> None:
    trainers, ramps = map(list, zip(*(climber(compose(*BASE), s) for s in (0, 1)), strict=True))
    ramps[0].stop_factor = 1.0000001
    climb(trainers, ramps, StackedTrainer(trainers))
    assert len(ramps[0].losses) < len(ramps[1].losses) == STEPS


def test_everything_is_as_before_bit_for_bit(compose: Compose) -> None:
    words = (*BASE, "model=cifar_resnet", "data.image_size=16", "task.steps=20", "data.limit=40")
    trainer, ramp = climber(compose(*words))
    model = trainer.experiment.model
    used = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # the run's own, used before
    images, labels = next(trainer.experiment.dataset.train.batches([np.arange(8)]))
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    used.step()
    next(model.parameters()).requires_grad_(False)
    next(model.children()).eval()
    torch.manual_seed(5)
    before = copy.deepcopy((model.state_dict(), used.state_dict()))
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = next(model.parameters()).data_ptr()
    moved: list[bool] = []

    class Looks(Ramp):
        def see(self, loss: float) -> bool:
            moved.append(not torch.equal(list(model.parameters())[-1], before[0][last]))
            return super().see(loss)

    last = list(before[0])[-1]
    climb([trainer], [Looks(0, ramp.rates, 0.9, 1e9)])
    assert any(moved)
    for name, tensor in model.state_dict().items():  # weights and BatchNorm statistics
        assert torch.equal(tensor, before[0][name]), name
    for key, values in used.state_dict()["state"].items():
        assert torch.equal(values["momentum_buffer"], before[1]["state"][key]["momentum_buffer"])
    assert used.state_dict()["param_groups"] == before[1]["param_groups"]
    assert [(p.requires_grad, p.grad is None) for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert next(model.parameters()).data_ptr() == first
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(now[0], generators[0])
    assert now[1:] == generators[1:]
    assert all("train" not in module.__dict__ for module in model.modules())


def test_it_is_restored_when_a_step_fails() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = copy.deepcopy(model.state_dict())

    def fails() -> None:
        with restored(model):
            model(torch.randn(4, 2))
            model[0].weight.data.add_(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def rates_of(trainer: Trainer, step: int) -> dict[str, float]:
    trainer.set_rates(step)
    return {
        name: group["lr"]
        for group in trainer.experiment.optimizer.param_groups
        for name in group["names"]
    }


def test_the_ratios_of_the_policy_hold_at_every_step(compose: Compose) -> None:
    config = compose(*BASE, "lr_policy=layerwise_decay", "lr_policy.decay=0.5")
    trainer, ramp = climber(config)
    for step in (0, 7, STEPS - 1):
        rates = rates_of(trainer, step)
        assert rates["conv.weight"] == pytest.approx(0.25 * ramp.rates[step])
        assert rates["hidden.weight"] == pytest.approx(0.5 * ramp.rates[step])
        assert rates["head.weight"] == pytest.approx(ramp.rates[step])


@pytest.mark.parametrize(("group", "other"), [("head", "hidden"), ("hidden", "head")])
def test_of_a_group_only_its_rate_rises(compose: Compose, group: str, other: str) -> None:
    words = (*BASE, "lr_policy=layerwise_decay", "lr_policy.head_scale=2", f"task.group={group}")
    trainer, ramp = climber(compose(*words))
    first, last = rates_of(trainer, 0), rates_of(trainer, STEPS - 1)
    assert first[f"{group}.weight"] == pytest.approx(ramp.rates[0])  # whatever its scale
    assert last[f"{group}.bias"] == pytest.approx(ramp.rates[-1])
    held = 0.05 * {"hidden": 0.75, "head": 2}[other]
    assert first[f"{other}.weight"] == last[f"{other}.weight"] == pytest.approx(held)
    uniform, _ = climber(compose(*BASE, f"task.group={group}"))  # a part of one group of the plan
    assert rates_of(uniform, 0)[f"{group}.weight"] == pytest.approx(0.001)
    assert rates_of(uniform, 0)[f"{other}.weight"] == 0.05


def test_a_policy_over_time_stays_in_its_first_phase(compose: Compose) -> None:
    words = (*BASE, "lr_policy=gradual_unfreeze", "lr_policy.every=1", "trainer.epochs=4")
    trainer, ramp = climber(compose(*words))
    climb([trainer], [ramp])
    assert trainer.epoch > 2
    plan = trainer.experiment.plan
    assert {row.name for row in plan.rows if not row.frozen} == {"head.weight", "head.bias"}
    assert not trainer.experiment.plan.turns(9)[1:]


def test_measured_scales_are_measured_once(compose: Compose) -> None:
    trainer, ramp = climber(compose(*BASE, "lr_policy=auto_rgn"))
    seen = []
    optimizer = trainer.experiment.optimizer

    class Looks(Ramp):
        def see(self, loss: float) -> bool:
            seen.append([group["lr_scale"] for group in optimizer.param_groups])
            return super().see(loss)

    climb([trainer], [Looks(0, ramp.rates, 0.9, 1e9)])
    assert len(set(seen[0])) > 1
    assert all(scales == seen[0] for scales in seen)


def test_what_gives_rates_itself_holds_or_is_refused(compose: Compose) -> None:
    rule = "lr_policy.rules=[{match: 'conv.*', lr: 0.003}]"
    trainer, ramp = climber(compose(*BASE, "lr_policy=per_layer", rule))
    for step in (0, STEPS - 1):
        rates = rates_of(trainer, step)
        assert rates["conv.weight"] == pytest.approx(0.003)
        assert rates["head.weight"] == pytest.approx(ramp.rates[step])
    every = "lr_policy.rules=[{match: '*', lr: 0.003}]"
    with pytest.raises(ConfigError, match=r"no rate follows optimizer\.lr"):
        build_ramp(compose(*BASE, "lr_policy=per_layer", every))


def test_mistakes_name_the_setting_and_the_nearest_name(compose: Compose) -> None:
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        build_ramp(compose(*BASE, "task.group=haed"))
    frozen = (*BASE, "experiment=finetune_digits", "lr_policy=freeze_backbone")
    with pytest.raises(ConfigError, match="does not train at the start"):
        build_ramp(compose(*frozen, "task.group=backbone"))
    with pytest.raises(ConfigError, match=r"task\.lr_from=2: must be below task\.lr_to=0\.5"):
        compose(*BASE, "task.lr_from=2")
    with pytest.raises(ConfigError, match=r"task\.steps=5: must be at least 20"):
        compose(*BASE, "task.steps=5")
