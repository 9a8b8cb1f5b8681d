"""The loop: what a row holds, the same bits again, resuming, stopping, and real results."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainers import Silent, Watch, trainer_of

from lrexp.build.experiment import build
from lrexp.data import draws
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups
from lrexp.plan.policies.freezing import freeze_backbone
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

Train = Callable[..., Trainer]


@pytest.fixture
def train(prepare: Train) -> Train:
    """A function from overrides to a trainer that is done."""

    def trained(*overrides: str) -> Trainer:
        trainer = prepare(*overrides)
        trainer.run(Silent())
        return trainer

    return trained


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in trainer.experiment.model.state_dict().items()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def exact(rows: list[Row]) -> list[Row]:
    """Rows without what a clock says."""
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


SHORT = ("trainer.epochs=3", "trainer.limit_train_batches=6", "trainer.stats_every=2")
NAMES = ("loss", "accuracy", "balanced_accuracy", "f1_macro", "top5_accuracy")
ALWAYS = {
    "epoch", "step",
    *(f"{split}/{name}" for split in ("train_eval", "val") for name in NAMES),
    "gap/loss", "gap/loss_se", "gap/accuracy", "gap/accuracy_se",
    "gap/loss_chance_se", "gap/accuracy_chance_se", "guessing",
    "overfit/loss", "overfit/loss_se", "overfit/accuracy", "overfit/accuracy_se",
    "drift/conv", "drift/hidden", "drift/head", "perf/epoch_s", "perf/eval_s", "perf/save_s",
}  # fmt: skip
TRAINED = {
    "train/loss", "train/accuracy", "gap/loss_running", "grad_norm", "perf/examples_per_s",
    "perf/steps_s", "lr/conv", "lr/hidden", "lr/head",
    "update_ratio/conv", "update_ratio/hidden", "update_ratio/head",
}  # fmt: skip


def test_a_row_has_the_names_the_design_lists_and_consistent_numbers(train: Train) -> None:
    trainer = train("lr_policy=layerwise_decay", "trainer.epochs=2")
    assert [row["epoch"] for row in trainer.rows] == [1, 2]
    assert [row["step"] for row in trainer.rows] == [68, 136]
    for row in trainer.rows:
        assert set(row) == ALWAYS | TRAINED
        assert all(math.isfinite(value) for value in row.values())
        assert row["gap/loss"] == pytest.approx(row["val/loss"] - row["train_eval/loss"])
        gap = row["train_eval/accuracy"] - row["val/accuracy"]
        assert row["gap/accuracy"] == pytest.approx(gap)
        assert row["gap/loss_running"] == pytest.approx(row["val/loss"] - row["train/loss"])
        assert row["lr/conv"] == pytest.approx(0.05 * 0.75**2)
        assert row["perf/epoch_s"] > 0
        assert row["perf/examples_per_s"] > 1079 / row["perf/epoch_s"]


def test_no_epochs_evaluates_the_model_as_it_is_in_one_row(train: Train) -> None:
    trainer = train("trainer.epochs=0", "lr_policy=layerwise_decay", "scheduler=cosine")
    (row,) = trainer.rows
    assert set(row) == ALWAYS
    assert (row["epoch"], row["step"], row["drift/head"]) == (0, 0, 0.0)
    assert 0.02 < row["val/accuracy"] < 0.3  # chance is 0.1
    assert trainer.best.epoch == 0
    assert not trainer.diverged


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_the_loop_is_the_plain_pytorch_loop(compose: Any, train: Train, schedule: str) -> None:
    overrides = [
        "trainer.epochs=3",
        "optimizer.weight_decay=0.01",
        "lr_policy.decay_bias_norm=true",
    ]
    if schedule == "step":
        overrides += ["scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5"]
    trainer = train(*overrides)

    experiment = build(compose(*overrides))
    model, data = experiment.model, experiment.dataset
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    gamma = 0.5 if schedule == "step" else 1.0
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma)
    for epoch in range(1, 4):
        model.train()
        total = hits = 0.0
        order = torch.from_numpy(draws.order(0, "order", data.train.ids, epoch))
        assert sorted(order.tolist()) == list(range(1079))
        for batch in order.tensor_split(68):  # 59 of 16 images and 9 of 15
            optimizer.zero_grad()
            logits = model(data.train.images[batch])
            loss = nn.functional.cross_entropy(logits, data.train.labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            hits += (logits.argmax(1) == data.train.labels[batch]).sum().item()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            val = nn.functional.cross_entropy(model(data.val.images), data.val.labels).item()
        row = trainer.rows[epoch - 1]
        assert row["train/loss"] == pytest.approx(total / 1079, rel=1e-9)
        assert row["train/accuracy"] == hits / 1079
        assert row["val/loss"] == pytest.approx(val, rel=1e-5)
    assert same_bits(weights(trainer), model.state_dict())


@pytest.mark.parametrize("change", [[], ["seed=1"], ["data.seed=1"]])
def test_equal_seeds_give_equal_bits_and_others_do_not(train: Train, change: list[str]) -> None:
    first = train(*SHORT, "model=mlp", "model.dropout=0.3")
    torch.rand(17)  # whatever happens to the global generator in between
    second = train(*SHORT, "model=mlp", "model.dropout=0.3", *change)
    assert same_bits(weights(first), weights(second)) == (not change)
    assert (exact(first.rows) == exact(second.rows)) == (not change)


def test_measuring_and_evaluating_do_not_move_training(train: Train) -> None:
    overrides = (*SHORT, "model=mlp", "model.dropout=0.3")
    plain = weights(train(*overrides))
    assert same_bits(plain, weights(train(*overrides, "trainer.stats_every=0")))
    assert same_bits(plain, weights(train(*overrides, "trainer.eval_batch_size=7")))
    assert same_bits(plain, weights(train(*overrides, "trainer.train_eval_limit=20")))


class Noise(nn.Module):
    """Notes what the generator gives, as dropout would."""

    def __init__(self, drawn: list[float]):
        super().__init__()
        self._drawn = drawn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._drawn.append(torch.rand(()).item())
        return x.relu()


def test_noise_is_a_function_of_seed_and_step_alone(prepare: Train) -> None:
    def noise(*overrides: str) -> list[float]:
        drawn: list[float] = []
        trainer = prepare(*SHORT, "model=mlp", "model.widths=[8]", *overrides)
        trainer.experiment.model.after = nn.ModuleList([Noise(drawn)])
        trainer.run(Silent())
        return drawn

    drawn = noise()
    assert len(set(drawn)) == len(drawn) == 18  # another draw at every step
    assert noise("data.seed=1", "data.batch_size=7", "optimizer=adam") == drawn
    assert not set(noise("seed=1")) & set(drawn)


def test_dropout_is_on_in_training(train: Train) -> None:
    overrides = ("model=mlp", "trainer.max_steps=1", "data.batch_size=1079")
    with_dropout, without = train(*overrides, "model.dropout=0.5"), train(*overrides)
    assert with_dropout.rows[0]["train/loss"] != without.rows[0]["train/loss"]


RESUMED = {
    "sgd": ["scheduler=cosine", "scheduler.warmup=0.2"],
    "adam": ["lr_policy=layerwise_decay", "trainer.clip_grad_norm=0.5"],
    "adamw": ["scheduler=step", "scheduler.step_size=1", "loss.label_smoothing=0.1"],
    "rmsprop": ["optimizer.momentum=0.5", "lr_policy=freeze_backbone"],
}


@pytest.mark.parametrize("optimizer", RESUMED)
@pytest.mark.parametrize("through", ["memory", "file"])
def test_going_on_from_a_state_gives_the_bits_of_going_through(
    prepare: Train, tmp_path: Path, optimizer: str, through: str
) -> None:
    overrides = (
        "model=mlp", "model.dropout=0.2", f"optimizer={optimizer}", "trainer.epochs=4",
        "trainer.limit_train_batches=5", "trainer.stats_every=2", *RESUMED[optimizer],
    )  # fmt: skip
    whole = prepare(*overrides)
    kept: dict[str, Any] = {}

    def keep(row: Row) -> None:
        if row["epoch"] == 2:
            if through == "file":
                save_checkpoint(tmp_path / "last.pt", whole.state())
            else:
                kept.update(copy.deepcopy(whole.state()))

    whole.run(Watch(keep))
    resumed = prepare(*overrides)
    resumed.load_state(load_checkpoint(tmp_path / "last.pt") if through == "file" else kept)
    assert (resumed.epoch, resumed.step, len(resumed.rows)) == (2, 10, 2)
    resumed.run(Silent())
    assert same_bits(weights(resumed), weights(whole))
    assert exact(resumed.rows) == exact(whole.rows)
    assert resumed.best.epoch == whole.best.epoch
    assert resumed.frozen.as_dict() == whole.frozen.as_dict()
    # The states agree too, momentum buffers and step counts included.
    one, other = resumed.state()["optimizer"], whole.state()["optimizer"]
    assert one.keys() == other.keys()
    for name, values in one.items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name][key]))


def test_a_resumed_run_needs_its_optimizer_state(prepare: Train) -> None:
    # The test above can fail: without the momentum, the bits differ.
    whole = prepare(*SHORT)
    states: list[dict[str, Any]] = []
    whole.run(Watch(lambda row: states.append(copy.deepcopy(whole.state()))))
    resumed = prepare(*SHORT)
    resumed.load_state({**states[0], "optimizer": {}})
    resumed.run(Silent())
    assert not same_bits(weights(resumed), weights(whole))


def test_the_proof_of_a_resumed_run_starts_where_the_first_one_did(prepare: Train) -> None:
    whole = prepare(*SHORT, "lr_policy=freeze_backbone")
    whole.run(Silent())
    resumed = prepare(*SHORT, "lr_policy=freeze_backbone")
    resumed.load_state({**whole.state(), "frozen_before": "hash of then"})
    assert resumed.frozen.as_dict()["before"] == "hash of then"
    assert not resumed.frozen.as_dict()["identical"]


def test_a_finished_run_has_nothing_to_go_on_with(train: Train, prepare: Train) -> None:
    done = train(*SHORT)
    again = prepare(*SHORT)
    again.load_state(done.state())
    again.run(Silent())
    assert exact(again.rows) == exact(done.rows)


class NormNet(nn.Module):
    """A backbone with BatchNorm and dropout under a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(4))
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(images))).flatten(1))


