"""The README and docs/: links lead somewhere, files that are named are there, all can be found."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from documents import LINK, PAGES, README, WRITTEN, anchors, lost, missing

LONGEST = 350  # lines of the README


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    assert lost(page, page.read_text()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    page = ROOT / "docs/somewhere.md"
    text = "# A title: `one`, two\n[a](nowhere.md) [b](../README.md) [c](#a-title-one-two) [d](#no)"
    assert lost(page, text) == ["nowhere.md", "#no"]
    assert lost(page, "[a](../README.md#no-such-heading) [b](tree.md)") == [
        "../README.md#no-such-heading"
    ]
    assert anchors("# A\n## A\n```\n# no heading\n```\n") == {"a", "a-1"}
    assert missing("`scripts/run.sh x=1` `conf/task/NAME.yaml` `tests/none.py`") == {
        "tests/none.py"
    }


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    assert missing(page.read_text()) == set()


def test_every_page_is_found_from_the_readme() -> None:
    found, new = set[Path](), [README]
    while new:
        page = new.pop()
        found.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(page.read_text())]
        to = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        new += [page for page in to if page.is_file() and page not in found]
    assert [named(page) for page in PAGES if page not in found] == []


def test_the_readme_is_a_quick_start() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= LONGEST
    assert "lrexp which" in "\n".join(lines[:80])


def test_every_figure_that_was_measured_names_its_script() -> None:
    page = (ROOT / "docs/measured.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    assert [row for row in rows if "`scripts/" not in row.split("|")[3]] == []
    assert " CPU" in page
    assert "GPU" in page
