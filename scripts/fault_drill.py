"""Stop runs at random moments, let them go on, and compare with a run that nobody stopped.

    python scripts/fault_drill.py --runs 100
    python scripts/fault_drill.py --points 1000    # a sweep instead: see fault_drill_sweep.py

A run has survived when the same command with `trainer.resume=auto`, given as often as it was
stopped and once more, ends with the same metrics, the same weights, the same best weights and the
same predictions, to the bit, and every file that it left behind on the way could be read. Prints
tried, survived and lost by kind of fault; the exit code is 1 if any run was lost. Needs Linux or
macOS: every attempt is a process of its own, forked from one that has imported torch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import numpy as np
import torch
from fault_drill_sweep import WAYS
from fault_drill_sweep import drill as drill_sweep

import lrexp.build.experiment
import lrexp.config.compose
import lrexp.folder.checkpoint
import lrexp.record.predictions
import lrexp.tasks.train
from lrexp.__main__ import main

COMMON = (
    "model=mlp", "model.dropout=0.2", "trainer.device=cpu", "logger=none", "trainer.resume=auto",
    "data.leak_check=skip", "trainer.epochs=6", "trainer.limit_train_batches=12",
    "trainer.stats_every=3",
)  # fmt: skip
# What is trained in turn: states of several kinds, saved once and several times per epoch.
RUNS = (
    ("optimizer=adam", "scheduler=cosine", "trainer.checkpoint_every_steps=5"),
    ("optimizer=sgd", "scheduler=plateau", "scheduler.patience=1"),
    ("optimizer=adamw", "lr_policy=gradual_unfreeze", "trainer.checkpoint_every_steps=1"),
    ("optimizer=rmsprop", "scheduler=one_cycle", "trainer.patience=2"),
)
KINDS = ("kill -9", "kill -9 in a save", "last.pt cut", "SIGTERM", "Ctrl-C", "two signals")
ATTEMPTS = 3  # at most so many are stopped before one may end
SAVED_WITHIN_S = 5.0


def attempt(arguments: list[str], output: Path, prepare: Callable[[], None] | None = None) -> int:
    """Start the command in a process of its own; returns its id."""
    if child := os.fork():
        return child
    code = 99
    try:
        with output.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if prepare:
            prepare()
        code = main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """The exit code of a process when it has ended; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_in_save(number: int, share: float) -> Callable[[], None]:
    """In a process: let it be killed in its number-th save, with a share of the file written."""

    def prepare() -> None:
        save, count = torch.save, 0

        def dying(state: Any, stream: Any) -> None:
            nonlocal count
            save(state, stream)
            count += 1
            if count == number:
                stream.flush()
                os.truncate(stream.name, int(share * stream.tell()))
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = dying

    return prepare


def result(folder: Path) -> dict[str, Any]:
    """What must be the same however often a run was stopped."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    last = lrexp.folder.checkpoint.load_checkpoint(folder / "checkpoints" / "last.pt")
    best = lrexp.folder.checkpoint.load_checkpoint(folder / "checkpoints" / "best.pt")
    timeless = [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]
    return {
        "rows": timeless,
        "status": summary["status"],
        "test": summary["test"],
        "best epoch": (summary["best"]["epoch"], best["epoch"]),
        "weights": {k: v.numpy() for k, v in last["model"].items()},
        "best weights": {k: v.numpy() for k, v in best["model"].items()},
        "optimizer": {
            f"{name} {key}": np.asarray(value)
            for name, values in last["optimizer"].items()
            for key, value in values.items()
            if not isinstance(value, dict)
        },
        "predictions": (folder / "predictions.parquet").read_bytes(),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs between two results."""
    found = []
    for key, value in one.items():
        theirs = other[key]
        if isinstance(value, dict) and value and isinstance(next(iter(value.values())), np.ndarray):
            same = value.keys() == theirs.keys() and all(
                np.array_equal(value[name], theirs[name]) for name in value
            )
        else:
            same = value == theirs
        found += [] if same else [key]
    return found


