"""Every metric against arithmetic written out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrexp.build import Experiment, build
from lrexp.data import Dataset, Split
from lrexp.data.feeding import InMemory
from lrexp.data.transforms import Normalize
from lrexp.metrics import (
    Drift,
    RunningTrain,
    StepStats,
    evaluate,
    gap,
    logits_of,
    paired_difference,
)
from lrexp.models import layer_map
from lrexp.optim import param_groups
from lrexp.policies import uniform
from lrexp.train import Trainer

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Line(nn.Module):
    """One pixel x → logits (u x, v x); from u = 0, v = 1 the loss is ln(1 + exp(∓x))."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [1.0]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1))


def split(*pixels_and_labels: tuple[float, int]) -> Split:
    pixels, labels = zip(*pixels_and_labels, strict=True)
    ids, device = np.arange(len(labels)), torch.device("cpu")
    images = InMemory(np.array(pixels, np.float32).reshape(-1, 1, 1, 1), device)
    as_they_are = Normalize([0.0], [1.0], 1, device)
    return Split(ids, torch.tensor(labels), images, ids, as_they_are)


# Losses at u = 0, v = 1: LN4 - LN3 = ln(1 + 1/3) for (ln 3, 1), LN4 for (ln 3, 0), LN2 for (0, y).
TRAIN = [(LN3, 1), (0.0, 0), (LN3, 0), (0.0, 1)]
VAL = [(LN3, 0), (LN3, 0), (0.0, 1)]


def tiny(compose: Any, *overrides: str) -> Trainer:
    """A trainer of Line on four images, two of them in train_eval, one step an epoch."""
    config = compose("optimizer.momentum=0", "optimizer.lr=0.5", "data.batch_size=4", *overrides)
    model = Line()
    layers = layer_map(model, "head")
    plan = uniform(layers, 0.5, 0.0, decay_bias_norm=False)
    dataset = Dataset(
        train=split(*TRAIN), train_eval=split(*TRAIN[:2]), val=split(*VAL), test=None,
        class_names=("0", "1"), fingerprint="", mean=[0.0], std=[1.0],
    )  # fmt: skip
    built: Experiment = build(compose("trainer.device=cpu"))
    experiment = replace(
        built, dataset=dataset, model=model, layers=layers, plan=plan, base_lr=0.5,
        optimizer=torch.optim.SGD(param_groups(model, plan, 0.5), lr=0.5),
        schedule=[1.0] * config.trainer.epochs,
    )  # fmt: skip
    return Trainer(experiment, config.trainer, config.data.batch_size, config.seed)


class Silent:
    def row(self, row: dict[str, float]) -> None: ...


def trained(trainer: Trainer) -> list[dict[str, float]]:
    trainer.run(Silent())
    return trainer.rows


def sample_variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1)


def losses_by_hand(u: float, v: float, images: list[tuple[float, int]]) -> list[float]:
    return [math.log(1 + math.exp((u - v) * x if y == 1 else (v - u) * x)) for x, y in images]


def test_gap_and_its_error_of_a_model_as_it_is(compose: Any) -> None:
    (row,) = trained(tiny(compose, "trainer.epochs=0"))
    assert row["val/loss"] == pytest.approx((LN4 + LN4 + LN2) / 3)
    assert row["train_eval/loss"] == pytest.approx((LN4 - LN3 + LN2) / 2)
    # 5/3 ln 2 - (3 ln 2 - ln 3)/2 = ln 2 / 6 + ln 3 / 2
    assert row["gap/loss"] == pytest.approx(LN2 / 6 + LN3 / 2)
    # val: LN4, LN4, LN2 lie 1/3, 1/3, -2/3 of ln 2 from their mean: s² = (6/9) ln²2 / 2 = ln²2 / 3.
    # train_eval: two values ln(3/2) apart: s² = ln²(3/2) / 2; two of four images, so half of it.
    variance = (LN2**2 / 3) / 3 + (1 - 2 / 4) * (math.log(1.5) ** 2 / 2) / 2
    assert row["gap/loss_se"] == pytest.approx(math.sqrt(variance))
    # Where the logits tie the first class is taken: val has 0 of 3 right, train_eval 2 of 2.
    assert row["val/accuracy"] == 0.0
    assert row["train_eval/accuracy"] == 1.0
    assert row["gap/accuracy"] == 1.0
    assert row["gap/accuracy_se"] == 0.0
    assert row["overfit/loss"] == row["overfit/loss_se"] == 0.0


