"""Stacked training is each member's own run: weights, statistics, rows, states, early ends."""

from __future__ import annotations

import copy
import math
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn
from trainers import Silent, trainer_of

from lrexp.build.experiment import build
from lrexp.build.rates import build_rates
from lrexp.build.schedule import count_steps
from lrexp.data.draws import draw
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.grid.isolation import keep_freed_memory
from lrexp.grid.stack.probe import member_bytes, probe
from lrexp.grid.stack.trainer import StackedTrainer, shared
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.train.loop import Trainer
from lrexp.train.state import Epoch

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, EPOCHS = 12, 2
SHORT = (
    f"trainer.epochs={EPOCHS}",
    f"trainer.limit_train_batches={STEPS}",
    "trainer.stats_every=4",
    "data.leak_check=skip",
)
Make = Callable[..., Trainer]


class NormNet(nn.Module):
    """Convolutions with BatchNorm under two linear layers, in float64 if asked."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.mid = nn.Conv2d(4, 4, 3, stride=2, bias=False)  # a bias here would have gradient 0
        self.still = nn.BatchNorm2d(4, affine=False)
        self.hidden = nn.Linear(16, 12)
        self.head = nn.Linear(12, 10)
        self.dtype = dtype
        self.to(dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(images.to(self.dtype))).relu()
        x = self.still(self.mid(x)).relu().flatten(1)
        return self.head(self.hidden(x).relu())


CONFIGS: dict[tuple[str, ...], Any] = {}  # what composing gave
BUILT: dict[tuple[str, ...], Any] = {}  # experiments whose data are used again


@pytest.fixture
def make(compose: Any) -> Make:
    """A function from overrides to a trainer of NormNet that has not trained yet."""

    def composed(overrides: tuple[str, ...]) -> Any:
        if overrides not in CONFIGS:
            CONFIGS[overrides] = compose("trainer.device=cpu", *SHORT, *overrides)
        return CONFIGS[overrides]

    def made(*overrides: str, dtype: torch.dtype = torch.float64, net: Any = NormNet) -> Trainer:
        config = composed(overrides)
        # All but what hangs on the network is built once for the same data.
        key = tuple(o for o in overrides if o.startswith(("data", "loss", "seed")))
        if key not in BUILT:
            BUILT[key] = build(composed(key))
        experiment = BUILT[key]
        torch.manual_seed(draw(config.seed, "init"))
        model = net(dtype)
        layers = layer_map(model, "head")
        steps = count_steps(config, len(experiment.dataset.train))
        rates = build_rates(config, model, layers, steps)
        fresh = replace(
            experiment,
            model=model,
            layers=layers,
            plan=rates.plan,
            optimizer=rates.optimizer,
            base_lr=config.optimizer.lr,
            schedule=rates.schedule,
            steps_per_epoch=steps.per_epoch,
            momenta=rates.momenta,
            plateau=rates.plateau,
        )
        return trainer_of(config, fresh)

    return made


def run_stacked(
    trainers: Sequence[Trainer], folders: Sequence[Path | None] | None = None
) -> list[Exception | None]:
    count = len(trainers)
    failures: list[Exception | None] = [None] * count
    StackedTrainer(trainers).run([Silent()] * count, folders or [None] * count, failures)
    return failures


def run_alone(trainers: Sequence[Trainer]) -> None:
    for trainer in trainers:
        trainer.run(Silent())


def farthest(one: Trainer, other: Trainer) -> float:
    """The largest difference between weights and buffers of two networks."""
    ours, theirs = (t.experiment.model.state_dict() for t in (one, other))
    assert ours.keys() == theirs.keys()
    return max(float((ours[n].double() - theirs[n].double()).abs().max()) for n in ours)


def assert_same_rows(one: Trainer, other: Trainer, tolerance: float) -> None:
    assert len(one.rows) == len(other.rows)
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            if not name.startswith("perf/"):
                close = pytest.approx(value, rel=tolerance, abs=tolerance, nan_ok=True)
                assert theirs[name] == close, name


# Members that train together: what differs between them, and what they share.
PACKS: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
    "rate, policy, schedule, decay, momentum": (
        (),
        [
            ("optimizer.lr=0.1",),
            ("optimizer.lr=0.02", "lr_policy=layerwise_decay"),
            ("lr_policy=per_layer", "lr_policy.rules=[{match: 're:(mid|hidden)', scale: 0.1}]"),
            ("scheduler=cosine", "optimizer.weight_decay=0.01"),
            ("optimizer.momentum=0", "lr_policy=discriminative"),
            ("scheduler=one_cycle", "optimizer.momentum=0.5"),
            ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.9"),
        ],
    ),
    "seed": ((), [("seed=0",), ("seed=1", "optimizer.lr=0.1"), ("seed=2",), ("seed=1",)]),
    "clip": (
        ("seed=3",),
        [("trainer.clip_grad_norm=0.3",), (), ("trainer.clip_grad_norm=1", "optimizer.lr=0.2")],
    ),
    "freeze_backbone": (
        ("lr_policy=freeze_backbone",),
        [("optimizer.lr=0.1",), ("optimizer.lr=0.3", "seed=1"), ("optimizer.weight_decay=0.1",)],
    ),
    "biases alone": (
        ("lr_policy=bias_norm_only", "lr_policy.train_head=false"),
        [("optimizer.lr=0.1",), ("optimizer.lr=0.3", "seed=1")],
    ),
    "gradual_unfreeze": (
        ("lr_policy=gradual_unfreeze", "trainer.epochs=5", "trainer.limit_train_batches=10"),
        [("optimizer.lr=0.1",), ("scheduler=cosine", "seed=1"), ("optimizer.momentum=0",)],
    ),
    "lp_ft": (
        ("lr_policy=lp_ft", "lr_policy.head_epochs=1"),
        [("optimizer.lr=0.1",), ("scheduler=one_cycle",), ("seed=1", "optimizer.nesterov=false")],
    ),
    "adam": (
        ("optimizer=adam",),
        [("optimizer.lr=0.01",), ("scheduler=one_cycle",), ("optimizer.betas=[0.5,0.9]", "seed=1")],
    ),
    "adamw, unfreezing": (
        ("optimizer=adamw", "lr_policy=gradual_unfreeze", "trainer.epochs=5",
         "trainer.limit_train_batches=10"),
        [("optimizer.weight_decay=0.3",), ("optimizer.lr=0.01", "trainer.clip_grad_norm=1")],
    ),
    "rmsprop": (
        ("optimizer=rmsprop",),
        [("optimizer.momentum=0.9", "optimizer.lr=0.0003"), (), ("optimizer.alpha=0.9", "seed=1")],
    ),
    "nesterov": (
        ("optimizer.nesterov=true", "loss.label_smoothing=0.1"),
        [("optimizer.lr=0.1",), ("scheduler=one_cycle", "lr_policy=layerwise_decay")],
    ),
    "augmented": (("data.augment=basic",), [("seed=0",), ("seed=1",), ("seed=0",)]),
}  # fmt: skip


@pytest.mark.parametrize("pack", PACKS)
def test_every_member_ends_where_its_own_run_ends(make: Make, pack: str) -> None:
    common, members = PACKS[pack]
    stacked, alone = ([make(*common, *own) for own in members] for _ in range(2))
    assert [probe(trainer) for trainer in stacked] == [None] * len(stacked)
    assert run_stacked(stacked) == [None] * len(stacked)
    run_alone(alone)
    for one, other in zip(stacked, alone, strict=True):
        assert one.step == other.step == len(other.experiment.schedule)
        assert farthest(one, other) <= 1e-9  # running statistics and batch counts included
        assert_same_rows(other, one, 1e-6)  # losses are taken in float64, logits of one rounding
        assert one.frozen.as_dict()["identical"]


def test_early_steps_in_float32_are_those_of_the_run_of_its_own(make: Make) -> None:
    members = [("optimizer.lr=0.05",), ("seed=1",), ("scheduler=cosine", "optimizer.momentum=0")]
    short = ("trainer.max_steps=5", "loss.class_weights=balanced")
    stacked, alone = (
        [make(*short, *own, dtype=torch.float32) for own in members] for _ in range(2)
    )
    run_stacked(stacked)
    run_alone(alone)
    for one, other in zip(stacked, alone, strict=True):
        assert farthest(one, other) <= 1e-5


def test_neither_order_nor_company_moves_a_member(make: Make) -> None:
    members = [(f"optimizer.lr={lr}", f"seed={seed}") for lr in (0.02, 0.1) for seed in (0, 1)]
    forth, back = ([make(*own) for own in members] for _ in range(2))
    run_stacked(forth)
    run_stacked(back[::-1])
    pair = [make(*members[2]), make("optimizer.lr=0.3")]
    run_stacked(pair)
    for one, other in zip(forth, back, strict=True):
        assert farthest(one, other) <= 1e-12
    assert farthest(pair[0], forth[2]) <= 1e-12


@pytest.mark.parametrize("lr", ["1e6", "1e200"])
def test_a_diverging_member_does_not_touch_the_others(make: Make, lr: str) -> None:
    epochs = ("trainer.epochs=3",)
    rates = ["0.05", lr, "0.1"]
    stacked, alone = ([make(*epochs, f"optimizer.lr={r}") for r in rates] for _ in range(2))
    run_stacked(stacked)
    run_alone(alone)
    assert (
        [t.diverged for t in stacked]
        == [t.diverged for t in alone]
        == [False, lr == "1e200", False]
    )
    assert [len(t.rows) for t in stacked] == [len(t.rows) for t in alone]
    for k in (0, 2):
        assert farthest(stacked[k], alone[k]) <= 1e-9
        assert_same_rows(alone[k], stacked[k], 1e-6)
    if lr == "1e200":
        assert_same_rows(alone[1], stacked[1], 1e-6)


def test_patience_ends_members_one_by_one(make: Make) -> None:
    common = ("trainer.epochs=8", "trainer.limit_train_batches=4", "optimizer.lr=0.3")
    members = [("trainer.patience=1",), (), ("trainer.patience=2",), ("optimizer.momentum=0",)]
    stacked, alone = ([make(*common, *own) for own in members] for _ in range(2))
    run_stacked(stacked)
    run_alone(alone)
    lengths = [len(t.rows) for t in stacked]
    assert lengths == [len(t.rows) for t in alone]
    assert lengths[0] < lengths[2] < lengths[1] == lengths[3] == 8
    for one, other in zip(stacked, alone, strict=True):
        assert farthest(one, other) <= 1e-9
        assert (one.best.epoch, one.diverged) == (other.best.epoch, other.diverged)


def test_states_and_checkpoints_are_those_of_a_run_of_its_own(make: Make, tmp_path: Path) -> None:
    members = [("optimizer.lr=0.1",), ("optimizer.lr=0.02", "seed=1")]
    common = ("optimizer=adam", "lr_policy=gradual_unfreeze", "trainer.epochs=3")
    stacked, alone = ([make(*common, *own) for own in members] for _ in range(2))
    run_stacked(stacked, [tmp_path / f"stacked{k}" for k in range(2)])
    for k, trainer in enumerate(alone):
        trainer.run(Silent(), tmp_path / f"alone{k}")
        for name in ("last", "best"):
            ours, theirs = (
                load_checkpoint(tmp_path / f"{kind}{k}" / f"{name}.pt")
                for kind in ("stacked", "alone")
            )
            assert ours.keys() == theirs.keys()
            assert ours["epoch"] == theirs["epoch"]
            if name == "last":
                assert_states_are_close(ours["optimizer"], theirs["optimizer"])
        size = [
            (tmp_path / f"{kind}{k}" / "last.pt").stat().st_size for kind in ("stacked", "alone")
        ]
        assert size[0] < 1.5 * size[1]
        kept = load_checkpoint(tmp_path / f"stacked{k}" / "last.pt")["model"].values()
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in kept)  # not the whole stack


def assert_states_are_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].keys() == values.keys()
        for key, value in values.items():
            assert torch.allclose(ours[name][key], value, rtol=0, atol=1e-9), (name, key)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_member_goes_on_from_its_state_alone_or_stacked_again(
    make: Make, tmp_path: Path, optimizer: str
) -> None:
    members = [("optimizer.lr=0.01",), ("optimizer.lr=0.002", "seed=1"), ("optimizer.lr=0.02",)]
    common = (f"optimizer={optimizer}", "trainer.epochs=3")

    class Stop:
        def row(self, row: Row) -> None:
            if row["epoch"] == 1:
                shutil.copy(folders[2] / "last.pt", tmp_path / "early.pt")
            if row["epoch"] == 2:
                raise KeyboardInterrupt

    first, whole, alone, again = ([make(*common, *own) for own in members] for _ in range(4))
    folders = [tmp_path / str(k) for k in range(3)]
    with pytest.raises(KeyboardInterrupt):
        StackedTrainer(first).run([Silent(), Silent(), Stop()], folders, [None] * 3)
    run_alone(whole)
    # The third goes on from an earlier state than the others.
    third = load_checkpoint(tmp_path / "early.pt")
    assert third["epoch"] == 1
    states = [load_checkpoint(folders[k] / "last.pt") for k in range(2)]
    for k, state in enumerate(states):
        assert state["epoch"] == 2
        alone[k].load_state(copy.deepcopy(state))
        again[k].load_state(copy.deepcopy(state))
    alone[2].load_state(third)
    run_alone(alone)
    run_stacked(again[:2])
    for k in range(3):
        assert farthest(alone[k], whole[k]) <= 1e-9
    for k in range(2):
        assert farthest(again[k], whole[k]) <= 1e-9


def test_a_member_that_cannot_record_stops_and_the_others_go_on(make: Make) -> None:
    class Full:
        def row(self, row: Row) -> None:
            raise OSError("no space left")

    trainers = [make(f"optimizer.lr={lr}", "trainer.epochs=3") for lr in (0.01, 0.02, 0.03)]
    failures: list[Exception | None] = [None] * 3
    StackedTrainer(trainers).run([Silent(), Full(), Silent()], [None] * 3, failures)
    assert [str(f) for f in failures] == ["None", "no space left", "None"]
    assert [len(t.rows) for t in trainers] == [3, 1, 3]


def test_members_own_their_memory_in_the_end(make: Make) -> None:
    trainers = [make("seed=0"), make("seed=1")]
    run_stacked(trainers)
    for trainer in trainers:
        model, optimizer = trainer.experiment.model, trainer.experiment.optimizer
        states = [v for values in optimizer.state.values() for v in values.values()]
        for tensor in (*model.parameters(), *model.buffers(), *states):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_no_epochs_evaluates_every_member_in_one_row(make: Make) -> None:
    none = ("trainer.epochs=0",)
    stacked, alone = ([make(*none, f"seed={seed}") for seed in (0, 1)] for _ in range(2))
    run_stacked(stacked)
    run_alone(alone)
    for one, other in zip(stacked, alone, strict=True):
        assert_same_rows(other, one, 1e-9)
        assert one.best.epoch == 0


DIFFERENT = {
    "frozen set": ("lr_policy=freeze_backbone",),
    "what is frozen when": ("lr_policy=gradual_unfreeze",),
    "batch size": ("data.batch_size=8",),
    "steps": ("trainer.epochs=3",),
    "optimizer": ("optimizer=adam",),
    "nesterov": ("optimizer.nesterov=true",),
    "loss": ("loss.label_smoothing=0.1",),
    "class weights": ("loss.class_weights=[1,2,1,1,1,1,1,1,1,1]",),
    "splits": ("data.seed=1",),
    "augmentation": ("data.augment=basic",),
    "data": ("data.limit=500",),
    "stats": ("trainer.stats_every=3",),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_members_that_differ_in_what_they_must_share_are_refused(make: Make, what: str) -> None:
    one, other = make(), make(*DIFFERENT[what])
    assert shared(one) != shared(other)
    with pytest.raises(ValueError, match="must share"):
        StackedTrainer([one, other])


def test_members_in_the_middle_of_an_epoch_train_alone(make: Make) -> None:
    trainers = [make(), make()]
    assert shared(trainers[0]) == shared(trainers[1])
    for trainer in trainers:
        trainer.current = Epoch(0)
    assert shared(trainers[0]) != shared(trainers[1])


def test_what_may_differ_leaves_the_key_as_it_is(make: Make) -> None:
    for common, members in PACKS.values():
        assert len({shared(make(*common, *own)) for own in members}) == 1


class DropNet(NormNet):
    def __init__(self, dtype: torch.dtype):
        super().__init__(dtype)
        self.still = nn.Sequential(nn.Dropout(0.5), self.still)


class Undropped(NormNet):
    def __init__(self, dtype: torch.dtype):
        super().__init__(dtype)
        self.still = nn.Sequential(nn.Dropout(0.0), self.still)


class Branching(NormNet):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits if logits.sum().item() > 0 else -logits


class Scaled(NormNet):
    """Has a setting that neither its shapes nor its description shows."""

    made = 0

    def __init__(self, dtype: torch.dtype):
        super().__init__(dtype)
        Scaled.made += 1
        self.scale = Scaled.made

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(images)


def test_members_that_see_the_same_images_share_them(prepare: Make) -> None:
    from lrexp.grid.stack.trainer import _feeds

    axes = (("seed=0", "optimizer.lr=0.01"), ("seed=0", "optimizer.lr=0.02"), ("seed=1",))
    trainers = [prepare("data.augment=basic", *own) for own in axes]
    splits, _, feed_of = _feeds(trainers)
    assert len(splits) == 2
    assert feed_of is not None
    assert feed_of.tolist() == [0, 0, 1]
    assert _feeds(trainers[:2])[2] is None


def test_networks_that_only_look_alike_are_not_stacked(make: Make) -> None:
    trainers = [make(net=Scaled), make(net=Scaled)]
    with pytest.raises(ValueError, match="one function"):
        StackedTrainer(trainers)


@pytest.mark.parametrize(
    ("net", "overrides", "said"),
    [
        (DropNet, (), "draws random numbers"),
        (DropNet, ("lr_policy=gradual_unfreeze", "trainer.epochs=5"), "draws random numbers"),
        (Branching, (), "cannot be stacked"),
        (NormNet, ("lr_policy=auto_rgn",), "measures its rates"),
        (NormNet, ("optimizer=muon",), "MuonWithAdamW has no stacked step"),
        (NormNet, ("optimizer=nadam",), "NAdam has no stacked step"),
        (
            NormNet,
            ("optimizer=torch", "optimizer.name=Adam", "optimizer.args.amsgrad=true"),
            "amsgrad",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked_is_found_and_said(
    make: Make, net: type[nn.Module], overrides: tuple[str, ...], said: str
) -> None:
    assert said in (probe(make(*overrides, net=net)) or "nothing")


def test_the_average_of_schedule_free_weights_is_not_stacked(make: Make) -> None:
    pytest.importorskip("schedulefree")
    assert "averages weights" in (probe(make("optimizer=schedulefree_sgd")) or "nothing")


@pytest.mark.parametrize("net", [NormNet, Undropped])
@pytest.mark.parametrize("policy", ["uniform", "freeze_backbone", "gradual_unfreeze"])
def test_a_probe_leaves_the_trainer_as_it_was(make: Make, net: Any, policy: str) -> None:
    probed, other = (make(f"lr_policy={policy}", net=net) for _ in range(2))
    assert probe(probed) is None
    run_alone([probed, other])
    assert farthest(probed, other) == 0


@pytest.mark.parametrize(
    "model",
    [
        "simple_cnn",
        "mlp",
        "cifar_resnet model.depth=20",
        "torchvision model.name=shufflenet_v2_x0_5",
    ],
)
def test_our_networks_can_be_stacked(prepare: Make, model: str) -> None:
    assert (
        probe(prepare(f"model={model.split()[0]}", *model.split()[1:], "data.batch_size=8")) is None
    )


def test_dropout_that_stays_off_may_be_stacked(prepare: Make) -> None:
    assert probe(prepare("model=mlp", "model.dropout=0.0")) is None
    assert "random" in (probe(prepare("model=mlp", "model.dropout=0.2")) or "nothing")


def test_memory_of_a_member_grows_with_its_batch_and_its_optimizer(make: Make) -> None:
    plain, large, adam = (
        member_bytes(make(o)) for o in ("seed=0", "data.batch_size=160", "optimizer=adam")
    )
    weights = sum(p.nbytes for p in make("seed=0").experiment.model.parameters())
    assert adam - plain == pytest.approx(weights, rel=0.5)
    assert 8 < large / plain < 12  # of 16 and 160 images, nearly all of it


def test_freed_memory_can_be_kept_where_the_c_library_is_glibc() -> None:
    # It holds for the whole process, in which every grid asks for it.
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.slow
def test_a_grid_of_16_rates_has_the_results_of_16_runs(prepare: Make) -> None:
    rates = [0.005 * 1.3**k for k in range(16)]
    stacked, alone = ([prepare(f"optimizer.lr={lr}") for lr in rates] for _ in range(2))
    run_stacked(stacked)
    run_alone(alone)
    pairs = [(a.rows[-1], b.rows[-1]) for a, b in zip(stacked, alone, strict=True)]
    accuracy = median(abs(a["val/accuracy"] - b["val/accuracy"]) for a, b in pairs)
    loss = median(abs(a["val/loss"] / b["val/loss"] - 1) for a, b in pairs)
    print(f"median differences: accuracy {accuracy:.5f}, loss {loss:.5f}")
    assert accuracy <= 0.005
    assert loss <= 0.02
    assert all(math.isfinite(a["val/loss"]) for a, _ in pairs)
