"""Member-steps per second, members trained together against one after the other.

    python scripts/bench_stacked.py [--repetitions 9] [--threads 1 2] [--only digits] [--keep-freed]

Each case trains K members of one job whose rates differ (`rates`), or rates and seeds (`seeds`,
where every member has batches of its own). `serial` is each member's own epoch of steps, one member
after the other; `stacked` is the same members' common epoch. Steps alone are timed, stats and
sums included, no evaluation and no recording. Both are built anew for every repetition, train an
epoch that is not timed, and then run forth and back (AB BA); ratios are taken within a repetition
and their median is printed. Building and stacking is not timed: `stack` says what it takes, the
probe included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from bench_loop import compose

from lrexp.build.experiment import build
from lrexp.config.schema import Config
from lrexp.folder.environment import environment
from lrexp.grid.isolation import keep_freed_memory
from lrexp.grid.stack.probe import probe
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.train.loop import Trainer

SMALL = ("data=synthetic", "data.leak_check=skip")
# Job → its overrides, and members to train.
JOBS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "digits, batch 16": ((), (1, 4, 16)),
    "28×28, batch 128": (
        (*SMALL, "data.train_size=4000", "data.batch_size=128", "trainer.limit_train_batches=16"),
        (1, 4, 16),
    ),
    "cifar_resnet 20, batch 32": (
        (
            *SMALL,
            "model=cifar_resnet",
            "data.image_shape=[3,32,32]",
            "data.train_size=1000",
            "data.batch_size=32",
            "trainer.limit_train_batches=4",
        ),
        (1, 4),
    ),
}
Members = list[Trainer]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """Wall time, to the end of what was left on the device."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def measure(configs: list[Config]) -> tuple[float, float, float]:
    """Member-steps per second serial and stacked, and seconds that probe and stacking take."""

    def members() -> Members:
        return [Trainer(build(c), c.trainer, c.data.batch_size, c.seed) for c in configs]

    alone, together = members(), members()
    device, stack = alone[0].experiment.device, StackedTrainer(together)

    def prepare() -> None:
        if reason := probe(together[0]):
            raise SystemExit(reason)
        stack._stack(together)

    stacking_s = seconds(device, prepare)

    def run(trainers: Members, epoch: Callable[[], object]) -> float:
        for trainer in trainers:
            trainer.epoch = trainer.step = 0
        return seconds(device, epoch)

    jobs: dict[str, Callable[[], float]] = {
        "serial": lambda: run(alone, lambda: [trainer.train_epoch() for trainer in alone]),
        "stacked": lambda: run(together, stack.train_epoch),
    }
    spent = dict.fromkeys(jobs, 0.0)
    for job in jobs.values():
        job()
    for name in (*jobs, *reversed(jobs)):
        spent[name] += jobs[name]()
    steps = 2 * sum(trainer.step for trainer in alone)
    return steps / spent["serial"], steps / spent["stacked"], stacking_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--members", type=int, nargs="+", help="instead of each job's own numbers")
    parser.add_argument("--keep-freed", action="store_true", help="see lrexp/grid/isolation.py")
    parser.add_argument("--only", default="", help="jobs whose name begins so")
    args, overrides = parser.parse_known_args()

    kept = args.keep_freed and keep_freed_memory()
    device = build(compose(*overrides)).device
    facts = environment(device, torch.get_num_threads(), {})
    print(f"{facts['gpu'] or facts['cpu']}, {facts['cpu_count']} cores, torch {torch.__version__}")
    print(f"medians of {args.repetitions} repetitions {' '.join(overrides)}; time: over serial's")
    print(f"the C library {'keeps' if kept else 'returns'} large blocks that are freed")
    head = f"{'job':<28}{'members':>12}{'threads':>9}{'serial/s':>10}{'stacked/s':>11}"
    print(f"{head}{'time':>7}{'min':>7}{'max':>7}{'stack ms':>10}")
    for job, (own, counts) in JOBS.items():
        if not job.startswith(args.only):
            continue
        for threads in args.threads:
            for kind in ("rates", "seeds"):
                for k in args.members or counts:
                    if kind == "seeds" and k == 1:
                        continue
                    configs = [
                        compose(
                            *own,
                            f"optimizer.lr={0.002 * 1.2**i:.6f}",
                            f"seed={i if kind == 'seeds' else 0}",
                            f"trainer.threads={threads}",
                            *overrides,
                        )
                        for i in range(k)
                    ]
                    measured = [measure(configs) for _ in range(args.repetitions)]
                    serial, stacked, stacking_s = map(
                        statistics.median, zip(*measured, strict=True)
                    )
                    ratios = [a / b for a, b, _ in measured]
                    print(
                        f"{job:<28}{f'{k} {kind}':>12}{threads:>9}{serial:>10,.0f}{stacked:>11,.0f}"
                        f"{statistics.median(ratios):>7.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
                        f"{1e3 * stacking_s:>10.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
