"""Every policy in the loop: continuing across edges, rates over time, measured scales."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainers import trainer_of

from lrexp.build.experiment import build
from lrexp.build.loss import CrossEntropy
from lrexp.build.rates import build_plan
from lrexp.build.schedule import count_steps
from lrexp.config.errors import UserError
from lrexp.config.schema import OPTIONS
from lrexp.data.dataset import Split
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups, state_by_name
from lrexp.train.loop import Trainer
from lrexp.train.scales import measured_scales, relative_gradient_norms

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 6
SHORT = (f"trainer.epochs={EPOCHS}", "trainer.limit_train_batches=3", "trainer.stats_every=2")
# What makes an edge, or several, fall within six epochs.
EDGES = {
    "gradual_unfreeze": ("lr_policy.every=2",),
    "lp_ft": ("lr_policy.head_epochs=3",),
    "freezeout": ("lr_policy.t_0=0.6",),
    "freeze_backbone": ("lr_policy.train_norm=true",),
    "surgical": ("lr_policy.block=1",),
}


class NormNet(nn.Module):
    """Convolutions with BatchNorm and dropout under a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.3)
        self.mid = nn.Conv2d(3, 3, 3)
        self.still = nn.BatchNorm2d(3, affine=False)
        self.head = nn.Linear(3 * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(images)).relu())
        return self.head(self.still(self.mid(x)).relu().flatten(1))


