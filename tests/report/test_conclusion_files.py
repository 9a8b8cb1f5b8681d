"""A conclusion as files: nothing is lost in JSON, others read CSV, Markdown and LaTeX are plain."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conclusions import ALL, EVIL, conclusion, evil, exploratory, long_names, loss_metric

from lrexp.config.errors import UserError
from lrexp.folder.layout import COMPARISON, OF_COMPARISON, WHICH
from lrexp.report.comparison.files import (
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_tex,
    escaped_markdown,
    escaped_tex,
    read_conclusion,
)
from lrexp.report.comparison.page import write_conclusion


def leaves(value: Any) -> list[Any]:
    """Whatever is no list and no mapping, in order."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("name", sorted(ALL))
def test_json_comes_back_whole(tmp_path: Path, name: str) -> None:
    made = ALL[name]()
    (tmp_path / COMPARISON).write_text(comparison_json(made), encoding="utf-8")
    assert repr(read_conclusion(tmp_path)) == repr(made), "NaN is not equal to itself"


def test_json_is_strict_and_says_its_schema() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(comparison_json(ALL["nothing_known"]()), parse_constant=refuse)
    assert found["schema"] == "lrexp comparison 1"
    assert found["rows"][0]["compared"]["p"] == "NaN"
    assert len(leaves(found)) == 2 + len(leaves(dataclasses.asdict(ALL["nothing_known"]())))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"lrexp comparison 1"', '"lrexp comparison 99"', "schema"),
        ('"seeds": [', '"seeds": ["x", ', "seeds[0]"),
        ('"word": "better"', '"word": "splendid"', "word"),
        ('"sentence"', '"sentences"', "sentence"),
        ('"images": 179', '"images": "NaN"', "images"),
        ("{", "{[", "cannot be read"),
    ],
)
def test_what_is_no_conclusion_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = comparison_json(conclusion())
    assert old in text
    (tmp_path / COMPARISON).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_conclusion(tmp_path)
    assert said in str(refused.value)
    assert "comparison.json" in str(refused.value)


def table(made: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(comparison_csv(made), newline="")))


def test_numbers_of_the_table_come_back_as_they_were() -> None:
    rows = table(conclusion())
    assert [row["configuration"] for row in rows] == [
        "freeze_backbone", "lp_ft", "layerwise_decay", "uniform", "per_layer",
    ]  # fmt: skip
    first, made = rows[0], conclusion().rows[0]
    assert made.compared
    assert float(first["difference_share"]) == made.compared.difference.mean
    assert float(first["difference_low95_share"]) == made.compared.interval[0]
    assert float(first["score_mean_share"]) == made.score.mean
    assert float(first["run_s"]) == made.took_s
    assert float(first["margin_share"]) == 0.02
    assert [row["verdict"] for row in rows][-3:] == ["no difference", "", "worse"]
    assert [row["baseline"] for row in rows] == ["false"] * 3 + ["true", "false"]
    assert rows[1]["more_seeds_needed"] == "9"
    assert rows[3]["difference_share"] == ""


def test_columns_say_their_units() -> None:
    assert "difference" in table(loss_metric())[0]
    assert not any(name.endswith("_share") for name in table(loss_metric())[0])
    assert table(exploratory())[0]["deciding"] == "false"


def test_pandas_reads_the_table() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(comparison_csv(conclusion())))
    assert frame["difference_share"].dtype == float
    assert frame["difference_share"].isna().sum() == 1
    assert frame["baseline"].dtype == bool


@pytest.mark.parametrize("write", [comparison_csv, comparison_markdown, comparison_tex])
def test_no_control_character_is_written(write: Any) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", write(evil()))


def test_a_row_of_markdown_is_a_line_with_its_cells() -> None:
    lines = [line for line in comparison_markdown(evil()).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert "<script" not in re.sub(r"\\<", "", comparison_markdown(evil()))
    assert escaped_markdown("[a](b) `c` *d* _e_") == r"\[a\](b) \`c\` \*d\* \_e\_"


def test_latex_gets_no_command_that_is_not_ours() -> None:
    text = escaped_tex(EVIL)
    bare = re.sub(r"\\(text[a-z]+\{\}|[{}$&#%_])", "", text)
    assert not set(bare) & set('\\{}$&#%_~^<>|"`'), bare
    assert escaped_tex("95 ± 1 %") == r"95 $\pm$ 1 \%"


def test_a_table_of_latex_has_as_many_cells_as_columns() -> None:
    for made in (conclusion(), evil(), long_names()):
        text = comparison_tex(made)
        (columns,) = re.findall(r"\\begin\{tabular\}\{(.*)\}$", text, re.M)
        wanted = len(re.sub(r"p\{.*?\}+", "p", columns))
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 1 + len(made.rows)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {wanted - 1}
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


def test_all_files_are_written_and_written_anew(tmp_path: Path) -> None:
    assert write_conclusion(tmp_path, conclusion()) == tmp_path / WHICH
    assert {file.name for file in tmp_path.iterdir()} == set(OF_COMPARISON)
    before = {file: file.read_text() for file in tmp_path.iterdir()}
    write_conclusion(tmp_path, exploratory())
    assert all(file.read_text() != text for file, text in before.items())


@pytest.mark.parametrize("name", OF_COMPARISON)
def test_foreign_files_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="was not written by lrexp"):
        write_conclusion(tmp_path, conclusion())
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_what_is_not_known_is_empty_in_the_table() -> None:
    row = table(ALL["nothing_known"]())[0]
    assert row["score_mean_share"] == row["p"] == row["rate"] == ""
    assert not any(math.isnan(float(v)) for v in row.values() if re.fullmatch(r"[\d.]+", v))
