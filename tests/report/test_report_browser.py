"""Reports in a real browser: no request, no complaint, and everything that moves works."""

from __future__ import annotations

import csv
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from report_runs import row, write_run
from synthetic_sweep import outcome, write_sweep

from lrexp.report.figure import Axis, Chart, HeatMap, Series
from lrexp.report.html.charts import drawn
from lrexp.report.html.page import Column, Section, join, page, table
from lrexp.report.run.page import write_run_report
from lrexp.report.sweep.page import write_sweep_report

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A function that opens a file; in the end nothing may have been requested or complained."""
    complaints: list[str] = []
    pages: list[Any] = []

    def open_file(file: Path, **options: Any) -> Any:
        one = browser.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        one.on("console", lambda message: complaints.append(message.text))
        one.on("pageerror", lambda error: complaints.append(str(error)))
        one.on("request", lambda request: complaints.append(request.url))
        one.goto(file.as_uri())
        asked = [url for url in complaints if not url.startswith("data:")]
        assert asked == [file.as_uri()], "the file itself is all that is asked for"
        complaints.clear()
        pages.append(one)
        return one

    yield open_file
    assert [c for c in complaints if not c.startswith(("data:", "file:"))] == []
    for one in pages:
        one.close()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_run_report(write_run(tmp_path / "run"))


def chart(page: Any, title: str) -> Any:
    return page.locator("figure.chart").filter(
        has=page.locator("figcaption", has_text=re.compile(f"^{re.escape(title)}$"))
    )


def point_at(page: Any, figure: Any, across: float, down: float = 0.5) -> None:
    plot = figure.locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)


def test_every_chart_is_drawn(opened: Any, report: Path) -> None:
    page = opened(report)
    count = page.locator("figure.chart").count()
    assert count >= 9
    assert page.locator("figure.chart .plot svg").count() == count
    drawn = (
        chart(page, "Loss")
        .locator(".plot > svg path.line")
        .evaluate_all("all => all.map(p => p.getTotalLength())")
    )
    assert len(drawn) == 3
    assert min(drawn) > 300


def test_the_pointer_shows_values_and_every_chart_follows(opened: Any, report: Path) -> None:
    page = opened(report)
    point_at(page, chart(page, "Loss"), 0.99)
    said = chart(page, "Loss").locator(".tip").inner_text()
    assert "epoch 4" in said
    assert re.search(r"val\s+0\.700 ± 0\.050", said)
    for title in ("Gap", "Accuracy", "Learning rate by group"):
        assert "epoch 4" in chart(page, title).locator(".tip").inner_text()
    assert chart(page, "Drift").locator(".cell-edge").count() == 1
    page.mouse.move(2, 2)
    assert page.locator(".tip:visible").count() == 0


def test_a_heat_map_moves_the_cursor_of_the_lines(opened: Any, report: Path) -> None:
    page = opened(report)
    point_at(page, chart(page, "Drift"), 0.97, 0.1)
    said = chart(page, "Drift").locator(".tip").inner_text()
    assert "head" in said
    assert "0.400" in said
    assert "epoch 4" in chart(page, "Loss").locator(".tip").inner_text()


def test_the_legend_switches_series_by_mouse_and_keyboard(opened: Any, report: Path) -> None:
    page = opened(report)
    loss = chart(page, "Loss")
    key = loss.get_by_role("button", name="val", exact=True)
    line = (
        loss.locator(".plot > svg path.line")
        .locator("xpath=..")
        .and_(page.locator('[data-series="val"]'))
    )
    assert line.count() == 1
    key.click()
    assert line.count() == 0
    assert key.get_attribute("aria-pressed") == "false"
    key.press("Enter")
    assert line.count() == 1
    key.click(modifiers=["Shift"])
    assert loss.locator(".plot > svg path.line").count() == 1, "this one alone"


def test_the_axis_switches_to_a_logarithm(opened: Any, report: Path) -> None:
    page = opened(report)
    loss = chart(page, "Loss")
    before = loss.locator(".plot > svg path.line").last.get_attribute("d")
    loss.get_by_role("button", name="log scale").click()
    assert loss.locator(".plot > svg path.line").last.get_attribute("d") != before


def saved(page: Any, figure: Any, kind: str, folder: Path) -> Path:
    with page.expect_download() as found:
        figure.get_by_role("button", name=kind, exact=True).click()
    file = folder / found.value.suggested_filename
    found.value.save_as(file)
    return file


def test_a_chart_is_saved_as_it_is_seen(opened: Any, report: Path, tmp_path: Path) -> None:
    from PIL import Image

    page = opened(report)
    loss = chart(page, "Loss")
    loss.get_by_role("button", name="train, running").click()  # off
    drawing = saved(page, loss, "SVG", tmp_path)
    assert drawing.name == "Loss.svg"
    root = ET.parse(drawing).getroot()
    words = {"".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Loss", "val", "train-eval", "epoch"} <= words
    assert "train, running" not in words
    assert "class=" not in drawing.read_text(), "its look needs no style sheet"
    assert "rgb(213, 94, 0)" in drawing.read_text(), "the colour of val"
    picture = Image.open(saved(page, loss, "PNG", tmp_path)).convert("RGB")
    assert picture.size == (2 * float(root.get("width") or 0), 2 * float(root.get("height") or 0))
    assert len(set(picture.get_flattened_data())) > 20, "something is drawn"


def test_the_numbers_of_a_chart_are_saved(opened: Any, report: Path, tmp_path: Path) -> None:
    page = opened(report)
    with saved(page, chart(page, "Loss"), "CSV", tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    val = [row for row in rows if row["series"] == "val"]
    assert [(row["epoch"], row["loss"], row["low"]) for row in val] == [
        ("1", "0.6", "0.55"), ("2", "0.5", "0.45"), ("3", "0.6", "0.55"), ("4", "0.7", "0.65"),
    ]  # fmt: skip
    assert {row["series"] for row in rows} == {"gap", "train, running", "train-eval", "val"}
    with saved(page, chart(page, "Drift"), "CSV", tmp_path).open(newline="") as file:
        cells = list(csv.reader(file))
    assert cells[0] == ["row", "epoch", "‖w − w₀‖ / ‖w₀‖"]
    assert ["head", "4", "0.4"] in cells


def test_a_part_of_the_axis_is_looked_at_and_all_of_it_again(opened: Any, tmp_path: Path) -> None:
    page = opened(write_run_report(write_run(tmp_path / "run", epochs=40)))
    loss = chart(page, "Loss")

    def epochs() -> list[float]:
        found = loss.locator(".plot > svg text[text-anchor=middle]").all_text_contents()
        return [float(text) for text in found if re.fullmatch(r"\d+", text)]

    before = loss.locator(".plot > svg").inner_html()
    point_at(page, loss, 0.5)
    page.mouse.down()
    point_at(page, loss, 0.7)
    assert loss.locator("rect.chosen").count() == 1
    page.mouse.up()
    assert min(epochs()) > 15
    assert max(epochs()) < 32
    again = loss.get_by_role("button", name="whole axis")
    again.click()
    assert not again.is_visible()
    page.mouse.move(2, 2)
    assert loss.locator(".plot > svg").inner_html() == before
    point_at(page, loss, 0.5)
    page.mouse.down()
    point_at(page, loss, 0.503)
    page.mouse.up()
    assert not again.is_visible(), "a click is no drag"


def test_lines_are_smoothed_and_stay_themselves(opened: Any, tmp_path: Path) -> None:
    rows = [row(i, **{"val/loss": 1.0 + (i % 2)}) for i in range(1, 31)]
    page = opened(write_run_report(write_run(tmp_path / "run", rows=rows)))
    loss = chart(page, "Loss")
    line = loss.locator('.plot > svg [data-series="val"] path.line')
    assert line.count() == 1
    raw = line.get_attribute("d")
    loss.get_by_role("button", name="smooth").click()
    assert line.count() == 2
    assert line.nth(0).get_attribute("d") == raw
    heights = [float(y) for y in re.findall(r",([\d.]+)", line.nth(1).get_attribute("d"))]
    steps = [float(y) for y in re.findall(r",([\d.]+)", raw)]
    assert max(heights[8:]) - min(heights[8:]) < 0.4 * (max(steps) - min(steps))
    loss.get_by_role("button", name="smooth").click()
    assert line.count() == 1
    assert chart(page, "Gradient norm").get_by_role("button", name="log scale").count() == 1


def test_arrow_keys_move_the_cursor(opened: Any, report: Path) -> None:
    page = opened(report)
    plot = chart(page, "Gap").locator(".plot")
    plot.focus()
    for epoch in (1, 2):
        plot.press("ArrowRight")
        assert f"epoch {epoch}" in chart(page, "Gap").locator(".tip").inner_text()
        assert f"epoch {epoch}" in chart(page, "Loss").locator(".tip").inner_text()
    plot.press("Escape")
    assert page.locator(".tip:visible").count() == 0


def test_headings_sort_and_missing_values_stay_last(opened: Any, tmp_path: Path) -> None:
    rows = [["b", 10.0], ["a", None], ["c", 9.0], ["d", 1e-7]]
    made = join(table(["name", Column("value", number=True)], rows, search=True, caption="some"))
    file = tmp_path / "page.html"
    file.write_text(page("t", Markup(), [Section("Table", made)], "run"))
    shown = opened(file)

    def names() -> str:
        return "".join(shown.locator("tbody tr:visible td:first-child").all_inner_texts())

    heading = shown.get_by_role("button", name="value")
    heading.click()
    assert names() == "dcba"
    heading.click()
    assert names() == "bcda"
    assert shown.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    shown.get_by_role("button", name="name").click()
    assert names() == "abcd"
    shown.get_by_role("searchbox").fill("C")
    assert names() == "c"


def test_dots_name_themselves_and_open_their_report(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("<title>other</title>")
    series = [
        Series("p", [0.1, 1.0], [1, 2], kind="dots", labels=["seed 0", "seed 1"],
               links=["other.html", "other.html"]),
        Series("p", [0.1, 1.0], [1, 2]),
    ]  # fmt: skip
    figure = drawn(Chart("Dots", series, Axis("lr", log=True), Axis("loss"), hover="nearest"))
    cells = drawn(HeatMap("Cells", ["r"], ["a", "b"], [[1.0, None]], numbers=True))
    file = tmp_path / "page.html"
    file.write_text(page("t", Markup(), [Section("Dots", join(figure, cells))], "run"))
    shown = opened(file)
    dot = chart(shown, "Dots").locator("path.dot.link").first
    dot.hover()
    said = chart(shown, "Dots").locator(".tip").inner_text()
    assert "seed 0" in said
    assert re.search(r"lr\s+0\.100", said)
    with shown.expect_navigation(url="**/other.html"):
        shown.mouse.down()
        shown.mouse.up()
    assert shown.title() == "other"


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [420, 1400])
def test_nothing_hangs_over_the_edge(opened: Any, report: Path, width: int, scheme: str) -> None:
    page = opened(report, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.plot text')].filter(text => {
            const plot = text.closest('.plot').getBoundingClientRect();
            const box = text.getBoundingClientRect();
            return box.left < plot.left - 1 || box.right > plot.right + 1;
        }).map(text => text.textContent)"""
    )
    assert cut == [], "labels that are cut"


