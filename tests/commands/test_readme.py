"""The commands that README and docs/ show: each is understood, some are run whole (slow)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from documents import PAGES, WRITTEN, commands
from grid_points import composing
from PIL import Image

from lrexp.__main__ import main
from lrexp.grid.search.space import read_space

RUN_ELSEWHERE = ("own_parts.md",)  # tests of their own run these pages' blocks, with their files
TEXT = "\n".join(page.read_text() for page in WRITTEN if page.name not in RUN_ELSEWHERE)
# Words that stand for something of the reader's own.
OWN = re.compile(r"\b(FOLDER\w*|RUN\w*|TEAM)\b|labels\.csv|resnet20\.safetensors|mine\b|uoft-cs")
NETWORK = ("model.pretrained=true", "uoft-cs/cifar10", "data.root=", "data=mnist")
OPTION = re.compile(r"`mine/(\S+)\.yaml`.*?```yaml\n(.*?)```", re.DOTALL)  # of the reader's own
VERB = re.compile(r"[a-z][a-z-]*")
LESSON = "experiment=lessons/"  # whose commands have tests of their own

SHOWN = list(dict.fromkeys(commands(TEXT)))
WRONG = [one for one in SHOWN if one.error]  # for the answer that it gets
COMMANDS = list(dict.fromkeys(one.words for one in SHOWN if not one.error))


def is_verb(words: tuple[str, ...]) -> bool:
    return bool(words) and VERB.fullmatch(words[0]) is not None


def is_a_run(words: tuple[str, ...]) -> bool:
    return not is_verb(words) and not any(w.startswith("--") for w in words)


SEARCH = "hydra/sweeper=optuna"
SEARCHES = [words for words in COMMANDS if SEARCH in words]
RUNS = [words for words in COMMANDS if is_a_run(words) and SEARCH not in words]
ALONE = [words for words in RUNS if "-m" not in words]
GRIDS = [words for words in RUNS if "-m" in words and "resume" not in str(words)]


def runs_whole(words: tuple[str, ...]) -> bool:
    """Nothing is missing on any machine: no images, weights, run or network of the reader's."""
    needs = OWN.search(str(words)) or any(name in str(words) for name in NETWORK)
    needs = needs or any(f"hydra/launcher={one}" in words for one in ("slurm", "ray"))
    # One is of a run that is not there, one has a test of its own, and 50 runs.
    return not needs and "latest" not in str(words) and "task=layer_test" not in words


WHOLE = [words for words in RUNS if runs_whole(words)]


# What a YAML file begins with; grids there are crossed by tests of their own.
FOUND = {one.words for page in PAGES if page not in WRITTEN for one in commands(page.read_text())}
IN_REFERENCE = sorted(w for w in FOUND if is_a_run(w) and "-m" not in w and LESSON not in str(w))


def test_commands_of_every_kind_are_shown() -> None:
    assert len(ALONE) >= 10
    assert len(GRIDS) >= 2
    assert len(WHOLE) >= 8


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the commands take for granted."""
    monkeypatch.chdir(tmp_path)
    for label in ("ants", "bees"):
        (tmp_path / "FOLDER" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"FOLDER/{label}/0.png")
    (tmp_path / "FOLDER_OF_PARQUET").mkdir()
    (tmp_path / "labels.csv").write_text("file,label\nFOLDER/ants/0.png,ants\n")
    (tmp_path / "resnet20.safetensors").write_bytes(b"")
    (tmp_path / "outputs/latest/checkpoints").mkdir(parents=True)
    (tmp_path / "outputs/latest/checkpoints/best.pt").write_bytes(b"")
    (tmp_path / "outputs/latest/plan.csv").write_text("")
    return tmp_path


@pytest.mark.parametrize("words", ALONE, ids=" ".join)
def test_a_command_that_is_shown_is_understood(
    words: tuple[str, ...], here: Path, compose: Callable[..., Any]
) -> None:
    assert compose(*words).task.name in ("train", "plan", "range_test", "layer_test")


@pytest.mark.parametrize("words", GRIDS, ids=" ".join)
def test_a_grid_that_is_shown_is_understood(words: tuple[str, ...], here: Path) -> None:
    cases = [word.partition("=")[2] for word in words if word.startswith("cases=")]
    assert all((ROOT / "conf/cases" / f"{name}.yaml").is_file() for name in cases)
    # Cases have tests of their own, and a seed is like another.
    rest = [w for w in words if w != "-m" and w.removeprefix("cases=") not in cases]
    with composing() as points:
        found = points(*[re.sub(r"^(seed=\d+),.*", r"\1", word) for word in rest])
    assert len(found) > 1 or cases


@pytest.mark.parametrize("words", SEARCHES, ids=" ".join)
def test_a_search_that_is_shown_is_understood(words: tuple[str, ...], here: Path) -> None:
    axes = [word for word in words if "=" in word and not word.startswith("hydra")]
    with composing() as points:
        for one in (space := read_space(axes, None)).searched:
            (end, *_) = one.ends
            assert points(*space.fixed, end)


def test_a_mistake_is_shown() -> None:
    assert len(WRONG) >= 1


@pytest.mark.parametrize("wrong", WRONG, ids=lambda one: " ".join(one.words))
def test_a_mistake_gets_the_answer_that_is_shown(
    wrong: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(wrong.words)) == 2
    said = capsys.readouterr().err.splitlines()
    assert wrong.error in said
    assert all(f"\n{line}\n" in TEXT for line in said if line.startswith("error: "))


@pytest.mark.parametrize("words", [("--cfg", "job"), ("--help",)], ids=" ".join)
def test_a_question_that_is_shown_is_answered(words: tuple[str, ...]) -> None:
    assert words in COMMANDS
    assert main(list(words)) == 0


def test_options_of_the_readers_own_are_found(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "mypkg")
    pages = [(ROOT / f"docs/{name}.md").read_text() for name in ("models", "options")]
    options = [one for page in pages for one in OPTION.findall(page)]
    assert len(options) >= 2
    for name, text in options:
        file = here / "mine" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        assert main(["--config-dir", "mine", name.replace("/", "="), "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "target: mypkg.nets.Net" in shown
    assert "lr: 0.0003" in shown


@pytest.mark.parametrize("words", [words for words in COMMANDS if is_verb(words)], ids=" ".join)
def test_a_verb_that_is_shown_knows_its_flags(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main([words[0], "--help"])
    except SystemExit as stop:  # argparse has answered
        code = stop.code
    assert code == 0
    said = capsys.readouterr().out
    for flag in words:
        assert not flag.startswith("--") or flag in said


@pytest.mark.slow
@pytest.mark.parametrize("words", IN_REFERENCE, ids=" ".join)
def test_a_command_of_the_reference_is_understood(
    words: tuple[str, ...],
    here: Path,
    compose: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "mypkg")
    (here / "FILE").write_bytes(b"")
    for name in ("cifar_noise", "cifar_flipped"):
        (here / "shifted" / name).mkdir(parents=True)
    assert compose(*words).task.name in ("train", "plan", "range_test", "layer_test")


@pytest.mark.slow
@pytest.mark.parametrize("words", WHOLE, ids=" ".join)
def test_a_command_that_is_shown_runs(words: tuple[str, ...], here: Path) -> None:
    assert main([*words, "logger=none"] if "-m" in words else list(words)) == 0
