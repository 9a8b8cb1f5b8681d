"""What is answered without a run: help, version, settings, completion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import drive, user_environment
from conftest import ROOT
from processes import HUNG_S

from lrexp.__main__ import main
from lrexp.commands.answer import answer
from lrexp.config.errors import RunFailedError, Terminated

CONF = ROOT / "conf"
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and p.name not in ("hydra", "schema"))


def test_quick_answers_import_nothing_heavy(tmp_path: Path) -> None:
    quick = {"help": ["--help"], "settings": ["--cfg", "job"], "version": ["--version"]}
    found = drive(tmp_path, list(quick.items()))
    answered = [(one["code"], one["err"], one["left"]) for one in found["outcomes"].values()]
    assert answered == [(0, "", [])] * len(quick)
    assert found["heavy"] == []


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from lrexp import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lrexp {__version__}\n"


def test_cfg_job_shows_what_an_override_changes(capsys: pytest.CaptureFixture[str]) -> None:
    from omegaconf import OmegaConf

    overrides = ("lr_policy=layerwise_decay", "lr_policy.decay=0.8", "seed=3")
    assert main(["--cfg", "job", *overrides]) == 0
    shown: Any = OmegaConf.create(capsys.readouterr().out)
    assert (shown.lr_policy.name, shown.lr_policy.decay, shown.seed) == ("layerwise_decay", 0.8, 3)
    assert "hydra" not in shown


@pytest.fixture
def complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """What completion offers for a started command line."""

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        assert main(["-sc", "query=bash"]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out.split()

    return offered


def test_completion_offers_groups_options_and_settings(
    complete: Callable[[str], list[str]],
) -> None:
    assert "lr_policy=" in complete("lrexp lr_pol")
    options = sorted(f"lr_policy={p.stem}" for p in (CONF / "lr_policy").glob("*.yaml"))
    assert sorted(complete("lrexp model=mlp lr_policy=")) == options
    assert "optimizer.momentum=" in complete("lrexp optimizer.")


def test_completion_offers_experiments_in_folders(complete: Callable[[str], list[str]]) -> None:
    files = (p.relative_to(CONF) for p in (CONF / "experiment").rglob("*.yaml"))
    options = sorted(f"{p.with_suffix('')}".replace("/", "=", 1) for p in files)
    assert complete("lrexp exper") == ["experiment="]
    assert sorted(complete("lrexp experiment=")) == options
    assert complete("lrexp -m experiment=lessons/too") == ["experiment=lessons/too_high"]


def test_completion_offers_no_schema(complete: Callable[[str], list[str]]) -> None:
    offered = complete("lrexp ")
    assert {f"{group}=" for group in GROUPS} <= set(offered)
    assert not [word for word in offered if word.startswith("schema")]


COMPLETES = re.compile(r"^.*complete.* lrexp\b", re.MULTILINE)


def test_completion_script_is_for_the_command(tmp_path: Path) -> None:
    script = tmp_path / "lrexp"  # as pip writes it for [project.scripts]
    script.write_text(
        f"#!{sys.executable}\nfrom lrexp.__main__ import command\nraise SystemExit(command())\n"
    )
    script.chmod(0o755)
    done = subprocess.run(
        ["lrexp", "-sc", "install=bash"],
        env=user_environment(tmp_path) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert COMPLETES.search(done.stdout)
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_script_of_other_shells_is_for_the_command(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lrexp"])
    assert main(["-sc", f"install={shell}"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert COMPLETES.search(said.out)


def test_an_error_that_an_interruption_ended_in_is_an_interruption(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RunFailedError(ValueError("cut short"))  # noqa: B904

    assert answer(failing) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_that_nobody_reads_what_is_said_changes_no_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    def stopped() -> int:
        raise Terminated

    monkeypatch.setattr("builtins.print", closed)
    assert answer(stopped) == 143