def test_names_are_text(opened: Any, tmp_path: Path) -> None:
    evil = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    folder = write_run(tmp_path / "run", name=evil)
    (folder / "confusion.csv").write_text(
        f'split,true,"{evil}",b\nval,"{evil}",1,2\nval,b,1,2\n', encoding="utf-8"
    )
    page = opened(write_run_report(folder))
    assert page.locator("h1").inner_text() == f"{evil} · layerwise_decay"
    assert "taken" not in page.title().split("<")[0]
    point_at(page, chart(page, "Confusion on val"), 0.2, 0.2)


def test_a_divergence_is_marked(opened: Any, tmp_path: Path) -> None:
    rows = [row(1), row(2), row(3, **{"val/loss": "NaN", "train_eval/loss": "Infinity"})]
    page = opened(write_run_report(write_run(tmp_path / "run", status="diverged", rows=rows)))
    assert chart(page, "Loss").locator("text.bad").text_content() == "diverged"


def test_a_tap_shows_values_until_something_else_is_tapped(opened: Any, report: Path) -> None:
    page = opened(report, viewport={"width": 420, "height": 900}, has_touch=True)
    chart(page, "Gap").locator(".plot").tap()
    assert "epoch" in chart(page, "Gap").locator(".tip").inner_text()
    assert "epoch" in chart(page, "Accuracy").locator(".tip").inner_text()
    page.locator("h1").tap()
    assert page.locator(".tip:visible").count() == 0


