"""The text of --help."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrexp.commands.help import GROUPS, help_text
from lrexp.config.errors import UserError
from lrexp.config.names import conf_folder
from lrexp.config.schema import GROUPS as TYPED_GROUPS


def options(text: str) -> dict[str, list[str]]:
    """The lines `group  option, option` of the help, long ones continued below."""
    text = re.sub(r",\n {4,}", ", ", text)
    found = re.findall(r"^  (\w+) +((?:\w+, )*\w+)$", text, re.MULTILINE)
    return {group: names.split(", ") for group, names in found}


def test_help_lists_every_group_and_every_option() -> None:
    folders = [
        p for p in conf_folder().iterdir() if p.is_dir() and p.name not in ("hydra", "schema")
    ]
    assert options(help_text([])) == {
        folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in folders
    }


def test_help_lists_experiments_in_a_folder_below_the_others() -> None:
    lessons = sorted(p.stem for p in (conf_folder() / "experiment/lessons").glob("*.yaml"))
    listed = re.sub(r",\n +", ", ", help_text([]))
    assert f"\n              lessons/NAME: {', '.join(lessons)}\n  model " in listed


def test_help_knows_the_same_groups_as_the_schemas() -> None:
    assert sorted(GROUPS) == sorted(TYPED_GROUPS)


def example_commands() -> list[list[str]]:
    lines = help_text([]).partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    return [re.split(r" {2,}", line.strip())[0].split()[1:] for line in lines]


def test_help_has_five_example_commands() -> None:
    assert len(example_commands()) == 5


@pytest.mark.parametrize("arguments", example_commands(), ids=" ".join)
def test_the_examples_are_valid(arguments: list[str], compose: Callable[..., Any]) -> None:
    chosen = [a.split(",")[0] for a in arguments if a != "-m"]
    assert compose(*chosen).task.name == "train"


def test_help_says_what_the_tool_does_first() -> None:
    assert "learning-rate policy" in help_text([]).splitlines()[0]
    assert max(map(len, help_text([]).splitlines())) <= 100


def test_help_adds_the_options_of_a_config_dir(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("seed: 1\n")
    for flags in (["--config-dir", str(tmp_path)], ["-cd", str(tmp_path)]):
        assert "mine" in options(help_text(["--help", *flags]))["experiment"]
    assert "mine" in options(help_text(["--help", f"--config-dir={tmp_path}"]))["experiment"]
    with pytest.raises(UserError, match="--config-dir nowhere: there is no such folder"):
        help_text(["--help", "--config-dir", "nowhere"])
