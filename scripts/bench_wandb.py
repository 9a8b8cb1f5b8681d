"""What W&B costs: milliseconds per epoch row and per grid point, ours against none.

    python scripts/bench_wandb.py [--points 12] [--rows 20]

Records points of a grid one after the other, offline or to a loopback server that answers at once;
nothing is trained. Medians without the first point, which starts the client's service.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def points(count: int, rows: int, in_sweep: bool, artifacts: str) -> tuple[float, float]:
    """Median milliseconds of a row, and of a point without its rows."""
    from lrexp.config.schema.training import Wandb
    from lrexp.plan.plan import Plan, Row
    from lrexp.record.recorders import RunInfo
    from lrexp.record.wandb.recorder import WandbRecorder

    groups = ("lr_policy", "model", "data", "optimizer", "scheduler")
    config = {"name": "bench", **{g: {"name": "x", **dict.fromkeys("abcdefgh", 1)} for g in groups}}
    row = {f"metric/{i}": i / 7 for i in range(45)}
    plan = [Row(f"w{i}", (10, 10), i, "l", "g", i > 58, "fresh", 1.0, 0.0) for i in range(60)]
    base, per_row, per_point = Path(tempfile.mkdtemp()), [], []
    settings = Wandb("wandb", "p", None, None, [], None, "auto", artifacts, "auto")
    for point in range(count):
        folder = base / str(point)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "plan.csv").write_text(Plan(tuple(plan)).to_csv())
        (folder / "checkpoints" / "best.pt").write_bytes(os.urandom(100_000))
        sweep = base.name if in_sweep else None
        info = RunInfo(folder, f"bench{point:03d}", "t", sweep, config, "c", 9, "val/loss", [])
        started = time.perf_counter()
        recorder = WandbRecorder(settings, "train", info)
        begun = time.perf_counter()
        for epoch in range(1, rows + 1):
            one = time.perf_counter()
            recorder.row({"epoch": epoch, **row})
            per_row.append(time.perf_counter() - one)
        ends = time.perf_counter()
        best = {"epoch": 1, "val/loss": 0.5, **row}
        facts = dict.fromkeys(("seed", "config_id", "plan_hash", "device"), "x")
        recorder.finish(
            {"status": "finished", **facts, "verdicts": [], "best": best, "test": {}, "gap": {}}
        )
        per_point.append(begun - started + time.perf_counter() - ends)
        time.sleep(0.2)  # the training that would go on meanwhile
    return 1000 * statistics.median(per_row), 1000 * statistics.median(per_point[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--rows", type=int, default=20)
    args = parser.parse_args()
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "NETRC": os.devnull}
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        os.environ.pop(name, None)
    import wandb
    from wandb_stub import WandbStub

    def line(what: str, in_sweep: bool, artifacts: str) -> None:
        row, point = points(args.points, args.rows, in_sweep, artifacts)
        print(f"{what:44}{row:8.2f}{point:10.1f}")

    print(f"{'milliseconds, medians':44}{'row':>8}{'point':>10}")
    line("offline, point of a grid", True, "auto")
    line("offline, point of a grid, with artifact", True, "best")
    line("offline, single run, with artifact", False, "best")
    with WandbStub() as server:
        wandb.teardown()
        os.environ |= server.environment
        line("online, point of a grid", True, "auto")
        line("online, point of a grid, with artifact", True, "best")
        line("online, single run, with artifact", False, "best")
        wandb.teardown()
    print(f"wandb {wandb.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
