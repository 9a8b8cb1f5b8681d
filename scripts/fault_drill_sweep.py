"""Kill a sweep's programs at random moments, resume it until it is done, and compare.

    python scripts/fault_drill.py --points 1000 --ways serial pool ray

A sweep of smoke runs is started as a user would; its launcher, its workers or, of a Ray cluster of
two nodes on this machine, one node are killed (SIGKILL) again and again, and it is resumed.
What comes out is held against a sweep that nobody disturbed: every point has its rows once, the
same rows to the bit, and the leaderboard is the same text. Prints the counts; exit code 1 if
anything differs. Needs Linux, whose /proc names the children of a program.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRID = (
    "experiment=smoke", "data.leak_check=skip", "trainer.device=cpu",
    "lr_policy=uniform,layerwise_decay", "optimizer.lr=0.3,0.1,0.03,0.01,0.003",
)  # fmt: skip
PER_SEED = 10  # points
WAYS = {
    "serial": ["hydra.launcher.executor=serial"],
    "pool": ["hydra.launcher.executor=pool"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.retries=3"],
}
PORT = 26379
EARLY = 0.2  # share of kills that may come before a point has ended since the launcher started
MOST_STARTS = 200  # of a launcher, until a sweep counts as lost


@dataclass
class Drilled:
    """What was done to a sweep, and what is wrong with it."""

    starts: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def drill(points: int, ways: Sequence[str], kills: int, seed: int, base: Path) -> int:
    """Returns how many ways of running a sweep lost or changed something."""
    print(f"{points} points, {kills} kills each; folders in {base}", flush=True)
    reference = base / "undisturbed"
    began = time.monotonic()
    started = _start(points, WAYS["serial"], reference, base)
    if started.wait():
        raise SystemExit(f"the undisturbed sweep failed: see {base / 'undisturbed.txt'}")
    lasts_s = time.monotonic() - began
    print(f"undisturbed, serial: {lasts_s:.0f} s", flush=True)
    wanted, lost = _found(reference), 0
    for way in ways:
        folder, draw = base / way, random.Random(f"{seed} {way}")
        done = _disturbed(points, way, folder, kills, lasts_s, draw)
        done.problems += _compared(wanted, _found(folder))
        lost += bool(done.problems)
        by_kind = ", ".join(f"{count} {kind}" for kind, count in sorted(done.killed.items()))
        print(f"{way:7} {done.starts} starts; killed: {by_kind}", flush=True)
        for line in done.problems or ["every row there once, the same leaderboard and rows"]:
            print(f"        {line}", flush=True)
    return lost


def _disturbed(
    points: int, way: str, folder: Path, kills: int, lasts_s: float, draw: random.Random
) -> Drilled:
    """Run a sweep to its end, killing something now and then."""
    done, cluster = Drilled(), Cluster() if way == "ray" else None
    try:
        while True:
            if done.starts == MOST_STARTS:
                done.problems.append(f"not done after {MOST_STARTS} starts")
                return done
            launcher = _start(points, WAYS[way], folder, folder.parent, cluster)
            done.starts += 1
            seen = _ended_points(folder)
            while launcher.poll() is None and done.killed.total() < kills:
                if draw.random() > EARLY:
                    while launcher.poll() is None and _ended_points(folder) == seen:
                        time.sleep(0.2)
                pause_s = draw.uniform(0, lasts_s / kills)
                try:
                    launcher.wait(pause_s)
                except subprocess.TimeoutExpired:
                    done.killed[_kill(launcher, cluster, draw)] += 1
            code = launcher.wait()
            if code == 0 or (code == 1 and not _undone(folder)):
                return done
            if code not in (1, -signal.SIGKILL):
                done.problems.append(f"exit code {code}")
    finally:
        if cluster:
            cluster.close()


def _start(
    points: int, how: Sequence[str], folder: Path, base: Path, cluster: Cluster | None = None
) -> subprocess.Popen[bytes]:
    """A launcher: of a new sweep, or of one that goes on."""
    words = [*GRID, f"seed=range({points // PER_SEED})", f"hydra.sweep.dir={folder}"]
    if (folder / "points.json").exists():
        words = [f"hydra.launcher.resume={folder}"]
    at = [f"hydra.launcher.address={cluster.address}"] if cluster else []
    with (base / f"{folder.name}.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "lrexp", "-m", *words, *how, *at],
            stdout=said,
            stderr=said,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        )


def _kill(launcher: subprocess.Popen[bytes], cluster: Cluster | None, draw: random.Random) -> str:
    """Kill something of a sweep that runs; returns what."""
    workers = cluster.workers() if cluster else children(launcher.pid)
    kind = draw.choice(["launcher", *["worker"] * (2 * bool(workers)), *["node"] * bool(cluster)])
    if kind == "node" and cluster:
        cluster.lose_node()
        return kind
    victim = launcher.pid if kind == "launcher" else draw.choice(workers)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return f"{kind}s that had just ended"
    return kind


def children(process: int) -> list[int]:
    """Every program below one, however deep."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        below.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, look = list[int](), [process]
    while look:
        own = below.get(look.pop(), [])
        found += own
        look += own
    return found


