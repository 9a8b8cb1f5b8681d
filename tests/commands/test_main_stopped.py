"""Real processes: signals, and one folder for one run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from command_lines import SMOKE, only_run, rows_of, start, summary_of
from processes import HUNG_S, wait_for

from lrexp.__main__ import main


def test_a_folder_belongs_to_one_process_and_one_terminated_before_its_first_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*SMOKE, "hydra.run.dir=mine"]
    process = start(tmp_path, *arguments)
    wait_for((tmp_path / "mine" / ".lock").exists, process)
    process.send_signal(signal.SIGSTOP)  # it does not go on meanwhile
    assert main(arguments) == 2
    assert "mine is in use by another lrexp process" in capsys.readouterr().err
    process.send_signal(signal.SIGCONT)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text(), process)  # it is being imported
    assert (tmp_path / "mine" / "lrexp.log").exists()
    process.terminate()
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_belongs_to_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*SMOKE, "hydra.run.dir=mine"]
    assert main(arguments) == 0
    folder = tmp_path / "mine"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_has_saved_its_state(sent: int, code: int, tmp_path: Path) -> None:
    process = start(tmp_path, *SMOKE, "trainer.epochs=100000")
    wait_for(lambda: [*tmp_path.glob("outputs/*/*/checkpoints/best.pt")], process)
    process.send_signal(sent)
    said = process.communicate(timeout=HUNG_S)[0]
    folder = only_run(tmp_path)
    assert process.returncode == code, said
    assert "Traceback" not in said
    summary = summary_of(folder)
    assert summary["status"] == "interrupted"
    assert summary["last"]["epoch"] == rows_of(folder)[-1]["epoch"] > 0
    assert (folder / "checkpoints" / "last.pt").is_file()
    assert str(folder.name) in said


@pytest.mark.slow
def test_who_asks_twice_gets_the_exit_code_of_ctrl_c(tmp_path: Path) -> None:
    process = start(tmp_path, *SMOKE, "trainer.epochs=100000", "logger=none")
    wait_for(lambda: [*tmp_path.glob("outputs/*/*/checkpoints/best.pt")], process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert "interrupted\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGINT)  # while Python ends
    said = process.communicate(timeout=HUNG_S)[0]
    assert (process.returncode, said) == (130, "")
