"""What a point of a grid costs beside its training: composing, folders, recording, W&B offline.

    python scripts/bench_points.py [--points 30]

Runs two grids in fresh processes in turns: the smoke job with no training steps (trainer.epochs=0,
which still evaluates once, tests and saves), with W&B offline and without. The added cost of a
point is the slope over points, (long grid - short grid) / (difference in points), so that the start
of the program drops out; what is left in it of the evaluation is measured inside the run and taken
off. CPU seconds of the program stand beside wall seconds, because a shared machine only stretches
the latter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lrexp.folder.environment import environment

ROOT = Path(__file__).parent.parent
SHORT = 3  # points


def sweep(points: int, logger: str) -> tuple[float, float, float]:
    """Wall and CPU seconds of a whole grid, and seconds that its points evaluated."""
    seeds = ",".join(map(str, range(points)))
    command = [sys.executable, "-m", "lrexp", "-m", "experiment=smoke", f"seed={seeds}"]
    command += ["trainer.epochs=0", f"logger={logger}", "hydra.sweep.dir=sweep"]
    variables = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        used = _cpu_s()
        started = time.perf_counter()
        subprocess.run(
            command, cwd=folder, env=os.environ | variables, check=True, capture_output=True
        )
        elapsed, used = time.perf_counter() - started, _cpu_s() - used
        rows = Path(folder).glob("sweep/*/metrics.jsonl")
        evaluated = sum(json.loads(file.read_text())["perf/epoch_s"] for file in rows)
    return elapsed, used, evaluated


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    import torch

    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(f"{facts['cpu']}, {facts['cpu_count']} cores, torch {facts['packages']['torch']}")
    print(f"{'logger':<14}  {'wall ms/point':>13}  {'CPU ms/point':>12}  {'of it evaluation':>16}")
    slopes: dict[str, list[list[float]]] = {"none": [], "wandb": []}
    for _ in range(arguments.repetitions):
        for logger, found in slopes.items():
            short, long = sweep(SHORT, logger), sweep(arguments.points, logger)
            more = arguments.points - SHORT
            found.append([1000 * (b - a) / more for a, b in zip(short, long, strict=True)])
    for logger, found in slopes.items():
        wall, cpu, evaluation = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{logger:<14}  {wall:>13.0f}  {cpu:>12.0f}  {evaluation:>16.0f}")


if __name__ == "__main__":
    main()
