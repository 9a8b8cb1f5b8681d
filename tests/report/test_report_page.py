"""Pages: nothing escapes its place, numbers read well, colours can be told apart."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from lrexp.report.html.page import (
    Cell,
    Column,
    Section,
    element,
    embedded_json,
    join,
    link,
    number,
    package_text,
    page,
    percent,
    plus_minus,
    table,
)

EVIL = '</script><script>alert("1")</script> & \'<b>'


class Parsed(html.parser.HTMLParser):
    """What a browser would find: tags with attributes, and text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@given(st.text())
def test_text_and_attributes_come_back_as_they_went_in(text: str) -> None:
    found = Parsed(table([Column("")], [[Cell(text, text, hint=text)]], sortable=False))
    (cell,) = [attributes for tag, attributes in found.tags if tag == "td"]
    assert "".join(found.text) == text.replace("\r\n", "\n").replace("\r", "\n") or "\r" in text
    assert set(cell) == ({"title", "data-sort"} if text else {"data-sort"})
    assert cell["data-sort"] == text or "\r" in text


def test_ready_markup_is_kept_and_everything_else_is_escaped() -> None:
    assert join(Markup("<b>"), "<b>", 1, None) == "<b>&lt;b&gt;1"
    assert element("p", "<i>") == "<p>&lt;i&gt;</p>"
    assert element("p", Markup("<i>"), "k") == '<p class="k"><i></p>'
    assert table(["<b>"], []).count("&lt;b&gt;") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9999, 9999) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_embedded_json_comes_back_and_cannot_end_its_element(value: Any) -> None:
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_numbers_that_json_lacks_become_null_and_others_are_short() -> None:
    values = [math.nan, math.inf, -math.inf, 1 / 3, 2.0, 1e-30]
    assert embedded_json(values) == "[null,null,null,0.333333,2,1e-30]"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.17194, "0.172"),
        (0.05, "0.0500"),
        (12.345, "12.3"),
        (1234567, "1,234,567"),
        (1234.5, "1,234"),
        (3.2e-7, "3.20e−7"),
        (4.5e9, "4.50e9"),
        (-0.5, "−0.500"),
        (0, "0"),
        (2.0, "2"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (None, "–"),
        ("x", "–"),
        (True, "–"),
    ],
)
def test_numbers_read_well(value: Any, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.14745, 0.042499, "0.147 ± 0.042"),
        (0.0068, 0.0059, "0.0068 ± 0.0059"),
        (123.4, 5.6, "123.4 ± 5.6"),
        (-1.5, 12.0, "−2 ± 12"),
        (0.5, 0.0, "0.500"),
        (0.5, None, "0.500"),
        (math.nan, 0.1, "–"),
    ],
)
def test_a_value_has_the_decimals_of_its_error(value: Any, error: Any, shown: str) -> None:
    assert plus_minus(value, error) == shown


def test_shares_are_percentages() -> None:
    assert [percent(v) for v in (0.949, 1.0, math.nan, None)] == ["94.9 %", "100.0 %", "–", "–"]


def test_a_table_sorts_by_value_and_puts_what_is_missing_last() -> None:
    made = table(["a", Column("b", number=True)], [["x", 2.5], ["y", math.nan], [EVIL, Cell("1")]])
    cells = [attributes for tag, attributes in Parsed(made).tags if tag == "td"]
    assert [cell.get("data-sort") for cell in cells] == ["x", "2.5", "y", None, EVIL, None]
    assert [cell.get("class") for cell in cells] == [None, "number"] * 3
    assert "<script" not in made


def test_links_are_relative_paths() -> None:
    assert link("a", "1_lr=0.1 x/report.html") == '<a href="1_lr%3D0.1%20x/report.html">a</a>'
    assert "javascript:" not in link("a", "javascript:alert(1)")


def test_a_page_allows_itself_nothing_but_its_own_script() -> None:
    parts = [Section("A b", Markup("<p>x</p>")), Section("B", Markup())]
    text = page(EVIL, element("h1", EVIL), parts, "run")
    found = Parsed(text)
    (policy,) = [
        a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = re.findall("<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert policy
    assert "default-src 'none'" in policy
    assert f"'sha256-{digest}'" in policy
    assert [a["href"] for tag, a in found.tags if tag == "a"] == ["#a-b"], (
        "empty parts are left out"
    )
    assert not re.search(r"""(?:src|href)="(?!#|data:)""", text)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", text)


def test_sections_of_one_name_have_places_of_their_own() -> None:
    text = page("t", Markup(), [Section("Same", Markup(i)) for i in "12"], "run")
    assert re.findall('<h2 id="([^"]*)"', text) == ["same", "same-1"]


# ---- colours


def colours(dark: bool) -> dict[str, str]:
    css = package_text("report.css")
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", blocks[1 if dark else 0]))


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""
    a, b = (0.2126 * r + 0.7152 * g + 0.0722 * bl for r, g, bl in (linear(one), linear(other)))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_lines_stand_out_and_text_can_be_read(dark: bool) -> None:
    found = colours(dark)
    assert {f"c{i}" for i in range(8)} <= set(found)
    for name in (f"c{i}" for i in range(8)):
        assert contrast(found[name], found["paper"]) >= 3, name
    for name in ("ink", "soft", "accent", "good", "bad", "warn"):
        assert contrast(found[name], found["paper"]) >= 4.5, name
    assert contrast(found["heat-ink"], found["heat2"]) >= 4.5
    assert contrast(found["ink"], found["heat0"]) >= 4.5


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
BLINDNESS = {
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
               (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
               (-0.011820, 0.042940, 0.968881)),
}  # fmt: skip


def oklab(rgb: list[float]) -> list[float]:
    r, g, b = rgb
    lms = (
        0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
        0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
        0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
    )
    l, m, s = (math.copysign(abs(v) ** (1 / 3), v) for v in lms)  # noqa: E741
    return [
        0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
    ]


@pytest.mark.parametrize("kind", sorted(BLINDNESS))
@pytest.mark.parametrize("dark", [False, True])
def test_the_first_colours_differ_for_the_colour_blind(dark: bool, kind: str) -> None:
    found = colours(dark)
    seen = {
        name: oklab([sum(a * c for a, c in zip(line, linear(found[name]), strict=True))
                     for line in BLINDNESS[kind]])
        for name in ("c0", "c1", "c6")  # val, train-eval, train
    }  # fmt: skip
    for one, other in itertools.combinations(seen, 2):
        assert math.dist(seen[one], seen[other]) > 0.08, (one, other)
