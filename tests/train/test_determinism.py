"""What a run computes depends on its config alone: properties of order, augmentation and flags.

That memory and stream, executors and resumed runs agree is tested where those are: test_feeding,
test_grid_pool, test_grid_stacked, test_train.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import dataset, pictures

from lrexp.__main__ import main
from lrexp.build.data import Datasets
from lrexp.build.experiment import DETERMINISM_COST, build
from lrexp.config.errors import in_words
from lrexp.data.dataset import Dataset
from lrexp.data.draws import cut
from lrexp.data.feeding import Streamed
from lrexp.data.transforms import Augment
from lrexp.grid.isolation import undisturbed
from lrexp.grid.stack.trainer import shared
from lrexp.train.loop import Trainer

SHORT = ("trainer.epochs=2", "trainer.limit_train_batches=4", "data.limit=100", "logger=none")
NOISY = ("model=mlp", "model.dropout=0.2", "data.augment=basic")


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    """No test leaves torch deterministic."""
    with undisturbed():
        yield


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Data held in memory, by kind of augmentation."""
    source = pictures(tmp_path_factory.mktemp("pictures"))
    return {kind: dataset(source, augment=Augment(kind, 3)) for kind in ("basic", "trivial")}


def seen(made: Dataset, rows: list[int], batch_size: int, epoch: int) -> torch.Tensor:
    """The images of rows as training sees them, (len(rows), C, H, W)."""
    batches = made.train.batches(cut(np.array(rows), batch_size), epoch)
    return torch.cat([images for images, _ in batches])


def stir() -> None:
    """Move every random state that a program has."""
    random.seed(os.urandom(8))
    np.random.seed(int.from_bytes(os.urandom(4), "big"))
    torch.manual_seed(int.from_bytes(os.urandom(7), "big"))


@pytest.mark.parametrize("kind", ["basic", "trivial"])
@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.permutations(range(24)),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 50),
    st.lists(st.integers(1, 60), max_size=3),
)
def test_an_image_is_augmented_alike_whatever_its_place_batch_and_past(
    augmented: dict[str, Dataset],
    kind: str,
    rows: list[int],
    count: int,
    batch_size: int,
    epoch: int,
    epochs_before: list[int],
) -> None:
    """Resuming is starting at any epoch; another batch size or order moves images only."""
    made = augmented[kind]
    expected = seen(made, list(range(24)), 24, epoch)
    for earlier in epochs_before:
        seen(made, rows, batch_size, earlier)
    stir()
    assert torch.equal(seen(made, rows[:count], batch_size, epoch), expected[rows[:count]])


def test_epochs_and_seeds_augment_differently(augmented: dict[str, Dataset]) -> None:
    rows = list(range(24))
    assert not torch.equal(*(seen(augmented["basic"], rows, 24, epoch) for epoch in (1, 2)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize(
    ("workers", "prefetched"), [pytest.param(1, 1, marks=pytest.mark.slow), (3, 4)]
)
def test_batches_depend_neither_on_the_count_of_workers_nor_on_prefetching(
    augmented: dict[str, Dataset],
    workers: int,
    prefetched: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Streamed, "PREFETCHED", prefetched)
    changes: dict[str, Any] = {"augment": Augment("trivial", 3), "in_memory": False}
    made = dataset(pictures(tmp_path), workers=workers, **changes)
    rows = list(np.random.default_rng(2).permutation(24))
    for epoch in (3, 1):
        expected = seen(augmented["trivial"], rows, 5, epoch)
        assert torch.equal(seen(made, rows, 5, epoch), expected)


class Nowhere:
    """A recorder that forgets."""

    def row(self, row: dict[str, float]) -> None:
        pass


@pytest.fixture
def make(compose: Any) -> Callable[..., Trainer]:
    def made(*overrides: str, datasets: Datasets | None = None) -> Trainer:
        config = compose("trainer.device=cpu", *SHORT, *overrides)
        built = build(config, datasets)
        return Trainer(built, config.trainer, config.data.batch_size, config.seed)

    return made


def bits(trainer: Trainer) -> list[Any]:
    trainer.run(Nowhere())
    rows = [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in trainer.rows]
    return [*(t.tolist() for t in trainer.experiment.model.state_dict().values()), rows]


def test_a_run_is_the_same_wherever_it_stands_in_a_grid(make: Any) -> None:
    """Before or after others in one program, with data that they share, and between their steps."""
    alone = bits(make(*NOISY, "seed=3"))
    datasets = Datasets()
    first = make(*NOISY, "seed=3", datasets=datasets)
    others = [
        make(*NOISY, "seed=4", datasets=datasets),
        make("model=simple_cnn", "data.augment=none", "data.seed=1", datasets=datasets),
    ]
    for other in others:
        bits(other)
    last = make(*NOISY, "seed=3", datasets=datasets)
    stir()
    assert bits(last) == alone
    assert bits(first) == alone  # built before the others trained
    assert bits(others[0]) != alone


def test_a_deterministic_run_on_the_cpu_has_the_bits_of_any_run(make: Any) -> None:
    plain = bits(make(*NOISY))
    assert not torch.are_deterministic_algorithms_enabled()
    assert bits(make(*NOISY, "trainer.deterministic=true")) == plain


def test_deterministic_sets_the_flags_and_says_what_it_costs(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with undisturbed():
        torch.backends.cudnn.benchmark = True
        trainer = make("trainer.deterministic=true")
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert DETERMINISM_COST in trainer.experiment.dataset.notes
    assert not torch.are_deterministic_algorithms_enabled()  # for the next point of a grid
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert DETERMINISM_COST not in make().experiment.dataset.notes
    assert not torch.are_deterministic_algorithms_enabled()


def test_runs_that_differ_in_it_never_train_in_one_stack(make: Any) -> None:
    keys = [shared(make(f"trainer.deterministic={flag}")) for flag in ("true", "false", "true")]
    assert keys[0] == keys[2] != keys[1]


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.out = torch.nn.Linear(64, num_classes)

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and len(x) > 1:
            small, places = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
            x = torch.nn.functional.max_unpool2d(small, places, 2)
        return self.out(x.flatten(1))
"""


def test_an_operation_without_a_deterministic_form_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mynet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "mynet")
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    line = [*SHORT, "model=custom", "model.target=mynet.Net", "hydra.run.dir=${trainer.max_steps}"]
    assert main([*line, "trainer.max_steps=1"]) == 0
    capsys.readouterr()
    assert main([*line, "trainer.max_steps=2", "trainer.deterministic=true"]) == 1
    said = capsys.readouterr()
    assert "error: trainer.deterministic=true: max_unpooling2d" in said.err
    assert "no deterministic form" in said.err
    assert "trainer.deterministic=false" in said.err
    assert "Traceback" not in said.err
    assert "no deterministic form" in (tmp_path / "2" / "summary.json").read_text()
    assert "deterministic algorithms alone" in said.out


def test_other_errors_keep_their_words() -> None:
    assert in_words(RuntimeError("x")) == "RuntimeError: x"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_deterministic_runs_on_a_gpu_have_the_same_bits(compose: Any) -> None:
    def trained() -> list[Any]:
        config = compose("trainer.device=cuda", *SHORT, "trainer.deterministic=true")
        return bits(Trainer(build(config), config.trainer, config.data.batch_size, config.seed))

    assert trained() == trained()
