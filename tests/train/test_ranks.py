"""Several processes, one run: shares, words, where all stop, and the numbers of one process."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks_program
import torch
from conftest import ROOT
from processes import HUNG_S
from ranks_program import Job, in_double, result_of
from torch import Tensor, nn
from torch.distributed import HashStore

from lrexp.build.experiment import build
from lrexp.build.ranks import check_for_ranks, shared_by, synchronized
from lrexp.config.errors import ConfigError, Terminated, UserError
from lrexp.data import draws
from lrexp.judge.evaluate import Evaluation
from lrexp.train import agreement
from lrexp.train.agreement import Agreement, Followed, RankFailedError, Words
from lrexp.train.loop import Trainer
from lrexp.train.measure import evaluate_batches
from lrexp.train.passes import dropout_seeds
from lrexp.train.ranks import ALONE, Ranks
from lrexp.train.step import gradients


def words_of(world: int) -> list[Words]:
    store: Any = HashStore()
    return [Words(store, rank, world) for rank in range(world)]


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_are_the_batch_in_order_and_what_stands_in_does_not_count(
    images: int, world: int
) -> None:
    batch, every = np.arange(images) + 100, [Ranks(words) for words in words_of(world)]
    counted = [ranks.share(batch) for ranks in every if ranks.counts(batch)]
    assert np.concatenate(counted).tolist() == batch.tolist()
    sizes = [len(share) for share in counted] + [0] * (world - len(counted))
    assert max(sizes) - min(sizes) <= 1
    for ranks in every:
        assert len(ranks.share(batch)) >= 1
        if not ranks.counts(batch):
            assert ranks.share(batch).tolist() == batch[:2].tolist()


def test_one_process_shares_with_nobody() -> None:
    batch, numbers = np.arange(5), torch.ones(2)
    assert ALONE.share(batch).tolist() == batch.tolist()
    assert (ALONE.first, ALONE.several, ALONE.backend) == (True, False, None)
    assert ALONE.summed(numbers) is numbers
    assert ALONE.gathered("x") == ["x"]
    assert ALONE.agreed(3) == 3
    assert ALONE.stops_here() is None


def test_what_a_network_draws_is_of_seed_step_batch_and_rank() -> None:
    first = dropout_seeds(7, 2, 3, 2, 0)
    assert [step[0] for step in first] == [
        int(draws.draw_each(7, "dropout", np.array([2, 3, 4]))[i] >> np.uint64(1)) for i in range(3)
    ]
    every = [dropout_seeds(7, 2, 3, 2, rank) for rank in range(4)]
    assert len({seed for rank in every for step in rank for seed in step}) == 4 * 3 * 2
    assert every[3] == dropout_seeds(7, 2, 5, 2, 3)[:3]


def in_threads(*runs: Callable[[], None]) -> list[BaseException | None]:
    """What each run raised; all at the same time."""
    raised: list[BaseException | None] = [None] * len(runs)

    def caught(i: int) -> None:
        try:
            runs[i]()
        except BaseException as error:
            raised[i] = error

    threads = [threading.Thread(target=caught, args=(i,)) for i in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("seed", range(3))
def test_who_is_asked_to_stop_stops_where_all_do_and_nobody_waits_in_an_exchange(
    seed: int,
) -> None:
    world, draw = 3, random.Random(seed)
    exchange = threading.Barrier(world)  # as a step's: nobody leaves before all have come
    asked: list[list[type[BaseException]]] = [[] for _ in range(world)]
    at, who = draw.randrange(30, 60), draw.randrange(world)
    steps = [0] * world
    words = words_of(world)

    def run(rank: int) -> None:
        agreed = Agreement(words[rank], asked[rank], lambda: None)
        try:
            while True:
                if stop := agreed.stops_here():
                    raise stop
                exchange.wait(timeout=60)
                time.sleep(0.01 * (rank == 1))
                steps[rank] += 1
                if (rank, steps[rank]) == (who, at):
                    asked[rank].append(Terminated)
        finally:
            agreed.close()

    raised = in_threads(*(lambda rank=rank: run(rank) for rank in range(world)))
    assert [type(error) for error in raised] == [Terminated] * world
    assert len(set(steps)) == 1
    assert steps[0] >= at


def test_a_failure_is_told_at_the_next_point() -> None:
    here, other = words_of(2)
    freed = threading.Event()
    agreed = Agreement(here, [], freed.set)
    assert agreed.stops_here() is None
    other.fails(ValueError("enough"))
    assert freed.wait(60)
    with pytest.raises(RankFailedError, match="rank 1 of 2: ValueError: enough"):
        agreed.stops_here()
    agreed.close()


def test_a_rank_that_is_through_lets_the_others_come_to_the_end() -> None:
    first, second = words_of(2)
    asked: list[type[BaseException]] = []
    ahead, behind = (Agreement(words, asked, lambda: None) for words in (first, second))
    for _ in range(3):
        assert ahead.stops_here() is None
    assert behind.stops_here() is None
    ahead.close()
    asked.append(KeyboardInterrupt)
    while not behind._held:
        time.sleep(0.01)
    assert [behind.stops_here() for _ in range(3)] == [None, None, KeyboardInterrupt]
    behind.close()


def test_a_rank_that_does_not_answer_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "ANSWER_S", 0.3)
    here, _ = words_of(2)
    agreed = Agreement(here, [Terminated], lambda: None)
    while not agreed._held:
        time.sleep(0.01)
    with pytest.raises(RankFailedError, match="ended without a word"):
        agreed.stops_here()
    agreed.close()


def test_what_failed_first_is_what_all_are_told() -> None:
    first, second, third = words_of(3)
    second.fails(RuntimeError("no memory"))
    third.fails(UserError("later"))
    third.fails(Terminated())
    for words in (first, third):
        with pytest.raises(RankFailedError, match=r"^rank 1 of 3: RuntimeError: no memory$"):
            words.hear("built")
    second.refuse_failed()  # it knows
    first.say("over", 2)
    with pytest.raises(Followed) as followed:
        second.hear("built")
    assert followed.value.code == 2
    first.say("built", {"plan": "x"})
    assert third.hear("built") == {"plan": "x"}


def test_every_rank_has_a_device_of_its_own_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Ranks(words_of(2)[1], local=1, nearby=2)
    assert [here.device_name(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    assert ALONE.device_name("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda:1: is one"):
        here.device_name("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [here.device_name(name) for name in ("auto", "cuda", "cpu")] == [
        *("cuda:1", "cuda:1", "cpu")
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"nproc_per_node=1"):
        here.device_name("auto")


def test_ranks_share_the_cores_unless_somebody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Ranks(words_of(2)[0], nearby=2)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's own
    assert (here.threads, ALONE.threads) == (3, None)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert here.threads is None


def test_batchnorm_of_all_ranks_keeps_names_parameters_and_buffers() -> None:
    timm_layers: Any = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), timm_layers.BatchNormAct2d(4))
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    images = torch.randn(2, 3, 5, 5)
    said = model.eval()(images)
    synced = synchronized(model)
    after = {**dict(synced.named_parameters()), **dict(synced.named_buffers())}
    assert {name: id(t) for name, t in after.items()} == {n: id(t) for n, t in before.items()}
    assert all(isinstance(synced[i], nn.SyncBatchNorm) for i in (1, 2))
    assert torch.equal(synced.eval()(images), said)  # the activation is still there
    own = type("Own", (nn.BatchNorm2d,), {})
    with pytest.raises(ConfigError, match="Own"):
        synchronized(nn.Sequential(own(4)))


def test_a_batch_must_hold_two_images_for_every_batchnorm() -> None:
    here = Ranks(words_of(3)[0])
    config: Any = SimpleNamespace(trainer=SimpleNamespace(sync_batchnorm=False))
    assert (shared_by(config, ALONE, 1), shared_by(config, here, 1)) == (2, 6)
    shares = [len(share) for share in np.array_split(np.arange(5), 3)]
    assert min(shares) == 1  # 5 images are too few for 3 ranks
    config.trainer.sync_batchnorm = True
    assert shared_by(config, here, 3) == 2  # each of its norms sees all of them
    with pytest.raises(ConfigError, match=r"sync_batchnorm=true: needs an image for each of 3"):
        shared_by(config, here, 2)


def test_what_ranks_or_the_cpu_cannot_do_is_refused() -> None:
    settings: Any = SimpleNamespace(sync_batchnorm=False, cuda_graph=True)
    cpu, here = torch.device("cpu"), Ranks(words_of(2)[0])
    check_for_ranks(settings, ALONE, cpu)
    with pytest.raises(ConfigError, match=r"trainer\.cuda_graph=true: .*torchrun started 2"):
        check_for_ranks(settings, here, cpu)
    settings = SimpleNamespace(sync_batchnorm=True, cuda_graph=False)
    with pytest.raises(ConfigError, match=r"trainer\.sync_batchnorm=true: .*on the cpu"):
        check_for_ranks(settings, here, cpu)
    check_for_ranks(settings, here, torch.device("cuda"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("sizes", [(13,), (7, 6), (3, 1), (2,)])
def test_the_mean_of_what_ranks_take_is_the_whole_step(
    compose: Any, sizes: tuple[int, ...]
) -> None:
    config = compose(*SMALL, "model=mlp", "loss.class_weights=balanced", "loss.label_smoothing=0.1")
    experiment = build(config)
    in_double(experiment.model)
    weights = list(experiment.model.parameters())
    group = np.array_split(np.arange(40, 40 + sum(sizes)), np.cumsum(sizes)[:-1])

    def step(ranks: Ranks) -> tuple[Tensor, list[Tensor]]:
        """A rank's share of the loss, and what it leaves for the exchange."""
        shares, losses = [ranks.share(batch) for batch in group], ranks.losses_of(experiment, group)
        fed = experiment.dataset.train.batches(shares)
        seen = [
            gradients(experiment.model, loss, *one, weights, add=i > 0)[0]
            for i, (loss, one) in enumerate(zip(losses, fed, strict=True))
        ]
        total = torch.stack(seen).sum()
        return ranks.share_of(total), [weight.grad for weight in weights if weight.grad is not None]

    loss, expected = step(ALONE)
    every = [step(Ranks(words)) for words in words_of(3)]
    torch.testing.assert_close(sum(one for one, _ in every), loss)
    for parts, whole in zip(
        zip(*(found for _, found in every), strict=True), expected, strict=True
    ):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("images", [1, 2, 11])
