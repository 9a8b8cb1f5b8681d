"""From config to live objects: losses, devices, models, warnings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lrexp.build.data import build_dataset
from lrexp.build.experiment import build, choose_device
from lrexp.build.loss import build_loss
from lrexp.build.schedule import Steps, count_steps
from lrexp.config.errors import ConfigError
from lrexp.data.draws import cut
from lrexp.models.weights import save_weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 2, 9, 5])
    return torch.randn(6, 10, generator=generator, dtype=torch.float64).float(), labels


def test_balanced_weights_are_n_over_classes_times_count(compose: Any) -> None:
    config = compose("loss.class_weights=balanced", "data.limit=100", "data.classes=[3,7,9]")
    dataset = build_dataset(config, CPU)
    counts = np.bincount(dataset.train.labels.numpy())
    weights = 100 / (3 * counts)
    scores = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, 0.5]])
    log_p = scores.log_softmax(1).double().numpy()
    expected = -(weights[0] * log_p[0, 0] + weights[2] * log_p[1, 2]) / (weights[0] + weights[2])
    loss = build_loss(config, dataset, CPU)(scores, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # Balanced means that every class weighs the same in the training set as a whole.
    assert weights * counts == pytest.approx([100 / 3] * 3)


def test_balanced_weights_need_every_class(compose: Any) -> None:
    config = compose("loss.class_weights=balanced", "data.limit=5")
    with pytest.raises(ConfigError, match=r"loss\.class_weights.*no training image"):
        build_loss(config, build_dataset(config, CPU), CPU)


def test_a_wrong_number_of_class_weights_is_refused(compose: Any) -> None:
    config = compose("loss.class_weights=[1,2,3]")
    with pytest.raises(ConfigError, match="has 3 numbers for 10 classes"):
        build_loss(config, build_dataset(config, CPU), CPU)


def test_given_class_weights_follow_the_order_of_data_classes(compose: Any) -> None:
    config = compose("loss.class_weights=[1,3]", "data.classes=[8,2]")
    loss = build_loss(config, build_dataset(config, CPU), CPU)
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    p = scores.log_softmax(1)[0]
    assert loss(scores, torch.tensor([0, 1])).item() == pytest.approx((-p[0] - 3 * p[1]).item() / 4)


def test_label_smoothing_spreads_its_share_over_all_classes(
    compose: Any, logits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    config = compose("loss.label_smoothing=0.1")
    loss = build_loss(config, build_dataset(config, CPU), CPU)
    scores, labels = logits
    log_p = scores.log_softmax(1)
    plain = -log_p[torch.arange(6), labels]
    expected = (0.9 * plain - 0.1 * log_p.mean(1)).mean()
    assert loss(scores, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() != pytest.approx(plain.mean().item(), rel=1e-3)


def test_the_default_loss_is_plain_cross_entropy(
    compose: Any, logits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    config = compose()
    loss = build_loss(config, build_dataset(config, CPU), CPU)
    assert torch.equal(loss(*logits), F.cross_entropy(*logits))


def test_auto_is_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, best in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=cuda: int(there))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert choose_device("auto").type == best
        assert choose_device("cpu").type == "cpu"


def test_a_device_this_machine_lacks_is_refused_with_those_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ConfigError, match=rf"trainer\.device={name}.*not on this machine") as e:
            choose_device(name)
        assert "here: cpu;" in str(e.value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="cuda:2"):
        choose_device("cuda:2")


def test_frozen_random_features_are_warned_of(compose: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        build(compose("lr_policy=freeze_backbone"))
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 1
    assert "4 of 4 frozen tensors were never loaded" in warned[0]
    assert "conv.weight" in warned[0]
    assert "model.weights" in warned[0]


def test_frozen_loaded_features_are_not_warned_of(compose: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        experiment = build(compose("experiment=finetune_digits", "lr_policy=freeze_backbone"))
    assert not caplog.records
    sources = {row.name: row.source for row in experiment.plan.rows}
    assert sources["conv.weight"] == "loaded"
    assert sources["head.weight"] == "fresh"


def test_freezing_everything_is_refused(compose: Any) -> None:
    config = compose("lr_policy=per_layer", "lr_policy.rules=[{match:'*',frozen:true}]")
    with pytest.raises(ConfigError, match="nothing would train"):
        build(config)


def test_seed_moves_the_initialisation_and_nothing_around_it(compose: Any) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = build(compose("seed=1")).model.state_dict()
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    again = build(compose("seed=1", "data.seed=9")).model.state_dict()
    other = build(compose("seed=2")).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_weights_of_a_user_fill_the_model(compose: Any, tmp_path: Path) -> None:
    donor = build(compose("seed=7"))
    save_weights(donor.model.state_dict(), tmp_path / "w.safetensors", donor.dataset.class_names)
    experiment = build(compose("seed=8", f"model.weights={tmp_path / 'w.safetensors'}"))
    for name, tensor in experiment.model.state_dict().items():
        assert torch.equal(tensor, donor.model.state_dict()[name])
    assert {row.source for row in experiment.plan.rows} == {"loaded"}
    assert experiment.weights_fingerprint is not None


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_optimizer_settings_arrive(compose: Any, optimizer: str) -> None:
    extra = {
        "sgd": ("momentum", "0.5", 0.5),
        "adam": ("betas", "[0.8,0.9]", (0.8, 0.9)),
        "adamw": ("eps", "1e-6", 1e-6),
        "rmsprop": ("alpha", "0.9", 0.9),
    }
    name, written, value = extra[optimizer]
    config = compose(
        f"optimizer={optimizer}", f"optimizer.{name}={written}", "optimizer.lr=0.02",
        "optimizer.weight_decay=0.3",
    )  # fmt: skip
    groups = build(config).optimizer.param_groups
    assert all(group[name] == value for group in groups)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("all_decay", 0.02, 0.3),
        ("all_no_decay", 0.02, 0.0),
    ]


TINY = ("model=torchvision", "model.name=resnet18", "data.image_size=32", "trainer.device=cpu")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.limit=9", "data.batch_size=2"], "data.batch_size=2: makes a batch of one of the 9"),
        (["data.limit=8", "data.batch_size=1"], "data.batch_size=2 or more"),
        (["data.limit=9", "data.batch_size=1"], "data.batch_size=3 or more"),
        (["data.limit=9", "data.batch_size=2", "trainer.limit_train_batches=4"], ""),
        (["data.limit=9", "data.batch_size=2", "trainer.max_steps=4"], ""),
        (["data.limit=9", "data.batch_size=1", "trainer.epochs=0"], ""),
        (["data.limit=9", "data.batch_size=8"], ""),
        (["data.limit=9", "data.batch_size=1", "lr_policy=freeze_backbone"], ""),
        (["data.limit=9", "data.batch_size=1", "lr_policy=lp_ft", "lr_policy.head_epochs=1",
          "lr_policy.bn_stats=follow"], "data.batch_size=3 or more"),  # in epoch 2
        (["data.limit=9", "data.batch_size=2", "data.image_size=64"], ""),  # maps of 2×2
    ],
)  # fmt: skip
def test_a_batch_of_one_that_batchnorm_cannot_learn_from_is_refused_before_training(
    compose: Any, overrides: list[str], said: str
) -> None:
    config = compose(*TINY, *overrides)
    if not said:
        build(config)
        return
    with pytest.raises(ConfigError) as caught:
        build(config)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "per_epoch", "steps"),
    [
        ([], 68, 1020),  # 1079 images in batches of at most 16
        (["data.batch_size=1079"], 1, 15),
        (["trainer.limit_train_batches=10"], 10, 150),
        (["trainer.limit_train_batches=1000"], 68, 1020),
        (["trainer.max_steps=100"], 68, 100),
        (["trainer.max_steps=5000"], 68, 1020),
        (["trainer.epochs=0"], 68, 0),
    ],
)
def test_steps_are_counted_as_the_batches_that_an_epoch_is_cut_into(
    compose: Any, overrides: list[str], per_epoch: int, steps: int
) -> None:
    config = compose(*overrides)
    assert count_steps(config, 1079) == Steps(per_epoch, steps)
    batches = cut(np.arange(1079), config.data.batch_size)
    assert per_epoch == len(batches[: config.trainer.limit_train_batches])