def test_two_epochs_of_the_tiny_model_by_hand(compose: Any) -> None:
    rows = trained(tiny(compose, "trainer.epochs=2", "trainer.stats_every=1"))
    u, v, val_losses = 0.0, 1.0, []
    for epoch, row in enumerate(rows, 1):
        # ∂loss/∂v = mean of (p₁ - [y = 1]) x, and ∂loss/∂u is its negative.
        p = [1 / (1 + math.exp((u - v) * x)) for x, _ in TRAIN]
        g = sum((p1 - y) * x for p1, (x, y) in zip(p, TRAIN, strict=True)) / 4
        before = losses_by_hand(u, v, TRAIN)
        size = math.hypot(u, v)
        u, v = u + 0.5 * g, v - 0.5 * g
        val, train_eval = losses_by_hand(u, v, VAL), losses_by_hand(u, v, TRAIN[:2])
        val_losses.append(val)
        assert (row["epoch"], row["step"]) == (epoch, epoch)
        assert row["train/loss"] == pytest.approx(sum(before) / 4, rel=1e-6)
        assert row["val/loss"] == pytest.approx(sum(val) / 3, rel=1e-6)
        assert row["gap/loss"] == pytest.approx(sum(val) / 3 - sum(train_eval) / 2, rel=1e-5)
        se = math.sqrt(sample_variance(val) / 3 + 0.5 * sample_variance(train_eval) / 2)
        assert row["gap/loss_se"] == pytest.approx(se, rel=1e-5)
        assert row["gap/loss_running"] == pytest.approx(sum(val) / 3 - sum(before) / 4, rel=1e-5)
        assert row["update_ratio/head"] == pytest.approx(0.5 * math.hypot(g, g) / size, rel=1e-5)
        assert row["grad_norm"] == pytest.approx(math.hypot(g, g), rel=1e-5)
        assert row["drift/head"] == pytest.approx(math.hypot(u - 0, v - 1) / 1, rel=1e-5)
        assert row["lr/head"] == 0.5


def test_overfit_is_the_paired_distance_to_the_best_epoch_so_far(compose: Any) -> None:
    trainer = tiny(compose, "trainer.epochs=3", "trainer.monitor=val/loss")
    # Validation with turned labels: the better the model fits, the worse it gets there.
    wrong = [(LN3, 0), (2 * LN3, 0), (LN3, 1)]
    data = replace(trainer.experiment.dataset, train=split((LN3, 1), (1.0, 1)), val=split(*wrong))
    trainer.experiment = replace(trainer.experiment, dataset=data)
    rows = trained(trainer)
    v_of, u, v = [], 0.0, 1.0
    for _ in rows:
        p = [1 / (1 + math.exp((u - v) * x)) for x in (LN3, 1.0)]
        g = ((p[0] - 1) * LN3 + (p[1] - 1) * 1.0) / 2
        u, v = u + 0.5 * g, v - 0.5 * g
        v_of.append(losses_by_hand(u, v, wrong))
    assert rows[0]["overfit/loss"] == rows[0]["overfit/loss_se"] == 0.0
    for row, val in zip(rows[1:], v_of[1:], strict=True):
        worse = [now - best for now, best in zip(val, v_of[0], strict=True)]
        assert row["overfit/loss"] == pytest.approx(sum(worse) / 3, rel=1e-5)
        assert row["overfit/loss_se"] == pytest.approx(
            math.sqrt(sample_variance(worse) / 3), rel=1e-4
        )
        assert row["overfit/loss"] > 0
        assert row["overfit/accuracy"] == 0.0
    assert trainer.best.epoch == 1


