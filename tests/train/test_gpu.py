"""What only a GPU can show: nobody waits for it, and a recorded step is the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from trainers import Silent, trainer_of

from lrexp.grid.isolation import undisturbed
from lrexp.train.loop import Trainer
from lrexp.train.recorded import Recorded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RUN = (
    "trainer.device=cuda", "data.leak_check=skip", "data.limit=200", "data.batch_size=32",
    "trainer.stats_every=1", "trainer.clip_grad_norm=1", "trainer.epochs=3", "optimizer=adamw",
)  # fmt: skip
Compose = Callable[..., Any]


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    with undisturbed():
        yield


def trainer(compose: Compose, *overrides: str) -> Trainer:
    return trainer_of(compose(*RUN, *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.augment=basic", "loss.class_weights=balanced", "trainer.accumulate=2"),
        ("trainer.precision=bf16", "trainer.channels_last=true", "trainer.ema=0.9"),
        ("trainer.precision=fp16",),  # its optimizer is fused
        ("trainer.precision=tf32", "trainer.cuda_graph=true", "model=mlp", "model.dropout=0.2"),
        ("trainer.compile=default",),
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_gpu(compose: Compose, overrides: tuple[str, ...]) -> None:
    own = trainer(compose, *overrides)
    own.train_epoch()  # memory, kernels and graphs are made here
    steps, done = len(own.groups()), [0]

    def watch(loss: Tensor) -> bool:
        """Between the first step and the last, whose sums are then read."""
        done[0] += 1
        torch.cuda.set_sync_debug_mode("error" if done[0] < steps else "default")
        return False

    try:
        own.train_epoch(watch=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert done[0] == steps > 2


@pytest.mark.parametrize("model", ["simple_cnn", "mlp"])
def test_a_recorded_step_is_the_step(compose: Compose, model: str) -> None:
    """With dropout, whose draws follow (seed, step), and a last batch of another size."""
    dropout = ("model.dropout=0.3",) if model == "mlp" else ()
    settings = (f"model={model}", *dropout, "lr_policy=gradual_unfreeze", "lr_policy.every=1")
    plain, recorded = (trainer(compose, *settings, f"trainer.cuda_graph={x}") for x in (0, 1))
    for own in (plain, recorded):
        own.run(Silent())
    assert isinstance(recorded._pass, Recorded)
    theirs = plain.experiment.model.state_dict()
    for name, tensor in recorded.experiment.model.state_dict().items():
        assert torch.allclose(tensor, theirs[name], atol=1e-4), name


def test_an_optimizer_with_a_fused_step_takes_it_unless_it_is_told(compose: Compose) -> None:
    own = trainer(compose)
    assert all(group["fused"] for group in own.experiment.optimizer.param_groups)
    told = ("optimizer=torch", "optimizer.name=AdamW", "optimizer.args.fused=false")
    asked = trainer(compose, *told).experiment.optimizer
    assert not any(group["fused"] for group in asked.param_groups)


def test_the_gpu_preset_trains_and_goes_on(compose: Compose) -> None:
    whole = trainer(compose, "trainer=gpu")
    whole.train_epoch()
    rest = trainer(compose, "trainer=gpu")
    rest.load_state(whole.state())
    rest.run(Silent())
    assert math.isfinite(rest.rows[-1]["val/loss"])