def test_frozen_backbone_and_its_batchnorm_are_bit_identical_after_training(compose: Any) -> None:
    config = compose(*SHORT, "optimizer.weight_decay=0.1", "trainer.clip_grad_norm=1")
    built = build(config)
    torch.manual_seed(0)
    model = NormNet()
    layers = layer_map(model, "head")
    plan = freeze_backbone(layers, 0.05, 0.1, decay_bias_norm=True)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.05), momentum=0.9)
    experiment = replace(built, model=model, layers=layers, plan=plan, optimizer=optimizer)
    trainer = trainer_of(config, experiment)
    before = weights(trainer)
    trainer.run(Silent())
    after = weights(trainer)
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("head.")), name
    proof = trainer.frozen.as_dict()
    assert proof["identical"] is True
    assert proof["before"] == proof["after"]
    assert proof["tensors"] == len(before) - 2
    assert trainer.rows[-1]["drift/conv"] == 0.0
    assert trainer.rows[-1]["drift/head_decay"] > 0
    assert "lr/conv" not in trainer.rows[-1]
    # The proof notices a single buffer.
    model.norm.running_mean[0] += 1e-6
    assert trainer.frozen.as_dict()["identical"] is False


def test_nothing_frozen_is_proven_over_nothing(train: Train) -> None:
    proof = train(*SHORT).frozen.as_dict()
    assert proof["tensors"] == 0
    assert proof["identical"] is True