def test_gap_of_four_and_two_numbers() -> None:
    val, train_eval = np.array([1.0, 2.0, 3.0, 6.0]), np.array([0.5, 1.5])
    # means 3 and 1; s² = (4 + 1 + 0 + 9)/3 = 14/3 and (0.25 + 0.25)/1 = 0.5; two of N = 8 images.
    value, se = gap(val, train_eval, 8)
    assert value == 3 - 1
    assert se == pytest.approx(math.sqrt((14 / 3) / 4 + (1 - 2 / 8) * 0.5 / 2))
    # When train_eval is the whole training set, only validation is a sample.
    assert gap(val, train_eval, 2)[1] == pytest.approx(math.sqrt((14 / 3) / 4))


def test_gap_error_is_the_spread_of_gaps_over_many_draws() -> None:
    rng = np.random.default_rng(0)
    train = rng.exponential(size=400)
    found = [
        gap(rng.exponential(size=200) + 0.1, rng.choice(train, 200, replace=False), 400)
        for _ in range(2000)
    ]
    gaps, errors = np.array(found).T
    # The standard deviation of 2000 numbers is itself known to 1/√4000 = 1.6 %; exponentials: 3 %.
    assert gaps.std() == pytest.approx(errors.mean(), rel=0.12)


def test_paired_difference_of_three_images() -> None:
    # now - best = 1, 0, 2: mean 1, s² = 1.
    value, se = paired_difference(np.array([3.0, 1.0, 4.0]), np.array([2.0, 1.0, 2.0]))
    assert value == 1.0
    assert se == pytest.approx(math.sqrt(1 / 3))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_infinite_loss_gives_a_gap_that_is_not_finite_and_no_warning(bad: float) -> None:
    broken, sound = np.array([1.0, bad]), np.array([1.0, 2.0])
    for value, se in (
        gap(broken, sound, 5),
        gap(sound, broken, 5),
        paired_difference(broken, sound),
    ):
        assert not math.isfinite(value)
        assert not math.isfinite(se)


def test_evaluation_is_per_image_cross_entropy_and_the_largest_logit() -> None:
    logits = torch.tensor([[0.0, LN3], [0.0, LN3], [LN2, 0.0]])
    found = evaluate(logits, torch.tensor([1, 0, 0]))
    assert found.losses.tolist() == pytest.approx([LN4 - LN3, LN4, math.log(1.5)])
    assert found.losses.dtype == np.float64
    assert found.correct.tolist() == [1.0, 0.0, 1.0]
    assert found.loss == pytest.approx((LN4 - LN3 + LN4 + math.log(1.5)) / 3)
    assert found.accuracy == pytest.approx(2 / 3)


