"""What a run and a grid cost in time and memory as their cause grows: is any out of proportion?

    python scripts/bench_growth.py [--only epochs images ...] [--sizes 10 100 ...]

Sections, with the CPU time that their own sizes take on a Xeon core (~: reckoned, not run):

- epochs (2 min): 2 steps on 100 digits, W&B offline, over and over.
- images (~6 min): made-up 32×32 in colour; 20 steps, every split evaluated, the leak check.
- leaks (~1 min): the leak check by itself, on the same images split as a run splits them: noise, of
  which the check spares least.
- tensors (~2 min): layers of 8 units, a rate for each, so that every row of metrics grows as well.
- classes (~2 min): 20,000 made-up images of 8×8; of what is predicted the five highest scores are
  written down, as `trainer.predictions=auto` does above 1,000 classes, at every size: the costs of
  two ways to write would not compare.
- scores (~1 min): the same with the scores of all classes, as `auto` does up to 1,000.
- points (~20 min): a grid of the smoke experiment, run one after the other.
- compose (~1 min): policies × rates × seeds of the default experiment before anything trains:
  composed and checked, searched for equals, its folder claimed, the first leaderboard; and what of
  that is left when it goes on with every point done. Milliseconds of CPU time a point.

Every size runs in a process of its own. CPU seconds are those of the whole process, of which the
smallest size shows the start; a busy machine stretches wall seconds alone. `x` is the ratio to the
smallest size. The verdict compares what each more of the cause costs in the last interval and in
the one before (marginal CPU seconds, memory likewise): above 1.5 times as much it `grows faster`;
`noise` where the whole difference is below half a second, or below 20 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrexp.folder.environment import environment
from lrexp.folder.layout import CHECKPOINTS, LAST, METRICS, PREDICTIONS, SUMMARY

ROOT = Path(__file__).parent.parent
FASTER = 1.5  # times the marginal cost of the interval before
LEAST_S, LEAST_MB = 0.5, 20.0  # differences below are noise
MEGA = 1e6
OF_TIMINGS = ("steps_s", "eval_s", "save_s", "test_s")


@dataclass
class Cost:
    """What one size came to."""

    size: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    more: dict[str, float] = field(default_factory=dict)  # columns of the section


def process(command: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak memory (MB) of a command, workers included."""
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    variables |= {"WANDB_ERROR_REPORTING": "false"}
    started = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        files = [(os.POSIX_SPAWN_DUP2, said.fileno(), stream) for stream in (1, 2)]
        here = os.getcwd()
        os.chdir(folder)
        try:
            pid = os.posix_spawn(
                command[0], command, {**os.environ, **variables}, file_actions=files
            )
        finally:
            os.chdir(here)
        _, status, used = os.wait4(pid, 0)
    if status:
        end = (folder / "said.txt").read_text()[-2000:]
        raise SystemExit(f"{' '.join(command)} ended with {status}\n{end}")
    wall = time.perf_counter() - started
    return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024


