"""Charts as data: gaps, bands, styles and sizes, before any browser draws them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from lrexp.report.figure import Chart, HeatMap, Mark, Series
from lrexp.report.html.charts import Bar, bar_chart, drawn


def spec_of(chart: str) -> dict[str, Any]:
    (found,) = re.findall('<script type="application/json">(.*?)</script>', chart)
    return json.loads(found)


def test_what_is_not_finite_is_a_gap() -> None:
    spec = spec_of(drawn(Chart("t", [Series("a", [1, 2, 3], [1.0, math.inf, math.nan])])))
    assert spec["series"][0]["y"] == [1, None, None]


def test_long_lines_are_thinned_and_keep_both_ends() -> None:
    x = list(range(100_000))
    spec = spec_of(drawn(Chart("t", [Series("a", x, [2.0 * v for v in x], low=x, high=x)])))
    (xs,), (one,) = spec["xs"], spec["series"]
    assert (xs[0], xs[-1]) == (0, 99_999)
    assert len(xs) == len(one["y"]) == len(one["low"]) == len(one["high"]) <= 1000
    assert all(y == 2 * v for v, y in zip(xs, one["y"], strict=True))


def test_dots_are_never_thinned() -> None:
    x = list(range(1500))
    assert len(spec_of(drawn(Chart("t", [Series("a", x, x, kind="dots")])))["xs"][0]) == 1500


def test_series_over_the_same_x_share_it() -> None:
    spec = spec_of(drawn(Chart("t", [Series("a", [1, 2], [1, 2]), Series("b", [1, 2], [3, 4])])))
    assert len(spec["xs"]) == 1


def test_names_have_styles_of_their_own_and_dots_those_of_their_line() -> None:
    series = [Series(f"policy {i}", [1], [1], kind="dots") for i in range(12)]
    series += [Series(f"policy {i}", [1, 2], [1, 2]) for i in range(12)]
    made = spec_of(drawn(Chart("t", series)))["series"]
    styles = [(one["colour"], one["dash"], one["marker"]) for one in made]
    assert styles[:12] == styles[12:]
    assert len({(colour, dash) for colour, dash, _ in styles}) == 12
    assert len({(colour, marker) for colour, _, marker in styles}) == 12


def test_names_cannot_break_out_of_the_data() -> None:
    evil = "</script><script>alert(1)</script>"
    chart = drawn(Chart(evil, [Series(evil, [1], [1], labels=[evil])], marks=[Mark(1, evil)]))
    assert chart.count("</script>") == 1
    assert spec_of(chart)["series"][0]["labels"] == [evil]


def test_a_heat_map_of_many_epochs_and_groups_stays_small() -> None:
    epochs, groups = list(range(1, 5001)), [f"g{i}" for i in range(300)]
    chart = drawn(HeatMap("t", groups, epochs, [[0.1234567] * 5000] * 300, cursor="epoch"))
    spec = spec_of(chart)
    assert spec["columns"][0] == 1
    assert spec["columns"][-1] == 5000
    assert {len(row) for row in spec["values"]} == {len(spec["columns"])}
    assert len(chart) < 160_000


def test_bars_are_as_long_as_their_values_say() -> None:
    bars = [Bar("a", 1.0, "1"), Bar("b", 0.25, "¼"), Bar("c", None, "frozen")]
    assert re.findall(r"width:([\d.]+)%", bar_chart("t", bars)) == ["100.00", "25.00", "100.00"]
    logarithmic = bar_chart("t", [Bar("a", 1.0, ""), Bar("b", 0.01, "")])
    long, short = map(float, re.findall(r"width:([\d.]+)%", logarithmic))
    assert long == 100
    assert 10 < short < 20
