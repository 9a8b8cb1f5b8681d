"""What a frozen backbone costs: a step of it, a run of it, and a grid of its rates.

    python scripts/bench_frozen.py [--repetitions 9] [--size 128] [--batch 16]
    python scripts/bench_frozen.py --runs [--images 2000] [--epochs 20] [--points 16]

torchvision's ResNet-18 (random weights, 10 classes), SGD with momentum.

A step, on random images: forward, loss, backward, step under lr_policy=uniform and
lr_policy=freeze_backbone. Each repetition runs the two forth and back (ABBA), so that a machine
that slows down or speeds up favours none; the ratio is taken within a repetition, and medians over
repetitions are printed.

With --runs: runs on made-up images of 64 pixels a side, trained, evaluated and saved as ever.
Everything trains; the head alone, computed at every step (trainer.cache_features=never) and with
its features cached; a grid of rates of the last, run after run from one store. Epochs of the first
two are all alike: the second of two is multiplied. A ratio is to a run that trains everything, of
the grid to one cached run (the mean of one before and one after it). CPU time stands beside the
clock's, which other programs disturb more.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_loop import compose
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from lrexp.build.data import Datasets
from lrexp.folder.environment import environment
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups, set_rates, set_trainable
from lrexp.plan.plan import Plan
from lrexp.plan.policies.freezing import freeze_backbone
from lrexp.plan.policies.scaling import uniform
from lrexp.tasks.train import build_trainer
from lrexp.train.loop import Trainer
from lrexp.train.state import write_put_off


def stepper(policy: Callable[..., Plan], images: torch.Tensor) -> Callable[[], None]:
    """A function that makes one training step under a policy."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    plan = policy(layer_map(model, "fc"), 0.01, 1e-4, decay_bias_norm=False)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.01), momentum=0.9)
    labels = torch.arange(len(images)) % 10  # (B,)
    set_trainable(model, plan, finished_epochs=0)
    model.train()

    def step() -> None:
        set_rates(optimizer, 0.01, 1.0)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compare_steps(repetitions: int, size: int, batch: int) -> None:
    """Print what a step of each costs."""
    images = torch.randn(batch, 3, size, size)
    steps = {"all": stepper(uniform, images), "frozen": stepper(freeze_backbone, images)}
    measured: list[dict[str, float]] = []
    for _ in range(1 + repetitions):
        spent = dict.fromkeys(steps, 0.0)
        for name in ("all", "frozen", "frozen", "all"):
            started = time.perf_counter()
            steps[name]()
            spent[name] += (time.perf_counter() - started) / 2
        measured.append(spent)
    measured = measured[1:]  # the first is warm-up
    print(f"{repetitions} repetitions, batch {batch}, {size}x{size}")
    for name in steps:
        median = statistics.median(spent[name] for spent in measured)
        print(f"{name:<8}{1e3 * median:>9.1f} ms/step")
    ratios = [spent["frozen"] / spent["all"] for spent in measured]
    print(
        f"frozen / all  {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def seconds(of: Callable[[], object]) -> tuple[float, float]:
    """What something takes by the clock, and of this program's CPU time."""
    started = time.perf_counter(), time.process_time()
    of()
    return time.perf_counter() - started[0], time.process_time() - started[1]


class Epochs:
    """Takes the rows of a run; what each of its epochs took."""

    def __init__(self) -> None:
        self._at = [(time.perf_counter(), time.process_time())]

    def row(self, row: Row) -> None:
        self._at.append((time.perf_counter(), time.process_time()))

    @property
    def last(self) -> tuple[float, float]:
        """Of the last one, by the clock and of the CPU."""
        (was, cpu_was), (now, cpu) = self._at[-2:]
        return now - was, cpu - cpu_was


def compare_runs(images: int, epochs: int, points: int) -> None:
    """Print what training and evaluating whole runs takes."""
    size = [f"data.train_size={round(images / 0.7) + 2}", "data.val_fraction=0.15"]
    size += ["data.test_fraction=0.15", f"data.limit={images}", "data.batch_size=64"]
    size += ["model=torchvision", "model.name=resnet18", "data=synthetic", "logger=none"]
    size += ["data.image_shape=[3,64,64]", "trainer.device=cpu", "optimizer=sgd"]
    logging.disable(logging.WARNING)  # that a frozen backbone was never loaded
    datasets, rates = Datasets(), [0.1 * 0.8**i for i in range(points)]

    def trainer(policy: str, *more: str) -> Trainer:
        return build_trainer(compose(*size, f"lr_policy={policy}", *more), datasets)

    def epoch(policy: str, *more: str) -> tuple[float, float]:
        """The second of two epochs: all of them are alike."""
        took = Epochs()
        trainer(policy, "trainer.epochs=2", *more).run(took, folder / policy)
        return took.last

    def heads(count: int, at: str) -> tuple[float, float]:
        """Runs of so many rates, one after the other, from an empty store of features."""
        datasets.features.close()
        made = [
            trainer("freeze_backbone", f"trainer.epochs={epochs}", f"optimizer.lr={rate:.4g}")
            for rate in rates[:count]
        ]

        def run_all() -> None:
            for i, one in enumerate(made):
                one.puts_off = True  # as in a sweep
                (folder / at).mkdir(exist_ok=True)
                one.run(Epochs(), folder / at / str(i))
                write_put_off(one)
                assert one.cached

        return seconds(run_all)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer("freeze_backbone", "data.limit=100", "trainer.epochs=2").run(Epochs(), folder / "w")
        before, grid, after = heads(1, "one"), heads(points, "grid"), heads(1, "again")
        every, frozen = epoch("uniform"), epoch("freeze_backbone", "trainer.cache_features=never")
    one = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    print(f"{images:,} images of 64x64, batch 64, {epochs} epochs of training, evaluation, saving")
    print(f"{'':<34}{'s':>9}{'CPU s':>9}{'ratio':>9}{'of CPU':>9}")
    for what, took, to in (
        ("all trains (2nd epoch, multiplied)", [epochs * s for s in every], None),
        ("head, at every step (likewise)", [epochs * s for s in frozen], every),
        ("head, features cached", one, every),
        (f"grid of {points} rates of it", grid, one),
    ):
        ratios = (
            ""
            if to is None
            else "".join(
                f"{a / (b * (epochs if to is every else 1)):>9.3f}"
                for a, b in zip(took, to, strict=True)
            )
        )
        print(f"{what:<34}{took[0]:>9.1f}{took[1]:>9.1f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", action="store_true", help="whole runs instead of steps")
    parser.add_argument("--images", type=int, default=2000, help="to train on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--points", type=int, default=16, help="rates of the grid")
    args = parser.parse_args()
    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {torch.__version__}, cpu")
    if args.runs:
        compare_runs(args.images, args.epochs, args.points)
    else:
        compare_steps(args.repetitions, args.size, args.batch)


if __name__ == "__main__":
    main()
