"""docs/own_parts.md: every file and command of it is whole, short and understood."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_parts_page import blocks, script, write_files

from lrexp.config.parts import targets_in

GROUPS = ("model", "data", "lr_policy", "scheduler", "loss")
MOST_LINES = 20


def test_every_part_takes_few_lines() -> None:
    long = [text for _, _, text in blocks() if text.count("\n") > MOST_LINES]
    assert not long


def test_the_commands_of_the_page_choose_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "mypkg")
    (tmp_path / "stripes.npz").touch()
    (tmp_path / "stripes").mkdir()
    names = write_files(tmp_path)
    for name in (name for name in names if name.endswith(".py")):
        compile((tmp_path / name).read_text(), name, "exec")
    commands = [
        line.split()[1:]
        for line in script().replace("\\\n", " ").splitlines()
        if line.startswith("lrexp ")
    ]
    own = [words for words in commands if "--config-dir" in words]
    keys = set[str]()
    for words in commands:
        if words not in own:
            keys |= targets_in(compose(*shlex.split(" ".join(words)))).keys()
    assert keys >= {f"{group}.target" for group in GROUPS if group != "lr_policy"}
    assert any(key.startswith("trainer.metrics.") for key in keys)
    assert {word for words in own for word in words} >= {"lr_policy=slower", "-m"}
