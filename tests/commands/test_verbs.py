"""Verbs: which word means what, their help, and how their words are completed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from command_lines import user_environment
from conftest import ROOT

from lrexp.__main__ import main
from lrexp.commands.answer import VERBS
from lrexp.commands.help import help_text

GOLDEN = ROOT / "tests" / "golden_run"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_examples_and_exit_codes(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith(f"usage: lrexp {verb} ")
    examples = re.findall(rf"^  lrexp {verb}\b(.*?)(?: {{3}}.*)?$", said, re.MULTILINE)
    assert 2 <= len(examples) <= 3
    parser = import_module(f"lrexp.commands.{verb}").parser()
    for words in examples:
        parser.parse_intermixed_args(words.split())
    assert re.search(r"^exit codes: 0 .*2 a mistake in the request", said, re.MULTILINE | re.DOTALL)


def test_help_lists_every_verb_with_a_line() -> None:
    for verb, what in VERBS.items():
        assert re.search(rf"^  lrexp {verb} +{re.escape(what)}$", help_text([]), re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rerrun", "latest", "--check"], ["rerrun: there is no such verb", "mean 'rerun'?"]),
        (["rerrun", "--help"], ["mean 'rerun'?"]),
        (["syncc"], ["mean 'sync'?", "compare, report, predict, export, sync, dashboard"]),
        (["seed"], ["no such verb", "KEY=VALUE"]),
        (["freeze_backbone"], ["freeze_backbone: is written", "write: lrexp lr_policy=freeze_"]),
        (["seed=1", "adam"], ["write: lrexp seed=1 optimizer=adam"]),
        (["timm"], ["write model=timm or optimizer=timm"]),
        (["freze_backbone"], ["did you mean lr_policy=freeze_backbone?"]),
        (["too_high"], ["is an option, no verb", "write experiment=lessons/too_high"]),
        (["lessons/too_high"], ["write experiment=lessons/too_high"]),
        (["optimiser"], ["did you mean optimizer=OPTION?"]),
        (["-m", "rerun"], ["a verb comes first", "write lrexp rerun"]),
        (["rerun"], ["lrexp rerun --help"]),
        (["latest", "report"], ["a verb comes first", "write lrexp report latest"]),
        (["--cofig-dir", "own", "seed=1"], ["--cofig-dir", "is written --config-dir own"]),
        (["rerun", "latest", "--chek"], ["--chek", "did you mean --check?"]),
        (["compare", "latest"], ["RUN_B", "lrexp compare --help"]),
        (["report", "nowhere"], ["there is no folder nowhere", "`latest`"]),
    ],
)
def test_words_that_are_no_verb_are_said_to_be_what_they_are(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for part in said:
        assert part in error


def test_the_first_word_behind_a_verb_is_the_run_even_with_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    point = tmp_path / "sweep=1" / "0_lr_policy=uniform"
    shutil.copytree(GOLDEN, point)
    for words in (["--check"], ["--check", "-cd", "."]):
        assert main(["rerun", *words, "sweep=1/0_lr_policy=uniform", "optimizer.lr=9"]) == 4
        said = capsys.readouterr().out
        assert "rerun  sweep=1/0_lr_policy=uniform" in said
        assert "optimizer.lr: " in said
    assert main(["rerun", "optimizer.lr=9"]) == 2
    assert "optimizer.lr=9: there is no such run" in capsys.readouterr().err


def test_nothing_names_a_module_as_a_command() -> None:
    files = [*(ROOT / "lrexp").rglob("*.py"), *(ROOT / "scripts").iterdir(), ROOT / "README.md"]
    files += (ROOT / "docs").rglob("*.md")
    for file in files:
        if file.suffix in (".py", ".sh", ".md", ".yaml"):
            assert "python -m lrexp." not in file.read_text(), file
    for file in (ROOT / "lrexp" / "commands").glob("*.py"):
        assert '"__main__"' not in file.read_text(), file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run, a sweep of two points, and what is neither."""
    run, sweep = (tmp_path / "outputs" / "smoke" / name for name in ("2026_run", "2026_sweep"))
    for folder in (run, sweep / "0_lr_policy=uniform", sweep / "1_lr_policy=lp_ft"):
        shutil.copytree(GOLDEN, folder)
    (sweep / "points.json").write_text("{}")
    (tmp_path / "outputs" / "smoke" / "notes").mkdir()
    (tmp_path / "outputs" / "latest").symlink_to("smoke/2026_sweep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def complete(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """What completion offers at `|` in a line, or at its end."""

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line.replace("|", ""))
        monkeypatch.setenv("COMP_POINT", str(line.find("|") if "|" in line else len(line)))
        assert main(["-sc", "query=bash"]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.split()

    return offered


RUNS = ["outputs/smoke/2026_run", "outputs/smoke/2026_sweep"]
OFFERED = {
    "lrexp rer": ["rerun"],
    "bin/lrexp re": ["rerun", "report"],
    "lrexp rer| seed=1": ["rerun"],
    "lrexp rerun ": ["latest", *RUNS],
    "lrexp rerun --check l": ["latest"],
    "lrexp rerun outputs/smoke/2026_sweep/1": ["outputs/smoke/2026_sweep/1_lr_policy=lp_ft"],
    "lrexp rerun latest --ch": ["--check", "--changed-data"],
    "lrexp compare latest ": ["latest", *RUNS],
    "lrexp compare latest latest ": [],
    "lrexp predict ": ["latest", *RUNS],
    "lrexp predict latest ": [],  # files: the shell knows them
    "lrexp predict latest photo.jpg --o": ["--out", "--overwrite"],
    "lrexp export outputs/smoke/2026_run --on": ["--onnx"],
    "lrexp report outputs/smoke/2026_s": ["outputs/smoke/2026_sweep"],
    "lrexp sync --": ["--help", "--dry-run", "--to"],
    "lrexp dashboard --report ": ["latest", *RUNS],
    "lrexp dashboard --json ": [],
    "lrexp rerun outputs/smoke/2026_run lr_policy=free": [
        "lr_policy=freeze_backbone",
        "lr_policy=freezeout",
    ],
    "lrexp rerun outputs/smoke/2026_run --check optimizer.mom": ["optimizer.momentum="],
    "lrexp rerun nowhere lr_pol": [],
    "lrexp optimizer.lr=0.1,0.2 seed=": [],  # nothing that could be composed
}


@pytest.mark.parametrize("line", OFFERED)
def test_completion_offers(line: str, complete: Callable[[str], list[str]]) -> None:
    assert complete(line) == OFFERED[line]


def test_completion_offers_verbs_and_settings_for_the_first_word(
    complete: Callable[[str], list[str]],
) -> None:
    assert set(complete("lrexp ")) > {*VERBS, "lr_policy=", "optimizer.", "seed="}
    assert set(complete("lrexp d")) == {"dashboard", "data=", "data."}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.slow
def test_bash_completes_with_hydras_script(here: Path) -> None:
    command = here / "bin" / "lrexp"  # as pip writes it for [project.scripts]
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom lrexp.__main__ import command\ncommand()\n")
    command.chmod(0o755)
    script = """
        PATH="$PWD/bin:$PATH"
        eval "$(lrexp -sc install=bash)"
        tab() {
            COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($1); COMP_CWORD=$2
            hydra_bash_completion
            echo "${COMPREPLY[*]}"
        }
        tab "lrexp rerun " 2
        tab "lrexp rerun outputs/smoke/2026_sweep/0_lr_policy=u" 2
        tab "lrexp lr_policy=lay" 1
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=user_environment(here), capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        " ".join(["latest", *RUNS]),
        "outputs/smoke/2026_sweep/0_lr_policy=uniform",
        "lr_policy=layerwise_decay",
    ]
