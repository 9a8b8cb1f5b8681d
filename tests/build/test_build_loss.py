"""Losses against torch and sums written out, and what they and monitors refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_split import plain_split

from lrexp.build.data import build_dataset
from lrexp.build.experiment import build
from lrexp.build.loss import build_loss, check_monitors
from lrexp.config.errors import ConfigError
from lrexp.data.dataset import Dataset

CPU = torch.device("cpu")
# Six training images with labels a, b, c: 2, 3 and 1 of them have the label.
LABELS = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]]).float()


def several(labels: torch.Tensor = LABELS) -> Dataset:
    """A data set of images with several labels."""
    split = plain_split(torch.zeros(len(labels), 1, 1, 1), labels)
    return Dataset(split, split, split, None, ("a", "b", "c"), "", [0.0], [1.0])


def test_bce_is_the_mean_over_images_and_classes(compose: Any) -> None:
    loss = build_loss(compose("loss=bce"), several(), CPU)
    logits = torch.tensor([[math.log(3), 0.0, -math.log(3)]])  # probabilities 3/4, 1/2, 1/4
    found = loss(logits, torch.tensor([[1.0, 1.0, 1.0]])).item()
    assert found == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 4)) / 3)
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    expected = F.binary_cross_entropy(scores.double().sigmoid(), LABELS.double())
    assert loss(scores, LABELS).item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_positives_weigh_as_much_as_negatives(compose: Any) -> None:
    loss = build_loss(compose("loss=bce", "loss.pos_weight=balanced"), several(), CPU)
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    p, weights = scores.double().sigmoid(), torch.tensor([4 / 2, 3 / 3, 5 / 1]).double()
    terms = -(weights * LABELS * p.log() + (1 - LABELS) * (1 - p).log())
    assert loss(scores, LABELS).item() == pytest.approx(terms.mean().item(), rel=1e-6)
    positives, negatives = (weights * LABELS).sum(0), (1 - LABELS).sum(0)
    assert torch.allclose(positives, negatives.double())


def test_balanced_positives_need_every_class_on_some_images_and_not_on_all(compose: Any) -> None:
    config = compose("loss=bce", "loss.pos_weight=balanced")
    for value, problem in ((0.0, "class b has no training image"), (1.0, "b is on every training")):
        labels = LABELS.clone()
        labels[:, 1] = value
        with pytest.raises(ConfigError, match=rf"loss\.pos_weight=balanced.*{problem}"):
            build_loss(config, several(labels), CPU)


def test_a_loss_for_other_labels_is_refused_with_the_one_to_choose(compose: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss=bce.*data=digits has one\n.*loss=cross_entropy"):
        build(compose("loss=bce"))
    with pytest.raises(ConfigError, match=r"loss=cross_entropy.*has several\n.*loss=bce"):
        build_loss(compose(), several(), CPU)


def test_smoothing_with_class_weights_is_torchs_sum_over_weighted_classes(compose: Any) -> None:
    config = compose(
        "loss.label_smoothing=0.2", "loss.class_weights=[1,2,5]", "data.classes=[3,7,9]"
    )
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    labels, weights = torch.tensor([0, 2, 1, 2]), torch.tensor([1.0, 2, 5]).double()
    minus_log_p = -scores.double().log_softmax(1)
    of_label = weights[labels] * minus_log_p[torch.arange(4), labels]
    spread = (weights * minus_log_p).sum(1) / 3
    expected = (0.8 * of_label + 0.2 * spread).sum() / weights[labels].sum()
    loss = build_loss(config, build_dataset(config, CPU), CPU)
    assert loss(scores, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["trainer", "scheduler"])
def test_a_monitor_that_is_not_measured_is_refused_with_what_is(compose: Any, name: str) -> None:
    plateau = ["scheduler=plateau"] if name == "scheduler" else []
    refused = [
        (["data.classes=[3,7]"], "val/top5_accuracy", "from 10 classes up, and there are 2"),
        ([], "train_eval/label_accuracy", "several labels, with loss=bce"),
    ]
    for overrides, monitor, reason in refused:
        config = compose(*plateau, *overrides, f"{name}.monitor={monitor}")
        with pytest.raises(ConfigError, match=rf"{name}\.monitor={monitor}: .*{reason}") as caught:
            build(config)
        assert "val/balanced_accuracy" in caught.value.hint
        assert monitor not in caught.value.hint
    with pytest.raises(ConfigError, match="one label, not with loss=bce"):
        check_monitors(compose(*plateau, "loss=bce", f"{name}.monitor=val/top5_accuracy"), 20)


def test_every_metric_there_is_may_be_followed(compose: Any) -> None:
    for metric in ("balanced_accuracy", "f1_macro", "top5_accuracy"):
        check_monitors(compose(f"trainer.monitor=val/{metric}"), 10)
        config = compose("scheduler=plateau", f"scheduler.monitor=train_eval/{metric}")
        check_monitors(config, 10)
    check_monitors(compose("loss=bce", "trainer.monitor=val/label_accuracy"), 2)


def test_pos_weight_is_null_or_balanced(compose: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss\.pos_weight=much"):
        compose("loss=bce", "loss.pos_weight=much")


def test_one_label_per_image_suits_cross_entropy(compose: Any) -> None:
    # What refuses the wrong labels can pass: the same images with one label each.
    loss = build_loss(compose(), several(torch.tensor([0, 1, 2, 0, 1, 2])), CPU)
    assert loss(torch.zeros(2, 3), torch.tensor([0, 2])).item() == pytest.approx(math.log(3))
