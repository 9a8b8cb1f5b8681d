"""A frozen backbone is computed once: to the numbers of a run that computes it at every step."""

from __future__ import annotations

import copy
import logging
import pickle
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from torch import nn
from trainers import Silent, Watch, trainer_of

from lrexp.build.experiment import build
from lrexp.build.rates import build_plan
from lrexp.build.schedule import count_steps
from lrexp.config.errors import UserError
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups, tensor_hash
from lrexp.train import cutting, feature_store, features
from lrexp.train.feature_store import FeatureStore
from lrexp.train.features import around_head, logits_of
from lrexp.train.loop import Trainer
from lrexp.train.measure import logits_of as logits_on_images
from lrexp.train.state import PUT_OFF_S, save_last, write_put_off

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
        optimizer: Callable[[Any], Any] = torch.optim.AdamW,
    ) -> Trainer:
        if overrides not in built:
            config = compose("trainer.device=cpu", "data.leak_check=skip", *SHORT, *overrides)
            built[overrides] = config, build(config)
        config, experiment = built[overrides]
        torch.manual_seed(0)
        model = network()
        if experiment.computing.channels_last:  # as it is built
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        layers = layer_map(model, head)
        plan = build_plan(config, layers, count_steps(config, len(experiment.dataset.train)))
        steps = optimizer(param_groups(model, plan, config.optimizer.lr))
        fresh = replace(experiment, model=model, layers=layers, plan=plan, optimizer=steps)
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
    same_weights(one, other)


def same_weights(one: Trainer, other: Trainer) -> None:
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


class Tall(Net):
    """What the head gets has height and width: it drops, in the order of memory, and pools."""

    def __init__(self) -> None:
        super().__init__()
        own = nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Sequential(nn.Dropout(0.2), *own, nn.Linear(5, 10))

    def below(self, images: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(images)).relu())
        return self.still(self.mid(x)).relu()


COMPUTED = {
    "bf16": ("trainer.precision=bf16",),
    "fp16": ("trainer.precision=fp16",),
    "channels_last": ("trainer.channels_last=true",),
    "both": ("trainer.precision=bf16", "trainer.channels_last=true"),
}


@pytest.mark.parametrize(
    ("how", "policy", "network"),
    [
        *((how, "freeze_backbone", Net) for how in COMPUTED),
        *(("both", policy, Tall) for policy in ("freeze_backbone", "gradual_unfreeze")),
        ("channels_last", "lp_ft", Tall),
    ],
)
def test_in_fewer_bits_and_another_layout_a_cached_run_has_the_bits_of_one_that_computes_all(
    make: Make, how: str, policy: str, network: Callable[[], nn.Module]
) -> None:
    settings, expected = POLICIES[policy]
    chosen = (f"lr_policy={policy}", *settings, *COMPUTED[how])
    kept, plain = (
        make(*chosen, store=FeatureStore(), network=network),
        make(*chosen, network=network),
    )
    assert cached(kept) == expected
    plain.run(Silent())
    same(kept, plain)


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


@pytest.mark.parametrize(
    ("how", "precision"),
    [*((how, "fp32") for how in REFUSED), ("clamps", "bf16"), ("mixes images", "bf16")],
)
def test_a_network_that_is_more_than_its_head_is_computed_at_every_step(
    make: Make, caplog: pytest.LogCaptureFixture, how: str, precision: str
) -> None:
    caplog.set_level(logging.INFO)
    chosen = "lr_policy=freeze_backbone", f"trainer.precision={precision}"
    trainer = make(*chosen, store=FeatureStore(), network=lambda: Around(how))
    trainer.choose_fed()
    assert trainer.cached is None
    said = [r.getMessage() for r in caplog.records if "not cached" in r.getMessage()]
    assert len(said) == 1
    assert re.search(REFUSED[how], said[0]), said


