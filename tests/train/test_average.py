"""The moving average of the weights: who reads it, and that the weights come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import Silent

from lrexp.build.rates import build_rates
from lrexp.build.schedule import Steps
from lrexp.config.errors import ConfigError, Terminated, UserError
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.train import loop
from lrexp.train.average import Average
from lrexp.train.loop import Trainer
from lrexp.train.signals import signals_stop

pytestmark = pytest.mark.usefixtures("one_thread")

Prepare = Callable[..., Trainer]
FEW = ("data.limit=200", "trainer.limit_train_batches=3", "trainer.epochs=2", "trainer.ema=0.9")


class Odd(nn.Module):
    """Buffers of every kind: a mask, a count, statistics that a forward pass replaces."""

    mask: Tensor
    seen: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(2))

    def move(self) -> None:
        with torch.no_grad():
            self.head.weight.add_(1.0)
        self.seen += 1
        self.mean = self.mean + 1.0  # another tensor, not the same one changed


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_masks_and_counts_are_the_live_ones_and_replaced_buffers_are_averaged() -> None:
    model = Odd()
    before, average = copied(model), Average(model, 0.9)
    average.begin()
    for step in range(3):
        model.move()
        average.follow(step)
    live = copied(model)
    with average.in_place():
        seen = copied(model)
    assert same_bits(copied(model), live)
    assert torch.equal(seen["mask"], live["mask"])
    assert seen["seen"] == live["seen"] == 3
    expected = 0.0  # of what goes from 0 to 1, 2, 3
    for step in range(3):
        d = (1 + step) / (10 + step)
        expected = d * expected + (1 - d) * (step + 1)
    assert seen["mean"].tolist() == pytest.approx([expected] * 2)
    assert (seen["head.weight"] - before["head.weight"]).tolist()[0] == pytest.approx(
        [expected] * 2, rel=1e-5
    )


def test_the_weights_come_back_when_an_evaluation_fails_or_a_signal_ends_it(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluate, plain = loop.evaluate_split, prepare(*FEW[:-1], "trainer.ema=null")

    def breaks(*_: Any) -> Any:
        raise RuntimeError("no memory")

    def is_stopped(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    plain.train_epoch()
    for bad, error in ((breaks, RuntimeError), (is_stopped, Terminated)):
        trainer = prepare(*FEW)
        monkeypatch.setattr(loop, "evaluate_split", bad)
        with signals_stop(), pytest.raises(error):
            trainer.run(Silent(), tmp_path)
        assert same_bits(copied(trainer.experiment.model), copied(plain.experiment.model))
        monkeypatch.setattr(loop, "evaluate_split", evaluate)
        whole, again = prepare(*FEW), prepare(*FEW)
        again.load_state(trainer.state())  # trained, and still to be evaluated
        for one in (whole, again):
            one.run(Silent())
        assert same_bits(again.state()["average"], whole.state()["average"])
        assert again.rows[-1]["val/loss"] == whole.rows[-1]["val/loss"]


def test_a_state_that_is_saved_while_the_average_is_in_place_has_the_weights(
    prepare: Prepare,
) -> None:
    trainer = prepare(*FEW)
    trainer.train_epoch()
    live = copied(trainer.experiment.model)
    assert trainer.average is not None
    trainer.average._hold(True)  # as a signal leaves it that comes just before they are put back
    assert not same_bits(copied(trainer.experiment.model), live)
    assert same_bits(trainer.state()["model"], live)


def test_best_weights_are_the_average_and_evaluate_as_the_row_says(
    prepare: Prepare, tmp_path: Path
) -> None:
    trainer = prepare(*FEW, "trainer.monitor=val/loss", "optimizer.lr=0.02")
    trainer.run(Silent(), tmp_path)
    best, last = (load_checkpoint(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert best["epoch"] == last["epoch"] == 2
    assert same_bits(best["model"], {**last["model"], **last["average"]})
    assert not same_bits(best["model"], last["model"])
    model, split = trainer.experiment.model, trainer.experiment.dataset.val
    model.load_state_dict(best["model"])
    found = loop.evaluate_split(model, split, trainer.settings.eval_batch_size)
    assert found.loss == trainer.rows[-1]["val/loss"]


def test_a_state_with_or_without_an_average_is_taken_up_where_that_is_asked_for(
    prepare: Prepare,
) -> None:
    plain = (*FEW[:-1], "trainer.ema=null")
    averaged, former = prepare(*FEW).state(), prepare(*plain).state()
    del former["average"]  # as former versions wrote it
    prepare(*plain).load_state(former)
    with pytest.raises(UserError, match=r"no average.*trainer\.ema=0\.9"):
        prepare(*FEW).load_state(former)
    with pytest.raises(UserError, match=r"holds an average.*trainer\.ema=null"):
        prepare(*plain).load_state(averaged)


def test_optimizers_that_average_themselves_refuse_another_average(
    prepare: Prepare, compose: Any
) -> None:
    built = prepare(*FEW).experiment
    config = compose("optimizer=schedulefree_sgd", "trainer.ema=0.99")
    with pytest.raises(ConfigError, match=r"trainer\.ema=0\.99: optimizer=schedulefree_sgd"):
        build_rates(config, built.model, built.layers, Steps(3, 6))


def test_notes_say_what_statistics_see_and_which_weights_are_evaluated(prepare: Prepare) -> None:
    def notes(*overrides: str) -> str:
        return "\n".join(prepare(*overrides).experiment.dataset.notes)

    norm = ("model=cifar_resnet", "model.depth=20", "trainer.accumulate=4")
    assert "of each batch of 16 images, not of the 64 that a step takes" in notes(*norm)
    assert "BatchNorm" not in notes(*norm, "lr_policy=freeze_backbone")  # all stay as they are
    assert "BatchNorm" not in notes("trainer.accumulate=4")
    assert "trainer.ema=0.9: evaluations and best.pt are of the moving average" in notes(*FEW)