@pytest.mark.parametrize("lr", ["1e4", "1e30"])
def test_divergence_stops_training_and_is_flagged(train: Train, lr: str) -> None:
    trainer = train(f"optimizer.lr={lr}", "trainer.epochs=50")
    assert trainer.diverged
    assert len(trainer.rows) == trainer.epoch < 50
    last = trainer.rows[-1]
    assert not all(math.isfinite(last[k]) for k in ("train/loss", "train_eval/loss", "val/loss"))
    assert trainer.best.epoch < trainer.epoch  # a diverged epoch is never the best


def test_patience_counts_epochs_without_a_better_value(train: Train) -> None:
    # At a rate of next to nothing accuracy never gets better than after the first epoch.
    still = ("optimizer.lr=1e-12", "trainer.limit_train_batches=2", "trainer.monitor=val/accuracy")
    trainer = train(*still, "trainer.patience=3", "trainer.epochs=9")
    assert [row["epoch"] for row in trainer.rows] == [1, 2, 3, 4]
    assert len({row["val/accuracy"] for row in trainer.rows}) == 1
    assert trainer.best.epoch == 1
    assert not trainer.diverged
    assert len(train(*still, "trainer.epochs=6").rows) == 6


def test_a_run_that_collapsed_ends_where_that_is_asked_for(train: Train) -> None:
    thrown = ("model=mlp", "optimizer.lr=1", "trainer.epochs=9")
    stopped = train(*thrown, "trainer.stop_on=[collapsed]")
    assert 3 <= len(stopped.rows) < 9
    assert [row["guessing"] for row in stopped.rows[-2:]] == [1, 1]
    assert stopped.stopped_by == "collapsed"
    assert not stopped.goes_on
    stopped.settings.stop_on.clear()
    assert stopped.goes_on
    assert not stopped.stopped_by


