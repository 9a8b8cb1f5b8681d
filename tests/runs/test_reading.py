"""Files of a run folder that somebody else wrote: read within limits, or left and named."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from omegaconf import DictConfig

from lrexp.config.errors import UserError, for_terminal
from lrexp.folder.claim import in_use
from lrexp.folder.files import csv_text, guarded_cell
from lrexp.report.plots import write_plots
from lrexp.report.run.mistakes import mistakes
from lrexp.report.run.origin import log_end
from lrexp.runs.predictions import read_predictions
from lrexp.runs.reading import MOST_BYTES, json_of, table_of, tame, text_of, yaml_of
from lrexp.runs.resume import changes_since, stopped_run
from lrexp.runs.run import Run, content, read_rows, read_run, read_table
from lrexp.runs.sweep import DAMAGED, read_sweep

GOLDEN = ROOT / "tests" / "golden_run"
BOMB = "\n".join(
    ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
)
# more than a run's, and the reader
TEXTS: dict[str, tuple[Any, str]] = {
    "a bomb of aliases": (yaml_of, BOMB),
    "deep YAML": (yaml_of, "a: " + "[" * 400 + "]" * 400),
    "deep JSON": (json_of, "[" * 400 + "]" * 400),
    "deeper JSON": (json_of, "[" * 100_000 + "]" * 100_000),
    "many values": (json_of, "[" + "1," * 2_100_000 + "1]"),
    "a table of many lines": (table_of, "a\n" * 200_000),
    "a table of many cells": (table_of, "a," * 100_000 + "\n" * 1000),
    "NUL bytes": (yaml_of, "a: \0"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_more_than_a_run_writes_is_left_and_named(name: str, tmp_path: Path) -> None:
    parse, text = TEXTS[name]
    file, notes = tmp_path / "x", list[str]()
    file.write_text(text)
    assert content(file, parse, None, notes) is None
    assert notes[0].startswith("x ")
    with pytest.raises(UserError, match="cannot be read"):
        content(file, parse, None)


def test_pipes_devices_huge_files_and_links_out_are_not_opened(tmp_path: Path) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret"
    run.mkdir()
    secret.write_text('{"status": "secret"}')
    os.mkfifo(run / "summary.json")
    os.mkfifo(run / "metrics.jsonl")
    os.mkfifo(run / ".lock")
    os.mkfifo(run / "predictions.parquet")
    (run / "config.yaml").symlink_to("/dev/zero")
    (run / "environment.json").symlink_to(secret)
    (run / "lrexp.log").symlink_to(secret)
    with (run / "plan.csv").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    found = read_run(run)
    said = "\n".join(found.notes)
    for name in ("summary.json", "metrics.jsonl", "config.yaml"):
        assert f"{name} cannot be read: it is no file" in said
    assert "environment.json cannot be read: it is a link that leads out" in said
    assert "plan.csv cannot be read: it is larger than" in said
    assert log_end(found) == ""
    assert not in_use(run)
    with pytest.raises(UserError, match="it is no file"):
        read_predictions(run / "predictions.parquet", "val")
    (run / "link").symlink_to("config")  # within the folder it may be one
    (run / "config").write_text("a: 1")
    assert text_of(run / "link") == "a: 1"


def test_whole_numbers_beyond_any_float_are_infinite() -> None:
    assert tame({"a": [10**400, -(10**400), True, 3]}) == {"a": [np.inf, -np.inf, True, 3]}


def test_a_sweep_of_such_points_is_read(tmp_path: Path) -> None:
    row: dict[str, Any] = {"case": "", "overrides": [], "differs": {}, "lacks": []}
    rows = [
        row | {"num": 0, "folder": "0", "same_as": 0},  # of itself
        row | {"num": 1, "folder": "1", "same_as": None},
        row | {"num": 2, "folder": "2", "same_as": 3},
        row | {"num": 3, "folder": "3", "same_as": 2},
        row | {"num": 4, "folder": "../../etc", "same_as": None},
        row | {"num": 5, "folder": "a\0b", "same_as": None},
        row | {"num": 6, "folder": "6", "same_as": None},
    ]
    (tmp_path / "points.json").write_text(json.dumps({"command": [], "first": {}, "points": rows}))
    best = {"epoch": 1, "val/loss": 10**400, "val/accuracy": -(10**400)}
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        summary = {"status": "finished", "best": best, "timings": {"total_s": 10**400}}
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(best) + "\n")
    (tmp_path / "6").symlink_to("/etc")
    sweep = read_sweep(tmp_path)
    assert [p.same_as for p in sweep.points] == [None] * 5
    assert [p.num for p in sweep.points] == [0, 1, 2, 3, 6]
    assert sweep.points[1].best["val/loss"] == np.inf
    assert sweep.points[4].status == DAMAGED
    assert "link that leads out" in sweep.points[4].why
    assert len(sweep.notes) == 2
    assert read_rows(tmp_path / "0", [])[0]["val/accuracy"] == -np.inf


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    run.mkdir()
    (run / "plots").symlink_to(other)
    from lrexp.report.figure import Axis, Chart, Series

    figure = Chart("x", [Series("x", [1.0, 2.0], [1.0, 2.0])], Axis("x"), Axis("y"))
    with pytest.raises(UserError, match="plots is a link that leads out"):
        write_plots(run, {"x": [figure]})
    (run / "summary.json").write_text('{"run_id": "a", "status": "interrupted"}')
    (run / "config.yaml").write_text("a: 1")
    with pytest.raises(UserError, match="is a link that leads out"):
        stopped_run(run)
    assert list(other.iterdir()) == []


def test_pictures_that_unpack_to_much_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "wrong_images.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(2**26))
    run = Run(tmp_path)
    mistakes(run)
    assert "more than pictures" in run.notes[0]
    assert file.stat().st_size < 2**17


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x y", "@sum", "\tx", "'=x", "''=x"])
def test_no_cell_is_a_formula_and_every_cell_comes_back(text: str, tmp_path: Path) -> None:
    table = csv_text([["class", text], [text, "plain"]])
    assert guarded_cell(text) == f"'{text}"
    (tmp_path / "x.csv").write_text(table, newline="")
    assert read_table(tmp_path / "x.csv", []) == [{"class": text, text: "plain"}]


def test_numbers_stay_numbers() -> None:
    cells = ["-0.5", "+1e-3", "-inf", -2, 0.1, None, "it's", "a=b", "'x"]
    assert [guarded_cell(cell) for cell in cells] == cells
    assert guarded_cell("a\r=1") == "a =1"


def test_a_terminal_is_told_text_alone() -> None:
    assert for_terminal("a\x1b[31m\r\x07b\u202e\nc\t±") == "a\ufffd[31m\ufffd\ufffdb\ufffd\nc\t±"


def test_a_setting_that_is_newer_than_a_run_and_says_nothing_is_no_change() -> None:
    config = yaml.safe_load((GOLDEN / "config.yaml").read_text())
    config["trainer"]["stop_on"] = []
    assert changes_since(GOLDEN, DictConfig(config)) == []
    config["trainer"]["stop_on"] = ["collapsed"]
    assert [key for key, _, _ in changes_since(GOLDEN, DictConfig(config))] == ["trainer.stop_on"]
