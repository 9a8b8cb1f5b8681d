"""The run folder and the recorders as a whole: what they write, and that none can stop a run."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from command_lines import main_in
from conftest import ROOT
from omegaconf import OmegaConf
from plain_split import plain_split
from processes import HUNG_S
from unchanged import imports_anew

from lrexp.__main__ import main
from lrexp.build.data import build_dataset
from lrexp.config.errors import UserError
from lrexp.data.dataset import Dataset, Split
from lrexp.folder.environment import (
    DIFF_BYTES,
    _code_version,
    environment,
    source_hash,
    write_environment,
)
from lrexp.folder.files import strict_json, write_atomically
from lrexp.judge.epoch import Track
from lrexp.record.jsonl import SYNC_ROWS, JsonlRecorder
from lrexp.record.recorders import Recorders
from lrexp.tasks.opening import Launch
from lrexp.tasks.train import train
from lrexp.train.loop import Trainer

SMOKE = ("experiment=smoke", "data.leak_check=skip")
GAP_KEYS = ("loss", "loss_se", "loss_chance_se", "accuracy")
SUMMARY_KEYS = {
    "status",
    "run_id",
    "name",
    "seed",
    "config_id",
    "best",
    "last",
    "test",
    "worst_classes",
    "leaks",
    "data",
    "gap",
    "overfit",
    "stopped_by",
    "verdicts",
    "remarks",
    "plan_hash",
    "frozen_proof",
    "learning_proof",
    "weights_hash",
    "executor",
    "members",
    "world_size",
    "backend",
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
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run that diverges, and the modules of wandb that it imported."""
    folder = tmp_path_factory.mktemp("diverged") / "run"
    with imports_anew(r"(lrexp\.record\.)?wandb\b") as imported:
        line = [*SMOKE, "logger=none", "optimizer.lr=1e20"]
        assert main_in(folder.parent, *line, f"hydra.run.dir={folder}") == 0
    return folder, imported


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


def test_rows_count_as_kept_once_the_disk_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = []
    for synced in (False, True):
        recorder = JsonlRecorder(tmp_path, [{"epoch": 1}], synced)
        kept.append([recorder.kept])
        for epoch in range(2, 11):
            recorder.row({"epoch": epoch})
            kept[-1].append(recorder.kept)
        recorder.finish({})
    recorder = JsonlRecorder(tmp_path, [{"epoch": epoch} for epoch in range(1, 11)], True)
    assert kept == [list(range(1, 11)), [*[1] * SYNC_ROWS, *[1 + SYNC_ROWS] * 2]]
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("lost")))
        for epoch in range(11, 20):
            recorder.row({"epoch": epoch})
    for epoch in range(20, 30):
        recorder.row({"epoch": epoch})
    recorder.finish({})
    assert recorder.kept == 10  # a disk that lost some once may say nothing of them
    assert caplog.text.count("may not outlive a power loss") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 29


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
    assert main([*SMOKE, f"hydra.run.dir={tmp_path / 'run'}"]) == 130
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_a_diverged_run_is_worth_the_worst_value_whatever_it_had_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Any]
) -> None:
    see = Track.see

    def diverges_in_epoch_2(track: Track, epoch: int, row: dict[str, float]) -> None:
        see(track, epoch, row | ({"val/loss": math.nan} if epoch == 2 else {}))

    monkeypatch.setattr(Track, "see", diverges_in_epoch_2)
    for monitor, worst in [("val/loss", math.inf), ("val/accuracy", -math.inf)]:
        folder = tmp_path / monitor.replace("/", "_")
        folder.mkdir()
        config = compose(*SMOKE, f"trainer.monitor={monitor}", "run_id=abcd1234")
        assert train(OmegaConf.structured(config), config, Launch(folder, [], "", None)) == worst
        summary = strict((folder / "summary.json").read_text())
        assert (summary["status"], summary["best"]["epoch"]) == ("diverged", 1)


