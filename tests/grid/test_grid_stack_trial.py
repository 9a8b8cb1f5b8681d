"""What a stack would do is tried before anything trains, in whatever way members train."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainers import Silent

from lrexp.build.loss import bce, cross_entropy
from lrexp.data.transforms import Augment
from lrexp.grid.stack.probe import clones, probe
from lrexp.grid.stack.trainer import StackedTrainer, StackError
from lrexp.grid.stack.trial import in_our_words
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
Prepare = Callable[..., Trainer]
CPU = torch.device("cpu")
SLOW = pytest.mark.slow
SMALL = ("data.limit=120", "trainer.max_steps=3", "data.batch_size=16")

LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (cross_entropy, {"label_smoothing": 0.0, "class_weights": None}),
    "smoothed": (cross_entropy, {"label_smoothing": 0.1, "class_weights": None}),
    "weighted": (cross_entropy, {"label_smoothing": 0.0, "class_weights": "balanced"}),
    "both": (cross_entropy, {"label_smoothing": 0.1, "class_weights": "balanced"}),
    "own weights": (cross_entropy, {"label_smoothing": 0.2, "class_weights": list(range(1, 11))}),
    "bce": (bce, {"pos_weight": None}),
    "weighted bce": (bce, {"pos_weight": "balanced"}),
}


def changed(
    trainer: Trainer, loss: str = "plain", augmented: bool = False, clip: float | None = None
) -> Trainer:
    """The same with another loss, and labels that it is for; with augmentation; with clipping."""
    make, settings = LOSSES[loss]
    dataset = trainer.experiment.dataset
    parts = {part: getattr(dataset, part) for part in ("train", "train_eval", "val")}
    if make is bce:
        hot = {part: F.one_hot(split.labels, 10).float() for part, split in parts.items()}
        parts = {part: replace(split, labels=hot[part]) for part, split in parts.items()}
    if augmented:
        parts["train"] = replace(parts["train"], augment=Augment("basic", 0))
    dataset = replace(dataset, **parts)
    experiment = replace(trainer.experiment, dataset=dataset, loss=make(dataset, CPU, **settings))
    trainer_settings = replace(trainer.settings, clip_grad_norm=clip)
    return Trainer(experiment, trainer_settings, trainer.batch_size, trainer.seed)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, marks=() if loss in ("plain", "both", "weighted bce") else SLOW)
        for loss in LOSSES
    ],
)
def test_every_loss_is_stacked_with_labels_of_all_or_of_each_augmented_and_clipped(
    prepare: Prepare, loss: str
) -> None:
    first = prepare("model=mlp", "model.widths=[8]", *SMALL)
    for augmented, clip in product((False, True), (None, 0.3)):
        trainer = changed(first, loss, augmented, clip)
        assert probe(trainer) is None
        for seeds in ([0, 0], [0, 1]):
            together, alone = (clones(trainer, seeds) for _ in range(2))
            for member in (together[1], alone[1]):  # no member is like another
                member.experiment.optimizer.param_groups[0]["lr_scale"] = 0.5
            StackedTrainer(together).run([Silent()] * 2, [None] * 2, [None] * 2)
            for one, other in zip(together, alone, strict=True):
                other.run(Silent())
                ours, theirs = (t.experiment.model.state_dict() for t in (one, other))
                for name in theirs:
                    assert torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5), name


def test_a_weighted_smoothed_loss_alone_is_torchs_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(33, 7, generator=generator, requires_grad=True)
    labels, weight = torch.arange(33) % 7, torch.rand(7, generator=generator) + 0.1
    make = type("Named", (), {"class_names": tuple("abcdefg")})
    for smoothing in (0.0, 0.1, 0.9):
        settings = {"label_smoothing": smoothing, "class_weights": weight.tolist()}
        ours = cross_entropy(make, CPU, **settings)(logits, labels)  # type: ignore[arg-type]
        theirs = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
        assert torch.equal(ours, theirs)
        assert torch.equal(*gradients)


class Net(nn.Module):
    """A linear network that does something else besides."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.own = np.random.default_rng(0)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        return self.beside(self.head(images.flatten(1)))

    def beside(self, logits: Tensor) -> Tensor:
        return logits


