"""`lrexp which` as a program: to its end, interrupted, and gone on with."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import pytest
from command_lines import start
from processes import HUNG_S, wait_for

from lrexp.__main__ import main

# 6 runs that choose rates, 10 that compare, of a second each
SMALL = ["which", "experiment=smoke", "--policies", "uniform,freeze_backbone", "--budget", "16"]


@pytest.mark.slow
def test_interrupted_it_says_what_is_known_and_goes_on_to_a_conclusion(tmp_path: Path) -> None:
    process = start(tmp_path, *SMALL)
    wait_for(lambda: [*tmp_path.glob("outputs/*/*/confirmed/*/summary.json")], process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "so far lowest val/loss: " in said
    (again,) = [line for line in said.splitlines() if line.startswith("go on  lrexp ")]
    (folder,) = tmp_path.glob("outputs/smoke/20*")
    assert (tmp_path / "outputs" / "latest").resolve() == folder
    protocol = (folder / "protocol.json").read_bytes()
    trained = {p: p.read_bytes() for p in folder.glob("explored/*/metrics.jsonl")}
    assert len(trained) == 6

    process = start(tmp_path, *shlex.split(again)[3:])
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 0, said
    assert (folder / "protocol.json").read_bytes() == protocol
    assert {p: p.read_bytes() for p in folder.glob("explored/*/metrics.jsonl")} == trained
    steps = json.loads((folder / "steps.json").read_text())
    assert [step["step"] for step in steps] in (
        ["rates", "comparison"],
        ["rates", *["comparison"] * 2],
    )
    assert sum(step["runs"] for step in steps) <= 16
    found = json.loads((folder / "comparison.json").read_text())
    assert " ".join(found["sentence"].split()) in " ".join(said.split())
    assert "runs 16 (6 for rates, 10 compared)" in " ".join(said.split())
    assert (folder / "which.html").is_file()

    process = start(tmp_path, "which", "--resume")
    again_said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 0, again_said
    assert json.loads((folder / "comparison.json").read_text())["sentence"] == found["sentence"]
    assert sum(s["runs"] for s in json.loads((folder / "steps.json").read_text())) <= 16


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_to_the_same(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="needs Optuna")
    if int(optuna.__version__.partition(".")[0]) < 5:
        pytest.skip("needs Optuna 5")
    asked = [*SMALL[:-2], "logger=none", "--search", "optuna", "--tries", "6", "--budget", "34"]
    process = start(tmp_path, *asked, "hydra.run.dir=whole")
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 0, said
    process = start(tmp_path, *asked, "hydra.run.dir=killed")
    killed = tmp_path / "killed"
    wait_for(lambda: len([*killed.glob("explored/*/summary.json")]) > 4, process)
    process.kill()
    process.communicate()
    process = start(tmp_path, "which", "--resume", "killed")
    said = process.communicate(timeout=HUNG_S)[0]
    assert process.returncode == 0, said
    asked_for, found = [], []
    for folder in (tmp_path / "whole", killed):
        points = json.loads((folder / "explored" / "points.json").read_text())["points"]
        asked_for.append(sorted((p["case"], p["overrides"]) for p in points if not p["former"]))
        found.append(json.loads((folder / "comparison.json").read_text())["sentence"])
    assert asked_for[0] == asked_for[1]
    assert len(asked_for[0]) == 2 * (6 + 3)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "0"], "a number of runs (200), or a time (90m, 2h)"),
        (["--budget", "5x"], "a number of runs (200), or a time (90m, 2h)"),
        (["--margin", "2"], "0.02 is 2 points"),
        (["--resume", "--margin", "0.01"], "--margin: --resume goes on as it was begun"),
        (["--resume", "nowhere"], "nowhere"),
        (["--tries", "8"], "--search optuna draws so many"),
        (["--search", "optuna", "--tries", "1"], "a number from 2 to 1000"),
        (["--policy", "lp_ft"], "write: lrexp which --policies lp_ft"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["which", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