class PlainNet(nn.Module):
    """As much without either, in float64: what batches are cut into changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.mid = nn.Conv2d(3, 3, 3)
        self.head = nn.Linear(3 * 16, 10)
        self.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.mid(self.conv(images.double()).relu()).relu().flatten(1))


Make = Callable[..., Trainer]


@pytest.fixture
def make(compose: Any) -> Make:
    """A function from overrides to a trainer of NormNet that has not trained yet."""
    built: dict[tuple[str, ...], Any] = {}

    def made(*overrides: str, net: type[nn.Module] = NormNet, **settings: Any) -> Trainer:
        if overrides not in built:
            config = compose("trainer.device=cpu", "data.leak_check=skip", *SHORT, *overrides)
            built[overrides] = config, build(config)
        config, experiment = built[overrides]
        config = replace(config, trainer=replace(config.trainer, **settings))
        torch.manual_seed(0)
        model = net()
        layers = layer_map(model, "head")
        steps = count_steps(config, len(experiment.dataset.train))
        plan = build_plan(config, layers, steps)
        optimizer = torch.optim.AdamW(param_groups(model, plan, config.optimizer.lr))
        fresh = replace(
            experiment,
            model=model,
            layers=layers,
            plan=plan,
            optimizer=optimizer,
            schedule=experiment.schedule[: steps.total],
            steps_per_epoch=steps.per_epoch,
        )
        return trainer_of(config, fresh)

    return made


class After:
    """Calls a function after every epoch."""

    def __init__(self, look: Callable[[Row], object] = lambda row: None):
        self._look = look

    def row(self, row: Row) -> None:
        self._look(row)


QUICK = ("auto_rgn", "freezeout", "gradual_unfreeze", "lp_ft")  # what moves changes, or rates
NAMED = [name for name in OPTIONS["lr_policy"] if name != "custom"]  # see test_own_parts


def exact(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def options_of(policy: str) -> tuple[str, ...]:
    return (f"lr_policy={policy}", "optimizer=adamw", *EDGES.get(policy, ()))


@pytest.mark.parametrize(
    "policy",
    [  # a plan that stays as it is goes on alike whatever is in it
        pytest.param(name, marks=() if name in (*QUICK, "layerwise_decay") else pytest.mark.slow)
        for name in NAMED
    ],
)
def test_continuing_after_any_epoch_equals_the_uninterrupted_run_bit_for_bit(
    make: Make, policy: str, tmp_path: Path
) -> None:
    whole = make(*options_of(policy))
    whole.run(
        After(lambda row: save_checkpoint(tmp_path / f"{int(row['epoch'])}.pt", whole.state()))
    )
    edges = {r.trainable_from for r in whole.experiment.plan.rows} | {
        r.trainable_until for r in whole.experiment.plan.rows if not r.frozen
    }
    if policy in ("gradual_unfreeze", "lp_ft", "freezeout"):
        assert edges & set(range(1, EPOCHS)), "there is an edge to cross"
    final = whole.experiment.model.state_dict()
    for cut in range(1, EPOCHS):
        rest = make(*options_of(policy))
        rest.load_state(load_checkpoint(tmp_path / f"{cut}.pt"))
        rest.run(After())
        assert exact(rest.rows) == exact(whole.rows), cut
        for name, tensor in rest.experiment.model.state_dict().items():
            assert torch.equal(tensor, final[name]), (cut, name)
        ours, theirs = (state_by_name(t.experiment.optimizer) for t in (rest, whole))
        assert ours.keys() == theirs.keys()
        for name, state in ours.items():
            assert all(torch.equal(state[k], theirs[name][k]) for k in state), (cut, name)
        assert rest.frozen.as_dict() == whole.frozen.as_dict()
        assert rest.frozen.as_dict()["identical"]


MATRIX = [
    pytest.param(policy, marks=() if policy in QUICK else pytest.mark.slow) for policy in NAMED
]


def weighted(trainer: Trainer) -> Trainer:
    """The same with weights of classes, and few images to evaluate."""
    data = trainer.experiment.dataset
    few = {name: first(getattr(data, name), 40) for name in ("train_eval", "val")}
    loss = CrossEntropy(torch.arange(1.0, 11.0), 0.1)
    trainer.experiment = replace(trainer.experiment, dataset=replace(data, **few), loss=loss)
    return trainer


def first(split: Split, count: int) -> Split:
    return replace(split, **{n: getattr(split, n)[:count] for n in ("ids", "labels", "rows")})


def floats(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = trainer.experiment.model.state_dict()
    return {name: t.clone() for name, t in state.items() if t.is_floating_point()}


class Steps:
    """What moved at every step of a trainer, and to where."""

    def __init__(self, trainer: Trainer):
        self._trainer, self.before = trainer, floats(trainer)
        self.after: list[dict[str, torch.Tensor]] = []
        self.moving: list[set[str]] = []
        optimizer: Any = trainer.experiment.optimizer
        self._step, optimizer.step = optimizer.step, self._noted

    def _noted(self) -> None:
        self._step()
        model = self._trainer.experiment.model
        moving = {name for name, p in model.named_parameters() if p.requires_grad}
        norms = {"norm": model.norm, "still": model.still}  # type: ignore[union-attr]
        for name, norm in norms.items():
            if norm.training:
                moving |= {f"{name}.running_mean", f"{name}.running_var"}
        self.moving.append(moving)
        self.after.append(floats(self._trainer))

    def average(self, decay: float) -> dict[str, torch.Tensor]:
        """As docs/training.md says it, written out in float64."""
        found, before = {}, {name: t.double() for name, t in self.before.items()}
        for t, (moving, after) in enumerate(zip(self.moving, self.after, strict=True)):
            d = min(decay, (1 + t) / (10 + t))
            for name, tensor in after.items():
                last = found.get(name, before[name])
                found[name] = d * last + (1 - d) * tensor.double()
                if name not in moving:
                    found[name] = tensor.double()
        return found


@pytest.mark.parametrize("policy", MATRIX)
def test_groups_of_batches_and_an_average_go_on_to_the_same_bits(
    make: Make, policy: str, tmp_path: Path
) -> None:
    """The average is what it should be, and training does not know of it."""

    def trainer(**settings: Any) -> Trainer:
        return weighted(make(*options_of(policy), accumulate=2, **settings))

    def keep(name: str) -> None:
        save_checkpoint(tmp_path / name, whole.state())

    def set_rates(step: int) -> None:
        if step == 7:  # two steps an epoch: in the middle of the fourth
            keep("within.pt")
        usual(step)

    whole, plain = trainer(ema=0.9), trainer()
    usual, whole.set_rates = whole.set_rates, set_rates  # type: ignore[method-assign]
    steps = Steps(whole)
    whole.run(After(lambda row: keep("after.pt") if row["epoch"] == 2 else None))
    plain.run(After())
    live = floats(whole)
    assert all(torch.equal(tensor, live[name]) for name, tensor in floats(plain).items())
    for row, other in zip(whole.rows, plain.rows, strict=True):
        training = {k for k in row if k.startswith(("train/", "lr", "update_ratio", "grad_norm"))}
        assert all(row[key] == other[key] for key in training)
        assert row["val/loss"] != other["val/loss"]
    expected = steps.average(0.9)
    with whole.averaged():
        for name, tensor in floats(whole).items():
            assert torch.allclose(tensor.double(), expected[name], rtol=1e-5, atol=1e-6), name
            still = name not in steps.moving[-1]
            assert torch.equal(tensor, live[name]) == still, name
    assert all(torch.equal(tensor, live[name]) for name, tensor in floats(whole).items())
    assert whole.frozen.as_dict()["identical"]
    for cut in ("within.pt", "after.pt"):
        rest = trainer(ema=0.9)
        rest.load_state(load_checkpoint(tmp_path / cut))
        rest.run(After())
        assert exact(rest.rows) == exact(whole.rows), cut
        assert all(torch.equal(t, live[name]) for name, t in floats(rest).items()), cut
        ours, theirs = rest.state()["average"], whole.state()["average"]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(t, theirs[name]) for name, t in ours.items()), cut
        assert rest.frozen.as_dict() == whole.frozen.as_dict()


@pytest.mark.parametrize("policy", MATRIX)
def test_groups_of_batches_are_large_batches_under_every_policy(make: Make, policy: str) -> None:
    options, small_batches = options_of(policy), {"accumulate": 2, "limit_train_batches": 4}
    small = weighted(make(*options, net=PlainNet, **small_batches))
    large = weighted(make(*options, net=PlainNet, limit_train_batches=2))
    assert small.batch_size == 16
    large.batch_size = 32
    for trainer in (small, large):
        trainer.run(After())
    assert small.step == large.step == 2 * EPOCHS
    for row, expected in zip(exact(small.rows), exact(large.rows), strict=True):
        assert row == pytest.approx(expected, rel=1e-8, abs=1e-8)
    theirs = floats(large)
    for name, tensor in floats(small).items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("policy", ["gradual_unfreeze", "lp_ft", "freezeout"])
def test_parameters_move_exactly_while_the_plan_lets_them(make: Make, policy: str) -> None:
    trainer = make(*options_of(policy))
    model, plan = trainer.experiment.model, trainer.experiment.plan
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    statistics = {"norm.running_mean", "still.running_mean"}
    buffers = {name: b.clone() for name, b in model.named_buffers() if name in statistics}

    def look(row: Row) -> None:
        epoch = int(row["epoch"])
        group_states = state_by_name(trainer.experiment.optimizer)
        for name, parameter in model.named_parameters():
            planned = next(r for r in plan.rows if r.name == name)
            moved = not torch.equal(parameter, before[name])
            assert moved == planned.trains_after(epoch - 1), (epoch, name)
            assert (name in group_states) == (planned.trainable_from < epoch), (epoch, name)
            before[name] = parameter.detach().clone()
            rate = row[f"lr/{planned.group}"]
            assert (rate > 0) == (moved and not math.isclose(rate, 0, abs_tol=1e-12))
        norm = next(r for r in plan.rows if r.name == "norm.weight")
        live = norm.bn_stats == "follow" and norm.trains_after(epoch - 1)
        now = dict(model.named_buffers())["norm.running_mean"]
        assert (not torch.equal(now, buffers["norm.running_mean"])) == live
        buffers["norm.running_mean"] = now.clone()

    trainer.run(After(look))
    assert len(trainer.rows) == EPOCHS


def test_optimizer_state_of_a_frozen_parameter_stays_as_it_was(make: Make) -> None:
    trainer = make(*options_of("freezeout"))
    seen: list[torch.Tensor] = []
    trainer.run(
        After(
            lambda row: seen.append(
                state_by_name(trainer.experiment.optimizer)["conv.weight"]["exp_avg"].clone()
            )
        )
    )
    until = next(r.trainable_until for r in trainer.experiment.plan.rows if r.name == "conv.weight")
    assert until is not None
    assert 0 < until < EPOCHS
    assert all(torch.equal(seen[until - 1], later) for later in seen[until:])


def test_a_new_schedule_begins_with_fine_tuning(compose: Any) -> None:
    config = compose(
        "lr_policy=lp_ft", "lr_policy.head_epochs=2", "scheduler=cosine", "scheduler.warmup=0.25",
        "trainer.epochs=5", "trainer.limit_train_batches=4", "trainer.device=cpu",
    )  # fmt: skip
    schedule = build(config).schedule
    head = build(
        compose(
            "scheduler=cosine", "scheduler.warmup=0.25", "trainer.epochs=2",
            "trainer.limit_train_batches=4", "trainer.device=cpu",
        )
    ).schedule  # fmt: skip
    full = build(
        compose(
            "scheduler=cosine", "scheduler.warmup=0.25", "trainer.epochs=3",
            "trainer.limit_train_batches=4", "trainer.device=cpu",
        )
    ).schedule  # fmt: skip
    assert schedule == head + full
    assert len(schedule) == 20


def test_a_changed_plan_is_refused_with_the_difference_unless_allowed(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    before = make("lr_policy=uniform")
    before.run(After())
    state = before.state() | {"epoch": 3, "step": 9}
    other = make("lr_policy=freeze_backbone")
    with pytest.raises(UserError, match=r"plan has changed") as caught:
        other.load_state(state)
    assert "conv.weight" in str(caught.value)
    assert "lr_scale 1.0 → 0.0" in str(caught.value)
    assert "allow_plan_change" in str(caught.value)
    assert other.epoch == 0
    with caplog.at_level(logging.WARNING):
        other.load_state(state, allow_plan_change=True)
    assert "lr_scale 1.0 → 0.0" in caplog.text
    assert set(state_by_name(other.experiment.optimizer)) == {"head.weight", "head.bias"}
    other.run(After())
    assert other.rows[-1]["epoch"] == EPOCHS
    assert other.frozen.as_dict()["identical"]  # since the change


def test_measured_scales_are_rows_state_and_rates(make: Make) -> None:
    trainer = make("lr_policy=auto_rgn", "scheduler=cosine")
    trainer.run(After())
    for row in trainer.rows:
        found = {k.removeprefix("lr_scale/"): v for k, v in row.items() if k[:9] == "lr_scale/"}
        assert len(found) == 6  # conv, mid and head, weight and bias; no normalisation
        assert max(found.values()) == 1.0
        assert all(0 <= scale <= 1 for scale in found.values())
        s = trainer.experiment.schedule[int(row["step"]) - 1]
        for group, scale in found.items():
            assert row[f"lr/{group}"] == pytest.approx(0.05 * scale * s, rel=1e-12)
    assert trainer.rows[0] != trainer.rows[1]
    last = {k[9:]: v for k, v in trainer.rows[-1].items() if k.startswith("lr_scale/")}
    assert trainer.state()["lr_scale"] == last
    again = make("lr_policy=auto_rgn", "scheduler=cosine")
    again.load_state(trainer.state())
    assert again.state()["lr_scale"] == last
    assert not make("lr_policy=uniform").state()["lr_scale"]


def test_measuring_moves_nothing_and_is_the_mean_ratio_of_norms() -> None:
    torch.manual_seed(0)
    model = NormNet()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    batches = [(torch.randn(8, 1, 8, 8), torch.arange(8)) for _ in range(3)]
    units = {"conv": ["conv.weight", "conv.bias"], "head": ["head.weight"]}
    generator = torch.get_rng_state()
    steps = [(nn.functional.cross_entropy, [batch]) for batch in batches]
    found = relative_gradient_norms(model, steps, units)
    assert torch.equal(torch.get_rng_state(), generator)  # nothing drawn
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    tensors = dict(model.named_parameters())
    for unit, names in units.items():
        expected = []
        for images, labels in batches:
            model.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            gradient = torch.cat([tensors[n].grad.flatten() for n in names])
            weight = torch.cat([tensors[n].detach().flatten() for n in names])
            expected.append((gradient.norm() / weight.norm()).item())
        assert found[unit] == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_tensors_of_zeros_get_a_scale_too() -> None:
    assert measured_scales({"a": 0.5, "b": 2.0, "c": 0.0}) == {"a": 0.25, "b": 1.0, "c": 0.0}
    assert measured_scales({"a": math.inf, "b": 2.0}) == {"a": 1.0, "b": 1.0}
    assert measured_scales({"a": 0.0, "b": 0.0}) == {"a": 1.0, "b": 1.0}
    assert measured_scales({"a": math.nan, "b": 0.5, "c": 0.25}) == {"a": 1.0, "b": 1.0, "c": 0.5}
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    found = relative_gradient_norms(
        model,
        [(nn.functional.cross_entropy, [(torch.ones(2, 1, 2, 2), torch.tensor([0, 0]))])],
        {"below": ["1.weight"], "top": ["2.weight"]},
    )
    assert found == {"below": 0.0, "top": math.inf}
