"""docs/own_parts.md as files and commands: what a reader would copy from it, in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

PAGE = (ROOT / "docs" / "own_parts.md").read_text()
BLOCK = re.compile(r"(?:^`(\S+)`:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str, str]]:
    """The name of a file, or nothing; the language; the text."""
    yield from BLOCK.findall(PAGE)


def write_files(folder: Path) -> list[str]:
    """Write every file of the page; returns their names."""
    files = [(name, text) for name, _, text in blocks() if name]
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [name for name, _ in files]


def script() -> str:
    """All commands, in order."""
    return "set -e\n" + "".join(text for name, kind, text in blocks() if kind == "bash")