@pytest.mark.parametrize(("monitor", "pick"), [("val/loss", min), ("val/accuracy", max)])
def test_best_is_the_best_epoch_by_the_monitor_and_the_earliest_on_ties(
    prepare: Train, tmp_path: Path, monitor: str, pick: Callable[..., float]
) -> None:
    trainer = prepare("trainer.epochs=6", f"trainer.monitor={monitor}", "data.limit=200")
    seen: list[dict[str, torch.Tensor]] = []
    trainer.run(Watch(lambda row: seen.append(weights(trainer))), tmp_path)
    values = [row[monitor] for row in trainer.rows]
    assert trainer.best.epoch == values.index(pick(values)) + 1
    assert trainer.best.value == pick(values)
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["epoch"] == trainer.best.epoch
    assert same_bits(best["model"], seen[trainer.best.epoch - 1])
    last = load_checkpoint(tmp_path / "last.pt")
    assert same_bits(last["model"], weights(trainer))
    assert last["epoch"] == 6


def test_max_steps_ends_training_within_an_epoch(train: Train) -> None:
    trainer = train("trainer.max_steps=100", "trainer.epochs=15")
    assert [row["step"] for row in trainer.rows] == [68, 100]
    assert [row["epoch"] for row in trainer.rows] == [1, 2]


def test_limit_train_batches_shortens_every_epoch(train: Train) -> None:
    trainer = train("trainer.limit_train_batches=5", "trainer.epochs=3")
    assert [row["step"] for row in trainer.rows] == [5, 10, 15]