def test_print_shows_what_is_folded_away(opened: Any, report: Path) -> None:
    page = opened(report)
    folded = page.get_by_text("stem.weight")
    assert not folded.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not folded.is_visible()


@pytest.fixture
def together(tmp_path: Path) -> Path:
    """The report of a sweep over three settings."""
    axes = {
        "lr_policy": ["uniform", "lp_ft"],
        "optimizer.lr": [0.01, 0.1],
        "optimizer": ["sgd", "lion"],
    }

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        lion = chosen["optimizer"] == "lion"
        return outcome(chosen["optimizer.lr"] + lion + (chosen["lr_policy"] == "lp_ft") / 3)

    return write_sweep_report(write_sweep(tmp_path / "three", axes, result))


def test_without_scripts_every_chart_is_a_picture(
    opened: Any, report: Path, together: Path
) -> None:
    for file in (report, together):
        page = opened(file, java_script_enabled=False)
        figures = page.locator("figure.chart")
        assert figures.count() >= 4
        for i in range(figures.count()):
            drawing = figures.nth(i).locator(".plot > svg")
            assert drawing.count() == 1
            if drawing.is_visible():  # not in what is folded away
                box = drawing.bounding_box()
                assert box["width"] > 200
                assert box["height"] > 60
        assert page.locator(".plot .line, .plot .dot").count() > 4
        assert "charts are still pictures" in page.inner_text("body")


def test_lines_of_parallel_coordinates_are_named_by_pointer_and_arrow_keys(
    opened: Any, together: Path
) -> None:
    for width in (1400, 360):
        page = opened(together, viewport={"width": width, "height": 900})
        figure = chart(page, "All settings and the best val/loss")
        plot, tip = figure.locator(".plot"), figure.locator(".tip")
        plot.scroll_into_view_if_needed()
        plot.focus()
        page.keyboard.press("ArrowRight")
        assert "uniform" in tip.inner_text()
        assert "0.01" in tip.inner_text()
        first = tip.inner_text()
        page.keyboard.press("ArrowDown")
        assert tip.inner_text() != first
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        path = plot.locator("path.strand:not(.faint)").evaluate(
            "p => { const q = p.getPointAtLength(p.getTotalLength() * 0.97), m = p.getScreenCTM();"
            " return [q.x * m.a + m.e, q.y * m.d + m.f]; }"
        )
        page.mouse.move(*path)
        assert tip.inner_text() == first
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        figure.locator("button.key", has_text="lp_ft").click()
        assert plot.locator("path.strand").count() == 4