def test_an_evaluation_in_shares_is_the_whole_evaluation(several: bool, images: int) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 12, (images,))
    if several:
        labels = torch.randint(0, 2, (images, 12)).float()
    logits, every = torch.randn(1, images, 12), [Ranks(words) for words in words_of(3)]
    kept: list[Any] = []

    def evaluated(ranks: Ranks) -> Evaluation:
        own = np.array_split(np.arange(images), ranks.world)[ranks.rank]
        parts = [(logits[:, own], labels[own])] if len(own) else []
        return evaluate_batches(parts, len(own), ranks)[0]

    def note(value: Any) -> list[Any]:
        kept.append(value)
        return kept

    for ranks in every:  # each adds its own to those of the ranks before
        ranks.gathered = note
        evaluated(ranks)
    for ranks in every:
        ranks.gathered = lambda value: kept
        assert vars_of(evaluated(ranks)) == vars_of(evaluate_batches([(logits, labels)], images)[0])


def vars_of(evaluation: Evaluation) -> dict[str, Any]:
    """Its numbers, as they can be compared."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(evaluation).items()}


SMALL = ("trainer.device=cpu", "data.leak_check=skip", "logger=none", "data.limit=150")
# freezing and unfreezing, class weights with smoothing, short last groups, saves within epochs
UNFREEZING = (
    *("lr_policy=gradual_unfreeze", "lr_policy.every=1", "trainer.epochs=3"),
    *("loss.class_weights=balanced", "loss.label_smoothing=0.1", "optimizer.weight_decay=0.01"),
    *("data.batch_size=13", "trainer.accumulate=2", "trainer.clip_grad_norm=1"),
    *("trainer.stats_every=1", "trainer.checkpoint_every_steps=2", "data.augment=basic"),
)
# weight decay would move what has a gradient of 0 and no use
UNUSED = ("model.target=ranks_program.Unused", "optimizer.weight_decay=0.1")
SHIPPED = {file.stem for file in (ROOT / "conf" / "lr_policy").glob("*.yaml")}
POLICIES = sorted(SHIPPED - {"custom"})
# every batch is one image: all ranks but the first have none
ONE_BY_ONE = ("data.batch_size=1", "model=mlp", "trainer.epochs=2", "trainer.max_steps=9")


def trained_by_ranks(folder: Path, jobs: list[Job]) -> dict[str, list[dict[str, Any]]]:
    """What every rank of each job came to."""
    (folder / "jobs.pkl").write_bytes(pickle.dumps(jobs))
    done = subprocess.run(
        [sys.executable, Path(ranks_program.__file__), folder],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        job.name: [torch.load(folder / f"{job.name}.{rank}.pt") for rank in range(job.world)]
        for job in jobs
    }


def assert_as_one(ranks: list[dict[str, Any]], alone: dict[str, Any], tolerance: float) -> None:
    """All ranks have the same rows and weights to the bit, and those of one process nearly."""
    first = ranks[0]
    for other in ranks[1:]:
        assert other["rows"] == first["rows"]
        assert all(torch.equal(t, first["weights"][n]) for n, t in other["weights"].items())
    assert len(first["rows"]) == len(alone["rows"])
    for row, expected in zip(first["rows"], alone["rows"], strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=0, atol=tolerance)
    assert first["frozen"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_ranks_are_one_run(
    compose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "ranks_program")
    own = ("model=custom", "trainer.epochs=2", "data.batch_size=16")
    compared = [
        Job("unfreezing", compose(*SMALL, *UNFREEZING), 2, "in_double"),
        Job("one_by_one", compose(*SMALL, *ONE_BY_ONE), 2, "in_double"),
        Job("unused", compose(*SMALL, *own, *UNUSED), 2, "in_double"),
    ]
    of_norms = compose(*SMALL, *own, "model.target=ranks_program.Normed")
    alone = [Job("normed", of_norms, 2, "drawing"), Job("normed_alone", of_norms, 1, "drawing")]
    found = trained_by_ranks(tmp_path, [*compared, *alone[:1]])
    for job in compared:
        assert_as_one(found[job.name], result_of(job, tmp_path), 1e-6)
    one = result_of(alone[1], tmp_path)
    first, second = found["normed"]
    assert first["rows"] == second["rows"]  # evaluated with the first one's statistics
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name])
    assert not torch.equal(
        first["weights"]["norm.running_mean"], one["weights"]["norm.running_mean"]
    )
    assert first["drawn"] == one["drawn"]  # rank 0 draws as one process does
    assert not {*first["drawn"]} & {*second["drawn"]}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_ranks_do_not_each_train_a_layer_that_is_skipped_at_times(
    compose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "ranks_program")
    own = ("model=custom", "model.target=ranks_program.Skipping", "data.batch_size=16")
    found = trained_by_ranks(tmp_path, [Job("skipping", compose(*SMALL, *own), 2)])["skipping"]
    said = [rank.get("refused", "") for rank in found]
    assert all("odd.weight has a gradient, odd.bias has a gradient" in one for one in said), said
    assert any(one.startswith("UserError: the network skips layers") for one in said), said


class Alone(nn.parallel.DistributedDataParallel):
    """What wraps a network and exchanges nothing."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.own = model

    def forward(self, images: Tensor) -> Tensor:
        return self.own(images)