def unreadable(folder: Path) -> list[str]:
    """What a stopped attempt left that cannot be read: summary, rows, the newest state."""
    found = []
    try:
        if (folder / "summary.json").exists():
            json.loads((folder / "summary.json").read_text())
        if (folder / "metrics.jsonl").exists():
            lines = (folder / "metrics.jsonl").read_text().split("\n")
            epochs = [json.loads(line)["epoch"] for line in lines[:-1]]
            if epochs != list(range(1, len(epochs) + 1)):
                found.append(f"rows of epochs {epochs}")
        lrexp.folder.checkpoint.load_last(folder / "checkpoints")
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def survive(
    kind: str, arguments: list[str], folder: Path, lasts_s: float, draw: random.Random
) -> tuple[list[str], int, float]:
    """Stop a run some times and let it end.

    Returns:
        What went wrong; how often it was stopped; the longest time from a signal to the end.
    """
    problems, stopped, slowest_s = [], 0, 0.0
    output = folder.with_suffix(".txt")
    for _ in range(draw.randint(1, ATTEMPTS)):
        in_save = kind == "kill -9 in a save"
        prepare = die_in_save(draw.randint(1, 12), draw.random()) if in_save else None
        child = attempt(arguments, output, prepare)
        if in_save:
            code = ended(child)
        else:
            time.sleep(draw.uniform(0, lasts_s))
            deadly = kind in ("kill -9", "last.pt cut")
            number = signal.SIGKILL if deadly else signal.SIGTERM
            number = signal.SIGINT if kind == "Ctrl-C" else number
            os.kill(child, number)
            sent = time.monotonic()
            if kind == "two signals":
                time.sleep(draw.choice([0, 0.001, 0.01, 0.05, 1.1]))
                os.kill(child, draw.choice([signal.SIGTERM, signal.SIGINT]))  # a zombie takes it
            code = ended(child)
            if code in (130, 143):
                slowest_s = max(slowest_s, time.monotonic() - sent)
        stopped += code != 0
        last = folder / "checkpoints" / "last.pt"
        if (
            kind == "last.pt cut"
            and (folder / "checkpoints" / "previous.pt").exists()
            and json.loads((folder / "summary.json").read_text())["status"] != "finished"
        ):
            os.truncate(last, int(draw.random() * last.stat().st_size))
        problems += unreadable(folder)
        if code not in (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            problems.append(f"exit code {code}")
        if code == 0:
            break
    if code := ended(attempt(arguments, output)):
        problems.append(f"could not go on: exit code {code}")
    if slowest_s > SAVED_WITHIN_S:
        problems.append(f"{slowest_s:.1f} s from the signal to the end")
    return problems, stopped, slowest_s


def drill(runs: int, seed: int, base: Path) -> int:
    """Returns how many runs were lost."""
    draw, references, lasts_s = random.Random(seed), [], []
    for i, overrides in enumerate(RUNS):
        folder = base / f"reference_{i}"
        arguments = [*COMMON, *overrides, f"hydra.run.dir={folder}"]
        started = time.monotonic()
        if code := ended(attempt(arguments, folder.with_suffix(".txt"))):
            raise SystemExit(f"the reference failed ({code}): see {folder.with_suffix('.txt')}")
        lasts_s.append(time.monotonic() - started)
        references.append(result(folder))
    tried = dict.fromkeys(KINDS, 0)
    stops, lost, slowest = dict(tried), dict(tried), dict.fromkeys(KINDS, 0.0)
    for number in range(runs):
        kind, i = KINDS[number % len(KINDS)], draw.randrange(len(RUNS))
        folder = base / f"run_{number}"
        arguments = [*COMMON, *RUNS[i], f"hydra.run.dir={folder}"]
        problems, stopped, slowest_s = survive(kind, arguments, folder, lasts_s[i], draw)
        if not problems:
            problems = [f"other {key}" for key in differences(references[i], result(folder))]
        tried[kind] += 1
        stops[kind] += stopped
        slowest[kind] = max(slowest[kind], slowest_s)
        if problems:
            lost[kind] += 1
            print(f"lost: run {number}, {kind}, {' '.join(RUNS[i])}: {'; '.join(problems)}")
        else:
            shutil.rmtree(folder)
            folder.with_suffix(".txt").unlink()
    print(f"{'fault':18}  tried  stopped  survived  lost  longest from signal to end")
    for kind in KINDS:
        longest = f"{slowest[kind]:.2f} s" if slowest[kind] else "-"
        counts = f"{tried[kind]:5}  {stops[kind]:7}  {tried[kind] - lost[kind]:8}  {lost[kind]:4}"
        print(f"{kind:18}  {counts}  {longest}")
    total = sum(tried.values())
    print(f"{total} runs, stopped {sum(stops.values())} times, {sum(lost.values())} lost")
    return sum(lost.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of what is stopped when")
    parser.add_argument("--keep", type=Path, help="a folder for the runs that were lost")
    parser.add_argument("--points", type=int, help="of a sweep, whose programs are killed")
    parser.add_argument("--ways", nargs="+", default=["serial", "pool"], choices=WAYS)
    parser.add_argument("--kills", type=int, default=30, help="of each of these ways")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fault_drill_") as name:
        base = (asked.keep or Path(name)).resolve()
        base.mkdir(parents=True, exist_ok=True)
        if asked.points:
            sys.exit(drill_sweep(asked.points, asked.ways, asked.kills, asked.seed, base) > 0)
        sys.exit(drill(asked.runs, asked.seed, base) > 0)
