"""What leaderboard and report of a large sweep take: seconds and MB, and whether they stay linear.

    python scripts/bench_report.py [--points 100 1000 10000] [--policies 10] [--keep FOLDER]

Trains one small run and writes copies of it as points of a grid (policies × rates × weight decays ×
5 seeds, every file that a report reads), with numbers that differ as real ones would. Seconds are
of the CPU, which a busy machine does not stretch; files that were just written lie in memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lrexp.config.schema import OPTIONS
from lrexp.folder.environment import environment
from lrexp.folder.layout import METRICS, POINTS, PREDICTIONS, REPORT, SUMMARY
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Point, points_text, read_points
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.figures import write_sweep_plots
from lrexp.report.sweep.page import write_explored
from lrexp.runs.sweep import read_sweep
from lrexp.session.confirm import contenders

ROOT = Path(__file__).parent.parent
SEEDS, RATES = 5, 20
T = Any


def trained(folder: Path) -> Path:
    """A grid of one point, really trained."""
    command = [sys.executable, "-m", "lrexp", "-m", "experiment=smoke", "seed=0", "logger=none"]
    command += ["trainer.epochs=10", f"hydra.sweep.dir={folder}"]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=variables, check=True, capture_output=True)
    return folder


def loss_of(policy: int, rate: float, decay: float, seed: int) -> float:
    """A bowl over the rate, deeper for some policies; seeds scatter around it."""
    noise = 0.02 * math.sin(12.9898 * (policy + 1) + 78.233 * seed + 37.7 * rate + 1e4 * decay)
    return 0.3 + (math.log10(rate) + 1.4 - policy / 20) ** 2 / 4 + policy / 50 + decay + noise


def write_points(folder: Path, like: Path, count: int, policies: int) -> None:
    """A sweep folder with so many copies of the run in `like`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = read_points(like).points[0]
    run = like / first.folder
    summary = json.loads((run / SUMMARY).read_text())
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    table = pq.read_table(run / PREDICTIONS)
    table = table.filter(pa.compute.equal(table["split"], "val"))
    names = [*OPTIONS["lr_policy"]][:policies]
    off = [0.5 + (i * 0.618) % 1 for i in range(len(table))]
    off = [one * len(off) / sum(off) for one in off]  # of mean 1
    points = []
    for num in range(count):
        seed, place = num % SEEDS, num // SEEDS
        policy, rate = place % policies, round(10 ** (-3 + place // policies % RATES / 6), 6)
        decay = place // policies // RATES / 1000
        chosen = {"lr_policy": names[policy], "optimizer.lr": rate, "optimizer.weight_decay": decay}
        chosen["seed"] = seed
        typed = [f"{key}={value}" for key, value in chosen.items()]
        settings = first.settings | chosen | {"lr_policy.name": names[policy]}
        named = f"{num}_{'_'.join(typed).replace('=', '_')}"[:100]
        points.append(Point(num, typed, settings, named, b""))
        (folder / named).mkdir(parents=True)
        if rate > 1 and (seed + policy) % 3 == 0:
            ended = summary | {"status": "diverged", "best": {}, "test": {}, "verdicts": []}
            (folder / named / SUMMARY).write_text(json.dumps(ended, indent=1))
            continue
        loss = loss_of(policy, rate, decay, seed)
        best = summary["best"] | {"val/loss": loss, "val/accuracy": max(0, 1 - loss / 4)}
        ended = summary | {"best": best, "test": summary["test"] | {"loss": loss + 0.01}}
        (folder / named / SUMMARY).write_text(json.dumps(ended, indent=1))
        lines = [json.dumps(row | {"val/loss": loss + math.exp(-row["epoch"])}) for row in rows]
        (folder / named / METRICS).write_text("\n".join(lines) + "\n")
        labels = table["label"].to_pylist()
        scores = []
        for label, one in zip(labels, off, strict=True):
            right = math.exp(-loss * one)
            scores.append([right if i == label else (1 - right) / 9 for i in range(10)])
        kind = table.schema.field("scores").type
        place = table.schema.get_field_index("scores")
        predicted = table.set_column(place, "scores", pa.array(scores, kind))
        pq.write_table(predicted, folder / named / PREDICTIONS)
    (folder / POINTS).write_text(points_text(points, ["bench"]))


def measured(folder: Path) -> dict[str, float]:
    """CPU seconds by what was done, and MB of the report."""
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        started = time.process_time()
        result = work()
        found[name] = time.process_time() - started
        return result

    board = Leaderboard(folder)
    board.points = timed("points.json", lambda: read_points(folder)).points
    timed("look up", lambda: board.look_up(board.points))
    timed("board", board.write)
    sweep = timed("read", lambda: read_sweep(folder))
    explored = timed("explore", lambda: explore(sweep))
    timed("page", lambda: write_explored(explored))
    timed("plots", lambda: write_sweep_plots(folder))
    if len(explored.groups) > 1:
        timed("confirm", lambda: contenders(sweep))
    found["report MB"] = (folder / REPORT).stat().st_size / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--policies", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="folder for the sweeps, to look at the reports")
    arguments = parser.parse_args()
    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(f"{facts['cpu']}, {facts['cpu_count']} cores")
    with tempfile.TemporaryDirectory() as temporary:
        like = trained(Path(temporary, "one"))
        for count in arguments.points:
            folder = (arguments.keep or Path(temporary)) / f"points-{count}"
            if not folder.exists():
                write_points(folder, like, count, arguments.policies)
            found = measured(folder)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            said = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
            print(f"{count:>6} points: {said}  (peak {peak:.0f} MB)", flush=True)


if __name__ == "__main__":
    main()
