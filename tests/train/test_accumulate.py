"""Several batches in one optimizer step: the same step as of all their images at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainers import Silent

from lrexp.build.loss import BinaryCrossEntropy, CrossEntropy
from lrexp.build.schedule import Steps, count_steps
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

Train = Callable[..., Trainer]
# 24 batches of 16 images are 6 steps of 4, and those are 6 batches of 64: of the same images
SMALL = ("data.batch_size=16", "trainer.accumulate=4", "trainer.limit_train_batches=24")
LARGE = ("data.batch_size=64", "trainer.limit_train_batches=6")
WEIGHTS = "[1,2,3,4,5,6,7,8,9,10]"


def doubled(trainer: Trainer) -> Trainer:
    """The same network with weights and images in float64, where rounding tells nothing."""
    model = trainer.experiment.model.double()
    model.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    return trainer


def several(trainer: Trainer, weight: Tensor | None) -> None:
    """Give every digit a second label, its half."""

    def labelled(split: Any) -> Any:
        one, half = (F.one_hot(split.labels // by, 10) for by in (1, 2))
        return replace(split, labels=(one + half).clamp(max=1).float())

    data = trainer.experiment.dataset
    data = replace(data, **{n: labelled(getattr(data, n)) for n in ("train", "train_eval", "val")})
    known = {"dataset": data, "loss": BinaryCrossEntropy(weight)}
    trainer.experiment = replace(trainer.experiment, **known)


def close(one: Trainer, other: Trainer, rel: float) -> None:
    for row, expected in zip(one.rows, other.rows, strict=True):
        for key in (key for key in expected if not key.startswith("perf/")):
            assert row[key] == pytest.approx(expected[key], rel=rel, abs=rel), key
    theirs = other.experiment.model.state_dict()
    for name, tensor in one.experiment.model.state_dict().items():
        assert torch.allclose(tensor, theirs[name], rtol=rel, atol=rel), name


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ([], ["optimizer=adamw", "trainer.clip_grad_norm=0.5"]),
        (["loss.label_smoothing=0.1"], ["lr_policy=layerwise_decay"]),
        ([f"loss.class_weights={WEIGHTS}"], ["scheduler=cosine", "scheduler.warmup='2 steps'"]),
        ([f"loss.class_weights={WEIGHTS}", "loss.label_smoothing=0.1"], ["lr_policy=auto_rgn"]),
        (["loss.class_weights=balanced"], ["lr_policy=gradual_unfreeze"]),
        ("bce", []),
        ("bce weighted", []),
    ],
)
def test_a_step_of_four_batches_is_that_of_the_large_batch(
    prepare: Train, loss: Any, more: list[str]
) -> None:
    said = [] if isinstance(loss, str) else loss
    common = [*said, *more, "trainer.epochs=2", "trainer.stats_every=2"]
    small, large = (doubled(prepare(*size, *common)) for size in (SMALL, LARGE))
    for trainer in (small, large):
        if isinstance(loss, str):
            several(trainer, torch.arange(1.0, 11.0) if "weighted" in loss else None)
        trainer.run(Silent())
    assert small.step == large.step == 12
    close(small, large, rel=1e-9)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_short_last_group_counts_its_own_images_alone(prepare: Train, weights: Any) -> None:
    """Against torch's own loss of the images of each group together."""
    said = [f"loss.class_weights={weights}"] if weights else []
    short = ("data.batch_size=10", "trainer.accumulate=3", "trainer.limit_train_batches=7")
    plain = ("trainer.epochs=1", "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=0.1")
    trainer = doubled(prepare(*said, *short, *plain))
    model, train = trainer.experiment.model, trainer.experiment.dataset.train
    own = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    trainer.epoch = 1
    groups, losses = trainer.groups(), []
    trainer.epoch = 0
    assert [len(group) for group in groups] == [3, 3, 1]
    for group in groups:
        ((images, labels),) = train.batches([np.concatenate(group)])
        weight = None if weights is None else torch.arange(1.0, 11.0).double()
        logits = torch.func.functional_call(model, own, (images,))
        loss = F.cross_entropy(logits, labels, weight)
        losses.append((loss.item(), len(labels)))
        for tensor, gradient in zip(
            own.values(), torch.autograd.grad(loss, list(own.values())), strict=True
        ):
            tensor.data -= 0.1 * gradient
    trainer.run(Silent())
    assert trainer.step == len(groups)
    for name, tensor in model.named_parameters():
        assert torch.allclose(tensor, own[name], rtol=1e-9, atol=1e-12)
    mean = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    assert trainer.rows[0]["train/loss"] == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("weight", [None, torch.arange(1.0, 5.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_shares_of_a_loss_add_up_to_it(weight: Tensor | None, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(11, 4, generator=generator, dtype=torch.float64)
    classes, several = torch.arange(11) % 4, (torch.arange(44).view(11, 4) % 3 == 0).float()
    for loss, labels in (
        (CrossEntropy(weight, smoothing), classes),
        (BinaryCrossEntropy(weight), several),
    ):
        share = loss.over(loss.normaliser(labels))
        parts = [share(logits[i : i + 3], labels[i : i + 3]) for i in range(0, 11, 3)]
        assert torch.stack(parts).sum().item() == pytest.approx(
            loss(logits, labels).item(), rel=1e-12
        )


def test_steps_are_counted_in_groups_and_limits_in_batches(compose: Any) -> None:
    def counted(*overrides: str) -> Steps:
        return count_steps(compose("data.batch_size=16", *overrides), 1079)  # 68 batches

    assert counted("trainer.accumulate=4", "trainer.epochs=2") == Steps(17, 34)
    assert counted("trainer.accumulate=5", "trainer.epochs=2") == Steps(14, 28)
    limit = ("trainer.limit_train_batches=7", "trainer.accumulate=3")
    assert counted(*limit, "trainer.epochs=2") == Steps(3, 6)
    assert counted(*limit, "trainer.epochs=2", "trainer.max_steps=4") == Steps(3, 4)
    assert counted("trainer.accumulate=100", "trainer.epochs=3") == Steps(1, 3)


def test_training_ends_after_max_steps_and_measures_every_so_many(prepare: Train) -> None:
    trainer = prepare(
        "trainer.accumulate=3", "trainer.limit_train_batches=7", "trainer.epochs=9",
        "trainer.max_steps=5", "trainer.stats_every=2",
    )  # fmt: skip
    measured: list[int] = []
    note = trainer.stats.add_gradient

    def noted(norm: Tensor) -> None:
        measured.append(trainer.step)
        note(norm)

    trainer.stats.add_gradient = noted
    trainer.run(Silent())
    assert [row["step"] for row in trainer.rows] == [3, 5]
    assert measured == [0, 2, 3]


def test_dropout_is_a_function_of_seed_step_and_batch_of_the_step(prepare: Train) -> None:
    seen: list[Tensor] = []
    common = ("model=mlp", "model.dropout=0.5", "trainer.epochs=1", "optimizer.lr=1e-30")

    def masks(*overrides: str) -> list[Tensor]:
        trainer = prepare(*common, *overrides)
        drop = next(
            m for m in trainer.experiment.model.modules() if isinstance(m, torch.nn.Dropout)
        )
        drop.register_forward_hook(
            lambda module, _, out: seen.append(torch.rand(4)) if module.training else None
        )
        seen.clear()
        trainer.run(Silent())
        return list(seen)

    plain = masks("trainer.limit_train_batches=3")
    grouped = masks("trainer.limit_train_batches=6", "trainer.accumulate=2")
    plain, grouped = plain[:3], grouped[:6]  # and not what asks why nothing has moved
    assert all(torch.equal(one, other) for one, other in zip(plain, grouped[::2], strict=True))
    assert len({tuple(mask.tolist()) for mask in grouped}) == len(grouped) == 6
