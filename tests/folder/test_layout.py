"""Every file name of a run or sweep folder is spelled in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import lrexp
from lrexp.folder import layout

PACKAGE = Path(lrexp.__file__).parent
# `layout` takes the names that settings may point at from the room below it
SPELLED_IN = {PACKAGE / "folder" / "layout.py", PACKAGE / "config" / "names.py"}
NAMES = {value for name, value in vars(layout).items() if name.isupper()}
WORDS = {"wandb"}  # also the name of a package and an option: a file name only within a path


def spelled(tree: ast.AST) -> Iterator[str]:
    """Constants that are a file name of `NAMES`, or a path or pattern with one in it.

    Docstrings and sentences are for people: they may say the names.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = set(node.value.split("/"))
            of_path = parts & NAMES if len(parts) > 1 else parts & (NAMES - WORDS)
            if of_path and " " not in node.value:
                yield node.value


FOREIGN = {("models/pretrained.py", "checkpoints")}  # a folder of torch's own


def test_file_names_are_spelled_in_the_layout_alone() -> None:
    for file in sorted(set(PACKAGE.rglob("*.py")) - SPELLED_IN):
        place = file.relative_to(PACKAGE).as_posix()
        found = {(place, text) for text in spelled(ast.parse(file.read_text()))}
        assert not found - FOREIGN


def test_a_name_elsewhere_is_found() -> None:
    code = '''"""Reads summary.json."""
a = folder / "summary.json"
b = f"{folder}/report.html"
c = folder.glob("wandb/*run-*")
d = "summary.json cannot be read"
e = logger == "wandb"
'''
    assert list(spelled(ast.parse(code))) == ["summary.json", "/report.html", "wandb/*run-*"]
