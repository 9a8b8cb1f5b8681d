"""What our loop costs over a bare PyTorch loop with the same tensors.

    python scripts/bench_loop.py [--pairs 15] [--only mlp cnn resnet18] [OVERRIDE ...]

Three jobs: an MLP on digits, SimpleCNN on MNIST (20,000 images of it, from $LREXP_TEST_DATA/mnist;
made-up ones of its shape where there is none), ResNet-18 on made-up images of 32×32; every other
setting is lrexp's default. Both sides start from the same weights, take the same batches and train
for the same epochs; on the CPU the script fails unless they end with the same weights to the bit.

`bare` is what one would write by hand for the job alone: it has all images in one float tensor,
normalised beforehand, and every batch's positions on the device; it does forward, loss, zero_grad,
backward, step, and keeps the sums of loss and right answers; after each epoch it evaluates
train_eval and val, in batches of the same size, for their loss and accuracy. `ours` is
`Trainer.run`, default metrics on, with no folder. Three rows per job:

    run       all of that, from the first step to the last evaluation
    training  the epochs' steps alone on both sides
    saving    `ours` with last.pt and best.pt written after each epoch, over `ours` without

Each pair runs the two sides as ABBA, the next one as BAAB, every side built anew and nothing of
that timed, so that a machine that slows down or speeds up favours none. Medians over pairs of what
is taken within a pair, with 95 % intervals (bootstrap over pairs): the ratio of wall time, that of
CPU time (of the process, which other programs disturb less), and µs per step on top.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lrexp.build.data import Datasets
from lrexp.build.experiment import build
from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.schema import Config
from lrexp.data.dataset import Split
from lrexp.folder.environment import environment
from lrexp.judge.epoch import Row
from lrexp.train.loop import Trainer

MNIST = Path(os.environ.get("LREXP_TEST_DATA", "/nowhere")) / "mnist"
REAL = ["data=mnist", f"data.root={MNIST}", "data.limit=20000"]
MADE_UP = ["data=synthetic", "data.image_shape=[1,28,28]", "data.train_size=20000"]
JOBS = {
    "mlp": ["model=mlp"],
    "cnn": [*(REAL if MNIST.exists() else MADE_UP), "data.batch_size=64", "trainer.epochs=2"],
    "resnet18": [
        *("model=resnet18", "data=synthetic", "data.image_shape=[3,32,32]"),
        *("data.train_size=3340", "data.batch_size=64", "trainer.epochs=1"),
    ],
}
ROWS = ("run", "training", "saving")
Side = Callable[[Trainer], object]  # what is timed of a freshly built trainer
Spent = np.ndarray  # (2,) seconds of wall and of CPU time
DATA = Datasets()


def compose(*overrides: str) -> Config:
    """A checked config, as the command line makes it."""
    from hydra import version
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode
    from omegaconf import flag_override

    version.setbase("1.3")
    setup_globals()
    config = CheckedLoader().load_configuration(CONFIG_NAME, list(overrides), RunMode.RUN)
    with flag_override(config, ["struct", "readonly"], False):
        del config["hydra"]
    return check(config)[1]


def trainer(*overrides: str) -> Trainer:
    """A freshly built trainer."""
    config = compose(*overrides)
    return Trainer(build(config, DATA), config.trainer, config.data.batch_size, config.seed)


class Unrecorded:
    """Takes rows and does nothing with them."""

    def row(self, row: Row) -> None: ...


def ours(job: Trainer, checkpoints: Path | None = None) -> None:
    """A run as `task=train` trains it, all but its records."""
    job.run(Unrecorded(), checkpoints)


def our_training(job: Trainer) -> None:
    """The steps of all epochs alone."""
    while job.step < len(job.experiment.schedule):
        job.train_epoch()


class Bare:
    """The loop by hand, with what a trainer was built with.

    Args:
        batches: by epoch the positions (B,) of each batch.
        train: images (n, C, H, W) float32 and labels (n,).
        evaluated: the same of train_eval and val.
    """

    def __init__(
        self,
        batches: list[list[Tensor]],
        train: tuple[Tensor, Tensor],
        evaluated: list[tuple[Tensor, Tensor]],
    ):
        self.batches, self.train, self.evaluated = batches, train, evaluated

    @classmethod
    def of(cls, overrides: Sequence[str]) -> Bare:
        """The batches and tensors of a job."""
        job = trainer(*overrides)
        data, device, epochs = job.experiment.dataset, job.experiment.device, []
        while job.step < len(job.experiment.schedule):
            job.epoch += 1
            epochs.append([torch.from_numpy(rows).to(device) for rows in job.batches()])
            job.step += len(epochs[-1])
        tensors = [_tensors(split) for split in (data.train, data.train_eval, data.val)]
        return cls(epochs, tensors[0], tensors[1:])

    def __call__(self, job: Trainer, evaluates: bool = True) -> list[tuple[float, ...]]:
        """A run; returns loss and accuracy of every epoch, in training and of each evaluation."""
        model, size = job.experiment.model, job.settings.eval_batch_size
        planned = job.experiment.optimizer
        usual = {k: v for k, v in planned.defaults.items() if k != "foreach"}  # as one writes it
        optimizer = type(planned)(model.parameters(), **usual)
        images, labels = self.train
        history = []
        for batches in self.batches:
            model.train()
            loss_sum, right, seen = torch.zeros((), device=images.device), 0, 0
            for chosen in batches:
                wanted = labels.index_select(0, chosen)
                logits = model(images.index_select(0, chosen))
                loss = cross_entropy(logits, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * len(chosen)
                right += (logits.argmax(1) == wanted).sum()
                seen += len(chosen)
            found = [float(loss_sum) / seen, float(right) / seen]
            for split in self.evaluated if evaluates else ():
                found += evaluate(model, *split, size)
            history.append(tuple(found))
        return history


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module, images: Tensor, labels: Tensor, size: int
) -> tuple[float, float]:
    """Loss and accuracy of (n, C, H, W) images, in batches of a size."""
    model.eval()
    loss_sum, right = torch.zeros((), device=images.device), 0
    for batch, wanted in zip(images.split(size), labels.split(size), strict=True):
        logits = model(batch)
        loss_sum += cross_entropy(logits, wanted, reduction="sum")
        right += (logits.argmax(1) == wanted).sum()
    return float(loss_sum) / len(labels), float(right) / len(labels)


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    return split.images, split.labels


def spent(job: Trainer, side: Side) -> Spent:
    """What a side takes of both, to the end of what it left on the device."""
    wait = torch.cuda.synchronize if job.experiment.device.type == "cuda" else lambda: None
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    side(job)
    wait()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def pair(overrides: Sequence[str], sides: tuple[Side, Side], swapped: bool, alike: bool) -> Spent:
    """(2, 2) what each side took, two runs added up: A B B A, or B A A B where `swapped`."""
    total, weights = np.zeros((2, 2)), []
    for which in (1, 0, 0, 1) if swapped else (0, 1, 1, 0):
        job = trainer(*overrides)
        total[which] += spent(job, sides[which])
        weights.append([p.detach() for p in job.experiment.model.parameters()])
    same = all(torch.equal(a, b) for w in weights[1:] for a, b in zip(weights[0], w, strict=True))
    if alike and not same and job.experiment.device.type == "cpu":
        raise SystemExit("the two sides end with other weights: they did not do the same work")
    return total


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median of (pairs,) and its 95 % interval by bootstrap."""
    drawn = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def is_override(word: str) -> bool:
    """Whether a word of the command line is Hydra's, wherever it stands.

    >>> [is_override(word) for word in ("trainer.epochs=1", "~logger", "--rows", "--pairs=2")]
    [True, True, False, False]
    """
    return word[:1] in ("~", "+") or ("=" in word and not word.startswith("-"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    overrides = [word for word in sys.argv[1:] if is_override(word)]
    args = parser.parse_args([word for word in sys.argv[1:] if not is_override(word)])
    device = trainer(*JOBS["mlp"], *overrides).experiment.device
    facts = environment(device, torch.get_num_threads(), {})
    print(
        f"{facts['gpu'] or facts['cpu']}, {facts['cpu_count']} cores, {facts['threads']} threads,"
        f" torch {torch.__version__}, {device}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{args.pairs} pairs {' '.join(overrides)}")
    print(
        f"{'job':<10}{'row':<10}{'steps':>6}{'µs/step':>9}"
        f"{'ratio of wall time':>24}{'of CPU time':>24}{'µs/step on top':>26}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for job in args.only:
            settings = [*JOBS[job], *overrides]
            bare = Bare.of(settings)
            rows: dict[str, tuple[Side, Side]] = {
                "run": (ours, bare),
                "training": (our_training, partial(bare, evaluates=False)),
                "saving": (partial(ours, checkpoints=Path(folder)), ours),
            }
            steps = sum(map(len, bare.batches))
            for row in args.rows:
                alike = row != "saving"
                pair(settings, rows[row], False, alike)  # warm up: allocator, threads, kernels
                took = np.stack(
                    [pair(settings, rows[row], i % 2 == 1, alike) for i in range(args.pairs)]
                )  # (pairs, side, wall or CPU)
                ratios = took[:, 0] / took[:, 1]
                more = 1e6 * (took[:, 0, 0] - took[:, 1, 0]) / (2 * steps)
                cells = [
                    "{:.3f} [{:.3f}, {:.3f}]".format(*interval(ratios[:, kind])) for kind in (0, 1)
                ]
                cells.append("{:.1f} [{:.1f}, {:.1f}]".format(*interval(more)))
                each = 1e6 * np.median(took[:, 1, 0]) / (2 * steps)
                print(
                    f"{job:<10}{row:<10}{steps:>6}{each:>9.1f}"
                    f"{cells[0]:>24}{cells[1]:>24}{cells[2]:>26}",
                    flush=True,
                )
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
