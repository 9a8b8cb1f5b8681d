"""Whole programs on hosts that share a folder: other kernels, no locks, and little patience."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_lines import rows_of, user_environment
from processes import HUNG_S, running, stat_of, wait_for

from lrexp.folder.layout import METRICS, NEXT_OWNER, OWNER, SUMMARY
from lrexp.folder.owner import Owner

HOST = """
import errno, fcntl, sys
from lrexp.folder import hold, owner
hold.RENEW_S, owner.STALE_S, hold.BOOT, owner.BOOT = 0.1, 5.0, sys.argv[1], sys.argv[1]
def no_locks(*_): raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = no_locks
from lrexp.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
SMOKE = ("experiment=smoke", "data.leak_check=skip", "logger=none")
Host = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def on_host(tmp_path: Path) -> Iterator[Host]:
    """A function that starts a command line on a host."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOST, name, *arguments]
        with (tmp_path / f"{name}.out").open("w") as out:
            process = subprocess.Popen(
                words,
                cwd=tmp_path,
                env=user_environment(tmp_path),
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=HUNG_S)


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: stat_of(process.pid)[0] == "T", process)


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_a_run_that_was_stopped_and_taken_over_ends_and_its_rows_are_the_others(
    tmp_path: Path, on_host: Host
) -> None:
    words = (*SMOKE, "trainer.epochs=40", "trainer.resume=auto", "hydra.run.dir=run")
    late = on_host("a", *words)
    wait_for(lambda: lines(tmp_path / "run" / METRICS) >= 3, late)
    stop(late)
    done = lines(tmp_path / "run" / METRICS)
    other = on_host("b", *words)
    wait_for(lambda: lines(tmp_path / "run" / METRICS) > done, other)
    third = on_host("c", *words)
    said = third.communicate(timeout=HUNG_S)[1]
    if other.poll() is None:
        assert third.returncode == 2
        assert f"is in use by another lrexp process (process {other.pid} on " in said
    late.send_signal(signal.SIGCONT)
    said = late.communicate(timeout=HUNG_S)[1]
    assert late.returncode == 143
    assert said.count("interrupted: ") == 1
    assert "it stops without writing anything there" in said
    assert "Traceback" not in said
    said = other.communicate(timeout=HUNG_S)[1]
    assert other.returncode == 0, said
    assert f"is held by another lrexp process (process {late.pid} on " in said
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [*range(1, 41)]
    assert json.loads((tmp_path / "run" / SUMMARY).read_text())["status"] == "finished"
    assert not {OWNER, NEXT_OWNER} & {*os.listdir(tmp_path / "run")}


@pytest.mark.slow
def test_the_workers_of_a_sweep_that_was_taken_over_write_no_more(
    tmp_path: Path, on_host: Host
) -> None:
    """Though the program that they work for is stopped, and does not notice."""
    grid = ("seed=0,1", "hydra.launcher.executor=pool", "hydra.launcher.workers=2")
    words = ("-m", *SMOKE, "trainer.epochs=100000", *grid, "hydra.sweep.dir=sweep")
    late, sweep = on_host("a", *words), tmp_path / "sweep"

    def begun() -> bool:
        points = [*sweep.glob("?_seed_?")]
        return len(points) == 2 and all(lines(point / METRICS) >= 2 for point in points)

    wait_for(begun, late)

    def workers() -> list[int]:
        mine = [pid for pid, line in running().items() if "forkserver" in line]
        return [pid for pid in mine if stat_of(pid)[1] in mine]

    assert len(wait_for(workers)) == 2
    stop(late)
    (sweep / NEXT_OWNER).write_text(Owner("b", "node7", "other-kernel", 7).text())
    (sweep / NEXT_OWNER).replace(sweep / OWNER)
    wait_for(lambda: not workers())
    files = [file for file in sweep.rglob("*") if file.is_file() and file.suffix != ".log"]
    left = {file: file.read_bytes() for file in files}
    late.send_signal(signal.SIGCONT)
    said = late.communicate(timeout=HUNG_S)[1]
    assert late.returncode == 143
    assert "sweep was taken over by another lrexp process (process 7 on node7)" in said
    assert {file: file.read_bytes() for file in left} == left