class Cluster:
    """Ray on two nodes of one CPU each, which are programs of this machine."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{PORT}"
        self._head = self._node("--head", f"--port={PORT}", "--include-dashboard=false")
        self._other = self._node(f"--address={self.address}")

    def _node(self, *words: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", *words, "--num-cpus=1", "--block", "--disable-usage-stats"]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        node = subprocess.Popen(command, start_new_session=True, **quiet)
        time.sleep(10)  # until it takes part
        return node

    def workers(self) -> list[int]:
        """Programs that run tasks."""
        every = [*children(self._head.pid), *children(self._other.pid)]
        return [one for one in every if b"ray::_called" in _command(one)]

    def lose_node(self) -> None:
        """Kill the second node with all that runs there, and start another one."""
        _kill_all(self._other)
        self._other = self._node(f"--address={self.address}")

    def close(self) -> None:
        """End both."""
        _kill_all(self._other)
        _kill_all(self._head)


def _kill_all(node: subprocess.Popen[bytes]) -> None:
    for one in [*children(node.pid), node.pid]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.wait()


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def _ended_points(folder: Path) -> int:
    """Lines on points that have ended, in what all launchers of a sweep have said so far."""
    said = folder.with_name(f"{folder.name}.txt").read_text(encoding="utf-8", errors="replace")
    return len(re.findall(r"^ *\d+/\d+ ", said, re.MULTILINE))


def _undone(folder: Path) -> bool:
    """Whether a sweep has points without a result."""
    listed = list(csv.DictReader((folder / "points.csv").open(encoding="utf-8")))
    return any(point["status"] not in ("finished", "diverged", "equal") for point in listed)


def _found(folder: Path) -> dict[str, Any]:
    """What must be the same however often a sweep was killed."""
    listed = json.loads((folder / "points.json").read_text(encoding="utf-8"))["points"]
    rows = {}
    for point in listed:
        file = folder / point["folder"] / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        read = [json.loads(line) for line in lines]
        kept = [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in read]
        rows[point["folder"]] = kept
    return {"rows": rows, "leaderboard": (folder / "leaderboard.csv").read_text(encoding="utf-8")}


def _compared(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs from the sweep that nobody disturbed, in a line each."""
    counted = Counter[str]()
    for folder, rows in wanted["rows"].items():
        own = found["rows"].get(folder, [])
        epochs = Counter(row["epoch"] for row in own)
        counted["rows lost"] += sum(row["epoch"] not in epochs for row in rows)
        counted["rows twice"] += sum(count - 1 for count in epochs.values())
        counted["points with other rows"] += len(own) == len(rows) and own != rows
    counted["points that are no part of it"] += len(found["rows"].keys() - wanted["rows"].keys())
    lines = [f"{count} {what}" for what, count in counted.items() if count]
    same = wanted["leaderboard"] == found["leaderboard"]
    return lines if same else [*lines, "another leaderboard"]
