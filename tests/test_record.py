"""The run folder and the recorders as a whole: what they write, and that none can stop a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT
from omegaconf import OmegaConf

from lrexp.__main__ import main
from lrexp.record import Recorders
from lrexp.record.files import environment, strict_json, write_atomically
from lrexp.record.jsonl import JsonlRecorder
from lrexp.tasks import Launch, train
from lrexp.train import Trainer

SUMMARY_KEYS = {
    "status",
    "run_id",
    "name",
    "seed",
    "config_id",
    "best",
    "last",
    "test",
    "gap",
    "verdicts",
    "plan_hash",
    "frozen_proof",
    "executor",
    "device",
    "timings",
    "parameters",
    "error",
}


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def strict(text: str) -> Any:
    """Parse as a strict reader does: NaN and Infinity are no JSON."""
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run's folder, deep in the home folder of someone called ada."""
    home = tmp_path_factory.mktemp("home_of_ada")
    folder = home / "experiments" / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.chdir(home)
        assert main(["experiment=smoke", f"hydra.run.dir={folder}"]) == 0
    yield folder
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return strict((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run that diverges, and the modules named wandb that it imported."""
    folder = tmp_path_factory.mktemp("diverged") / "run"
    code = f"""
import sys
from lrexp.__main__ import main
code = main(["experiment=smoke", "logger=none", "optimizer.lr=1e20", "hydra.run.dir={folder}"])
print("imported:", *(name for name in sys.modules if name.split(".")[0] == "wandb"))
sys.exit(code)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), '"NaN"'),
        (float("inf"), '"Infinity"'),
        (float("-inf"), '"-Infinity"'),
        ({"a": [1.5, (float("nan"), None)], "b": True}, '{"a": [1.5, ["NaN", null]], "b": true}'),
        ("± é", '"± é"'),
    ],
)
def test_json_is_strict_with_words_for_what_is_not_finite(value: Any, text: str) -> None:
    assert strict_json(value) == text


def test_a_row_can_be_read_by_others_as_soon_as_it_is_written(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path)
    for epoch in (1, 2):
        recorder.row({"epoch": epoch, "val/loss": float("nan")})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [strict(line)["epoch"] for line in lines] == list(range(1, epoch + 1))
    recorder.finish({})
    assert strict(lines[1]) == {"epoch": 2, "val/loss": "NaN"}


def test_a_file_that_cannot_be_replaced_keeps_its_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "summary.json"
    write_atomically(file, "old")
    held = file.open()
    write_atomically(file, "new")
    assert (held.read(), file.read_text()) == ("old", "new")  # replaced, never overwritten
    held.close()

    def full_disk(self: Path, text: str, **_: Any) -> int:
        with self.open("w") as half:
            half.write(text[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "newer")
    assert file.read_text() == "new"


class Recording:
    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.summary: Any = None

    def row(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self, summary: dict[str, Any]) -> None:
        self.summary = summary


class Raising(Recording):
    def row(self, row: dict[str, float]) -> None:
        raise OSError("disk full")


def test_a_recorder_that_raises_is_one_warning_and_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, broken, after = Recording(), Raising(), Recording()
    recorders = Recorders()
    for recorder in (before, broken, after):
        assert recorders.add("any", lambda recorder=recorder: recorder) is recorder
    recorders.row({"epoch": 1})
    recorders.row({"epoch": 2})
    recorders.finish({"status": "finished"})
    for working in (before, after):
        assert working.rows == [{"epoch": 1}, {"epoch": 2}]
        assert working.summary == {"status": "finished"}
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "Raising" in warnings[0]
    assert "disk full" in warnings[0]


def test_a_recorder_that_cannot_start_is_one_warning_and_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def absent() -> Recording:
        raise ImportError("not installed")

    recorders, working = Recorders(), Recording()
    assert recorders.add("Clay tablets", absent) is None
    recorders.add("paper", lambda: working)
    recorders.row({"epoch": 1})
    assert working.rows == [{"epoch": 1}]
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "Clay tablets" in warnings[0]
    assert "not installed" in warnings[0]


def test_an_interrupt_while_a_finished_run_is_closed_leaves_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrexp.record.console.ConsoleRecorder.finish", interrupt)
    assert main(["experiment=smoke", f"hydra.run.dir={tmp_path / 'run'}"]) == 130
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_a_diverged_run_is_worth_the_worst_value_whatever_it_had_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Any]
) -> None:
    judge = Trainer._judge

    def diverges_in_epoch_2(trainer: Trainer, row: dict[str, float]) -> None:
        judge(trainer, row | ({"val/loss": math.nan} if row["epoch"] == 2 else {}))

    monkeypatch.setattr(Trainer, "_judge", diverges_in_epoch_2)
    for monitor, worst in [("val/loss", math.inf), ("val/accuracy", -math.inf)]:
        folder = tmp_path / monitor.replace("/", "_")
        folder.mkdir()
        config = compose("experiment=smoke", f"trainer.monitor={monitor}", "run_id=abcd1234")
        assert train(OmegaConf.structured(config), config, Launch(folder, [], "", None)) == worst
        summary = strict((folder / "summary.json").read_text())
        assert (summary["status"], summary["best"]["epoch"]) == ("diverged", 1)