def trained(size: int, *overrides: str) -> Cost:
    """A run of these overrides in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder, run = Path(place), Path(place, "run")
        command = [sys.executable, "-m", "lrexp", f"hydra.run.dir={run}", "trainer.device=cpu"]
        found = process([*command, *overrides], folder)
        timings = json.loads((run / SUMMARY).read_text())["timings"]
        more = {name: timings[name] for name in ("startup_s", *OF_TIMINGS)}
        for name, file in (("last.pt", run / CHECKPOINTS / LAST), (PREDICTIONS, run / PREDICTIONS)):
            more[f"{name} MB"] = file.stat().st_size / MEGA if file.exists() else 0.0
        last = (run / METRICS).read_text().splitlines()[-1]
        more["row kB"] = len(last) / 1000
    return Cost(size, *found, more)


def epochs(size: int) -> Cost:
    small = ("model=mlp", "data.limit=100", "trainer.limit_train_batches=2")
    return trained(size, *small, f"trainer.epochs={size}")


def images(size: int) -> Cost:
    shape = ("data=synthetic", "data.image_shape=[3,32,32]", f"data.train_size={size}")
    few = ("logger=none", "trainer.epochs=1", "trainer.limit_train_batches=20")
    return trained(size, *shape, *few, "data.test_fraction=0.1", "data.val_fraction=0.1")


def tensors(size: int) -> Cost:
    widths = ",".join(["8"] * (size // 2 - 1))
    deep = ("model=mlp", f"model.widths=[{widths}]", "lr_policy=layerwise_decay")
    few = ("logger=none", "trainer.epochs=5", "trainer.limit_train_batches=10")
    return trained(size, *deep, *few)


def predicted(size: int, form: str) -> Cost:
    """A run on `size` classes that writes down this much of what it predicts."""
    shape = ("data=synthetic", "data.image_shape=[1,8,8]", "data.train_size=20000")
    few = ("logger=none", "trainer.epochs=2", "trainer.limit_train_batches=10")
    spared = ("data.leak_check=skip", "data.test_fraction=0.2", "data.val_fraction=0.2")
    chosen = (f"data.num_classes={size}", f"trainer.predictions={form}", "model.hidden=64")
    return trained(size, *shape, *few, *spared, *chosen)


def classes(size: int) -> Cost:
    return predicted(size, "top5")


def scores(size: int) -> Cost:
    return predicted(size, "all")


def points(size: int) -> Cost:
    with tempfile.TemporaryDirectory() as place:
        seeds = f"seed={','.join(map(str, range(size)))}"
        command = [sys.executable, "-m", "lrexp", "-m", "experiment=smoke", seeds]
        command += ["hydra/launcher=lrexp", "hydra.launcher.executor=serial"]
        command += [f"hydra.sweep.dir={place}/sweep", "trainer.device=cpu"]
        found = process(command, Path(place))
        kept = sum(f.stat().st_size for f in Path(place, "sweep").glob("*/**/*") if f.is_file())
    return Cost(size, *found, {"kept MB": kept / MEGA})


def inside(name: str, size: int) -> Cost:
    """A part of a command, in a process of its own that says how long the part took."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, str(Path(__file__).resolve()), "--inside", name, str(size)]
        _, _, peak = process(command, Path(place))
        said = json.loads((Path(place) / "said.txt").read_text().splitlines()[-1])
    return Cost(size, said.pop("cpu_s"), said.pop("wall_s"), peak, said)


def compose(size: int) -> Cost:
    return inside("compose", size)


def leaks(size: int) -> Cost:
    return inside("leaks", size)


