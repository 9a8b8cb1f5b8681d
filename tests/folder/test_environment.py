"""What environment.json is made of: the machine is asked, and nothing of a checkout is run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import lrexp
from lrexp.folder.environment import _code_version

PROGRAM = "sh -c 'touch {0}; cat'"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the program with a change that no commit has, taken for the one that runs."""
    root = tmp_path / "checkout"
    (root / "lrexp").mkdir(parents=True)
    (root / "lrexp" / "__init__.py").write_text("x = 1\n")
    (root / ".gitattributes").write_text("*.py filter=f diff=d\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    (root / "lrexp" / "__init__.py").write_text("x = 22\n")
    (root / "lrexp" / "new.py").write_text("y = 3\n")
    monkeypatch.setattr(lrexp, "__file__", str(root / "lrexp" / "__init__.py"))
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def test_the_code_version_is_the_checkouts_whatever_the_environment_says(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, diff = _code_version.__wrapped__()
    assert len(str(commit)) == 40
    assert b"+x = 22" in diff
    assert b"+y = 3" in diff
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF"):
        monkeypatch.setenv(name, "/nowhere")
    assert _code_version.__wrapped__() == (commit, diff)


def test_git_runs_no_program_that_a_variable_or_the_repository_names(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    program = PROGRAM.format(ran)
    hook = checkout / ".git" / "hooks" / "post-index-change"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    for key in ("core.fsmonitor", "filter.f.clean", "diff.d.textconv", "diff.d.command"):
        git(checkout, "config", key, program)
    git(checkout, "config", "filter.f.required", "true")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor'='touch {ran}'")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", program)
    _, diff = _code_version.__wrapped__()
    assert b"+x = 22" in diff
    assert not ran.exists()
    monkeypatch.delenv("GIT_CONFIG_PARAMETERS")
    subprocess.run(["git", "-C", str(checkout), "diff", "HEAD"], check=False, capture_output=True)
    assert ran.exists()  # it would have
