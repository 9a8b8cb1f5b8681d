"""What steps and evaluations keep grows by numbers per batch and per image, not by logits."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from plain_split import plain_split
from torch import Tensor, nn
from trainers import Silent, trainer_of

import lrexp.grid.stack.trainer
import lrexp.train.loop
import lrexp.train.passes
from lrexp.build.experiment import build
from lrexp.data.dataset import Dataset, Split
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups
from lrexp.plan.policies.scaling import uniform
from lrexp.train.loop import Trainer
from lrexp.train.measure import correct_images, evaluate, logits_of

pytestmark = pytest.mark.usefixtures("one_thread", "only_new_objects")

CLASSES, BATCH, BATCHES = 1000, 64, 24
# Of an epoch: third and last step, third and last batch of the first evaluation (alone).
FORWARDS = (2, BATCHES - 1, BATCHES + 2, 2 * BATCHES - 1)
LOGITS = 4 * CLASSES * BATCH  # bytes of a batch's, of one network


class Wide(nn.Module):
    """A linear head, watched: `seen` has the bytes of all new tensors at some of its forwards."""

    def __init__(self, seen: dict[int, int]):
        super().__init__()
        self.head, self.seen, self.calls = nn.Linear(4, CLASSES), seen, 0

    def forward(self, images: Tensor) -> Tensor:
        if self.calls in self.seen:
            self.seen[self.calls] = live_bytes()
        self.calls += 1
        return self.head(images.flatten(1))


def live_bytes() -> int:
    """Of the tensors that Python code holds and that are not frozen, each storage once."""
    found = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)]
    plain = [x for x in found if not torch._C._functorch.is_functorch_wrapped_tensor(x)]
    storages = [x.untyped_storage() for x in plain]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.fixture
def only_new_objects() -> None:
    """Looking through all objects takes a moment: those there are now are left out for good."""
    gc.collect()
    gc.freeze()


def images(count: int) -> Split:
    return plain_split(torch.randn(count, 1, 2, 2), torch.arange(count) % CLASSES)


@pytest.fixture
def wide(compose: Any) -> Callable[[], Trainer]:
    """A function that gives a trainer of a thousand classes, for one epoch."""
    config = compose("trainer.epochs=1", f"data.batch_size={BATCH}", "trainer.stats_every=0",
                     f"trainer.eval_batch_size={2 * BATCH}", "optimizer.momentum=0")  # fmt: skip
    built = build(compose("trainer.device=cpu"))
    evaluated = images(2 * BATCH * BATCHES)
    dataset = Dataset(
        train=images(BATCH * BATCHES), train_eval=evaluated, val=evaluated, test=None,
        class_names=tuple(map(str, range(CLASSES))), fingerprint="", mean=[0.0], std=[1.0],
    )  # fmt: skip

    def made() -> Trainer:
        model = Wide(dict.fromkeys(FORWARDS, 0))
        layers = layer_map(model, "head")
        plan = uniform(layers, 0.1, 0.0, decay_bias_norm=False)
        optimizer = torch.optim.SGD(param_groups(model, plan, 0.1), lr=0.1)
        experiment = replace(
            built, dataset=dataset, model=model, layers=layers, plan=plan, optimizer=optimizer,
            base_lr=0.1, schedule=[1.0] * BATCHES, steps_per_epoch=BATCHES,
        )  # fmt: skip
        return trainer_of(config, experiment)

    return made


def alone(wide: Callable[[], Trainer]) -> tuple[float, float]:
    """By how many batches of logits what is kept grows in steps, and in an evaluation."""
    trainer = wide()
    trainer.run(Silent())
    return grown(trainer)


def stacked(wide: Callable[[], Trainer]) -> tuple[float, float]:
    """The same of two networks together; the first one's forward is that of both."""
    members = [wide(), wide()]
    together = StackedTrainer(members)
    members[0].experiment.model.calls = 0
    together.run([Silent()] * 2, [None] * 2, [None] * 2)
    return grown(members[0])


def grown(trainer: Trainer) -> tuple[float, float]:
    model: Any = trainer.experiment.model
    early, late, first, last = (model.seen[call] for call in FORWARDS)
    return (late - early) / LOGITS, (last - first) / LOGITS


@pytest.mark.parametrize("ways", [alone, stacked])
def test_steps_and_evaluations_keep_no_logits(wide: Any, ways: Callable[..., Any]) -> None:
    steps, evaluation = ways(wide)
    assert steps < 1
    assert evaluation < 1


@pytest.mark.parametrize(("ways", "members"), [(alone, 1), (stacked, 2)])
def test_logits_that_are_kept_in_steps_are_seen(
    wide: Any, ways: Callable[..., Any], members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Tensor] = []

    def keeping(logits: Tensor, labels: Tensor) -> Tensor:
        kept.append(logits)
        return correct_images(logits, labels)

    for module in (lrexp.train.passes, lrexp.grid.stack.trainer):
        monkeypatch.setattr(module, "correct_images", keeping)
    steps, _ = ways(wide)
    assert steps == pytest.approx(members * (BATCHES - 3), abs=1)


def test_logits_that_are_kept_in_an_evaluation_are_seen(
    wide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lrexp.train.loop,
        "evaluate_split",
        lambda model, split, size, *_: evaluate(logits_of(model, split, size), split.labels),
    )
    _, evaluation = alone(wide)
    assert evaluation == pytest.approx(2 * (BATCHES - 3), abs=1)
