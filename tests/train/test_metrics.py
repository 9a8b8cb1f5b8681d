"""Every metric against arithmetic written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_split import plain_split
from torch import nn
from trainers import Silent, trainer_of

from lrexp.build.experiment import build
from lrexp.data.dataset import Dataset, Split
from lrexp.judge import evaluate as judge
from lrexp.judge.epoch import gap, paired_difference, variance_of_mean
from lrexp.judge.evaluate import class_rows, worst_classes
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups
from lrexp.plan.policies.scaling import uniform
from lrexp.train.experiment import Experiment
from lrexp.train.loop import Trainer
from lrexp.train.measure import (
    Drift,
    RunningTrain,
    StepStats,
    correct_images,
    evaluate,
    evaluate_batches,
    evaluate_split,
    logits_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


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
    return plain_split(torch.tensor(pixels).view(-1, 1, 1, 1), torch.tensor(labels))


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
    return trainer_of(config, experiment)


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


def test_overfit_errors_are_clustered_by_the_groups_of_the_data(compose: Any) -> None:
    trainer = tiny(compose, "trainer.epochs=2", "trainer.monitor=val/loss")
    wrong = [(LN3, 0), (2 * LN3, 0), (LN3, 1)]
    val = replace(split(*wrong), groups=np.array([4, 2, 4]))
    data = replace(trainer.experiment.dataset, train=split((LN3, 1), (1.0, 1)), val=val)
    trainer.experiment = replace(trainer.experiment, dataset=data)
    last = trained(trainer)[-1]
    v_of, u, v = [], 0.0, 1.0
    for _ in range(2):
        p = [1 / (1 + math.exp((u - v) * x)) for x in (LN3, 1.0)]
        g = ((p[0] - 1) * LN3 + (p[1] - 1) * 1.0) / 2
        u, v = u + 0.5 * g, v - 0.5 * g
        v_of.append(losses_by_hand(u, v, wrong))
    a, b, c = (now - best for now, best in zip(v_of[1], v_of[0], strict=True))
    mean = (a + b + c) / 3
    variance = 2 / 1 * ((a + c - 2 * mean) ** 2 + (b - mean) ** 2) / 9
    assert last["overfit/loss"] == pytest.approx(mean, rel=1e-5)
    assert last["overfit/loss_se"] == pytest.approx(math.sqrt(variance), rel=1e-4)


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


def test_without_learning_chance_explains_the_gap() -> None:
    """Train and val of 100 images each from one population, all of train measured.

    Against this training set alone the error leaves out the draw of the training images.
    """
    rng, tries = np.random.default_rng(2), 2000
    beyond = {100: 0, math.inf: 0}
    for _ in range(tries):
        train, val = rng.exponential(size=(2, 100))
        for size in beyond:
            value, se = gap(val, train, size)
            beyond[size] += abs(value) > 2 * se
    assert beyond[math.inf] / tries == pytest.approx(0.05, abs=0.012)
    assert beyond[100] / tries > 0.12


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
    whole = evaluate(logits_of(model.train(), data, 512), data.labels)
    for size in (3, 11, 512):
        found = evaluate_split(model.train(), data, size)
        assert found.losses == pytest.approx(whole.losses)
        assert found.metrics == pytest.approx(whole.metrics)
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
        labels = torch.ones(size).long()
        running.add(torch.tensor(loss), correct_images(logits, labels), size)
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
        stats.see_gradients(list(model.parameters()))
        before = stats.before()
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
    trainer = trainer_of(config)
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


# Five images of classes 0, 0, 1, 1, 2 in four classes, taken for 0, 1, 1, 1, 1: class 3 is nowhere.
def confusion(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    return judge.confusion(labels.numpy(), logits.argmax(1).numpy(), logits.shape[1])


SAID = torch.eye(4)[[0, 1, 1, 1, 1]]
TRUTH = torch.tensor([0, 0, 1, 1, 2])


def test_class_metrics_of_five_images_by_hand() -> None:
    found = evaluate(SAID, TRUTH)
    assert found.metrics["accuracy"] == 3 / 5
    # Recalls 1/2, 2/2, 0/1; class 3 has no image and no part in the mean.
    assert found.metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    # F1 = 2 found / (actual + predicted): 2/(2+1), 4/(2+4), 0/(1+0).
    assert found.metrics["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert set(found.metrics) == {"loss", "accuracy", "balanced_accuracy", "f1_macro"}
    assert confusion(SAID, TRUTH).tolist() == [
        [1, 1, 0, 0],
        [0, 2, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_a_class_that_is_only_predicted_lowers_f1_and_not_balanced_accuracy() -> None:
    found = evaluate(torch.eye(3)[[0, 2]], torch.tensor([0, 0]))
    assert found.metrics["balanced_accuracy"] == 1 / 2
    assert found.metrics["f1_macro"] == pytest.approx((2 / 3 + 0) / 2)  # classes 0 and 2


def test_class_rows_have_the_means_of_the_row_and_none_where_undefined() -> None:
    found = evaluate(SAID, TRUTH)
    rows = class_rows(found, "abcd")
    undefined = {"precision": None, "recall": None, "f1": None}
    assert rows[3] == {"class": "d", "images": 0, "predicted": 0} | undefined
    assert rows[1] == {
        "class": "b", "images": 2, "predicted": 4, "precision": 1 / 2, "recall": 1.0, "f1": 4 / 6,
    }  # fmt: skip
    assert rows[2]["precision"] is None
    assert rows[2]["f1"] == 0.0
    for column, metric in (("recall", "balanced_accuracy"), ("f1", "f1_macro")):
        values = [row[column] for row in rows if row[column] is not None]
        assert sum(values) / len(values) == pytest.approx(found.metrics[metric])


def test_worst_classes_are_those_with_errors_from_the_lowest_recall_up() -> None:
    rows = worst_classes(evaluate(SAID, TRUTH), "abcd", confusion(SAID, TRUTH))
    assert rows == [
        {"class": "c", "images": 1, "found": 0, "recall": 0.0, "taken_for": "b", "times": 1},
        {"class": "a", "images": 2, "found": 1, "recall": 0.5, "taken_for": "b", "times": 1},
    ]
    right = torch.eye(4)[TRUTH]
    assert worst_classes(evaluate(right, TRUTH), "abcd", confusion(right, TRUTH)) == []
    many = torch.roll(torch.eye(30), 1, 1)
    labels = torch.arange(30)
    limited = worst_classes(evaluate(many, labels), [str(i) for i in range(30)], None)
    assert [row["class"] for row in limited] == ["0", "1", "2"]
    assert "taken_for" not in limited[0]


def test_top5_counts_labels_among_the_five_largest_from_ten_classes_up() -> None:
    logits = torch.arange(10.0).repeat(3, 1)
    assert evaluate(logits, torch.tensor([9, 5, 4])).metrics["top5_accuracy"] == pytest.approx(
        2 / 3
    )
    assert "top5_accuracy" not in evaluate(logits[:, :9], torch.tensor([8, 5, 4])).metrics
    tied = torch.zeros(2, 10)  # the first classes win, as they do for the largest logit
    assert evaluate(tied, torch.tensor([4, 5])).metrics["top5_accuracy"] == 1 / 2
    assert evaluate(tied * math.nan, torch.tensor([0, 1])).metrics["top5_accuracy"] == 0.0
    random = torch.randn(200, 12, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(200) % 12
    expected = (random.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert evaluate(random, labels).metrics["top5_accuracy"] == pytest.approx(expected)


def test_multi_label_metrics_of_three_images_by_hand() -> None:
    # Probabilities 3/4 where a label is said, 1/4 where it is not; three labels.
    said = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    labels = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0]]).float()
    found = evaluate((2 * said - 1) * LN3, labels)
    right, wrong = LN4 - LN3, LN4
    assert found.losses.tolist() == pytest.approx([right] + 2 * [(2 * right + wrong) / 3])
    assert found.correct.tolist() == [1.0, 0.0, 0.0]
    assert found.metrics["accuracy"] == pytest.approx(1 / 3)
    assert found.metrics["label_accuracy"] == pytest.approx(7 / 9)
    # a: 2/2 and 1/1; b: 0/1 and 1/2; c: no positive, 3/3 of the negatives.
    assert found.metrics["balanced_accuracy"] == pytest.approx((1 + 1 / 4 + 1) / 3)
    # F1: 4/4, 0/2, and 0 for c, which neither labels nor predictions name.
    assert found.metrics["f1_macro"] == pytest.approx(1 / 3)
    assert "top5_accuracy" not in found.metrics
    a, b, c = class_rows(found, "abc")
    assert (a["accuracy"], b["accuracy"], c["accuracy"]) == pytest.approx((1, 1 / 3, 1))
    assert (b["images"], b["predicted"], b["recall"], c["f1"]) == (1, 1, 0.0, 0.0)
    assert c["recall"] is None


def test_a_probability_of_one_half_says_no() -> None:
    assert evaluate(torch.zeros(1, 2), torch.zeros(1, 2)).accuracy == 1.0


def f1_by_counting(truth: list[bool], said: list[bool]) -> float:
    """One class against the rest, 0 where it is undefined."""
    both = sum(t and s for t, s in zip(truth, said, strict=True))
    return 2 * both / (sum(truth) + sum(said)) if sum(truth) + sum(said) else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 25), st.integers(0, 10**6))
def test_metrics_are_what_counting_image_by_image_gives(classes: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    said = [max(range(classes), key=row.__getitem__) for row in logits.tolist()]
    truth = labels.tolist()
    named = sorted(set(truth))
    recalls = [
        sum(s == c for s, t in zip(said, truth, strict=True) if t == c) / truth.count(c)
        for c in named
    ]
    scores = [
        f1_by_counting([t == c for t in truth], [s == c for s in said])
        for c in sorted(set(truth) | set(said))
    ]
    metrics = evaluate(logits, labels).metrics
    hits = sum(s == t for s, t in zip(said, truth, strict=True))
    assert metrics["accuracy"] == pytest.approx(hits / n)
    assert metrics["balanced_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
    assert metrics["f1_macro"] == pytest.approx(sum(scores) / len(scores))
    table = confusion(logits, labels)
    for t in range(classes):
        for s in range(classes):
            assert table[t, s] == sum(pair == (t, s) for pair in zip(truth, said, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 25), st.integers(0, 10**6))
def test_multi_label_metrics_are_what_counting_gives(classes: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    labels = (torch.rand(n, classes, generator=generator) < 0.3).float()
    p, y = logits.double().sigmoid().tolist(), labels.tolist()
    said = [[q > 0.5 for q in row] for row in p]
    losses = [
        sum(-math.log(q if t else 1 - q) for q, t in zip(*rows, strict=True)) / classes
        for rows in zip(p, y, strict=True)
    ]
    balanced, scores = [], []
    for c in range(classes):
        truth, of_class = [row[c] == 1 for row in y], [row[c] for row in said]
        shares = [
            sum(s == t for s, t in zip(of_class, truth, strict=True) if t == side)
            / truth.count(side)
            for side in (True, False)
            if truth.count(side)
        ]
        balanced.append(sum(shares) / len(shares))
        scores.append(f1_by_counting(truth, of_class))
    flat = [s == (t == 1) for a, b in zip(said, y, strict=True) for s, t in zip(a, b, strict=True)]
    whole = [a == [t == 1 for t in b] for a, b in zip(said, y, strict=True)]
    found = evaluate(logits, labels)
    assert found.losses.tolist() == pytest.approx(losses, rel=1e-5)
    assert found.metrics == pytest.approx(
        {
            "loss": sum(losses) / n,
            "accuracy": sum(whole) / n,
            "label_accuracy": sum(flat) / len(flat),
            "balanced_accuracy": sum(balanced) / classes,
            "f1_macro": sum(scores) / classes,
        }
    )


def test_running_accuracy_of_several_labels_needs_all_of_them() -> None:
    running = RunningTrain()
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    first = correct_images(torch.tensor([[2.0, -1.0], [2.0, -1.0]]), labels)
    running.add(torch.tensor(1.0), first, 2)
    second = correct_images(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    running.add(torch.tensor(4.0), second, 1)
    assert running.means() == (2.0, 2 / 3, 3)


def test_clustered_variance_of_six_numbers_in_three_groups() -> None:
    # Mean 3; sums of deviations 1 - 3 + 2 - 3 = -3, 3 - 3 + 4 - 3 + 5 - 3 = 3 and 3 - 3 = 0.
    values, groups = np.array([1.0, 3, 2, 4, 5, 3]), np.array([7, 2, 7, 2, 2, 4])
    assert variance_of_mean(values, groups) == pytest.approx(3 / 2 * (9 + 9 + 0) / 36)
    _, se = paired_difference(values, np.zeros(6), groups)
    assert se == pytest.approx(math.sqrt(3 / 4))


def test_groups_of_one_image_give_the_plain_standard_error() -> None:
    val, train_eval = np.array([1.0, 2.0, 3.0, 6.0]), np.array([0.5, 1.5])
    alone = gap(val, train_eval, 8, np.array([3, 0, 1, 9]), np.array([1, 0]))
    assert alone == pytest.approx(gap(val, train_eval, 8))
    assert paired_difference(val, val[::-1], np.arange(4)) == pytest.approx(
        paired_difference(val, val[::-1])
    )
    assert math.isnan(variance_of_mean(val, np.zeros(4, int)))  # one group says nothing
    assert math.isnan(variance_of_mean(val[:1]))


def test_each_side_of_the_gap_is_clustered_by_its_own_groups() -> None:
    val, train_eval = np.array([1.0, 1.0, 3.0, 3.0]), np.array([0.0, 0.0, 2.0, 2.0])
    pairs = np.array([0, 0, 1, 1])
    # Plain: s² = 4/3, over 4 images 1/3. In two groups: 2/1 · (4 + 4) / 16 = 1.
    for val_groups, te_groups, variance in (
        (None, None, 1 / 3 + 0.5 / 3),
        (pairs, None, 1 + 0.5 / 3),
        (None, pairs, 1 / 3 + 0.5 * 1),  # four of eight training images
        (pairs, pairs, 1 + 0.5 * 1),
    ):
        assert gap(val, train_eval, 8, val_groups, te_groups)[1] == pytest.approx(
            math.sqrt(variance)
        )


def test_the_clustered_error_is_the_spread_of_means_over_draws_of_whole_groups() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 5)
    plain, clustered, means = [], [], []
    for _ in range(600):
        values = rng.normal(size=60)[groups] + 0.5 * rng.normal(size=300)
        means.append(values.mean())
        plain.append(math.sqrt(variance_of_mean(values)))
        clustered.append(math.sqrt(variance_of_mean(values, groups)))
    # The standard deviation of 600 numbers is itself known to 1/√1200 = 3 %.
    assert np.std(means) == pytest.approx(np.mean(clustered), rel=0.1)
    assert np.std(means) > 1.7 * np.mean(plain)


def test_groups_of_the_data_widen_the_errors_of_a_row(compose: Any) -> None:
    (plain,) = trained(tiny(compose, "trainer.epochs=0"))
    trainer = tiny(compose, "trainer.epochs=0")
    data = trainer.experiment.dataset
    grouped = replace(data, val=replace(data.val, groups=np.array([0, 0, 1])))
    trainer.experiment = replace(trainer.experiment, dataset=grouped)
    (row,) = trained(trainer)
    # Deviations 1/3, 1/3 and -2/3 of ln 2 in two groups: 2/1 · 2 · (2/3)² / 9 ln²2.
    variance = 2 * 2 * (2 / 3 * LN2) ** 2 / 9 + (1 - 2 / 4) * (math.log(1.5) ** 2 / 2) / 2
    assert row["gap/loss_se"] == pytest.approx(math.sqrt(variance))
    assert row["gap/loss_se"] > plain["gap/loss_se"]
    assert row["gap/loss"] == plain["gap/loss"]


@pytest.mark.parametrize("several", [False, True])
def test_many_logits_are_judged_part_by_part_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 9, 12), torch.randint(12, (9,))
    if several:
        labels = torch.randint(2, (9, 12)).float()
    at_once = evaluate_batches([(logits, labels)], 9)
    monkeypatch.setattr("lrexp.train.measure.LOGITS", 30)  # two rows at a time
    for ours, wanted in zip(evaluate_batches([(logits, labels)], 9), at_once, strict=True):
        assert ours.losses.tobytes() == wanted.losses.tobytes()
        assert ours.metrics == wanted.metrics
