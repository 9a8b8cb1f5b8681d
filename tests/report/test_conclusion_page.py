"""which.html: what stands where, in words and not by colour alone."""

from __future__ import annotations

import html.parser
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conclusions import (
    ALL,
    collapsed,
    compared,
    conclusion,
    evil,
    exploratory,
    ladder,
    no_difference,
    row,
    twelve,
    undecided,
)

from lrexp.report.comparison.figures import (
    colour_of,
    forest_figure,
    ladder_figures,
    write_conclusion_plots,
)
from lrexp.report.comparison.page import conclusion_page, write_conclusion
from lrexp.report.figure import Interval, Intervals, policy_place, round_steps
from lrexp.report.html.charts import drawn

VOID = {"meta", "link", "br", "wbr", "input", "img"}


class Parsed(html.parser.HTMLParser):
    """Text, tags, and whether each is closed in its turn."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def words(text: str) -> str:
    return " ".join(
        "".join(Parsed(re.sub("<(script|style).*?</\\1>", "", text, flags=re.S)).text).split()
    )


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_element_is_closed(name: str) -> None:
    assert Parsed(conclusion_page(ALL[name]())).open == []


def test_the_sentence_is_the_title_and_all_parts_are_there() -> None:
    text = conclusion_page(conclusion())
    (title,) = re.findall("<h1>(.*?)</h1>", text)
    assert title.startswith("freeze_backbone at lr 0.316 is better than uniform")
    assert re.findall('<h2 id="([^"]*)"', text) == [
        "differences", "table", "how-to-read-this", "rates", "seeds", "what-it-cost",
        "how-it-was-made",
    ]  # fmt: skip
    two = replace(conclusion(), sentence="One is better by 0.2 points. The other overfits.")
    (headline,) = re.findall('<p class="headline">(.*?)</p>', conclusion_page(two))
    assert headline == "The other overfits."


def test_words_are_explained_where_they_stand() -> None:
    def explained(made: Any) -> set[str]:
        return set(re.findall("<dt>(.*?)</dt>", conclusion_page(made)))

    assert {"better", "worse", "undecided", "no difference larger than 2 points"} <= explained(
        conclusion()
    )
    assert "better" not in explained(undecided())
    assert "exploratory" in explained(exploratory())
    assert "exploratory" not in explained(conclusion())


def test_names_are_text() -> None:
    text = conclusion_page(evil())
    assert '<b>&"' not in text
    assert text.count("</script>") == text.count("<script")


def test_an_unfinished_comparison_says_so() -> None:
    assert "has not ended" in words(conclusion_page(undecided()))
    assert "has not ended" not in words(conclusion_page(conclusion()))


# ---- the forest plot


def test_a_row_per_configuration_says_its_verdict_in_words() -> None:
    forest = forest_figure(conclusion())
    assert forest
    assert [(r.verdict, r.shape) for r in forest.rows] == [
        ("better", "dot"),
        ("undecided", "open"),
        ("no difference larger than 2 points", "diamond"),
        ("baseline", "dot"),
        ("worse", "dot"),
    ]
    assert (forest.band, forest.rows[0].value) == (2.0, pytest.approx(2.4))
    assert forest.rows[0].low == pytest.approx(100 * (0.024 - 2.1 * 0.006))
    said = words(drawn(forest))
    assert "undecided: about 9 more seeds+1.1 [−0.2, +2.4]" in said


def test_exploratory_words_say_so() -> None:
    forest = forest_figure(exploratory())
    assert forest
    assert forest.rows[0].verdict == "better (exploratory)"


def test_policies_keep_their_colours() -> None:
    assert colour_of(row("lp_ft")) == policy_place("lp_ft") % 8
    renamed = row("my try", overrides=("lr_policy=lp_ft", "optimizer.lr=0.1"))
    assert colour_of(renamed) == colour_of(row("lp_ft"))


def test_nothing_known_is_not_drawn() -> None:
    assert forest_figure(ALL["nothing_known"]()) is None
    assert forest_figure(ALL["one_policy"]()) is None


def test_what_collapsed_does_not_squeeze_the_others() -> None:
    forest = forest_figure(collapsed())
    assert forest
    low, high = forest.ends()
    assert -4 < low < -2
    assert high < 4
    chart = drawn(forest)
    assert chart.count('class="reach under over"') == 1
    assert chart.count('class="reach under"') == 1
    assert chart.count('class="at ') == 1, "the others lie beyond the axis"


def places(chart: str, kind: str) -> list[tuple[float, ...]]:
    found = re.findall(rf'class="{kind}" style="left:([\d.]+)%(?:;width:([\d.]+)%)?"', chart)
    return [tuple(float(value) for value in one if value) for one in found]


def test_intervals_lie_where_they_should() -> None:
    rows = [Interval("a", 1.0, -1.0, 3.0), Interval("b", -2.0, -3.0, -1.0)]
    figure = Intervals("t", rows, band=2.0)
    low, high = figure.ends()
    assert (low, high) == pytest.approx((-3.36, 3.36))
    chart = drawn(figure)

    def at(value: float) -> Any:
        return pytest.approx(100 * (value - low) / (high - low), abs=0.01)

    assert places(chart, "at dot") == [(at(1.0),), (at(-2.0),)]
    assert places(chart, "zero") == [(at(0.0),)] * 2
    assert places(chart, "margin")[0] == (at(-2.0), pytest.approx(400 / (high - low), abs=0.01))
    (first, width), _ = places(chart, "reach")
    assert (first, first + width) == (at(-1.0), at(3.0))


def test_an_axis_has_few_round_labels() -> None:
    assert round_steps(-3.36, 3.36) == [-2, 0, 2]
    for low, high in ((-1e-5, 2e-5), (-84, 3), (0, 1), (-0.3, 0.31)):
        steps = round_steps(low, high)
        assert 2 <= len(steps) <= 7
        assert all(low <= step <= high for step in steps)
        assert 0 in steps


def test_pictures_are_drawn_with_the_words_of_the_page(tmp_path: Path) -> None:
    names = ["a" * 60, r"$x_$ \frac"]
    rows = [*collapsed().rows, *(row(name, 0.93, compared(name, -0.01)) for name in names)]
    made = conclusion(*(replace(one, ladder=()) for one in rows))
    written = write_conclusion_plots(tmp_path, made)
    assert [file.name for file in written] == ["forest.png", "forest.svg"]
    found = ET.parse(tmp_path / "plots" / "forest.svg").getroot()
    said = [
        "".join(text.itertext()).strip() for text in found.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "undecided: about 9 more seeds" in said
    assert {f"{'a' * 30}…", names[1]} <= set(said)
    assert "points of accuracy on test" in said


# ---- ladders


def series(made: Any, title: str) -> dict[str, Any]:
    (chart,) = [chart for chart in ladder_figures(made) if chart.title == title]
    return {one.shape or one.kind: one for one in chart.series}


def test_the_chosen_rung_is_ringed_and_bad_ones_are_crossed() -> None:
    found = series(conclusion(), "uniform")
    assert (found["ring"].x, found["ring"].y) == ([0.1], [0.2])
    assert (found["cross"].x, found["cross"].edge) == ([1.0], "top")
    assert found["cross"].labels == ["lr 1: 3 diverged"]
    assert found["dots"].labels[0] == "lr 0.01: 0.2500 ± 0.0069 over 3 seeds"


def test_of_several_settings_the_chosen_one_is_ringed() -> None:
    (chart,) = [c for c in ladder_figures(conclusion()) if c.title == "layerwise_decay"]
    (ring,) = [one for one in chart.series if one.shape == "ring"]
    assert (ring.name, ring.y) == ("decay=0.6", [0.2])
    assert chart.legend


def test_ladders_share_their_axes() -> None:
    charts = ladder_figures(twelve())
    assert len(charts) == 12
    assert len({(chart.x.range, chart.y.range) for chart in charts}) == 1


def test_a_rate_far_worse_goes_over_the_edge() -> None:
    rungs = [replace(one, worth=replace(one.worth, mean=0.2 + i * 1e-3))
             for i, one in enumerate(ladder())]  # fmt: skip
    rungs[0] = replace(rungs[0], worth=replace(rungs[0].worth, mean=1.9))
    found = series(conclusion(row("uniform", ladder=tuple(rungs))), "uniform")
    assert (found["arrow"].x, found["arrow"].edge) == ([0.01], "top")


def test_ladders_of_a_share_have_their_worst_below() -> None:
    made = replace(conclusion(row("uniform", ladder=ladder(bad_from=1.0))), monitor="val/accuracy")
    assert series(made, "uniform")["cross"].edge == "bottom"


def test_a_ladder_without_numbers_is_not_drawn() -> None:
    bare = row("uniform", ladder=ladder(bad_from=0.0))
    assert ladder_figures(conclusion(bare)) == []
    assert not any(math.isnan(v) for c in ladder_figures(no_difference()) for v in c.y.range or ())


def test_secrets_and_homes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    made = replace(conclusion(), paste="lrexp data.root=/home/somebody/data")
    text = write_conclusion(tmp_path, made).read_text()
    assert "somebody" not in text
