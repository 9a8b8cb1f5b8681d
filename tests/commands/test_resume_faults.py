"""What goes wrong while a run is at it: disks, folders, memory, numbers, other processes, data."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import main_in
from omegaconf import OmegaConf
from PIL import Image
from processes import HUNG_S, wait_for

from lrexp.__main__ import main
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.record.jsonl import JsonlRecorder
from lrexp.session.single import continue_run

ROOT = Path(__file__).parents[2]
COMMAND = (
    "model=mlp", "trainer.device=cpu", "data.leak_check=skip", "logger=none", "data.batch_size=64",
    "trainer.epochs=4", "trainer.limit_train_batches=5", "trainer.resume=auto",
)  # fmt: skip
FOREVER = ("trainer.epochs=100000", "trainer.limit_train_batches=20")
BIG = ("model.widths=[256]",)  # a state of 200 kB
# Runs the command; what a test needs changed in the program comes before it.
PROGRAM = """
import os, signal, sys
import lrexp.train.loop as train
{changed}
from lrexp.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
AFTER_ROW = """
def after_row(number, act):
    end, rows = train.Trainer.end_epoch, []
    def ended(*arguments):
        end(*arguments)
        rows.append(1)
        if len(rows) == number:
            act()
    train.Trainer.end_epoch = ended
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(*arguments: str, changed: str = "", **named: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    program = PROGRAM.format(changed=AFTER_ROW + changed)
    return subprocess.Popen(
        [sys.executable, "-c", program, *COMMAND, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **named,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, once it has ended."""
    out, err = process.communicate(timeout=HUNG_S)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(autouse=True)