class Python(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return logits * random.uniform(0.9, 1.1)


class Numpy(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return logits * float(np.random.rand())


class InEvaluation(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return logits if self.training else logits * random.uniform(0.9, 1.1)


class Torch(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return logits + 0.1 * torch.rand(10)


class Own(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return logits * float(self.own.random())


class Counting(Net):
    def beside(self, logits: Tensor) -> Tensor:
        self.seen += 1
        return logits * (1 + 0.1 * self.seen)


class Deciding(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return logits if logits.sum() > 0 else -logits


class Unknown(Net):
    def beside(self, logits: Tensor) -> Tensor:
        return torch.from_numpy(logits.detach().numpy()) + logits


class Slow(Net):
    """Has an operation that torch warns of in a stack."""

    def forward(self, images: Tensor) -> Tensor:
        small, places = F.max_pool2d(images, 2, return_indices=True)
        return self.head(F.max_unpool2d(small, places, [2, 2]).flatten(1))


class Failing(Net):
    def beside(self, logits: Tensor) -> Tensor:
        raise ZeroDivisionError("in the user's code")


class InFloat32(Net):
    """Cannot be in float64."""

    def forward(self, images: Tensor) -> Tensor:
        return self.beside(F.linear(images.flatten(1) @ torch.eye(64), self.head.weight))


class Scalar(Net):
    """Has a parameter without dimensions, as logit scales are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def beside(self, logits: Tensor) -> Tensor:
        return logits * self.scale


WHY = {
    Net: None,
    Scalar: None,
    Slow: None,
    InFloat32: None,
    Python: "draws random numbers (from Python's random)",
    Numpy: "draws random numbers (from numpy.random)",
    Torch: "draws random numbers (from torch's generator)",
    InEvaluation: "draws random numbers (from Python's random)",
    Own: "draws from a generator of its own",
    Counting: "keeps a state that is no buffer",
    Deciding: "decides by values of tensors",
    Unknown: "one of its operations, or of the loss, has no form for several members",
    Failing: "a step of it fails by itself",
}


@pytest.mark.parametrize("net", WHY)
def test_a_network_that_cannot_be_stacked_is_named_in_words_of_ours(
    prepare: Prepare, net: type[Net], capfd: pytest.CaptureFixture[str]
) -> None:
    with_net = prepare(*SMALL, "model=mlp", "model.widths=[]")
    torch.manual_seed(0)
    model = net()
    group = {**with_net.experiment.optimizer.param_groups[0], "params": list(model.parameters())}
    group["names"] = [name for name, _ in model.named_parameters()]
    plan = with_net.experiment.plan
    named = dict(zip([row.name for row in plan.rows], group["names"], strict=True))
    rows = tuple(replace(row, name=named[row.name]) for row in plan.rows)
    experiment = replace(
        with_net.experiment,
        model=model,
        plan=replace(plan, rows=rows),
        optimizer=torch.optim.SGD([group], lr=0.1),
    )
    states = random_states()
    found = probe(Trainer(experiment, with_net.settings, 16, 0))
    assert (WHY[net] in (found or "nothing")) if WHY[net] else found is None, found
    assert found is None or ("vmap" not in found and "\n" not in found)
    said = capfd.readouterr()
    assert "vmap" not in said.out + said.err
    assert random_states() == states


def random_states() -> list[Any]:
    of_numpy: Any = np.random.get_state()
    return [random.getstate(), of_numpy[1].tolist(), torch.get_rng_state().tolist()]


def test_what_torch_says_of_a_stack_is_told_in_words_of_ours() -> None:
    error = RuntimeError("vmap: we do not support x\nPlease file an issue at https://github.com")
    assert in_our_words(error).startswith("one of its operations, or of the loss, has no form")
    assert in_our_words(StackError("members differ")) == "members differ"
    assert "memory" in in_our_words(torch.OutOfMemoryError("CUDA out of memory"))