def test_every_epoch_takes_every_image_once_in_another_order(prepare: Train) -> None:
    trainer = prepare()
    epochs = []
    for trainer.epoch in (1, 2):
        batches, train = trainer.batches(), trainer.experiment.dataset.train
        assert [len(x) for x, _ in train.batches(batches)] == [16] * 59 + [15] * 9
        epochs.append(np.concatenate(batches).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1079))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("policy", ["uniform", "freeze_backbone"])
def test_clipping_limits_the_norm_over_what_trains(prepare: Train, policy: str) -> None:
    overrides = (
        f"lr_policy={policy}", "optimizer.momentum=0", "optimizer.lr=1", "trainer.max_steps=1",
        "trainer.stats_every=1",
    )  # fmt: skip
    moved = {}
    for clip in ("null", "0.01"):
        trainer = prepare(*overrides, f"trainer.clip_grad_norm={clip}")
        before = weights(trainer)
        trainer.run(Silent())
        steps = [(tensor - before[n]).norm() for n, tensor in weights(trainer).items()]
        moved[clip] = (torch.stack(steps).norm().item(), trainer.rows[0]["grad_norm"])
    assert moved["0.01"][0] == pytest.approx(0.01, rel=1e-3)
    assert moved["null"][0] > 0.05
    assert moved["null"][0] == pytest.approx(moved["null"][1], rel=1e-3)
    assert moved["0.01"][1] == moved["null"][1]  # the row has the norm before clipping


def test_stats_every_0_measures_nothing(train: Train) -> None:
    row = train(*SHORT, "trainer.stats_every=0").rows[-1]
    assert not [name for name in row if re.match("update_ratio/|grad_norm", name)]


def test_smoothing_and_weights_change_the_optimised_loss_and_not_the_evaluation(
    train: Train,
) -> None:
    plain = train(*SHORT, "optimizer.lr=1e-12")
    smooth = train(*SHORT, "optimizer.lr=1e-12", "loss.label_smoothing=0.5")
    assert smooth.rows[0]["train/loss"] != plain.rows[0]["train/loss"]
    assert smooth.rows[0]["val/loss"] == pytest.approx(plain.rows[0]["val/loss"], abs=1e-9)


@pytest.mark.slow
def test_the_default_run_reaches_96_percent_of_validation_over_5_seeds(train: Train) -> None:
    best = []
    for seed in range(5):
        trainer = train(f"seed={seed}")
        best.append(max(row["val/accuracy"] for row in trainer.rows))
        assert trainer.rows[-1]["epoch"] == 15
    assert mean(best) >= 0.96, best


def test_finetuning_every_layer_beats_a_frozen_backbone_by_a_wide_margin(train: Train) -> None:
    accuracy = {
        policy: mean(
            max(
                row["val/accuracy"]
                for row in train(
                    "experiment=finetune_digits", f"lr_policy={policy}", f"seed={seed}"
                ).rows
            )
            for seed in range(2)
        )
        for policy in ("uniform", "layerwise_decay", "freeze_backbone")
    }
    assert accuracy["uniform"] > accuracy["freeze_backbone"] + 0.05, accuracy
    assert accuracy["layerwise_decay"] > accuracy["freeze_backbone"] + 0.05, accuracy
    assert accuracy["freeze_backbone"] > 0.5, accuracy  # 0.2 is chance: the features do help


def test_finetuning_starts_from_the_shipped_backbone_and_a_fresh_head(prepare: Train) -> None:
    trainer = prepare("experiment=finetune_digits", "lr_policy=freeze_backbone")
    rows = {row.name: row for row in trainer.experiment.plan.rows}
    assert {name: row.source for name, row in rows.items()} == {
        "conv.weight": "loaded",
        "conv.bias": "loaded",
        "hidden.weight": "loaded",
        "hidden.bias": "loaded",
        "head.weight": "fresh",
        "head.bias": "fresh",
    }
    data = trainer.experiment.dataset
    assert data.class_names == ("5", "6", "7", "8", "9")
    assert np.bincount(data.train.labels.numpy()).sum() == 100
