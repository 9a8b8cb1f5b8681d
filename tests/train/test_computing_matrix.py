"""Every policy in every way of computing a step, against the plain run; and through a resume.

What a way may change is stated in `WAYS`: how far every tensor may end from where the plain run has
it, as a share of how far it moved there. The loss weighs classes, gradients are clipped, and the
network has BatchNorm and dropout where the way leaves their statistics and draws as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import Silent, trainer_of

from lrexp.build.experiment import build
from lrexp.build.rates import build_optimizer, build_plan
from lrexp.build.schedule import Steps
from lrexp.config.schema import OPTIONS
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.models.layers import layer_map
from lrexp.optim.groups import state_by_name
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS, STEPS = 4, 3
RUN = (
    "trainer.device=cpu", "data.leak_check=skip", "data.limit=192", "loss.class_weights=balanced",
    f"trainer.epochs={EPOCHS}", "trainer.stats_every=1", "trainer.clip_grad_norm=1",
    "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.1",
)  # fmt: skip
WHOLE = ("data.batch_size=32", f"trainer.limit_train_batches={STEPS}")
# What makes an edge, or several, fall within the epochs.
EDGES = {
    "gradual_unfreeze": ("lr_policy.every=1",),
    "lp_ft": ("lr_policy.head_epochs=2",),
    "freezeout": ("lr_policy.t_0=0.6",),
    "surgical": ("lr_policy.block=1",),
}


class Net(nn.Module):
    """Convolutions and a head, with BatchNorm and dropout or without."""

    def __init__(self, norms: bool, dropout: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3) if norms else nn.Identity()
        self.drop = nn.Dropout(0.3) if dropout else nn.Identity()
        self.mid = nn.Conv2d(3, 3, 3, bias=False)
        self.still = nn.BatchNorm2d(3, affine=False) if norms else nn.Identity()
        self.head = nn.Linear(3 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.drop(self.norm(self.conv(images)).relu())
        return self.head(self.still(self.mid(x)).relu().flatten(1))


@dataclass(frozen=True)
class Way:
    """How a step is computed, and what it may change."""

    overrides: tuple[str, ...]
    tolerance: float  # of a tensor's distance, as a share of how far it moved
    norms: bool = True
    dropout: bool = True


TWICE = ("data.batch_size=16", f"trainer.limit_train_batches={2 * STEPS}", "trainer.accumulate=2")
WAYS = {
    "bf16": Way(("trainer.precision=bf16", *WHOLE), 0.2),
    "fp16": Way(("trainer.precision=fp16", *WHOLE), 0.05),
    # dropout of feature maps draws in the order of memory
    "channels_last": Way(("trainer.channels_last=true", *WHOLE), 1e-4, dropout=False),
    "compile": Way(("trainer.compile=aot_eager", *WHOLE), 1e-4),
    "accumulate": Way(TWICE, 1e-4, norms=False, dropout=False),
    "ema": Way(("trainer.ema=0.9", *WHOLE), 0),  # of what is trained; evaluated is its average
}
# What generates code: a cold compile of two phases takes half a minute of the CPU.
GENERATED = Way(("trainer.compile=default", *WHOLE), 1e-3, dropout=False)
CHEAP = [("gradual_unfreeze", "bf16"), ("auto_rgn", "fp16"), ("lp_ft", "compile")]
ALL = [
    pytest.param(policy, way, marks=() if (policy, way) in CHEAP else pytest.mark.slow)
    for policy in OPTIONS["lr_policy"]
    if policy != "custom"
    for way in WAYS
]

Make = Callable[..., Trainer]


@pytest.fixture
def make(compose: Any) -> Make:
    """A function from a policy, overrides and the way they are for to a trainer of `Net`."""

    def made(policy: str, overrides: tuple[str, ...], way: Way) -> Trainer:
        config = compose(*RUN, f"lr_policy={policy}", *EDGES.get(policy, ()), *overrides)
        experiment = build(config)
        torch.manual_seed(0)
        model = Net(way.norms, way.dropout)
        if experiment.computing.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        layers = layer_map(model, "head")
        plan = build_plan(config, layers, Steps(STEPS, STEPS * EPOCHS))
        optimizer = build_optimizer(config.optimizer, model, plan)
        changes = {"model": model, "layers": layers, "plan": plan, "optimizer": optimizer}
        return trainer_of(config, replace(experiment, **changes))

    return made


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.experiment.model.named_parameters()}


@pytest.mark.parametrize(("policy", "name"), ALL)
def test_a_policy_trains_in_every_way_as_it_does_plainly(
    make: Make, policy: str, name: str
) -> None:
    trains_alike(make, policy, WAYS[name])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch generates C++ here")
def test_generated_code_trains_as_the_plain_run_does(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)  # no worker programs, which would stay
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    trains_alike(make, "lp_ft", GENERATED)


def trains_alike(make: Make, policy: str, way: Way) -> None:
    """Every tensor ends where the plain run has it, and nothing else moves."""
    plain, other = make(policy, WHOLE, way), make(policy, way.overrides, way)
    start, moved = weights(plain), list[str]()
    assert all(torch.equal(value, start[n]) for n, value in weights(other).items())
    for trainer in (plain, other):
        trainer.run(Silent())
        assert trainer.step == STEPS * EPOCHS
        assert trainer.frozen.as_dict()["identical"]
    for n, value in weights(other).items():
        goal = weights(plain)[n]
        far = float((goal - start[n]).norm())
        assert float((value - goal).norm()) <= way.tolerance * far, n
        moved += [n] * (far > 0)
    trained = {n for group in plain.experiment.optimizer.param_groups for n in group["names"]}
    assert set(moved) == trained
    compared = {"train/loss"} | ({"val/loss", "train_eval/loss"} if way != WAYS["ema"] else set())
    for row, expected in zip(other.rows, plain.rows, strict=True):
        assert row.keys() - {"perf/skipped_steps"} == expected.keys()
        for key, value in expected.items():
            if key.startswith("lr/"):
                assert row[key] == pytest.approx(value, rel=way.tolerance), key
            if key in compared:
                assert row[key] == pytest.approx(value, rel=way.tolerance / 10), key


def exact(trainer: Trainer) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in trainer.rows]


CUTS = (4, 6, 10)  # steps done: within an epoch, between two, within a later phase


@pytest.mark.parametrize(("policy", "name"), ALL)
def test_a_run_goes_on_to_the_same_bits_in_every_way(
    make: Make, policy: str, name: str, tmp_path: Path
) -> None:
    way = WAYS[name]
    new = partial(make, policy, way.overrides, way)
    whole = new()
    set_rates = whole.set_rates

    def save_first(step: int) -> None:
        if step in CUTS:
            save_checkpoint(tmp_path / f"{step}.pt", whole.state())
        set_rates(step)

    whole.set_rates = save_first  # type: ignore[method-assign]
    whole.run(Silent())
    final = whole.experiment.model.state_dict()
    for step in CUTS:
        rest = new()
        rest.load_state(load_checkpoint(tmp_path / f"{step}.pt"))
        assert rest.step == step
        rest.run(Silent())
        assert exact(rest) == exact(whole), step
        for n, tensor in rest.experiment.model.state_dict().items():
            assert torch.equal(tensor, final[n]), (step, n)
        ours, theirs = (state_by_name(t.experiment.optimizer) for t in (rest, whole))
        for n, state in ours.items():
            assert all(torch.equal(state[k], theirs[n][k]) for k in state), (step, n)
        ours, theirs = rest.state(), whole.state()
        assert ours["loss_scale"] == theirs["loss_scale"]
        for n, tensor in (theirs["average"] or {}).items():
            assert torch.equal(ours["average"][n], tensor), (step, n)