def _logs_closed() -> Iterator[None]:
    yield
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main_in(folder.parent, *COMMAND, *BIG, f"hydra.run.dir={folder}") == 0
    return rows_of(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take what is free on a disk but for some bytes."""
    file = disk / "taken"
    with file.open("wb", buffering=0) as stream:
        for size in (65536, 4096, 1):
            try:
                while stream.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    os.truncate(file, max(0, file.stat().st_size - leave))
    return file


# --- A full disk ----------------------------------------------------------------------------


def test_a_checkpoint_on_a_full_disk_is_an_error_with_its_name_and_the_old_one_stays(
    small_disk: Path,
) -> None:
    state = {"epoch": 1, "w": np.zeros(0).tolist()}
    file = small_disk / "last.pt"
    save_checkpoint(file, state)
    content = file.read_bytes()
    import torch

    for size in (2_000, 100_000, 600_000):  # torch's writer fails in other ways at other places
        taken = fill(small_disk, leave=4096)
        with pytest.raises(OSError, match=r"No space left on device: '.*last\.pt'"):
            save_checkpoint(file, {"epoch": 2, "w": torch.zeros(size)})
        taken.unlink()
        assert file.read_bytes() == content
        assert list(small_disk.iterdir()) == [file]


def test_rows_that_found_no_room_are_written_when_there_is_some(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = JsonlRecorder(small_disk)
    recorder.row({"epoch": 1})
    taken = fill(small_disk)
    for epoch in range(2, 300):  # more than the block that the file has already
        recorder.row({"epoch": epoch, "padding": float("inf")})
    text = (small_disk / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    assert 1 <= len(text.splitlines()) < 299
    taken.unlink()
    recorder.row({"epoch": 300})
    recorder.finish({})
    rows = [json.loads(line) for line in (small_disk / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 301))
    assert caplog.text.count("metrics.jsonl cannot be written") == 1


def test_a_run_on_a_disk_that_fills_up_fails_plainly_and_goes_on_when_there_is_room(
    small_disk: Path, undisturbed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from lrexp.train.loop import Trainer

    end, folder = Trainer.end_epoch, small_disk / "run"
    taken: list[Path] = []

    def ended(trainer: Trainer, *arguments: Any) -> None:
        if trainer.epoch == 2:
            taken.append(fill(small_disk))
        end(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "end_epoch", ended)
        assert main([*COMMAND, *BIG, f"hydra.run.dir={folder}"]) == 1
    said = capsys.readouterr().err
    assert "checkpoints/last.pt: No space left on device" in said
    assert f"once that is mended: lrexp rerun {folder} --resume" in said
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["epoch"] == 1
    taken[0].unlink()
    assert main([*COMMAND, *BIG, f"hydra.run.dir={folder}"]) == 0
    assert rows_of(folder) == undisturbed
    assert summary_of(folder)["status"] == "finished"


def test_a_run_that_cannot_write_predictions_and_report_is_finished_all_the_same(
    small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrexp.tasks.train import Training

    conclude, folder = Training.conclude, small_disk / "run"
    taken: list[Path] = []

    def on_a_full_disk(run: Training) -> None:
        taken.append(fill(small_disk, leave=16384))
        conclude(run)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "conclude", on_a_full_disk)
        assert main([*COMMAND, f"hydra.run.dir={folder}"]) == 0
    said = capsys.readouterr()
    assert "what the best weights predict could not be written: [Errno 28]" in said.err
    assert "report.html could not be written: [Errno 28]" in said.err
    assert "test   loss" in said.out
    assert not [*folder.glob("*predictions*"), *folder.glob(".*.tmp")]
    assert summary_of(folder)["status"] == "finished"


@pytest.mark.slow
def test_a_limit_on_file_sizes_is_met_like_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code, _, err = outcome(start(*BIG, f"hydra.run.dir={folder}", preexec_fn=limit))
    assert code == 1
    assert "checkpoints/last.pt: File too large" in err
    assert "no state was saved before" in err
    assert summary_of(folder)["status"] == "failed"
    assert not [*folder.rglob("*.tmp")]


# --- The folder -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_whose_folder_is_removed_fails_and_does_not_make_it_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    changed = f"import shutil; after_row(2, lambda: shutil.rmtree({str(folder)!r}))"
    code, _, err = outcome(start(f"hydra.run.dir={folder}", changed=changed))
    assert code == 1
    assert "checkpoints/last.pt: No such file or directory" in err
    assert not folder.exists()


@pytest.mark.slow
def test_a_run_whose_folder_becomes_read_only_fails_and_goes_on_when_it_is_writable(
    undisturbed: list[dict[str, Any]],
) -> None:
    base = Path(tempfile.mkdtemp(prefix="read_only_"))
    base.chmod(0o777)
    folder = base / "run"
    close = f"[os.chmod(f, 0o555) for f in ({str(folder)!r}, {str(folder / 'checkpoints')!r})]"
    as_user = "os.seteuid(65534)" if os.getuid() == 0 else "None"  # root may write anyway
    late = "lrexp.report.run.page, scipy.special"  # the other user may not read the interpreter
    changed = f"import {late}; after_row(2, lambda: ({close}, {as_user}))"
    code, _, err = outcome(start(*BIG, f"hydra.run.dir={folder}", changed=changed))
    assert code == 1
    assert "checkpoints/last.pt: Permission denied" in err
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["epoch"] == 2
    for closed in (folder, folder / "checkpoints"):
        closed.chmod(0o755)
    assert outcome(start(*BIG, f"hydra.run.dir={folder}"))[0] == 0
    assert rows_of(folder) == undisturbed
    shutil.rmtree(base)


@pytest.mark.slow
def test_a_second_process_on_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(*FOREVER, f"hydra.run.dir={folder}")
    wait_for((folder / "checkpoints" / "last.pt").exists, first)
    code, _, err = outcome(start(*FOREVER, f"hydra.run.dir={folder}"))
    assert code == 2
    assert f"{folder} is in use by another lrexp process" in err
    first.kill()  # leaves its lock file behind
    first.communicate()
    assert (folder / ".lock").exists()
    again = start(*FOREVER, f"hydra.run.dir={folder}")
    assert again.stdout is not None
    assert any("resume from epoch" in line for line in iter(again.stdout.readline, ""))
    again.send_signal(signal.SIGTERM)
    assert outcome(again)[0] == 143


# --- Signals and kills ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = tmp_path / "run"
    process = start(*FOREVER, f"hydra.run.dir={folder}")
    wait_for((folder / "checkpoints" / "last.pt").exists, process)
    time.sleep(0.3)
    process.send_signal(number)
    time.sleep(0.002)
    process.send_signal(number)  # while the state is saved
    returned, out, _ = outcome(process)
    assert returned == code
    assert f"resume lrexp rerun {folder} --resume" in out
    summary, rows = summary_of(folder), rows_of(folder)
    assert summary["status"] == "interrupted"
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert state["rows_before"] + len(state["rows"]) == len(rows) == summary["last"]["epoch"]
    assert state["step"] >= rows[-1]["step"]


@pytest.mark.slow
def test_runs_killed_at_random_moments_survive() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fault_drill.py"), "--runs", "3"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"3 runs, stopped (\d+) times, 0 lost", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 0


# --- Memory and numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("step", "out of memory in step 6 (epoch 2) with data.batch_size=64"),
        ("evaluation", "out of memory in evaluating epoch 1 with trainer.eval_batch_size=512"),
    ],
)
def test_memory_that_runs_out_is_one_message_that_says_what_to_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    said: str,
) -> None:
    import torch

    import lrexp.train.loop
    from lrexp.train.loop import Trainer

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore words")

    rates = Trainer.set_rates
    with monkeypatch.context() as patch:
        if where == "step":
            step = lambda t, s: full() if s == 5 else rates(t, s)  # noqa: E731
            patch.setattr(Trainer, "set_rates", step)
        else:
            patch.setattr(lrexp.train.loop, "evaluate_split", full)
        assert main([*COMMAND, f"hydra.run.dir={tmp_path}/run"]) == 1
    err = capsys.readouterr().err
    half = "data.batch_size=32" if where == "step" else "trainer.eval_batch_size=256"
    assert err == f"error: {said}: CUDA out of memory. Tried to allocate 2.00 GiB.\n  set {half}\n"
    summary = summary_of(tmp_path / "run")
    assert summary["status"] == "failed"
    assert said in summary["error"]


def test_a_loss_that_is_not_a_number_is_a_result_and_nothing_to_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, "optimizer.lr=1e30", f"hydra.run.dir={tmp_path}/run"]
    assert main(command) == 0
    assert summary_of(tmp_path / "run")["status"] == "diverged"
    assert main(command) == 0
    assert "it is diverged: nothing to do" in capsys.readouterr().out


def images(folder: Path, images_per_class: int = 20) -> Path:
    """A folder of small images of two classes."""
    generator = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (folder / name).mkdir(parents=True)
        for i in range(images_per_class):
            pixels = generator.integers(0, 128, (8, 8, 3), np.uint8) + 100 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_changed_data_are_refused_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrexp.train.loop import Trainer

    data, folder = images(tmp_path / "data"), tmp_path / "run"
    command = [
        *COMMAND, "data=imagefolder", f"data.path={data}", "data.batch_size=4",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip
    begin = Trainer.begin_epoch

    def stop(trainer: Trainer) -> None:
        if trainer.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        begin(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "begin_epoch", stop)
        assert main(command) == 143
    (data / "dark" / "3.png").write_bytes((data / "bright" / "3.png").read_bytes())
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"}
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "data changed since the checkpoint" in said
    assert "--changed-data" in said
    assert {p: p.read_bytes() for p in before} == before
    config: Any = OmegaConf.load(folder / "config.yaml")
    assert continue_run(folder, config, [], changed_data=True).folder == folder
    assert "data changed since the checkpoint" in capsys.readouterr().err
    assert len(rows_of(folder)) == 4


def test_pixels_that_are_no_numbers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images(tmp_path / "data")
    pixels = np.full((8, 8), np.nan, np.float32)
    Image.fromarray(pixels).save(data / "dark" / "99.tiff")
    command = [*COMMAND, "data=imagefolder", f"data.path={data}", "data.batch_size=4"]
    code = main([*command, f"hydra.run.dir={tmp_path}/run"])
    said = capsys.readouterr()
    assert code == 2, said
    assert "99.tiff" in said.err
