"""Points as tasks of a real Ray cluster of two nodes on this machine, of which one may be lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import run, start, summary_of
from engine_sweeps import GRID, assert_same, begun, in_one_program, pid_at, points
from processes import HUNG_S, is_alive, wait_for

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
RAY = "hydra/launcher=ray"


class Nodes:
    """A head and one more node, of one CPU each."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._all = list[subprocess.Popen[bytes]]()
        self.head = self._begin("--head", f"--port={port}", "--include-dashboard=false")
        wait_for(self._listens, self.head)
        self.other = self._begin(f"--address={self.address}")

    def _listens(self) -> bool:
        host, _, port = self.address.partition(":")
        with socket.socket() as line:
            return line.connect_ex((host, int(port))) == 0

    def _begin(self, *words: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ray")), "start", *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        more = ["--num-cpus=1", "--block", "--disable-usage-stats"]
        self._all.append(subprocess.Popen([*command, *more], start_new_session=True, **quiet))
        return self._all[-1]

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a node with all that runs there."""
        for process in [*below(node.pid), node.pid]:
            if is_alive(process):
                os.kill(process, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        for node in reversed(self._all):
            self.lose(node)


def below(process: int) -> list[int]:
    """Every program that one has started, however deep."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [list(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [process]
    for one in found:
        found += [pid for pid, parent in pairs if parent == one]
    return found[1:]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    both = Nodes()
    try:
        yield both
    finally:
        both.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_one_program(tmp_path_factory.mktemp("undisturbed"))


def test_a_node_that_is_lost_costs_no_point(
    tmp_path: Path, undisturbed: Path, nodes: Nodes
) -> None:
    at = f"hydra.launcher.address={nodes.address}"
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, RAY, at)
    wait_for(begun(sweep, 3), program)  # both at a time: a node has one CPU
    lost = [point for point in points(sweep) if pid_at(point) in below(nodes.other.pid)]
    assert len(lost) == 1
    nodes.lose(nodes.other)
    said = program.communicate(timeout=HUNG_S)[0]
    assert program.returncode == 0, said
    assert said.count("retry  point") == 1
    assert "Token" not in said
    assert "WARNING" not in said
    assert_same(sweep, undisturbed)
    assert summary_of(lost[0])["resumed"][0]["epoch"] >= 2
    assert {summary_of(point)["executor"] for point in points(sweep)} == {"ray"}
    assert is_alive(nodes.head.pid)  # the cluster is not the sweep's


def test_a_sweep_has_a_cluster_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    sweep, program = tmp_path / "sweep", start(tmp_path, *GRID, RAY, "hydra.launcher.num_cpus=0.5")
    wait_for(begun(sweep, 2), program)
    programs = [pid_at(point) for point in points(sweep)]
    program.send_signal(signal.SIGINT)
    said = program.communicate(timeout=HUNG_S)[0]
    assert program.returncode == 130, said
    wait_for(lambda: not any(map(is_alive, programs)))
    assert {summary_of(point)["status"] for point in points(sweep)} == {"interrupted"}
    code, said = run(tmp_path, "-m", "hydra.launcher.resume=sweep", "hydra/launcher=lrexp")
    assert code == 0, said
    assert {summary_of(point)["status"] for point in points(sweep)} == {"finished"}


def test_no_cluster_is_waited_for_where_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        at = f"hydra.launcher.address=127.0.0.1:{taken.getsockname()[1]}"
        code, said = run(tmp_path, *GRID, RAY, at)
    assert code == 2
    assert "no Ray cluster that answers" in said
    assert not (tmp_path / "sweep").exists()
