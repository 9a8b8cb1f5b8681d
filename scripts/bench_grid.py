"""Whole grids, end to end: a fresh process per point, and every executor of the grid engine.

    python scripts/bench_grid.py [--repetitions 3] [--only digits] [--fresh 16] [OVERRIDE ...]

Each job is a grid over optimizer.lr. `fresh` starts `python -m lrexp` once per point, one after the
other, as a script of a user would; the executors run the same points with `python -m lrexp -m`.
Wall seconds are those of the whole commands: imports, composing, probing, timing, training,
evaluating and recording included (W&B offline, unless an override says otherwise). `steps` are the
seconds that training steps took, as the runs recorded them, without evaluation. Within a repetition
all ways take turns, forth in one and back in the next; medians over repetitions are printed, ratios
are taken within a repetition. With --fresh N only N of the points are started freshly, and their
time is scaled up. Where no real MNIST is given, images of its size are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lrexp.folder.environment import environment

ROOT = Path(__file__).parent.parent
EXECUTORS = ("serial", "stacked", "pool", "auto")
MADE_UP = ("data=synthetic", "data.leak_check=skip", "data.image_shape=[1,28,28]")
# Job → overrides, rates.
JOBS: dict[str, tuple[tuple[str, ...], int]] = {
    "digits, batch 16": ((), 16),
    "28×28, batch 128": (
        (*MADE_UP, "data.train_size=20000", "data.batch_size=128", "trainer.epochs=5"),
        8,
    ),
    "ResNet-20, 32×32, batch 32": (
        (
            "data=synthetic",
            "data.leak_check=skip",
            "data.image_shape=[3,32,32]",
            "model=cifar_resnet",
            "data.train_size=1000",
            "data.batch_size=32",
            "trainer.epochs=3",
        ),
        4,
    ),
}


@dataclass
class Took:
    """What a way of running a grid took."""

    wall_s: float
    steps_s: float
    said: str = ""


def lrexp(folder: str, *arguments: str) -> str:
    """Run the command; returns what it printed."""
    variables = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "lrexp", *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def steps_s(folder: Path) -> float:
    """Seconds of all training steps below a folder; those of a stack count once."""
    total = 0.0
    for file in folder.rglob("summary.json"):
        summary = json.loads(file.read_text())
        images = summary["data"]["images"]["train"]
        for line in (file.parent / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            total += images / row["perf/examples_per_s"] / summary["members"]
    return total


def fresh(overrides: list[str], rates: list[str], count: int) -> Took:
    """A process per point, for so many of the points."""
    chosen = rates[:: max(1, len(rates) // count)][:count]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for rate in chosen:
            lrexp(folder, *overrides, f"optimizer.lr={rate}")
        scale = len(rates) / len(chosen)
        return Took((time.perf_counter() - started) * scale, steps_s(Path(folder)) * scale)


def grid(executor: str, overrides: list[str], rates: list[str]) -> Took:
    """One command for all points."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        launcher = f"hydra.launcher.executor={executor}"
        said = lrexp(folder, "-m", *overrides, f"optimizer.lr={','.join(rates)}", launcher)
        return Took(time.perf_counter() - started, steps_s(Path(folder)), said)


def ratio(found: list[Took], other: list[Took], part: str) -> float:
    """Median over repetitions of one way's time over another's."""
    pairs = zip(found, other, strict=True)
    return statistics.median(getattr(a, part) / getattr(b, part) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", default="", help="jobs whose name begins so")
    parser.add_argument("--fresh", type=int, default=16, help="points started freshly, at most")
    parser.add_argument("--mnist", help="data.root of real MNIST, for the 28×28 job")
    args, more = parser.parse_known_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = environment(device, torch.get_num_threads(), {})
    print(f"{facts['gpu'] or facts['cpu']}, {facts['cpu_count']} cores, torch {torch.__version__}")
    print(f"medians of {args.repetitions} repetitions {' '.join(more)}; ratios of wall seconds")
    head = f"{'job':<30}{'points':>7}  {'run by':<9}{'wall s':>8}{'steps s':>9}"
    print(f"{head}{'of fresh':>10}{'of serial':>11}{'steps of serial':>17}")
    for job, (own, count) in JOBS.items():
        if not job.startswith(args.only):
            continue
        if args.mnist and job.startswith("28"):
            own = ("experiment=mnist_simple_cnn", f"data.root={args.mnist}", "trainer.epochs=1")
        overrides = [*own, *more]
        rates = [f"{0.005 * 1.2**i:.6f}" for i in range(count)]
        ways = {"fresh": lambda o=overrides, r=rates: fresh(o, r, min(args.fresh, len(r)))}
        for name in EXECUTORS:
            ways[name] = lambda e=name, o=overrides, r=rates: grid(e, o, r)
        took: dict[str, list[Took]] = {name: [] for name in ways}
        for repetition in range(args.repetitions):
            for name in list(ways)[:: -1 if repetition % 2 else 1]:
                took[name].append(ways[name]())
        for name, found in took.items():
            wall, steps = (
                statistics.median(getattr(one, part) for one in found)
                for part in ("wall_s", "steps_s")
            )
            print(
                f"{job:<30}{count:>7}  {name:<9}{wall:>8.1f}{steps:>9.1f}"
                f"{ratio(found, took['fresh'], 'wall_s'):>10.3f}"
                f"{ratio(found, took['serial'], 'wall_s'):>11.3f}"
                f"{ratio(found, took['serial'], 'steps_s'):>17.3f}",
                flush=True,
            )
        for line in re.findall(r"^(?:auto|note) .*", took["auto"][-1].said, re.MULTILINE):
            print(f"  {line}")


if __name__ == "__main__":
    main()
