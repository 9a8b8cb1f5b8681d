"""Real processes: signals, and one folder for one run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from command_lines import SMOKE, Lrexp, only_run, rows_of, start, summary_of
from processes import HUNG_S, wait_for


def test_a_run_terminated_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, *SMOKE)
    wait_for(lambda: [*tmp_path.glob("outputs/*/*/lrexp.log")], process)
    time.sleep(0.2)  # now it imports torch
    process.terminate()
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Path]]:
    """Two long runs, one terminated and one interrupted from the keyboard at their first row."""
    sent = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
    folders = {name: tmp_path_factory.mktemp(name) for name in sent}
    processes = {
        name: start(folder, *SMOKE, "trainer.epochs=100000") for name, folder in folders.items()
    }
    results = {}
    for name, process in processes.items():
        wait_for(lambda name=name: [*folders[name].glob("outputs/*/*/checkpoints/best.pt")])
        process.send_signal(sent[name])
    for name, process in processes.items():
        said = process.communicate(timeout=HUNG_S)[0]
        results[name] = (process.returncode, said, only_run(folders[name]))
    return results


@pytest.mark.parametrize(("name", "code"), [("terminated", 143), ("interrupted", 130)])
def test_a_stopped_run_has_saved_its_state(
    stopped: dict[str, tuple[int, str, Path]], name: str, code: int
) -> None:
    returned, said, folder = stopped[name]
    assert returned == code, said
    assert "Traceback" not in said
    summary = summary_of(folder)
    assert summary["status"] == "interrupted"
    assert summary["last"]["epoch"] == rows_of(folder)[-1]["epoch"] > 0
    assert (folder / "checkpoints" / "last.pt").is_file()
    assert str(folder.name) in said


def test_a_folder_belongs_to_one_process_and_one_run(tmp_path: Path, lrexp: Lrexp) -> None:
    arguments = [*SMOKE, "hydra.run.dir=mine"]
    first = start(tmp_path, *arguments)
    wait_for((tmp_path / "mine" / ".lock").exists, first)
    second = lrexp(*arguments)
    assert second.returncode == 2, second.stdout + second.stderr
    assert "mine is in use by another lrexp process" in second.stderr
    said = first.communicate(timeout=HUNG_S)[0]
    assert first.returncode == 0, said
    folder = tmp_path / "mine"
    assert summary_of(folder)["status"] == "finished"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    third = lrexp(*arguments)
    assert third.returncode == 2
    assert "already holds a run" in third.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
