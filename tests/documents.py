"""The README and the pages of docs/, and what is in them: commands, links, headings, paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

README = ROOT / "README.md"
# What docs/reference/ shows is read off conf/, --help and docstrings: these have tests.
WRITTEN = [README, *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*WRITTEN, *sorted((ROOT / "docs/reference").glob("*.md"))]

PROGRAM = re.compile(
    r"^(?:\$ )?((?:\w+=\S+ )*)(?:lrexp|python -m lrexp|bash scripts/run\.sh)(?: |$)"
)
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OURS = re.compile(r"(?:lrexp|scripts|conf|tests|docs|hydra_plugins)/[\w./-]*\w/?")
PLACE = re.compile(r"\b(?:NAME|GROUP|OPTION)\b")  # stands for something of the reader's own


class Command(NamedTuple):
    """The words of a command without prompt, variables and comment, and the error it is told of."""

    words: tuple[str, ...]
    error: str


def commands(text: str) -> Iterator[Command]:
    """Every command in a block of code."""
    for block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if found := PROGRAM.match(line):
                words = shlex.split(line[found.end() :], comments=True)
                words = [word for word in words if word != "..." and word[:1] not in ("[", "$")]
                yield Command(tuple(words), after if after.startswith("error: ") else "")


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", text)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: list[str] = []
    for title in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def lost(page: Path, text: str) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it; others' sites are not asked."""
    bad = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(text))):
        name, _, anchor = link.partition("#")
        if re.match(r"https?://", link):
            continue
        target = (page.parent / name).resolve() if name else page
        there = not name or target.exists()
        titles = anchors(target.read_text() if name else text) if there and anchor else ()
        if not there or (anchor and anchor not in titles):
            bad.append(link)
    return bad


def missing(text: str) -> set[str]:
    """Paths of this repository that spans of code name, and that are not there."""
    spans = re.findall(r"`([^`\n]+)`", prose(text))
    named = {path for span in spans for path in OURS.findall(span)}
    return {path for path in named if not PLACE.search(path) and not (ROOT / path).exists()}
