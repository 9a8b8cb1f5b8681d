"""Charts as still pictures, for where no script runs: the same places, marks and words."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from lrexp.report.figure import (
    Axis,
    Chart,
    HeatMap,
    Mark,
    Parallel,
    Rule,
    Series,
    Strand,
    Upright,
)
from lrexp.report.html.charts import drawn
from lrexp.report.html.scales import ends, linear_ticks, log_ticks
from lrexp.report.html.static import still


def picture(figure: Any) -> ET.Element:
    """The picture of a figure, read as XML, which it therefore is."""
    return ET.fromstring(f"<all>{still(figure)}</all>")


def texts(figure: Any) -> list[str]:
    return [text for text in picture(figure).itertext() if text]


def of_class(root: ET.Element, *wanted: str) -> list[ET.Element]:
    return [one for one in root.iter() if {*wanted} <= set((one.get("class") or "").split())]


def places(path: ET.Element) -> list[tuple[float, float]]:
    found = re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d") or "")
    return [(float(x), float(y)) for x, y in found]


def tick_places(root: ET.Element) -> dict[str, float]:
    """Where the labels of the y axis say that their values lie."""
    found = [one for one in root.iter("text") if one.get("text-anchor") == "end"]
    return {one.text or "": float(one.get("y") or "nan") - 4 for one in found}


@pytest.mark.parametrize("log", [False, True])
def test_a_line_runs_where_its_axis_says(log: bool) -> None:
    root = picture(Chart("t", [Series("a", [1, 2, 3], [1.0, 10.0, 100.0])], y=Axis(log=log)))
    (line,) = of_class(root, "line")
    (_, low), (_, middle), (_, high) = places(line)
    ticks = tick_places(root)
    if log:
        assert [ticks["1"], ticks["10"], ticks["100"]] == pytest.approx(
            [low, middle, high], abs=0.1
        )
    else:
        assert ticks["100"] == pytest.approx(high, abs=0.1)
        assert (low - middle) / (low - high) == pytest.approx(9 / 99, abs=0.01)


def test_gaps_stay_gaps_and_what_stands_alone_is_a_dot() -> None:
    y = [1.0, 2.0, math.nan, 3.0, None]
    root = picture(Chart("t", [Series("a", range(5), y)]))
    (line,), (dot,) = of_class(root, "line"), of_class(root, "dot")
    assert (line.get("d") or "").count("M") == 2
    assert places(dot)[0][0] == pytest.approx(places(line)[2][0] - 4, abs=0.1)


def test_bands_marks_rules_and_legends_are_there() -> None:
    band = Series("val", [1, 2], [1, 2], low=[0.5, 1.5], high=[1.5, 2.5])
    other = Series("train", [1, 2], [2, 1], kind="step")
    chart = Chart("t", [band, other], marks=[Mark(2, "best 2")], rules=[Rule(1, "chance")])
    root = picture(chart)
    assert len(of_class(root, "band")) == 2  # and in the legend
    assert {"val", "train", "best 2", "chance"} <= set(texts(chart))
    assert "H" in (of_class(root, "line", "d1")[-1].get("d") or "")


def test_dots_pile_up_outside_the_axis_as_what_they_are() -> None:
    cross = Series("a", [1, 1], [None, None], kind="dots", edge="top", shape="cross")
    ring = Series("a", [1], [2.0], kind="dots", shape="ring", texts=["a 2.00"])
    chart = Chart("t", [Series("a", [1, 2], [2, 3]), cross, ring], shapes={"cross": "diverged"})
    root = picture(chart)
    (drawn_cross, key) = of_class(root, "cross")[::-1]
    assert (drawn_cross.get("d") or "").count("M") == 2
    assert key is not None
    divide = places(*of_class(root, "divide"))[0][1]
    assert all(y < divide for _, y in places(drawn_cross))
    assert {"a 2.00", "diverged"} <= set(texts(chart))


def test_what_is_hidden_at_first_is_not_in_the_picture() -> None:
    chart = Chart(
        "t", [Series("a", [1], [1]), Series("b", [1], [2]), Series("c", [1], [9], hidden=True)]
    )
    assert "c" not in texts(chart)
    assert "9" not in "".join(tick_places(picture(chart)))


def test_cells_of_a_heat_map_are_painted_or_hatched() -> None:
    values = [[1.0, 2.0, None], [math.inf, 4.0, 0.5]]
    heat = HeatMap("t", ["r0", "r1"], ["a", "b", "c"], values, "x", "y", "loss", numbers=True)
    root = picture(heat)
    painted = [one for one in root.iter("path") if "--heat" in (one.get("style") or "")]
    assert sum((one.get("d") or "").count("M") for one in painted) == 4
    assert len(of_class(root, "hatch")) == 1
    assert {"r0", "r1", "a", "b", "c", "x", "y", "loss", "1", "2", "4", "0.500"} <= set(texts(heat))
    strongest = next(one for one in painted if "--heat2) 100%" in (one.get("style") or ""))
    (at,) = places(strongest)
    assert at[1] == pytest.approx(tick_places(root)["r1"], abs=1)


def parallel() -> Parallel:
    axes = [Upright("lr", [(0.0, "0.1"), (1.0, "1")]), Upright("policy", [(1.0, "uniform")])]
    axes.append(Upright("val/loss", [(0.0, "0"), (0.5, "1"), (1.0, "2")]))
    best = Strand("uniform", [0.0, 1.0, 0.25], ["0.1", "uniform", "0.5"], "best", best=True)
    return Parallel(
        "t", axes, [best, Strand("other", [1.0, 0.0, 0.5], ["1", "x", "1"], "o", "", 3)]
    )


def test_parallel_coordinates_run_from_axis_to_axis() -> None:
    root = picture(parallel())
    other, best = of_class(root, "strand")  # the best one lies on top
    axes = [places(one) for one in of_class(root, "axis")]
    assert [x for x, _ in places(best)] == pytest.approx([(a + b) / 2 for (a, _), (b, _) in axes])
    top, bottom = axes[0][0][1] + 4, axes[0][1][1] - 4
    assert [y for _, y in places(best)] == pytest.approx([bottom, top, bottom - (bottom - top) / 4])
    assert "faint" in (other.get("class") or "")
    assert "s3" in (other.get("class") or "").split()
    assert {"lr", "policy", "val/loss", "uniform", "other"} <= set(texts(parallel()))


@pytest.mark.parametrize("name", ['<b>&"', "</svg><script>alert(1)</script>"])
def test_names_stay_text(name: str) -> None:
    chart = Chart(name, [Series(name, [1], [1]), Series("b", [1], [1])], marks=[Mark(1, name)])
    heat = HeatMap(name, [name], [name], [[1.0]], name, name, name)
    lines = Parallel(name, [Upright(name, [(0, name)])] * 2, [Strand(name, [0, 1], ["", ""], name)])
    for figure in (chart, heat, lines):
        root = picture(figure)
        assert {"b", "script"}.isdisjoint(one.tag for one in root.iter())


def test_nothing_to_draw_is_no_error() -> None:
    for figure in (
        Chart("t", []),
        Chart("t", [Series("a", [], [])], y=Axis(log=True), x=Axis(log=True)),
        Chart("t", [Series("a", [0.0], [-1.0])], y=Axis(log=True), x=Axis(log=True)),
        HeatMap("t", [], [], []),
        HeatMap("t", ["a"], [1.0], [[None]], log=True),
    ):
        picture(figure)


def test_a_chart_comes_with_its_picture_and_its_data() -> None:
    made = drawn(parallel())
    assert '<div class="plot"><div class="legend">' in made
    assert '"kind":"parallel"' in made


def test_labels_of_axes_are_round_and_told_apart() -> None:
    for low, high in ((0.0, 1.0), (-3.2, 7.1), (0.4981, 0.5013), (1e-7, 9e-7), (12345.0, 99999.0)):
        labels = [label for _, label in linear_ticks(low, high, 5)]
        assert len(set(labels)) == len(labels) >= 2, (low, high)
    assert [label for _, label in log_ticks(1e-6, 1e6, 4)] == ["1e−6", "0.001", "1", "1,000", "1e6"]
    assert ends([1.0, 3.0], Axis(zero=True), 0.1) == (0.0, 3.3)
    assert ends([1.0, 100.0], Axis(log=True), 0.5) == (0.1, 1000.0)
