"""Reports on paper: A4 pages as Chromium prints them, and what they look like without a window."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conclusions import twelve
from printed import printed_pages
from report_runs import write_run
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.report.comparison.page import write_conclusion
from lrexp.report.html.page import Column, table
from lrexp.report.run.page import write_run_report
from lrexp.report.sweep.page import write_sweep_report

SIDES = dict.fromkeys(("top", "bottom", "left", "right"), "20mm")
A4, HEADING = 170 / 25.4 * 96, 11.5  # pixels between such sides; points of h2, h3 and figcaption
BROKEN = """() => {
    const broken = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const node = walk.currentNode, range = document.createRange();
        if (node.parentElement.closest('svg, script, style')) continue;
        for (const word of node.data.matchAll(/[\\p{L}\\p{N}_.]+/gu)) {
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            const tops = [...range.getClientRects()].map(box => Math.round(box.top));
            if (new Set(tops).size > 1) broken.push(word[0]);
        }
    }
    return broken;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as started:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = started.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["run", "sweep", "comparison"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with a long table, a sweep with all columns in its tables, and twelve rivals."""
    folder = tmp_path_factory.mktemp("printed") / "it"
    if request.param == "comparison":
        folder.mkdir()
        return write_conclusion(folder, twelve())
    if request.param == "run":
        return write_run_report(write_run(folder, epochs=60))
    axes = {
        "model": ("simple_cnn", "a_network_with_a_long_name"),
        "lr_policy": ("uniform", "freeze_backbone", "gradual_unfreeze"),
        "optimizer.lr": (0.01, 0.1, 1.0),
        "seed": (0, 1, 2),
    }

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        if chosen["optimizer.lr"] == 1.0 and chosen["seed"]:
            return went_wrong("diverged")
        kinds = [{"kind": "overfitting"}, {"kind": "deteriorated"}][: chosen["seed"]]
        return outcome(0.123456 + chosen["optimizer.lr"] + 0.01 * chosen["seed"], verdicts=kinds)

    return write_sweep_report(write_sweep(folder, axes, result))


@pytest.mark.slow
def test_words_of_charts_are_at_least_8_points(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(report.as_uri())
    assert 2 < len(printed_pages(page.pdf(format="A4", margin=SIDES))) < 9
    page.evaluate("document.querySelectorAll('.table, .code').forEach(one => one.remove())")
    pages = printed_pages(page.pdf(format="A4", margin=SIDES))
    assert page.locator("figure.chart text").count() > 50
    assert min(words.points for one in pages for words in one) >= 8
    page.close()


@pytest.mark.slow
def test_no_heading_stands_alone_and_tables_have_theirs_on_every_page(
    browser: Any, report: Path
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(report.as_uri())
    for margin in ("12mm", "20mm", "27mm"):
        pages = printed_pages(page.pdf(format="A4", margin=dict.fromkeys(SIDES, margin)))
        for words in pages:
            lowest = min(words, key=lambda one: one.y)
            heading = max(words, key=lambda one: (one.points >= HEADING, -one.y))
            assert lowest.points < HEADING
            if heading.points >= HEADING:
                below = [one for one in words if one.y < heading.y - 2]
                lead = {round(one.points, 1) for one in below} == {10.0}
                lines = len({round(one.y) for one in below})
                assert lines >= (3 if lead else 2), "a lead alone is no company"
    page.close()


@pytest.mark.slow
def test_a_long_table_repeats_its_headings(browser: Any, tmp_path: Path) -> None:
    from markupsafe import Markup

    from lrexp.report.html.page import Section, page

    rows = [["a", i] for i in range(150)]
    made = page("t", Markup(), [Section("T", table(["name", "value"], rows))], "run")
    (tmp_path / "page.html").write_text(made)
    shown = browser.new_page()
    shown.goto((tmp_path / "page.html").as_uri())
    _, second, *_ = printed_pages(shown.pdf(format="A4", margin=SIDES))
    lines = sorted({round(words.y) for words in second}, reverse=True)
    columns = [[round(words.x) for words in second if round(words.y) == line] for line in lines[:2]]
    assert len(columns[0]) == 2, "name and value"
    shown.close()


@pytest.mark.slow
def test_no_word_is_broken(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": int(A4), "height": 900})
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(BROKEN) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= int(A4)
    page.close()


@pytest.mark.slow
def test_what_was_drawn_for_paper_is_drawn_for_the_window_again(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(report.as_uri())
    boxes = "[...document.querySelectorAll('.plot > svg')].map(one => one.getAttribute('viewBox'))"
    before = page.evaluate(boxes)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(boxes) != before
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(boxes) == before
    page.close()


def test_letters_of_a_wide_table_are_smaller_on_paper() -> None:
    columns = [Column(f"a_column_of_some_length_{i}") for i in range(5)]
    assert "--print:" not in str(table(["a", "b"], [["c", "d"]]))
    wide = str(table(columns, [["x"] * 5]))
    (points,) = re.findall(r"--print:([\d.]+)pt", wide)
    assert 5 < float(points) < 6
    assert "--print:5pt" in str(table(columns * 3, [["x"] * 15])), "no smaller"
    columns[3:] = [Column("y", screen_only=True)] * 2
    assert "--print:" not in str(table(columns, [["x"] * 5]))