SETTINGS = {
    "lr_policy.bn_stats=live": "moves statistics",
    "lr_policy.frozen_dropout=true": "draws random numbers",
    "data.augment=basic": "augmentation",
    "trainer.limit_train_batches=1": "would not pay",
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


def test_a_head_is_not_compiled_and_a_whole_network_is(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(module))
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    chosen = "lr_policy=lp_ft", *POLICIES["lp_ft"][0], "trainer.compile=aot_eager"
    trainer, so_far = make(*chosen, store=FeatureStore()), []
    trainer.run(Watch(lambda row: so_far.append(len(compiled))))
    assert so_far == [0, 0, 1, 2]
    assert compiled == [trainer.experiment.model] * 2
    (said,) = (r.getMessage() for r in caplog.records if "are cached" in r.getMessage())
    assert said == (
        "features are cached: head trains on what it gets of every image, and is not compiled"
    )


def test_steps_that_are_recorded_are_those_of_the_whole_network(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore())
    recorded = replace(trainer.experiment.computing, cuda_graph=True)
    trainer.experiment = replace(trainer.experiment, computing=recorded)
    trainer.choose_fed()
    assert trainer.cached is None
    assert "trainer.cuda_graph=true records" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_a_gpu_sums_in_another_order_is_the_same_and_nothing_else(dtype: torch.dtype) -> None:
    """To a few of the last bits that there are, of the largest value where values cancel."""
    values = torch.linspace(-3, 3, 101).to(dtype)
    bit = torch.finfo(dtype).eps
    assert cutting.alike(values, values * (1 + bit))
    assert cutting.alike(values, values + bit)
    assert not cutting.alike(values, values * 1.1)
    assert not cutting.alike(values, values.roll(5))
    assert cutting.alike(values / 0, values / 0)


def test_a_head_that_drops_first_is_cut_before_it_drops(make: Make) -> None:
    """The head is the linear layer; what it gets is drawn anew at every step."""
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore(), head="head.1")
    assert around_head(trainer.experiment.plan, ["head.1.bias"]) == ["head.1", "head"]
    assert around_head(trainer.experiment.plan, ["head.1.bias", "mid.bias"]) == []
    trainer.choose_fed()
    assert trainer.fed.cut == "head"


def test_images_that_are_no_numbers_are_found_by_training_on_them(make: Make) -> None:
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore())
    train = trainer.experiment.dataset.train

    def normalize(images: torch.Tensor) -> torch.Tensor:
        return torch.where(images.sum((1, 2, 3), keepdim=True) > 350, torch.nan, images)

    data = replace(trainer.experiment.dataset, train=replace(train, normalize=normalize))
    trainer.experiment = replace(trainer.experiment, dataset=data)
    with pytest.raises(UserError, match="images are not finite numbers"):
        trainer.run(Silent())
    assert trainer.cached is None


@pytest.mark.parametrize(
    ("policy", "computed"),
    [("freeze_backbone", ()), ("lp_ft", ()), ("lp_ft", COMPUTED["both"])],
)
def test_a_run_goes_on_from_the_middle_of_a_cached_epoch(
    make: Make, tmp_path: Path, policy: str, computed: tuple[str, ...]
) -> None:
    chosen = (f"lr_policy={policy}", *POLICIES[policy][0], "trainer.checkpoint_every_steps=10")
    chosen += computed
    whole, first, rest = make(*chosen), *(make(*chosen, store=FeatureStore()) for _ in range(2))
    whole.run(Silent())
    (tmp_path / "run").mkdir()
    first.train_epoch()
    first.end_epoch(*evaluated(first), 0.0, Silent(), None)
    first.train_epoch(tmp_path / "run", watch=lambda loss: first.step == 10)
    assert first.cached is not None
    rest.load_state(load_checkpoint(tmp_path / "run" / "last.pt"))
    assert rest.current is not None
    rest.run(Silent())
    assert numbers(rest.rows)[1:] == numbers(whole.rows)[1:]
    same_weights(rest, whole)


def evaluated(trainer: Trainer) -> tuple[Row, Any, Any]:
    """What `end_epoch` takes of the epoch that was trained last."""
    assert trainer.current is not None
    splits = trainer.fed.train_eval, trainer.fed.val
    return trainer.current.seen or {}, *(trainer._evaluated(split) for split in splits)


@pytest.mark.parametrize("computed", [(), ("trainer.ema=0.9", *COMPUTED["both"])])
def test_a_batch_of_several_parts_and_an_average_are_trained_on_features(
    make: Make, computed: tuple[str, ...]
) -> None:
    """The average is schedule-free's, or that of trainer.ema."""
    chosen, averaging = ("lr_policy=freeze_backbone", "trainer.accumulate=2", *computed), {}
    if not computed:
        averaging = {"optimizer": lambda groups: schedulefree.AdamWScheduleFree(groups, lr=0.01)}
    kept = make(*chosen, store=FeatureStore(), **averaging)
    plain = make(*chosen, **averaging)
    assert all(cached(kept))
    plain.run(Silent())
    same(kept, plain)


@pytest.mark.parametrize("policy", ["freeze_backbone", "lp_ft", "gradual_unfreeze"])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_members_of_a_stack_train_their_heads_on_features(
    make: Make, policy: str, seeds: tuple[int, int]
) -> None:
    chosen = (f"lr_policy={policy}", *POLICIES[policy][0])
    store = FeatureStore(shared=True)

    def members(own: FeatureStore | None) -> list[Trainer]:
        found = []
        for k, seed in enumerate(seeds):
            trainer = make(*chosen, f"optimizer.lr={0.01 * (k + 1)}", store=own, network=Still)
            trainer.seed = seed
            with torch.no_grad():
                trainer.experiment.model.head.weight.mul_(1 + k)
            found.append(trainer)
        return found

    kept, plain = members(store), members(None)
    on_features: list[bool] = []
    watch = Watch(lambda row: on_features.append(kept[0].cached is not None))
    StackedTrainer(kept).run([watch, Silent()], [None] * 2, [None] * 2)
    StackedTrainer(plain).run([Silent()] * 2, [None] * 2, [None] * 2)
    assert on_features == POLICIES[policy][1]
    assert store.computed == 3  # train, train_eval and val, by one for all
    for one, other in zip(kept, plain, strict=True):  # a stacked convolution rounds otherwise
        for row, expected in zip(numbers(one.rows), numbers(other.rows), strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)


