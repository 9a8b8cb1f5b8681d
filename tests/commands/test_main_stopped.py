"""Real processes: signals, and one folder for one run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from command_lines import SMOKE, only_run, rows_of, start, summary_of
from processes import HUNG_S, wait_for

from lrexp.__main__ import main


def test_a_run_terminated_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, *SMOKE)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text(), process)  # it is being imported
    assert [*tmp_path.glob("outputs/*/*/lrexp.log")]
    process.terminate()
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
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


def test_a_folder_belongs_to_one_process_and_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*SMOKE, "hydra.run.dir=mine"]
    first = start(tmp_path, *arguments)
    wait_for((tmp_path / "mine" / ".lock").exists, first)
    assert main(arguments) == 2
    assert "mine is in use by another lrexp process" in capsys.readouterr().err
    said = first.communicate(timeout=HUNG_S)[0]
    assert first.returncode == 0, said
    folder = tmp_path / "mine"
    assert summary_of(folder)["status"] == "finished"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