@pytest.fixture
def phase(compose: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The experiment of a rank whose network has BatchNorm, and what is broadcast to it."""
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "ranks_program")
    monkeypatch.setattr("lrexp.train.ranks.DistributedDataParallel", Alone)
    normed = ("model=custom", "model.target=ranks_program.Normed", "data.batch_size=16")
    experiment = build(compose(*SMALL, *normed))
    sent: list[Tensor] = []

    def broadcast(values: Tensor, source: int) -> None:
        """What the first rank has: the same of each buffer, one more."""
        assert source == 0
        theirs = {"norm.running_mean": 1.5, "odd": True}
        model, start = experiment.model, 0
        for name, buffer in model.named_buffers():
            own = torch.full_like(buffer, theirs.get(name, 7))
            part = own.view(-1).view(torch.uint8)
            values[start : start + len(part)] = part
            start += len(part)
        assert start == len(values)
        sent.append(values)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    return experiment, sent


@pytest.mark.usefixtures("one_thread")
def test_a_phase_begins_with_the_first_rank_s_buffers(phase: Any) -> None:
    """Statistics that are frozen from now on are the same in all, whatever their types are."""
    (experiment, sent), ranks = phase, Ranks(words_of(2)[1])
    model = experiment.model
    weights = {name: p.clone() for name, p in model.named_parameters()}
    ranks.begin_phase(experiment)
    assert model.norm.running_mean.tolist() == [1.5] * 4
    assert model.norm.running_var.tolist() == [7.0] * 4
    assert (int(model.norm.num_batches_tracked), model.odd.tolist()) == (7, [True] * 4)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    ranks.begin_phase(experiment)
    assert len(sent) == 1  # the same phase
    model.conv.requires_grad_(False)
    model.norm.running_mean.zero_()
    ranks.begin_phase(experiment)
    assert model.norm.running_mean.tolist() == [1.5] * 4
    assert len(sent) == 2
    ALONE.begin_phase(experiment)
    assert len(sent) == 2


@pytest.mark.usefixtures("one_thread")
def test_what_takes_part_in_a_step_took_part_when_its_phase_began(phase: Any) -> None:
    (experiment, _), ranks = phase, Ranks(words_of(2)[1])
    model = experiment.model
    model.spare = nn.Parameter(torch.ones(3))
    ranks.begin_phase(experiment)

    def step(*more: Tensor) -> None:
        model.zero_grad()
        images, _ = next(experiment.dataset.train.batches([np.arange(4)]))
        sum((tensor.sum() for tensor in more), model(images).sum()).backward()
        ranks.refuse_skipping()

    step()
    with pytest.raises(UserError, match=r"skips layers.* began, spare has a gradient\n  2 ranks"):
        step(model.spare)
    model.conv.register_forward_hook(lambda _, __, made: made.detach())
    with pytest.raises(UserError, match=r"conv\.weight has no gradient, conv\.bias has no"):
        step()
    model.conv.requires_grad_(False)
    ranks.begin_phase(experiment)
    step()
    ALONE.refuse_skipping()


# what ends them, or follows a metric, by name
ENDINGS = {
    "averaged": ("optimizer=schedulefree_adamw", "optimizer.lr=0.003"),
    "muon": ("optimizer=muon", "model=mlp"),
    "patience": ("trainer.patience=1", "optimizer.lr=1.5", "trainer.epochs=12"),
    "diverged": ("optimizer.lr=1e200", "trainer.epochs=4"),
    "untrained": ("trainer.epochs=0",),
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_three_ranks_are_one_run_under_every_policy_and_end_as_it_does(
    compose: Any, tmp_path: Path
) -> None:
    small = (*SMALL, "trainer.epochs=3", "data.batch_size=17", "trainer.stats_every=2")
    adam, plateau = ("optimizer=adamw", "optimizer.lr=0.003"), ("scheduler=plateau",)
    hows = {policy: (f"lr_policy={policy}", *adam) for policy in POLICIES} | ENDINGS
    for policy in ("uniform", "auto_rgn"):
        hows[policy] += (*plateau, "scheduler.patience=0")
    jobs = [Job(name, compose(*small, *how), 3, "in_double") for name, how in hows.items()]
    found = trained_by_ranks(tmp_path, jobs)
    for job in jobs:
        alone = result_of(job, tmp_path)
        assert len(found[job.name][0]["rows"]) == len(alone["rows"]), job.name
        if job.name != "diverged":
            assert_as_one(found[job.name], alone, 1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("world", [2, 3])
def test_a_state_from_within_an_epoch_goes_on_with_another_number_of_ranks(
    compose: Any, tmp_path: Path, world: int
) -> None:
    config = compose(*SMALL, *UNFREEZING)
    experiment = build(config)
    in_double(experiment.model)
    trainer = Trainer(experiment, config.trainer, config.data.batch_size, config.seed)

    def stop(_: Tensor) -> bool:
        if trainer.step == 3:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trainer.train_epoch(watch=stop)
    torch.save(trainer.state(), tmp_path / "state.pt")
    jobs = [Job("on", config, world, "in_double", tmp_path / "state.pt")]
    found = trained_by_ranks(tmp_path, jobs)
    assert_as_one(found["on"], result_of(Job("one", config, 1, "in_double"), tmp_path), 1e-6)