def _compose(size: int) -> dict[str, float]:
    import torch  # not a part of any point

    from lrexp.config.compose import CheckedLoader
    from lrexp.folder.claim import Claim
    from lrexp.folder.files import write_atomically
    from lrexp.folder.layout import OF_SWEEP, POINTS, names_of_run
    from lrexp.grid.leaderboard import Leaderboard
    from lrexp.grid.points.point import points_text, read_points
    from lrexp.grid.points.resume import settled
    from lrexp.session.composed import compose_points, find_equal_points
    from lrexp.session.hydra import hydra_of
    from lrexp.session.request import read_request

    del torch
    loader, folder = CheckedLoader(), Path("sweep")
    rates = ",".join(f"{1e-4 * (1 + i):.6g}" for i in range(5))
    seeds = ",".join(map(str, range(size // 10)))
    axes = ["lr_policy=uniform,layerwise_decay", f"optimizer.lr={rates}", f"seed={seeds}"]
    with hydra_of(loader):
        request = read_request(loader, axes)
        request.config.hydra.sweep.dir = str(folder)
        clock, parts = Clock(), dict[str, float]()
        composed = compose_points(loader, request)
        parts["compose"] = clock.cpu_s
        find_equal_points(loader, request, composed)
        parts["compare"] = clock.cpu_s
        of_point = names_of_run(request.config.hydra)
        names = [*OF_SWEEP, *(f"{p.folder}/{name}" for p in composed for name in of_point)]
        claim = Claim(folder, names=names)
        parts["claim"] = clock.cpu_s
        write_atomically(folder / POINTS, points_text(composed, request.command))
        board = Leaderboard(folder)
        board.points = composed
        board.look_up(composed)
        parts["board"] = clock.cpu_s
        facts = clock.facts
        request.started = read_points(folder)
        compose_points(loader, request, settled(request.started, lambda num: "finished"))
        parts["resume"] = clock.cpu_s
        claim.release()
        before = [0.0, *parts.values()]
        of_part = zip(parts, parts.values(), before, strict=False)
        return facts | {f"{name} ms": 1000 * (to - at) / len(composed) for name, to, at in of_part}


def _leaks(size: int) -> dict[str, float]:
    import numpy as np

    from lrexp.data.leaks import find_leaks
    from lrexp.data.signatures import Signatures
    from lrexp.data.sources.synthetic import synthetic

    source = synthetic([3, 32, 32], 10, size, 0.5)
    order = np.random.default_rng(0).permutation(size)
    tenth = size // 10
    splits = {"train": order[2 * tenth :], "val": order[:tenth], "test": order[tenth : 2 * tenth]}
    clock = Clock()
    signatures = Signatures.of(source.images)
    signed = clock.cpu_s
    find_leaks(signatures, source.labels, splits)
    return clock.facts | {"signatures_s": signed}


class Clock:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._cpu

    @property
    def facts(self) -> dict[str, float]:
        return {"cpu_s": self.cpu_s, "wall_s": time.perf_counter() - self._wall}


SECTIONS: dict[str, tuple[Callable[[int], Cost], tuple[int, ...]]] = {
    "epochs": (epochs, (10, 500, 1000, 2000)),
    "images": (images, (1_000, 50_000, 100_000, 400_000)),
    "leaks": (leaks, (1_000, 50_000, 100_000, 400_000)),
    "tensors": (tensors, (10, 200, 400, 800)),
    "classes": (classes, (10, 1_000, 5_000, 10_000)),
    "scores": (scores, (10, 250, 500, 1_000)),
    "points": (points, (1, 250, 500, 1000)),
    "compose": (compose, (10, 250, 500, 1000)),
}
INSIDE = {"compose": _compose, "leaks": _leaks}


def verdict(sizes: Sequence[int], values: Sequence[float], least: float) -> str:
    """Whether the last interval costs more per size than the one before.

    >>> verdict([1, 2, 4], [1.0, 2.0, 4.0], 0.1), verdict([1, 2, 4], [1.0, 4.0, 16.0], 0.1)
    ('in proportion', 'grows faster')
    >>> verdict([1, 2, 4], [1.0, 1.0, 1.01], 0.1), verdict([1, 2], [1.0, 4.0], 0.1)
    ('noise', '–')
    """
    if len(sizes) < 3:
        return "–"
    if abs(values[-1] - values[-2]) < least:
        return "noise"
    before, last = (
        (values[i] - values[i - 1]) / (sizes[i] - sizes[i - 1]) for i in (len(sizes) - 2, -1)
    )
    return "grows faster" if last > FASTER * max(before, 0) else "in proportion"


def table(name: str, found: Sequence[Cost]) -> None:
    """Print the costs of a section, and what they say."""
    extra = list(found[0].more)
    widths = [max(11, len(key)) for key in extra]
    heading = f"{name:>9}  {'CPU s':>8}  {'x':>6}  {'wall s':>8}  {'peak MB':>8}  {'x':>6}"
    print(
        f"\n{heading}  "
        + "  ".join(f"{key:>{width}}" for key, width in zip(extra, widths, strict=True))
    )
    first = found[0]
    for one in found:
        more = "  ".join(
            f"{one.more[key]:>{width}.3f}" for key, width in zip(extra, widths, strict=True)
        )
        time_x, memory_x = one.cpu_s / first.cpu_s, one.peak_mb / first.peak_mb
        print(
            f"{one.size:>9,}  {one.cpu_s:>8.2f}  {time_x:>6.1f}  {one.wall_s:>8.2f}"
            f"  {one.peak_mb:>8.0f}  {memory_x:>6.1f}  {more}"
        )
    sizes = [one.size for one in found]
    of_time = verdict(sizes, [one.cpu_s for one in found], LEAST_S)
    of_memory = verdict(sizes, [one.peak_mb for one in found], LEAST_MB)
    print(f"{'verdict':>9}  time: {of_time}; memory: {of_memory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--sizes", nargs="+", type=int, help="in place of a section's own")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        part, size = arguments.inside
        print(json.dumps(INSIDE[part](int(size))))
        return
    import torch

    facts: dict[str, Any] = environment(torch.device("cpu"), 1, {})
    machine = f"{facts['cpu']}, {facts['cpu_count']} cores, 1 thread"
    print(f"{machine}, torch {facts['packages']['torch']}, CPU")
    for name in arguments.only:
        measure, sizes = SECTIONS[name]
        table(name, [measure(size) for size in arguments.sizes or sizes])


if __name__ == "__main__":
    main()