def test_a_signal_whose_exception_is_lost_stops_the_run_at_the_next_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Trainer.train_epoch

    def loses_a_signal(trainer: Trainer, checkpoints: Path) -> dict[str, float]:
        if trainer.epoch == 1:
            with contextlib.suppress(BaseException):  # as Python does in a destructor
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
        return measure(trainer, checkpoints)

    monkeypatch.setattr(Trainer, "train_epoch", loses_a_signal)
    run = tmp_path / "run"
    assert main([*SMOKE, "trainer.epochs=5", f"hydra.run.dir={run}"]) == 143
    assert strict((run / "summary.json").read_text())["status"] == "interrupted"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2  # its epoch's, no other


def test_an_interrupt_before_the_first_step_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrexp.record.console.ConsoleRecorder.__init__", interrupt)
    assert main([*SMOKE, f"hydra.run.dir={tmp_path / 'run'}"]) == 130
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


def test_a_terminal_that_cannot_show_a_character_never_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main([*SMOKE, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_reader_of_our_output_that_goes_away_never_stops_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lrexp", "experiment=smoke", f"hydra.run.dir={tmp_path}/run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()  # as `| head` does
        process.wait(timeout=HUNG_S)
    assert strict((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_run_folder_holds_what_the_design_lists(run: Path) -> None:
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    files -= {"code.diff"}  # there when the checkout has changes that no commit has
    assert files == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "config.yaml",
        "confusion.csv",
        "environment.json",
        "lrexp.log",
        "metrics.jsonl",
        "per_class.csv",
        "plan.csv",
        "predictions.parquet",
        "report.html",
        "schedule.csv",
        "summary.json",
        "wrong_images.npz",
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
        expected = {key: row[f"gap/{key}"] for key in GAP_KEYS}
        assert summary["gap"][moment] == expected
    assert (summary["status"], summary["seed"], summary["error"]) == ("finished", 0, None)
    assert summary["run_id"] == yaml.safe_load((run / "config.yaml").read_text())["run_id"]
    assert summary["frozen_proof"]["identical"]
    assert list(summary["learning_proof"]["tensors"].values()) == ["moved"] * 6
    assert summary["learning_proof"]["reasons"] == {}
    timings = summary["timings"]
    within = [timings.pop(name) for name in ("steps_s", "eval_s", "save_s", "test_s")]
    assert set(timings) == {"startup_s", "train_s", "total_s"}
    assert min(within) > 0
    assert sum(within) < timings["train_s"] < timings["total_s"]
    for row in rows:
        assert row["perf/steps_s"] + row["perf/eval_s"] == pytest.approx(row["perf/epoch_s"])
    assert [row["perf/save_s"] > 0 for row in rows] == [False, *[True] * (len(rows) - 1)]
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
    assert table.column_names == ["id", "item", "split", "label", "scores"]
    assert table["item"].to_pylist() == [f"image {i}" for i in table["id"].to_pylist()]
    assert json.loads(table.schema.metadata[b"class_names"]) == list("0123456789")
    split = np.array(table["split"].to_pylist())
    labels, scores = np.array(table["label"]), np.array(table["scores"].to_pylist())
    assert np.allclose(scores.sum(1), 1, atol=1e-6)
    right = scores.argmax(1) == labels
    assert right[split == "test"].mean() == pytest.approx(summary["test"]["accuracy"], abs=1e-12)
    assert right[split == "val"].mean() == pytest.approx(summary["best"]["val/accuracy"], abs=1e-12)
    assert (split == "test").sum() == summary["test"]["images"]
    assert len(set(table["id"].to_pylist())) == table.num_rows  # no image is in both splits


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_summary_and_tables_of_classes_are_those_of_the_predictions(
    run: Path, summary: dict[str, Any]
) -> None:
    predicted = pq.read_table(run / "predictions.parquet")
    split = np.array(predicted["split"].to_pylist())
    labels, said = (
        np.array(predicted["label"]),
        np.array(predicted["scores"].to_pylist()).argmax(1),
    )
    confused, per_class = table(run / "confusion.csv"), table(run / "per_class.csv")
    assert list(confused[0]) == ["split", "true", *"0123456789"]
    assert [(row["split"], row["true"]) for row in confused] == [
        (name, str(digit)) for name in ("val", "test") for digit in range(10)
    ]
    for row in confused:
        mine = said[(split == row["split"]) & (labels == int(row["true"]))]
        assert [int(row[str(c)]) for c in range(10)] == np.bincount(mine, minlength=10).tolist()
    assert list(per_class[0]) == [
        "split", "class", "images", "predicted", "precision", "recall", "f1",
    ]  # fmt: skip
    for name in ("val", "test"):
        rows = [row for row in per_class if row["split"] == name]
        of_split = split == name
        for digit, row in enumerate(rows):
            actual, named = labels[of_split] == digit, said[of_split] == digit
            assert (row["class"], int(row["images"])) == (str(digit), actual.sum())
            assert int(row["predicted"]) == named.sum()
            recall = (actual & named).sum() / actual.sum()
            assert float(row["recall"]) == pytest.approx(recall)
            assert (row["precision"] == "") == (not named.any())
        recalls = [float(row["recall"]) for row in rows]
        result = summary["test"] if name == "test" else None
        balanced = (
            result["balanced_accuracy"] if result else summary["best"]["val/balanced_accuracy"]
        )
        assert np.mean(recalls) == pytest.approx(balanced)
    assert set(summary["test"]) == {
        "loss", "accuracy", "balanced_accuracy", "f1_macro", "top5_accuracy", "images",
    }  # fmt: skip
    worst = summary["worst_classes"]
    lowest = min(float(row["recall"]) for row in per_class if row["split"] == "test")
    assert 0 < len(worst) <= 3
    assert worst[0]["recall"] == pytest.approx(lowest)
    assert {row["split"] for row in worst} == {"test"}


ATTRIBUTES = ("even", "above 4", "round")
ROUND = (0, 6, 8, 9)


def with_attributes(split: Split) -> Split:
    """The same images with three labels each."""
    digit = split.labels
    labels = [digit % 2 == 0, digit > 4, torch.isin(digit, torch.tensor(ROUND))]
    return replace(split, labels=torch.stack(labels, 1).float())


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and output of a run on digits with three labels and two further test sets."""
    folder, output = tmp_path_factory.mktemp("several") / "run", io.StringIO()

    def built(config: Any, device: torch.device) -> Dataset:
        data = build_dataset(config, device)
        assert data.test is not None
        first = plain_split(data.test.images[:50], data.test.labels[:50])
        train, train_eval, val, test, first = map(
            with_attributes, (data.train, data.train_eval, data.val, data.test, first)
        )
        dark = plain_split(test.images - 1, test.labels)
        further = {"first": first, "dark, too": dark}
        return Dataset(
            train, train_eval, val, test, ATTRIBUTES, "", [0.0], [1.0], eval_sets=further
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrexp.build.experiment.build_dataset", built)
        patch.setattr(sys, "stdout", output)
        command = ["loss=bce", "loss.pos_weight=balanced", "trainer.monitor=val/label_accuracy"]
        command += ["trainer.epochs=4", "logger=none", f"hydra.run.dir={folder}"]
        assert main(command) == 0
    return folder, output.getvalue()


def test_a_run_on_several_labels_learns_them_and_records_their_metrics(
    several: tuple[Path, str],
) -> None:
    folder, output = several
    summary = strict((folder / "summary.json").read_text())
    rows = [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [row["val/label_accuracy"] for row in rows]
    assert summary["best"]["epoch"] == values.index(max(values)) + 1
    assert summary["test"]["label_accuracy"] > 0.9
    assert summary["test"]["label_accuracy"] > summary["test"]["accuracy"] > 0.7
    metrics = {"loss", "accuracy", "label_accuracy", "balanced_accuracy", "f1_macro"}
    assert set(summary["test"]) == metrics | {"images", "eval_sets"}
    assert rows[-1]["train/accuracy"] > 0.6
    assert "highest val/label_accuracy" in output
    assert not (folder / "confusion.csv").exists()
    assert "taken for" not in output
    per_class = table(folder / "per_class.csv")
    assert [row["class"] for row in per_class if row["split"] == "dark, too"] == list(ATTRIBUTES)
    mean = np.mean([float(row["accuracy"]) for row in per_class if row["split"] == "test"])
    assert mean == pytest.approx(summary["test"]["label_accuracy"])


def test_classes_are_counted_and_what_a_constant_answer_comes_to(
    summary: dict[str, Any], run: Path, several: tuple[Path, str]
) -> None:
    found = summary["data"]["classes"]
    assert found["total"] == 10
    sizes = {split: sum(counts.values()) for split, counts in found["counts"].items()}
    assert sizes == summary["data"]["images"]
    assert not found["uneven"]
    assert "uneven" not in (run / "lrexp.log").read_text()
    folder, output = several
    majority = strict((folder / "summary.json").read_text())["data"]["classes"]["majority"]
    read = pq.read_table(folder / "predictions.parquet")
    of_val = np.array(read["split"].to_pylist()) == "val"
    labels = np.array(read["label"].to_pylist())[of_val]
    right = labels == np.isin(ATTRIBUTES, majority["labels"])
    assert majority["accuracy"]["val"] == pytest.approx(right.all(1).mean())
    assert majority["label_accuracy"]["val"] == pytest.approx(right.mean())
    said = " and ".join(majority["labels"]) or "no label"
    assert f"note   always saying {said} is right on {100 * right.all(1).mean():.1f}%" in output


def test_predictions_of_several_labels_are_lists_and_sigmoids(several: tuple[Path, str]) -> None:
    folder, _ = several
    summary = strict((folder / "summary.json").read_text())
    found = pq.read_table(folder / "predictions.parquet")
    split = np.array(found["split"].to_pylist())
    labels, scores = np.array(found["label"].to_pylist()), np.array(found["scores"].to_pylist())
    assert labels.shape == scores.shape == (len(split), 3)
    assert set(labels.flat) == {0, 1}
    right = (scores > 0.5) == labels
    sets = summary["test"]["eval_sets"] | {"test": summary["test"]}
    assert set(split) == {"val", "test", "first", "dark, too"} == {"val", *sets}
    for name, result in sets.items():
        of_split = right[split == name]
        assert len(of_split) == result["images"]
        assert of_split.all(1).mean() == pytest.approx(result["accuracy"], abs=1e-12)
        assert of_split.mean() == pytest.approx(result["label_accuracy"], abs=1e-12)


def test_further_test_sets_have_a_line_each_and_results_of_the_best_weights(
    several: tuple[Path, str],
) -> None:
    folder, output = several
    sets = strict((folder / "summary.json").read_text())["test"]["eval_sets"]
    for name, images in (("first", 50), ("dark, too", 359)):
        (line,) = [line for line in output.splitlines() if line.startswith(f"test/{name}")]
        assert f"accuracy {100 * sets[name]['accuracy']:.1f}%" in line
        assert f"on {images} images" in line
    assert sets["dark, too"]["loss"] > sets["first"]["loss"]


def test_without_a_test_split_the_worst_classes_are_those_of_validation(
    tmp_path: Path, compose: Callable[..., Any]
) -> None:
    config = compose(*SMOKE, "data.test_fraction=0", "run_id=abcd1234")
    train(OmegaConf.structured(config), config, Launch(tmp_path, [], "", None))
    summary = strict((tmp_path / "summary.json").read_text())
    assert summary["test"] == {}
    assert {row["split"] for row in summary["worst_classes"]} == {"val"}
    assert {row["split"] for row in table(tmp_path / "per_class.csv")} == {"val"}


def test_more_classes_than_a_table_can_show_have_no_confusion_csv_and_no_score_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrexp.tasks.concluding.MANY_CLASSES", 9)
    assert main([*SMOKE, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert not (tmp_path / "run" / "confusion.csv").exists()
    assert (tmp_path / "run" / "per_class.csv").exists()
    table = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert "scores" not in table.column_names
    said = np.array([row["predicted"][0] for row in table.to_pylist() if row["split"] == "test"])
    truth = np.array([row["label"] for row in table.to_pylist() if row["split"] == "test"])
    summary = strict((tmp_path / "run" / "summary.json").read_text())
    assert (said == truth).mean() == pytest.approx(summary["test"]["accuracy"])


def test_a_run_asked_for_no_predictions_writes_none(tmp_path: Path) -> None:
    assert main([*SMOKE, "trainer.predictions=none", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert not (tmp_path / "run" / "predictions.parquet").exists()
    assert (tmp_path / "run" / "per_class.csv").exists()


def test_without_a_logger_wandb_is_never_imported(diverged: tuple[Path, list[str]]) -> None:
    assert diverged[1] == []


def test_a_diverged_run_is_a_result_in_strict_json(diverged: tuple[Path, list[str]]) -> None:
    folder, _ = diverged
    rows = [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = strict((folder / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert [verdict["kind"] for verdict in summary["verdicts"]] == ["diverged"]
    assert {rows[-1]["train/loss"], rows[-1]["val/loss"]} & {"NaN", "Infinity"}
    assert summary["last"] == rows[-1]


@pytest.fixture
def fresh_code() -> Iterator[Callable[[], None]]:
    """A function after which the code is looked at as a program does that has just started."""

    def forget() -> None:
        _code_version.cache_clear()
        source_hash.cache_clear()

    forget()
    yield forget
    forget()


def test_changes_that_no_commit_has_are_saved_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_code: Callable[[], None]
) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "run"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.npz", "bundled")
    shutil.copytree(ROOT / "lrexp", checkout / "lrexp", ignore=ignored)

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(checkout), *identity, *arguments], check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all of it")

    def recorded() -> dict[str, Any]:
        write_environment(folder, environment(torch.device("cpu"), 1, {"data": "x"}))
        return strict((folder / "environment.json").read_text())

    monkeypatch.setattr("lrexp.__file__", str(checkout / "lrexp" / "__init__.py"))
    clean, saved = recorded(), (folder / "code.diff").exists()
    with (checkout / "lrexp" / "config" / "errors.py").open("a") as file:
        file.write("CHANGED = 1\n")
    (checkout / "lrexp" / "brand_new.py").write_text("NEW = 1\n" * 20_000)
    assert recorded() == clean  # the code as it was imported
    fresh_code()
    changed = recorded()
    assert clean["commit"], clean
    assert clean["diff_hash"] is None
    assert not saved
    assert changed["commit"] == clean["commit"]
    assert changed["diff_hash"]
    assert changed["code_hash"] != clean["code_hash"]
    diff = (folder / "code.diff").read_text()
    assert "+CHANGED = 1" in diff
    assert "+++ b/lrexp/brand_new.py" in diff
    assert len(diff.encode()) < DIFF_BYTES + 200  # and a line that says how much was left out
    assert "bytes more" in diff.splitlines()[-1]


def test_environment_says_what_decides_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    facts = environment(torch.device("cpu"), 3, {"data": "x"})
    assert facts["threads"] == 3
    assert facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["variables"]["MKL_CBWR"] == "AVX2"
    assert facts["flags"]["deterministic_algorithms"] is False
    torch.use_deterministic_algorithms(True)
    try:
        flags = environment(torch.device("cpu"), 3, {})["flags"]
    finally:
        torch.use_deterministic_algorithms(False)
    assert flags["deterministic_algorithms"] is True


def test_predictions_say_which_images_belong_together(tmp_path: Path) -> None:
    """Where data.group_by is set; further test sets have no groups, and other runs no column."""
    from lrexp.record.predictions import write_predictions
    from lrexp.runs.predictions import read_predictions

    labels = torch.tensor([0, 1, 1, 0])
    plain = plain_split(torch.zeros(4, 1, 2, 2), labels)
    grouped = replace(plain, groups=np.array([7, 7, 3, 3]))
    logits = torch.eye(2)[labels]
    for name, splits in (("some", {"val": grouped, "dark": plain}), ("none", {"val": plain})):
        file = tmp_path / f"{name}.parquet"
        write_predictions(file, splits, dict.fromkeys(splits, logits), ["a", "b"])
    assert pq.read_table(tmp_path / "none.parquet").column_names[-2:] == ["label", "scores"]
    assert pq.read_table(tmp_path / "some.parquet").column_names[-2:] == ["group", "scores"]
    found = [read_predictions(tmp_path / "some.parquet", split) for split in ("val", "dark")]
    assert [one and one.groups is not None and one.groups.tolist() for one in found] == [
        [7, 7, 3, 3],
        False,
    ]


@pytest.mark.parametrize("several", [False, True], ids=["a class", "labels"])
def test_lean_predictions_compare_runs_by_the_same_bits(tmp_path: Path, several: bool) -> None:
    from lrexp.record.predictions import write_predictions
    from lrexp.runs.predictions import read_predictions

    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1500, 40, generator=draw) * 4  # more images than are taken at once
    labels = (logits + torch.randn(logits.shape, generator=draw) * 3).argmax(1)
    labels = (labels[:, None] == torch.arange(40)).long() if several else labels
    groups = np.arange(1500) // 3
    splits = {"val": replace(plain_split(torch.zeros(1500, 1, 2, 2), labels), groups=groups)}
    found, bytes_, rows = {}, {}, {}
    for form in ("all", "top5", "labels"):
        file = tmp_path / f"{form}.parquet"
        write_predictions(file, splits, {"val": logits}, [*map(str, range(40))], form)
        found[form], bytes_[form] = read_predictions(file, "val"), file.stat().st_size
        rows[form] = pq.read_table(file).to_pylist()
    whole = found["all"]
    assert whole is not None
    assert 0 <= whole.right.mean() < 1
    for one in (found["top5"], found["labels"]):
        assert one is not None
        assert one.losses.tolist() == whole.losses.tolist()
        assert one.right.tolist() == whole.right.tolist()
        assert one.labels.tolist() == whole.labels.tolist()
        assert (one.images, one.classes) == (whole.images, whole.classes)
        assert one.groups is not None
        assert one.groups.tolist() == groups.tolist()
    assert bytes_["all"] > bytes_["top5"] > bytes_["labels"]
    scores = np.array([row["scores"] for row in rows["all"]], np.float32)
    highest = np.sort(scores, 1)[:, :-6:-1]
    assert np.array_equal([row["top_scores"] for row in rows["top5"]], highest)
    taken = [scores[i, row["predicted"]] for i, row in enumerate(rows["top5"])]
    assert np.array_equal(taken, highest)
    said = [row["predicted"] for row in rows["labels"]]
    over = [np.flatnonzero(row > 0.5).tolist() for row in scores]
    assert said == (over if several else scores.argmax(1).tolist())


def test_lean_predictions_that_lack_a_value_are_refused_by_name(tmp_path: Path) -> None:
    from lrexp.runs.predictions import read_predictions

    table = {"id": [0], "item": ["a"], "split": ["val"], "label": [1], "right": [True]}
    file = tmp_path / "predictions.parquet"
    for loss in ({"loss": pa.array([None], pa.float64())}, {}):
        pq.write_table(pa.table({**table, **loss}), file)
        with pytest.raises(UserError, match=f"{file} cannot be read"):
            read_predictions(file, "val")
