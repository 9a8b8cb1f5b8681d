"""Figures of a run: PNG and SVG in plots/, the same bytes from the same files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from report_runs import row, write_run

from lrexp.report.figure import COLOURS, HEAT
from lrexp.report.html.page import package_text
from lrexp.report.plots import COLUMN, DPI
from lrexp.report.run.figures import write_run_plots

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["accuracy", "confusion", "drift", "gap", "loss", "rates", "update_ratio"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its figures."""
    folder = write_run(tmp_path_factory.mktemp("drawn") / "run")
    write_run_plots(folder)
    return folder


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and files of their names; pixels, which take most of the time, are not."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "draw_without_rendering", lambda _: None)
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.touch())


@pytest.mark.slow
def test_the_main_figures_are_drawn_twice(drawn: Path) -> None:
    from PIL import Image

    assert sorted(file.name for file in (drawn / "plots").iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    )
    picture = Image.open(drawn / "plots" / "loss.png")
    assert picture.size[0] == COLUMN * DPI
    assert picture.convert("L").getextrema()[0] < 100, "something was drawn"


def test_words_of_an_svg_stay_words(drawn: Path) -> None:
    root = ET.parse(drawn / "plots" / "loss.svg").getroot()
    words = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
    assert {"epoch", "loss", "val", "train-eval", "gap"} <= words


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    written = write_run_plots(write_run(tmp_path / "run"))
    assert len(written) == 2 * len(NAMES)
    for file in written:
        assert file.read_bytes() == (drawn / "plots" / file.name).read_bytes(), file


def test_paper_and_page_share_their_colours() -> None:
    style = package_text("report.css")
    assert all(f"--c{i}: {c};" in style for i, c in enumerate(COLOURS))
    assert all(f"--heat{i}: {c};" in style for i, c in enumerate(HEAT))


def test_a_diverged_run_is_drawn_as_far_as_it_went(tmp_path: Path) -> None:
    rows = [row(1), row(2), row(3, **{"val/loss": "NaN", "gap/loss": "NaN", "grad_norm": "NaN"})]
    written = write_run_plots(write_run(tmp_path / "run", status="diverged", rows=rows))
    assert {file.stem for file in written} == set(NAMES)


LOST = {"metrics.jsonl": set(NAMES) - {"confusion", "rates"}, "plan.csv": set[str](),
        "confusion.csv": {"confusion"}, "summary.json": set[str]()}  # fmt: skip


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("damaged", sorted(LOST))
def test_what_cannot_be_drawn_is_left_out(tmp_path: Path, damaged: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / damaged).write_text("nonsense\n")
    assert {file.stem for file in write_run_plots(folder)} == set(NAMES) - LOST[damaged]


def test_an_empty_folder_gives_no_figure(tmp_path: Path) -> None:
    assert write_run_plots(tmp_path) == []
    assert not (tmp_path / "plots").exists()