class Still(Net):
    """A network that a stack takes: nothing draws, and no gradient is 0 but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid = (nn.Conv2d(i, 3, 3, bias=False) for i in (1, 3))
        self.drop = nn.Identity()
        self.head = nn.Linear(48, 10)


def test_members_of_other_backbones_train_on_images(make: Make) -> None:
    store = FeatureStore(shared=True)
    pair = [make("lr_policy=freeze_backbone", store=store, network=Still) for _ in range(2)]
    with torch.no_grad():
        pair[1].experiment.model.conv.weight.mul_(2)
    StackedTrainer(pair).train_epoch()
    assert [trainer.cached for trainer in pair] == [None, None]


def test_runs_that_share_a_backbone_share_what_it_makes(make: Make) -> None:
    """Whatever their rates and seeds; of other tensors, images or batches it is computed anew."""
    store = FeatureStore(shared=True)

    def computed(*overrides: str, times: float = 1.0) -> int:
        before = store.computed
        trainer = make("lr_policy=freeze_backbone", *overrides, store=store)
        with torch.no_grad():
            trainer.experiment.model.conv.weight.mul_(times)
        trainer.choose_fed()
        assert trainer.cached is not None
        return store.computed - before

    assert computed() == 3
    assert computed("optimizer.lr=1.0", "seed=5") == 0
    assert computed(times=2.0) == 3
    assert computed("data.seed=1") == 3
    assert computed("data.mean=[0.5]") == 3
    assert computed("trainer.eval_batch_size=7") == 2
    assert computed("trainer.precision=bf16") == 3
    assert computed("trainer.channels_last=true") == 3
    assert computed() == 0


def test_another_network_of_the_same_tensors_is_found_out(make: Make) -> None:
    store = FeatureStore(shared=True)
    first, second = (make("lr_policy=freeze_backbone", store=store) for _ in range(2))
    first.choose_fed()
    model: Any = second.experiment.model
    below = model.below
    model.below = lambda images: below(images) * 2  # nothing that its form shows
    second.choose_fed()
    assert first.cached is not None
    assert second.cached is None


def test_features_too_large_for_memory_are_mapped_from_a_file(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "free_bytes", lambda device: 0)
    store, plain = FeatureStore(tmp_path), make("lr_policy=freeze_backbone")
    kept = make("lr_policy=freeze_backbone", store=store)
    assert all(cached(kept))
    plain.run(Silent())
    same(kept, plain)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 3
    pixels: Any = kept.fed.val.pixels
    again = pickle.loads(pickle.dumps(pixels))  # as a worker gets it
    assert torch.equal(again.values, pixels.values)
    store.close()
    assert not list(tmp_path.iterdir())


def test_features_that_fit_nowhere_are_not_cached(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "free_bytes", lambda device: 0)
    monkeypatch.setattr(feature_store, "SHARE", 10**15)
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore(tmp_path))
    assert not any(cached(trainer))


def test_worker_programs_compute_once_for_all(make: Make, tmp_path: Path) -> None:
    session = FeatureStore(tmp_path, shared=True)
    stores = [session.for_worker() for _ in range(2)]
    for store, expected in zip(stores, (3, 0), strict=True):
        trainer = make("lr_policy=freeze_backbone", store=store)
        trainer.choose_fed()
        assert trainer.cached is not None
        assert store.computed == expected
        store.close()
        assert list(tmp_path.iterdir())  # they are the session's
    session.close()
    assert not list(tmp_path.iterdir())


def test_a_signal_stops_the_computing_of_features(make: Make) -> None:
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore())
    calls: list[int] = []
    model: Any = trainer.experiment.model
    below = model.below

    def interrupted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 10:  # behind those that try the cut
            raise KeyboardInterrupt
        return below(images)

    plain = make("lr_policy=freeze_backbone")
    plain.run(Silent())
    model.below = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run(Silent())
    assert (trainer.cached, trainer.cached_for, trainer.step) == (None, None, 0)
    del model.below
    assert all(cached(trainer))
    same(trainer, plain)


def test_files_that_nobody_goes_on_from_are_written_when_training_ends(
    make: Make, tmp_path: Path
) -> None:
    """Those of a point of a sweep: the same files, also where the backbone trains later."""
    folders = [tmp_path / name for name in ("late", "at once")]
    for folder in folders:
        folder.mkdir()
        chosen = ("lr_policy=lp_ft", "lr_policy.head_epochs=2", "optimizer.lr=0.1")
        trainer = make(*chosen, store=FeatureStore())
        trainer.puts_off = folder.name == "late"
        there: list[list[str]] = []
        look = Watch(lambda row, f=folder, t=there: t.append(sorted(p.name for p in f.iterdir())))
        trainer.run(look, folder)
        write_put_off(trainer)
        assert (there[1] == []) == trainer.puts_off
        assert "last.pt" in there[2]  # the backbone trains
    late, at_once = ({name: load_checkpoint(f / name) for name in NAMES} for f in folders)
    for name in NAMES:
        assert late[name]["epoch"] == at_once[name]["epoch"]
        assert tensor_hash(late[name]["model"]) == tensor_hash(at_once[name]["model"])


NAMES = ("last.pt", "best.pt")


def test_what_is_put_off_is_written_now_and_then(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill takes a few seconds of training, not all of it."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    trainer = make("lr_policy=freeze_backbone", "trainer.epochs=5", store=FeatureStore())
    trainer.puts_off = True
    there: list[int] = []

    def look(row: Any) -> None:
        file = tmp_path / "last.pt"
        there.append(load_checkpoint(file)["epoch"] if file.exists() else 0)
        clock[0] += 0.6 * PUT_OFF_S

    trainer.run(Watch(look), tmp_path)
    assert there == [0, 0, 3, 3, 5]


def test_a_state_that_is_written_brings_the_best_weights_that_it_refers_to(
    make: Make, tmp_path: Path
) -> None:
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore())
    trainer.puts_off = True
    trainer.train_epoch()
    trainer.end_epoch(*evaluated(trainer), 0.0, Silent(), tmp_path)
    assert not list(tmp_path.iterdir())
    trainer.cached = None  # as where the backbone trains from now on
    save_last(trainer, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_what_is_put_off_stays_as_it_was(make: Make, tmp_path: Path) -> None:
    """Steps after an epoch do not change what is to be written of it."""
    trainer = make("lr_policy=freeze_backbone", store=FeatureStore())
    trainer.puts_off = True
    trainer.train_epoch()
    trainer.end_epoch(*evaluated(trainer), 0.0, Silent(), tmp_path)
    hashes = tensor_hash(trainer.experiment.model.state_dict())
    trainer.train_epoch()
    assert tensor_hash(trainer.experiment.model.state_dict()) != hashes
    write_put_off(trainer)
    assert {tensor_hash(load_checkpoint(tmp_path / name)["model"]) for name in NAMES} == {hashes}


@pytest.mark.parametrize("stacked", [False, True])
def test_the_time_that_features_take_is_none_of_evaluating(
    make: Make, monkeypatch: pytest.MonkeyPatch, stacked: bool
) -> None:
    clock, reaching = [0.0], features.reaching

    def passes(seconds: float) -> float:
        clock[0] += seconds
        return clock[0]

    def takes_long(*arguments: Any) -> torch.Tensor:
        passes(100)
        return reaching(*arguments)

    monkeypatch.setattr(time, "perf_counter", lambda: passes(1e-6))
    monkeypatch.setattr(features, "reaching", takes_long)
    store, members = FeatureStore(shared=True), 1 + stacked
    trainers = [
        make("lr_policy=freeze_backbone", store=store, network=Still) for _ in range(members)
    ]
    if stacked:
        monkeypatch.setattr(StackedTrainer, "_check_members", lambda stack: None)
        StackedTrainer(trainers).run([Silent()] * 2, [None] * 2, [None] * 2)
    else:
        trainers[0].run(Silent())
    for trainer in trainers:
        row = trainer.rows[0]
        assert row["perf/steps_s"] >= 100
        assert row["perf/eval_s"] < 1
        assert row["perf/epoch_s"] == row["perf/steps_s"] + row["perf/eval_s"]


def test_images_that_no_fingerprint_tells_apart_have_names_that_nobody_takes_again(
    make: Make,
) -> None:
    """Those that are read as they are needed: an id() may be that of images given up before."""
    store = FeatureStore(shared=True)
    for expected in (3, 6):
        trainer = make("lr_policy=freeze_backbone", store=store)
        data = replace(trainer.experiment.dataset, fingerprint="labels-0")
        own = copy.copy(data.train.pixels)
        splits = {n: getattr(data, n) for n in ("train", "train_eval", "val")}
        data = replace(data, **{n: replace(one, pixels=own) for n, one in splits.items()})
        trainer.experiment = replace(trainer.experiment, dataset=data)
        trainer.choose_fed()
        assert store.computed == expected
        del trainer, data, own, splits
