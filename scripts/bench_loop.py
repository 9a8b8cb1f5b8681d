"""What a step of our trainer costs over a bare PyTorch loop on the same batches.

    python scripts/bench_loop.py [--repetitions 41] [--epochs 1] [OVERRIDE ...]

Three loops train the configured job (by default SimpleCNN on digits, batch 16, SGD 0.05 with
momentum 0.9): `ours` is `Trainer` as it runs, `no stats` the same with trainer.stats_every=0, and
`bare` gathers the same batches and does forward, loss, zero_grad, backward and step, nothing else.
Training alone is timed, no evaluation and no recording. Each repetition builds the three anew, lets
each train an epoch that is not timed, and then runs them forth and back (ABC CBA), so that a
machine that slows down or speeds up favours none; ratios are taken within a repetition, and the
median over repetitions is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from lrexp.build.experiment import build
from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.schema import Config
from lrexp.folder.environment import environment
from lrexp.train.experiment import Experiment
from lrexp.train.loop import Trainer


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
    return Trainer(build(config), config.trainer, config.data.batch_size, config.seed)


def bare(experiment: Experiment, images: torch.Tensor, epochs: list[list[torch.Tensor]]) -> None:
    """The loop anyone would write, over (n, C, H, W) images that are normalised already."""
    model, optimizer, labels = (
        experiment.model,
        experiment.optimizer,
        experiment.dataset.train.labels,
    )
    model.train()
    for batches in epochs:
        for chosen in batches:
            logits = model(images.index_select(0, chosen))
            loss = experiment.loss(logits, labels.index_select(0, chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def seconds(experiment: Experiment, run: Callable[[], object]) -> float:
    """Wall time of a loop, to the end of what it left on the device."""
    wait = torch.cuda.synchronize if experiment.device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def measure(overrides: list[str], epochs: int) -> tuple[dict[str, float], int]:
    """µs per step of each loop, forth and back added up, and the steps each made per direction."""
    jobs = {
        "ours": trainer(*overrides),
        "no stats": trainer(*overrides, "trainer.stats_every=0"),
        "bare": trainer(*overrides),
    }
    plan = trainer(*overrides)
    batches = []
    for _ in range(epochs):
        plan.epoch += 1
        device = plan.experiment.device
        batches.append([torch.from_numpy(rows).to(device) for rows in plan.batches()])
    images, steps = plan.experiment.dataset.train.images, sum(map(len, batches))
    spent = dict.fromkeys(jobs, 0.0)

    def train(name: str) -> None:
        job = jobs[name]
        job.epoch = job.step = 0
        if name == "bare":
            bare(job.experiment, images, batches)
        else:
            for _ in range(epochs):
                job.train_epoch()

    for name in jobs:
        train(name)
    for name in (*jobs, *reversed(jobs)):
        spent[name] += seconds(jobs[name].experiment, lambda name=name: train(name))
    return {name: 1e6 * spent_s / (2 * steps) for name, spent_s in spent.items()}, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=41)
    parser.add_argument("--epochs", type=int, default=1, help="per loop, direction and repetition")
    args, overrides = parser.parse_known_args()
    measure(overrides, 1)  # warm up: allocator, thread pool, kernels
    measured = [measure(overrides, args.epochs) for _ in range(args.repetitions)]
    times, steps = [spent for spent, _ in measured], measured[0][1]

    device = trainer(*overrides).experiment.device
    facts = environment(device, torch.get_num_threads(), {})
    print(
        f"{facts['gpu'] or facts['cpu']}, {facts['cpu_count']} cores, {facts['threads']} threads,"
        f" torch {torch.__version__}, {device}"
    )
    print(f"{args.repetitions} repetitions of 2 × {steps} steps per loop {' '.join(overrides)}")
    print(f"{'loop':<10}{'µs/step':>10}{'over bare':>11}{'ratio':>8}{'min':>7}{'max':>7}")
    for name in times[0]:
        ratios = [spent[name] / spent["bare"] for spent in times]
        over = statistics.median(spent[name] - spent["bare"] for spent in times)
        print(
            f"{name:<10}{statistics.median(spent[name] for spent in times):>10.1f}{over:>11.1f}"
            f"{statistics.median(ratios):>8.3f}{min(ratios):>7.3f}{max(ratios):>7.3f}"
        )


if __name__ == "__main__":
    main()
