"""The commands that the README shows: each is understood, each runs (slow), each file is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from grid_points import composing
from PIL import Image

from lrexp.__main__ import main

README = (ROOT / "README.md").read_text()
PROGRAM = re.compile(
    r"^(?:\$ )?((?:\w+=\S+ )*)(?:lrexp|python -m lrexp|bash scripts/run\.sh)(?: |$)"
)
# Words that stand for something of the reader's own.
OWN = re.compile(r"\b(FOLDER\w*|RUN\w*|TEAM)\b|labels\.csv|resnet20\.safetensors|mine\b|uoft-cs")
NETWORK = ("model.pretrained=true", "uoft-cs/cifar10", "data.root=", "data=mnist")
WRONG = ("optimizer.learning_rate=0.1",)  # shown for the answer that it gets
OPTION = re.compile(r"`mine/(\S+)\.yaml`.*?```yaml\n(.*?)```", re.DOTALL)  # of the reader's own


def shown() -> Iterator[list[str]]:
    """The words of every command in a block of code, without prompt, variables and comment."""
    for block in re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := PROGRAM.match(line):
                words = shlex.split(line[found.end() :], comments=True)
                yield [word for word in words if word != "..." and not word.startswith("[")]


COMMANDS = list(dict.fromkeys(map(tuple, shown())))
VERB = re.compile(r"[a-z][a-z-]*")


def is_verb(words: tuple[str, ...]) -> bool:
    return bool(words) and VERB.fullmatch(words[0]) is not None


def is_a_run(words: tuple[str, ...]) -> bool:
    return not is_verb(words) and not any(w.startswith("--") for w in words)


RUNS = [words for words in COMMANDS if is_a_run(words) and words != WRONG]
ALONE = [words for words in RUNS if "-m" not in words]
GRIDS = [words for words in RUNS if "-m" in words and "resume" not in str(words)]
WHOLE = [w for w in RUNS if not OWN.search(str(w)) and not any(n in str(w) for n in NETWORK)]
WHOLE = [words for words in WHOLE if "latest" not in str(words)]  # of a run that is not there
WHOLE = [words for words in WHOLE if "task=layer_test" not in words]  # has a test, and 50 runs


def test_the_readme_shows_commands_of_every_kind() -> None:
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
    return tmp_path


@pytest.mark.parametrize("words", ALONE, ids=" ".join)
def test_a_command_of_the_readme_is_understood(
    words: tuple[str, ...], here: Path, compose: Callable[..., Any]
) -> None:
    assert compose(*words).task.name in ("train", "plan", "range_test", "layer_test")


@pytest.mark.parametrize("words", GRIDS, ids=" ".join)
def test_a_grid_of_the_readme_is_understood(words: tuple[str, ...], here: Path) -> None:
    cases = [word.partition("=")[2] for word in words if word.startswith("cases=")]
    assert all((ROOT / "conf/cases" / f"{name}.yaml").is_file() for name in cases)
    # Cases have tests of their own, and a seed is like another.
    rest = [w for w in words if w != "-m" and w.removeprefix("cases=") not in cases]
    with composing() as points:
        found = points(*[re.sub(r"^(seed=\d+),.*", r"\1", word) for word in rest])
    assert len(found) > 1 or cases


def test_a_mistake_of_the_readme_gets_the_answer_that_it_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert WRONG in COMMANDS
    assert main(list(WRONG)) == 2
    said = capsys.readouterr().err.splitlines()
    assert all(f"\n{line}\n" in README for line in said if line.startswith("error: "))


@pytest.mark.parametrize("words", [("--cfg", "job"), ("--help",)], ids=" ".join)
def test_a_question_of_the_readme_is_answered(words: tuple[str, ...]) -> None:
    assert words in COMMANDS
    assert main(list(words)) == 0


def test_options_of_the_readers_own_are_found(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "mypkg")
    options = OPTION.findall(README)
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
def test_a_verb_of_the_readme_knows_its_flags(
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


def test_the_files_that_the_readme_names_are_there() -> None:
    named = set(re.findall(r"\bscripts/[\w.]+\.(?:sh|py|png|yaml)|\.ci/run", README))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("words", WHOLE, ids=" ".join)
def test_a_command_of_the_readme_runs(words: tuple[str, ...], here: Path) -> None:
    assert main([*words, "logger=none"] if "-m" in words else list(words)) == 0