def test_evaluation_in_batches_is_in_eval_mode_and_the_same_for_every_batch_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1), nn.Dropout(0.9), nn.Linear(1, 2))
    data = split(*[(float(i), 0) for i in range(11)])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = [logits_of(model.train(), data, size) for size in (3, 11, 512)]
    assert found[0].shape == (11, 2)
    assert torch.allclose(found[0], found[1])
    assert torch.equal(found[1], found[2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("batches", [1, 3, 256, 257, 700])
def test_running_means_weigh_images_alike_over_blocks_and_a_smaller_last_batch(
    batches: int,
) -> None:
    running = RunningTrain()
    losses = [1.0 + i % 7 for i in range(batches)]
    sizes = [4] * (batches - 1) + [1]
    right = [i % (size + 1) for i, size in enumerate(sizes)]
    for loss, size, hits in zip(losses, sizes, right, strict=True):
        logits = torch.zeros(size, 2)
        logits[:hits, 1] = 1.0
        running.add(torch.tensor(loss, requires_grad=True), logits, torch.ones(size).long())
    images = 4 * (batches - 1) + 1
    loss, accuracy, seen = running.means()
    assert loss == pytest.approx(sum(a * b for a, b in zip(losses, sizes, strict=True)) / images)
    assert accuracy == pytest.approx(sum(right) / images)
    assert seen == images


class TwoLayers(nn.Module):
    """Two matrices and a bias in one group."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 1)
        self.head = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([[3.0, 4.0]]))
            self.body.bias.copy_(torch.tensor([12.0]))
            self.head.weight.copy_(torch.tensor([[2.0]]))


def test_update_ratio_is_the_median_over_matrices_and_measured_steps() -> None:
    model = TwoLayers()
    stats = StepStats(model, uniform(layer_map(model, "head"), 1.0, 0.0, decay_bias_norm=False))
    for body, bias, head in [(0.5, 9.0, 0.2), (1.0, 9.0, 0.4)]:
        model.body.weight.grad = torch.tensor([[body, 0.0]])
        model.body.bias.grad = torch.tensor([bias])
        model.head.weight.grad = torch.tensor([[head]])
        before = stats.before(list(model.parameters()))
        with torch.no_grad():
            model.body.weight.copy_(torch.tensor([[3.0, 4.0 + body]]))  # from (3, 4): ‖w‖ = 5
            model.body.bias.add_(bias)
            model.head.weight.copy_(torch.tensor([[2.0 + head]]))
        stats.after(before)
        with torch.no_grad():
            model.body.weight.copy_(torch.tensor([[3.0, 4.0]]))
            model.head.weight.copy_(torch.tensor([[2.0]]))
    means = stats.medians()
    # Ratios 0.5/5, 0.2/2, 1/5, 0.4/2 = 0.1, 0.1, 0.2, 0.2; the bias counts in none of them.
    assert means["update_ratio/all"] == pytest.approx(0.15)
    assert stats.medians() == {}  # the next epoch starts anew


def test_update_ratio_of_plain_sgd_is_rate_times_gradient_over_weight(compose: Any) -> None:
    config = compose(
        "optimizer.momentum=0", "optimizer.lr=0.3", "trainer.max_steps=1", "trainer.stats_every=1",
        "lr_policy=layerwise_decay", "lr_policy.decay=0.5",
    )  # fmt: skip
    trainer = Trainer(build(config), config.trainer, config.data.batch_size, config.seed)
    model = trainer.experiment.model
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    (row,) = trained(trainer)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}  # type: ignore[union-attr]
    for group, lr in (("conv", 0.075), ("hidden", 0.15), ("head", 0.3)):
        name = f"{group}.weight"
        ratio = lr * gradients[name].norm() / weights[name].norm()
        assert row[f"update_ratio/{group}"] == pytest.approx(ratio.item(), rel=1e-4)
    norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients.values()))
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_drift_is_the_distance_of_a_whole_group_over_its_start() -> None:
    model = TwoLayers()
    drift = Drift(model, uniform(layer_map(model, "head"), 1.0, 0.0, decay_bias_norm=False))
    assert drift.measure() == {"drift/all": 0.0}
    with torch.no_grad():
        model.body.weight.add_(torch.tensor([[2.0, 0.0]]))
        model.head.weight.add_(1.0)
        model.body.bias.add_(2.0)
    # ‖(2, 0, 1, 2)‖ / ‖(3, 4, 12, 2)‖ = 3 / √173
    assert drift.measure()["drift/all"] == pytest.approx(3 / math.sqrt(173))


def test_drift_of_a_group_that_starts_at_zero_is_infinite_once_it_moves() -> None:
    model = Line()
    with torch.no_grad():
        model.head.weight.zero_()
    drift = Drift(model, uniform(layer_map(model, "head"), 1.0, 0.0, decay_bias_norm=False))
    assert drift.measure() == {"drift/head": 0.0}
    with torch.no_grad():
        model.head.weight.add_(1.0)
    assert drift.measure() == {"drift/head": math.inf}
