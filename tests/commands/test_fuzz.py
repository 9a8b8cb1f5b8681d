"""Inputs that nobody would type are answered in one screen, in time, and leave nothing behind.

scripts/fuzz.py runs more of the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import cpu_seconds

FEW = {
    "deadline": None,
    "database": None,
    "derandomize": True,  # the same inputs every time: scripts/fuzz.py looks for new ones
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and other files that the program reads."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    fuzzing.make_run(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to be in. (monkeypatch is not for hypothesis.)"""
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=15, **FEW)
@given(fuzzing.command_lines)
@example(["B\U00094cd6\x18z", "--info", "defaults"])
@example(["~", "--info", "defaults"])
@example(["", "--cfg", "job"])
@example(["trainer=${trainer}", "task=plan"])
@example(["optimizer.lr=${optimizer.lr}", "task=plan"])
@example(["name=${name}", "--cfg", "job", "--resolve"])
@example(["name=${name}"])
@example(["seed=" + "9" * 400, "task=plan"])
@example(["optimizer.lr=1e999", "task=plan"])
@example(["optimizer.args.x=" + "[" * 300 + "]" * 300, "task=plan"])
@example(["trainer.epochs=" + "x" * 100_000, "task=plan"])
def test_command_lines(here: Path, line: list[str]) -> None:
    assert fuzzing.complaint(line) == ""


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=8, **FEW)
@given(fuzzing.files)
@example("[-_.]")
@example("# @package _global_\n- model: mlp\n")
@example("defaults: [/experiment/e]\n")
@example("# @package nothing.here\nmodel: {name: mlp}\n")
@example("# @package _global_\ntrainer: ${trainer}\n")
@example("# @package _global_\nmodel: {widths: &a [*a]}\n")
@example("# @package _global_\nhydra: 7\n")
@example("# @package _global_\nhydra: {callbacks: 7, job_logging: 7, job: {env_set: 7}}\n")
@example("# @package _global_\nhydra: {sweep: 7, output_subdir: {a: 1}, launcher: [1]}\n")
@example(b"\xff\xfe\x00")
def test_yaml_files(here: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    (here / "cfg" / "experiment").mkdir(parents=True, exist_ok=True)
    (here / "cfg" / "experiment" / "e.yaml").write_bytes(data)
    assert fuzzing.complaint(["--config-dir", "cfg", "experiment=e", "task=plan"]) == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(fuzzing.DAMAGED))
def test_damaged_files_of_a_run(run_folder: Path, name: str) -> None:
    original = (run_folder / name).read_bytes()

    @settings(max_examples=20, **FEW)
    @given(fuzzing.damages)
    @example((0.0, []))
    @example((0.5, []))
    @example((1.0, [(0.96875, 128)]))
    def each(damage: Any) -> None:
        (run_folder / name).write_bytes(fuzzing.damaged(original, *damage))
        assert fuzzing.damage_complaint(run_folder, name) == ""

    try:
        each()
    finally:
        (run_folder / name).write_bytes(original)


@pytest.mark.filterwarnings("ignore")
def test_no_damage_makes_a_state_that_nobody_saved(run_folder: Path) -> None:
    last, previous, whole = fuzzing.two_states(run_folder)
    there = run_folder / "states"

    @settings(max_examples=40, **FEW)
    @given(fuzzing.damages, st.none() | fuzzing.damages)
    @example((1.0, []), None)
    @example((0.0, []), (1.0, []))
    @example((0.5, []), (0.5, []))
    @example((1.0, [(0.5, 7)]), (1.0, []))
    def each(of_last: Any, of_previous: Any) -> None:
        before = None if of_previous is None else fuzzing.damaged(previous, *of_previous)
        damaged = fuzzing.damaged(last, *of_last)
        assert fuzzing.state_complaint(there, damaged, before, whole) == ""

    each()
    # The judge sees a state that is another.
    assert "nobody saved" in fuzzing.state_complaint(there, last, None, [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(fuzzing.REPORTED))
def test_reports_of_damaged_runs(run_folder: Path, name: str) -> None:
    original = (run_folder / name).read_bytes()

    @settings(max_examples=8, **FEW)
    @given(fuzzing.damages)
    @example((0.5, []))
    @example((0.0, []))
    def each(damage: Any) -> None:
        (run_folder / name).write_bytes(fuzzing.damaged(original, *damage))
        assert fuzzing.report_complaint(run_folder) == ""

    try:
        each()
    finally:
        (run_folder / name).write_bytes(original)


def test_a_program_of_its_own_answers_within_three_seconds_of_computing(
    lrexp: Any, tmp_path: Path
) -> None:
    started = cpu_seconds()
    done = lrexp("optimizer.lr=\u202e\U0001f4a9")
    assert cpu_seconds() - started < fuzzing.SECONDS
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") < fuzzing.LINES
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_the_judge_sees_bad_answers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(code: Any, said: str = "", out: str = "", took_s: float = 0.1) -> str:
        given = fuzzing.Answer(code, said, out, took_s)
        monkeypatch.setattr(fuzzing, "answer", lambda line: given)
        return fuzzing.complaint([])

    assert answers(2, "error: x\n") == ""
    assert "traceback" in answers(1, "Traceback (most recent call last)\nerror: x")
    assert "took" in answers(2, "error: x\n", took_s=9.0)
    assert "ended" in answers("ValueError: x")
    assert "unforeseen" in answers(1, "error: x\n  set HYDRA_FULL_ERROR=1 to see")
    assert "without a word" in answers(1)
    assert "characters" in answers(1, "error: x\n" * 100)

    def leaves(line: list[str]) -> fuzzing.Answer:
        (here / "left").mkdir()
        return fuzzing.Answer(2, "error: x", "", 0.1)

    monkeypatch.setattr(fuzzing, "answer", leaves)
    assert "leaves" in fuzzing.complaint([])
