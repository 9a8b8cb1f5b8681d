"""How long a command takes to answer: from its start to its prompt, and to its first epoch.

    python scripts/bench_start.py [--repetitions 5]

Each line is the median of several fresh processes, run in turns so that a slow moment of the
machine spreads over all of them. `first step` is the process start to the moment training begins:
the file times of the first row in metrics.jsonl, less that epoch's own time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lrexp.folder.environment import environment

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "lrexp logger=none": ["logger=none"],
    "lrexp (W&B offline)": [],
    "experiment=smoke": ["experiment=smoke"],
}


def run(arguments: list[str]) -> tuple[float, float | None]:
    """Seconds to the prompt, and to the first training step for a command that trains."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_MODE": "offline",
        }
        command = [sys.executable, "-m", "lrexp", *arguments]
        first_row_at = None
        started_at, started = time.time(), time.perf_counter()
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                if first_row_at is None:
                    first_row_at = first_row_time(Path(folder))
                time.sleep(0.005)
        prompt_s = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        rows = list(Path(folder).glob("outputs/*/2*/metrics.jsonl"))
        if not rows or first_row_at is None:
            return prompt_s, None
        first = json.loads(rows[0].read_text().splitlines()[0])
        return prompt_s, first_row_at - started_at - first["perf/epoch_s"]


def first_row_time(folder: Path) -> float | None:
    """When the first epoch's row was written, once it was."""
    for file in folder.glob("outputs/*/2*/metrics.jsonl"):
        state = file.stat()
        if state.st_size:
            return state.st_mtime
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    measured: dict[str, list[tuple[float, float | None]]] = {name: [] for name in COMMANDS}
    for _ in range(args.repetitions):
        for name, arguments in COMMANDS.items():
            measured[name].append(run(arguments))
    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(
        f"{facts['cpu']}, {facts['cpu_count']} cores, {facts['threads']} threads,"
        f" Python {facts['python']}, torch {torch.__version__}; medians of {args.repetitions}"
    )
    print(f"{'command':<22}{'to prompt':>12}{'to first step':>15}")
    for name, times in measured.items():
        prompt = statistics.median(prompt for prompt, _ in times)
        steps = [step for _, step in times if step is not None]
        step = f"{statistics.median(steps):.2f} s" if steps else "-"
        print(f"{name:<22}{prompt:>10.2f} s{step:>15}")


if __name__ == "__main__":
    main()
