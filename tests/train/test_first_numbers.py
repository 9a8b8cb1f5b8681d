"""What is not finite before the first update is named; only what was finite first diverges."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainers import Silent

from lrexp.__main__ import main
from lrexp.config.errors import UserError
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.models.weights import save_weights
from lrexp.train.loop import Trainer

FEW = ("data.limit=64", "trainer.limit_train_batches=2", "trainer.epochs=2")
Spoil = Callable[[Trainer], Trainer]


def weight(trainer: Trainer, value: float) -> Trainer:
    next(trainer.experiment.model.parameters()).data[-1] = value
    return trainer


def images(trainer: Trainer) -> Trainer:
    for split in (trainer.experiment.dataset.train, trainer.experiment.dataset.train_eval):
        split.normalize._scale[0] = math.inf
    return trainer


def loss(trainer: Trainer, made: Callable[..., torch.Tensor]) -> Trainer:
    return replaced(trainer, loss=made)


def replaced(trainer: Trainer, **parts: Any) -> Trainer:
    return Trainer(
        replace(trainer.experiment, **parts), trainer.settings, trainer.batch_size, trainer.seed
    )


SPOILT: dict[str, tuple[Spoil, str]] = {
    "NaN in a weight": (
        lambda t: weight(t, math.nan),
        "weights are not finite numbers before training: conv.weight\n",
    ),
    "infinite weight": (
        lambda t: weight(t, math.inf),
        "weights are not finite numbers before training: conv.weight\n",
    ),
    "images": (images, "16 of 16 images are not finite numbers once they are normalised (mean 0.3"),
    "overflow": (
        lambda t: weight(t, 3e38),
        "the network's output is not finite, of images and weights that are: it overflows (its"
        " largest weight is 3e+38, in conv.weight)",
    ),
    "loss": (
        lambda t: loss(t, lambda logits, _: logits.mean() * math.nan),
        "the loss is nan, of images, weights and outputs that are finite",
    ),
    "gradient": (
        lambda t: loss(t, lambda logits, _: (logits * 0).abs().sum().sqrt()),
        "the loss is finite, its gradient is not (conv.weight, conv.bias",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_finite_before_the_first_update_is_named(
    prepare: Callable[..., Trainer], what: str
) -> None:
    spoil, said = SPOILT[what]
    trainer = spoil(prepare(*FEW))
    with pytest.raises(UserError) as caught:
        trainer.run(Silent())
    assert said in str(caught.value)
    assert "no learning rate is the cause" in str(caught.value)
    assert (trainer.rows, trainer.step, trainer.diverged) == ([], 0, False)


def test_the_first_image_that_is_not_finite_is_named_by_its_row(
    prepare: Callable[..., Trainer],
) -> None:
    trainer = images(prepare(*FEW))
    with pytest.raises(UserError) as caught:
        trainer.run(Silent())
    trainer.epoch = 1
    train = trainer.experiment.dataset.train
    first = train.name(int(train.ids[trainer.batches()[0][0]]))
    assert f"the first is {first}\n" in str(caught.value)


def test_every_batch_of_the_first_step_is_looked_at(prepare: Callable[..., Trainer]) -> None:
    trainer = prepare(*FEW, "trainer.accumulate=2")
    train, batches = trainer.experiment.dataset.train, trainer.experiment.dataset.train.batches

    def spoilt(*taken: Any) -> Any:
        for i, (pixels, labels) in enumerate(batches(*taken)):
            yield (pixels * math.nan if i == 1 else pixels), labels

    data = replace(trainer.experiment.dataset, train=train)
    object.__setattr__(data.train, "batches", spoilt)
    trainer = replaced(trainer, dataset=data)
    with pytest.raises(UserError) as caught:
        trainer.run(Silent())
    trainer.epoch = 1
    first = train.name(int(train.ids[trainer.batches()[1][0]]))
    assert f"the first is {first}\n" in str(caught.value)


@pytest.mark.parametrize("what", ["NaN in a weight", "images", "overflow"])
def test_with_no_epochs_the_evaluation_names_it(prepare: Callable[..., Trainer], what: str) -> None:
    spoil, said = SPOILT[what]
    trainer = spoil(prepare("data.limit=64", "trainer.epochs=0"))
    with pytest.raises(UserError) as caught:
        trainer.run(Silent())
    assert said.replace("16 of 16", "64 of 64") in str(caught.value)
    assert (trainer.rows, trainer.diverged) == ([], False)


def test_statistics_that_are_nan_show_first_in_the_evaluation(
    prepare: Callable[..., Trainer],
) -> None:
    trainer = prepare(*FEW, "model=cifar_resnet", "model.depth=20")
    norms = [m for m in trainer.experiment.model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms[0].running_var[3] = math.nan  # type: ignore[index]
    with pytest.raises(UserError, match=r"not finite numbers before training: .*\.running_var\n"):
        trainer.run(Silent())
    assert trainer.step == 2


def test_what_was_finite_first_diverges(prepare: Callable[..., Trainer]) -> None:
    trainer = prepare(*FEW, "optimizer.lr=1e30")
    trainer.run(Silent())
    assert trainer.diverged
    assert len(trainer.rows) == 1


@pytest.mark.parametrize("seeds", ["one feed", "own feeds"])
@pytest.mark.parametrize("what", ["NaN in a weight", "overflow"])
def test_a_member_that_is_not_finite_first_fails_alone(
    prepare: Callable[..., Trainer], what: str, seeds: str
) -> None:
    spoil, said = SPOILT[what]
    own = [f"seed={i if seeds == 'own feeds' else 0}" for i in range(3)]
    trainers = [prepare(*FEW, seed, f"optimizer.lr=0.0{i + 1}") for i, seed in enumerate(own)]
    alone = [prepare(*FEW, seed, f"optimizer.lr=0.0{i + 1}") for i, seed in enumerate(own)]
    spoil(trainers[1])
    failures: list[Exception | None] = [None] * 3
    folders: list[Path | None] = [None] * 3
    StackedTrainer(trainers).run([Silent()] * 3, folders, failures)
    assert [failure is None for failure in failures] == [True, False, True]
    assert said in str(failures[1])
    assert trainers[1].rows == []
    assert not trainers[1].diverged
    for k in (0, 2):
        alone[k].run(Silent())
        ours, theirs = (one.rows[-1]["val/loss"] for one in (trainers[k], alone[k]))
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_run_and_a_point_of_such_weights_fail_with_the_cause(
    prepare: Callable[..., Trainer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = weight(prepare("model=mlp"), math.nan).experiment.model
    save_weights(model.state_dict(), tmp_path / "w.safetensors", tuple("0123456789"))
    few = [*FEW, "model=mlp", "logger=none", "trainer.device=cpu", "data.leak_check=skip"]
    bad = f"model.weights={tmp_path / 'w.safetensors'}"
    assert main([*few, bad, f"hydra.run.dir={tmp_path / 'run'}"]) == 1
    said = "weights are not finite numbers before training"
    assert said in capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["verdicts"]) == ("failed", [])
    assert said in summary["error"]
    grid = [bad.replace("=", "=null,"), "optimizer.lr=0.01,0.02", "hydra.launcher.executor=stacked"]
    assert main(["-m", *few, *grid, f"hydra.sweep.dir={tmp_path / 'grid'}"]) == 1
    points = sorted((tmp_path / "grid").glob("*/summary.json"))
    summaries = [json.loads(point.read_text()) for point in points]
    assert sorted(one["status"] for one in summaries) == ["failed"] * 2 + ["finished"] * 2
    assert all(said in one["error"] for one in summaries if one["error"])


def test_frozen_statistics_that_are_nan_are_named_at_the_first_step(
    prepare: Callable[..., Trainer],
) -> None:
    trainer = prepare(*FEW, "model=cifar_resnet", "model.depth=20", "lr_policy=freeze_backbone")
    norms = [m for m in trainer.experiment.model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms[0].running_var[3] = math.nan  # type: ignore[index]
    with pytest.raises(UserError, match=r"not finite numbers before training: .*\.running_var\n"):
        trainer.run(Silent())
    assert trainer.step == 0


def test_an_overflow_is_not_taken_for_the_statistics_that_it_moved(
    prepare: Callable[..., Trainer],
) -> None:
    trainer = prepare(*FEW, "model=cifar_resnet", "model.depth=20")
    weight(trainer, 3e38)
    with pytest.raises(UserError, match=r"output is not finite.*largest weight is 3e\+38"):
        trainer.run(Silent())
