"""A frozen backbone is computed once: to the numbers of a run that computes it at every step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainers import Silent, Watch, trainer_of

from lrexp.build.experiment import build
from lrexp.build.rates import build_plan
from lrexp.build.schedule import count_steps
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups, tensor_hash
from lrexp.train import features
from lrexp.train.feature_store import FeatureStore, NotCachedError
from lrexp.train.features import around_head, logits_of, reaching
from lrexp.train.loop import Trainer
from lrexp.train.measure import logits_of as logits_on_images

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 4
SHORT = (
    f"trainer.epochs={EPOCHS}",
    "trainer.stats_every=2",
    "data.limit=100",
    "data.batch_size=16",
)


class Net(nn.Module):
    """Convolutions with BatchNorm and dropout under a head that drops, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.3)
        self.mid = nn.Conv2d(3, 3, 3)
        self.still = nn.BatchNorm2d(3, affine=False)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(3 * 16, 10))

    def below(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.drop(self.norm(self.conv(images)).relu())
        return self.still(self.mid(x)).relu().flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.below(images))


Make = Callable[..., Trainer]


@pytest.fixture
def make(compose: Any) -> Make:
    """A function from overrides to a trainer of a network that has not trained yet."""
    built: dict[tuple[str, ...], Any] = {}

    def made(
        *overrides: str,
        store: FeatureStore | None = None,
        network: Callable[[], nn.Module] = Net,
        head: str = "head",
    ) -> Trainer:
        if overrides not in built:
            config = compose("trainer.device=cpu", "data.leak_check=skip", *SHORT, *overrides)
            built[overrides] = config, build(config)
        config, experiment = built[overrides]
        torch.manual_seed(0)
        model = network()
        layers = layer_map(model, head)
        plan = build_plan(config, layers, count_steps(config, len(experiment.dataset.train)))
        optimizer = torch.optim.AdamW(param_groups(model, plan, config.optimizer.lr))
        fresh = replace(experiment, model=model, layers=layers, plan=plan, optimizer=optimizer)
        trainer = trainer_of(config, fresh)
        trainer.features = store
        return trainer

    return made


def numbers(rows: list[Row]) -> list[Row]:
    """Rows without what a clock says."""
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def same(one: Trainer, other: Trainer) -> None:
    """The same rows and weights, to the bit."""
    assert numbers(one.rows) == numbers(other.rows)
    found, expected = (trainer.experiment.model.state_dict() for trainer in (one, other))
    assert tensor_hash(found) == tensor_hash(expected)


def cached(trainer: Trainer) -> list[bool]:
    """Train to the end; of every epoch whether it was on features."""
    found: list[bool] = []
    trainer.run(Watch(lambda row: found.append(trainer.cached is not None)))
    return found


POLICIES = {
    "freeze_backbone": ((), [True] * 4),
    "lp_ft": (("lr_policy.head_epochs=2",), [True, True, False, False]),
    "gradual_unfreeze": (("lr_policy.every=2",), [True, True, False, False]),
    "freezeout": (("lr_policy.t_0=0.5",), [False, False, True, True]),
    "uniform": ((), [False] * 4),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cached_run_has_the_bits_of_one_that_computes_all(make: Make, policy: str) -> None:
    settings, expected = POLICIES[policy]
    store, chosen = FeatureStore(), (f"lr_policy={policy}", *settings)
    kept, plain = make(*chosen, store=store), make(*chosen)
    assert cached(kept) == expected
    plain.run(Silent())
    same(kept, plain)
    calls = [trainer.experiment.model.calls for trainer in (kept, plain)]
    assert (calls[0] < calls[1]) == any(expected)
    assert kept.frozen.as_dict() == plain.frozen.as_dict()
    for split in (kept.experiment.dataset.val, kept.experiment.dataset.test):
        said = logits_of(kept, split)
        assert torch.equal(said, logits_on_images(plain.experiment.model, split, 512))


class Around(Net):
    """A network that does something else, as `how` says."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.generator = torch.Generator().manual_seed(0)
        self.bare = nn.BatchNorm2d(1, affine=False, track_running_stats=False)
        self.other = copy.deepcopy(self.head) if how == "a second head" else None
        if how == "a tied tensor":
            self.late = nn.Linear(10, 48)
            self.late.weight = nn.Parameter(torch.rand(48, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        match self.how:
            case "clamps":
                return self.head(self.below(images)).clamp_(-100, 100)
            case "is called twice":
                return (self.head(self.below(images)) + self.head(self.below(images))) / 2
            case "leaves it out":
                return self.below(images)[:, :10] + 0 * self.head[1].weight.sum()
            case "draws":
                x = nn.functional.dropout(self.below(images), 0.1, self.training)
                return self.head(x)
            case "draws for itself":
                return self.head(self.below(images) * torch.rand(1, generator=self.generator))
            case "mixes images":
                return self.head(self.below(self.bare(images)))
            case "skips":
                return self.head(self.below(images)) + images.mean()
            case "folds images":
                return self.head(self.below(images).view(-1, 24).view(-1, 48)[None])[0]
        raise AssertionError(self.how)


REFUSED = {
    "clamps": "does something with what head makes",
    "is called twice": "called 2 times",
    "leaves it out": "takes no part|called 0 times",
    "draws": "draws random numbers",
    "draws for itself": "something else of the same images",
    "mixes images": "depends on its batch",
    "skips": "does something with what head makes",
    "folds images": "not a row of it per image",
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_network_that_is_more_than_its_head_is_computed_at_every_step(
    make: Make, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO)
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore(), network=lambda: Around(how))
    trainer.choose_fed()
    assert trainer.cached is None
    said = [r.getMessage() for r in caplog.records if "not cached" in r.getMessage()]
    assert len(said) == 1
    import re

    assert re.search(REFUSED[how], said[0]), said


SETTINGS = {
    "lr_policy.bn_stats=live": "moves statistics",
    "lr_policy.frozen_dropout=true": "draws random numbers",
    "data.augment=basic": "augmentation",
    "trainer.limit_train_batches=1": "would not pay",
    "trainer.channels_last=true": "trainer.channels_last=true",
    "trainer.cache_features=never": "",
    "lr_policy.train_norm=true": "",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_change_what_the_frozen_part_makes(
    make: Make, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    caplog.set_level(logging.INFO)
    trainer = make("lr_policy=freeze_backbone", setting, store=FeatureStore())
    trainer.choose_fed()
    said = [r.getMessage() for r in caplog.records if "not cached" in r.getMessage()]
    assert trainer.cached is None
    assert len(said) == bool(SETTINGS[setting])
    assert all(SETTINGS[setting] in line for line in said)