def test_a_signal_whose_exception_is_lost_stops_the_run_at_the_next_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Trainer._train_epoch

    def loses_a_signal(trainer: Trainer) -> dict[str, float]:
        if trainer.epoch == 1:
            with contextlib.suppress(BaseException):  # as Python does in a destructor
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
        return measure(trainer)

    monkeypatch.setattr(Trainer, "_train_epoch", loses_a_signal)
    run = tmp_path / "run"
    assert main(["experiment=smoke", "trainer.epochs=5", f"hydra.run.dir={run}"]) == 143
    assert strict((run / "summary.json").read_text())["status"] == "interrupted"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_interrupt_before_the_first_step_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrexp.record.console.ConsoleRecorder.__init__", interrupt)
    assert main(["experiment=smoke", f"hydra.run.dir={tmp_path / 'run'}"]) == 130
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


def test_a_terminal_that_cannot_show_a_character_never_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["experiment=smoke", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_reader_of_our_output_that_goes_away_never_stops_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lrexp", "experiment=smoke", f"hydra.run.dir={tmp_path}/run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()  # as `| head` does
        process.wait(timeout=60)
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_run_folder_holds_what_the_design_lists(run: Path) -> None:
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    assert files == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "config.yaml",
        "environment.json",
        "lrexp.log",
        "metrics.jsonl",
        "plan.csv",
        "predictions.parquet",
        "summary.json",
    }
    assert "${" not in (run / "config.yaml").read_text()


def test_summary_has_every_key_and_repeats_the_best_and_the_last_row(
    run: Path, summary: dict[str, Any]
) -> None:
    assert set(summary) == SUMMARY_KEYS
    rows = [strict(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["val/loss"])
    assert (summary["best"], summary["last"]) == (best, rows[-1])
    for moment, row in (("best", best), ("last", rows[-1])):
        expected = {key: row[f"gap/{key}"] for key in ("loss", "loss_se", "accuracy")}
        assert summary["gap"][moment] == expected
    assert (summary["status"], summary["seed"], summary["error"]) == ("finished", 0, None)
    assert summary["run_id"] == yaml.safe_load((run / "config.yaml").read_text())["run_id"]
    assert summary["frozen_proof"]["identical"]
    timings = summary["timings"]
    assert set(timings) == {"startup_s", "train_s", "total_s"}
    assert 0 < timings["train_s"] < timings["total_s"]
    assert timings["startup_s"] + timings["train_s"] == pytest.approx(timings["total_s"])
    # conv 5×5 → 10, linear 40 → 50, linear 50 → 10, each with a bias
    total = 10 * 25 + 10 + 40 * 50 + 50 + 50 * 10 + 10
    assert summary["parameters"] == {"total": total, "trainable": total}


def test_environment_names_code_packages_machine_and_fingerprints(run: Path) -> None:
    found = strict((run / "environment.json").read_text())
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["python"] == sys.version.split()[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert len(found["fingerprints"]["data"]) == 16
    assert {"lrexp", "commit", "diff_hash", "os", "cpu", "gpu"} <= set(found)


def test_environment_names_the_weights_that_were_loaded() -> None:
    facts = environment(torch.device("cpu"), 2, {"data": "d", "weights": "w"})
    assert facts["fingerprints"] == {"data": "d", "weights": "w"}


def test_our_files_do_not_name_the_home_folder(run: Path) -> None:
    for name in ("environment.json", "config.yaml", "summary.json", "plan.csv", "metrics.jsonl"):
        assert "home_of_ada" not in (run / name).read_text(), name


def test_accuracy_recomputed_from_predictions_is_the_summarys(
    run: Path, summary: dict[str, Any]
) -> None:
    table = pq.read_table(run / "predictions.parquet")
    assert table.column_names == ["id", "split", "label", "scores"]
    split = np.array(table["split"].to_pylist())
    labels, scores = np.array(table["label"]), np.array(table["scores"].to_pylist())
    assert np.allclose(scores.sum(1), 1, atol=1e-6)
    right = scores.argmax(1) == labels
    assert right[split == "test"].mean() == pytest.approx(summary["test"]["accuracy"], abs=1e-12)
    assert right[split == "val"].mean() == pytest.approx(summary["best"]["val/accuracy"], abs=1e-12)
    assert (split == "test").sum() == summary["test"]["images"]
    assert len(set(table["id"].to_pylist())) == table.num_rows  # no image is in both splits


def test_without_a_logger_wandb_is_never_imported(diverged: tuple[Path, str]) -> None:
    assert diverged[1] == "imported:"


def test_a_diverged_run_is_a_result_in_strict_json(diverged: tuple[Path, str]) -> None:
    folder, _ = diverged
    rows = [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = strict((folder / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert [verdict["kind"] for verdict in summary["verdicts"]] == ["diverged"]
    assert {rows[-1]["train/loss"], rows[-1]["val/loss"]} & {"NaN", "Infinity"}
    assert summary["last"] == rows[-1]
