"""Files of cases: sub-grids with axes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_points import composing

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.names import conf_folder
from lrexp.grid.points.cases import (
    cross,
    made_cases,
    overruled,
    read_cases,
    refuse_cases,
    take_cases,
)

SHIPPED = sorted((conf_folder() / "cases").glob("*.yaml"))


@pytest.fixture
def points() -> Iterator[Callable[..., Any]]:
    with composing() as function:
        yield function


@pytest.fixture
def cases(tmp_path: Path) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return read_cases(str(file), [])

    return read


def test_every_case_is_crossed_with_the_axes_of_the_command_line(cases: Any) -> None:
    found = cases("a: {x: 1}\nb: {x: 2, y: [3, 4]}\n")
    assert cross(found, ["seed=0,1", "z=5"], None) == [
        ("a", ["x=1", "seed=0", "z=5"]),
        ("a", ["x=1", "seed=1", "z=5"]),
        *(("b", ["x=2", f"y={y}", f"seed={seed}", "z=5"]) for y in (3, 4) for seed in (0, 1)),
    ]


def test_a_setting_of_a_case_is_not_crossed_with_the_command_line(cases: Any) -> None:
    found = cases("a: {x: 1}\nb: {y: 2}\n")
    assert cross(found, ["x=7,8"], None) == [
        ("a", ["x=1"]),
        ("b", ["y=2", "x=7"]),
        ("b", ["y=2", "x=8"]),
    ]
    assert overruled(found, ["x=7,8"]) == ["case a has x=1: x=7,8 is for the other cases"]
    assert overruled(found, ["x=1"]) == []


def test_values_are_written_as_hydra_reads_them(cases: Any) -> None:
    found = cases(
        "a: {n: null, t: true, f: 1e-4, l: [[1, 2], [3]], d: [{a: {b: x}}], s: 'range(0,2)'}"
    )
    assert found.axes["a"] == [
        *("n=null", "t=true", "f=1e-4", "l=[1,2],[3]", "d={a:{b:x}}", "s=range(0,2)")
    ]
    assert len(cross(found, [], None)) == 4


@pytest.mark.parametrize("text", ["re:(conv|hidden).*", "/tmp/my files/ü", "it's", "a=b", "x#y"])
def test_text_that_hydra_could_not_read_bare_is_quoted(cases: Any, text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = cases(json.dumps({"a": {"x": text, "y": [text, 1], "z": [[{"match": text}]]}}))
    overrides = [each for _, each in cross(found, [], None)]
    assert len(overrides) == 2
    values = [o.value() for o in OverridesParser.create().parse_overrides(overrides[0])]
    assert values == [text, text, [{"match": text}]]


def test_an_added_setting_of_a_case_is_not_crossed_with_the_command_line(cases: Any) -> None:
    found = cases("a: {+x: [1, 2]}\nb: {y: 2}\n")
    for typed in ("+x=7", "++x=7", "x=7"):
        assert cross(found, [typed], None) == [
            ("a", ["+x=1"]),
            ("a", ["+x=2"]),
            ("b", ["y=2", typed]),
        ]
        said = f"case a has +x=1,2: {typed} is for the other cases"
        assert overruled(found, [typed]) == [said]


def test_a_range_without_steps_is_no_axis(cases: Any, points: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="is no list of values") as caught:
        points("optimizer.lr=interval(0.1,0.2)")
    assert caught.value.place == "the command line: optimizer.lr=interval(0.1,0.2)"
    with pytest.raises(ConfigError, match=r"mine\.yaml, case a: x=interval\(0,1\)"):
        cross(cases("a: {x: 'interval(0,1)'}"), [], None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {x: 1}\na: {x: 2}", "line 2: a is there twice"),
        ("1: {x: 1}\n'1': {x: 2}", "line 2: 1 is there twice"),
        ("a: {x: 1, x: 2}", "x is there twice"),
        ("a: {x: [[{match: b, match: c}]]}", "match is there twice"),
        ("a: {hydra/launcher: basic}", "hydra/launcher belongs to the command line"),
        ("a: {+hydra.x: 1}", "hydra.x belongs to the command line"),
        ("", "holds no cases"),
        ("[a]", "holds no cases"),
        ("a: 3", "case a: holds no settings"),
        ("a: {}", "case a: holds no settings"),
        ("a: {x: []}", "case a: x is an empty list"),
        ("a: {3: x}", "case a: 3 is no setting"),
        ("a: {hydra.run.dir: x}", "case a: hydra.run.dir belongs to the command line"),
        ("a: {cases: x}", "case a: cases belongs to the command line"),
    ],
)
def test_a_file_of_something_else_is_refused(cases: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cases(text)


def test_a_file_that_is_no_yaml_or_not_there_is_refused(cases: Any) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml.*line 2"):
        cases("a:\n  b: {")
    with pytest.raises(ConfigError, match="no such file"):
        read_cases("nowhere.yaml", [])
    with pytest.raises(ConfigError, match="did you mean 'policies'"):
        read_cases("polices", [conf_folder()])


def test_an_axis_that_cannot_be_read_names_file_and_case(cases: Any) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml, case a: an axis cannot be read"):
        cross(cases("a: {x: 'choice(1'}"), [], None)


def test_cases_are_given_once_and_need_many_runs() -> None:
    assert take_cases(["seed=1", "cases=a", "x=2"]) == (["seed=1", "x=2"], "a")
    assert take_cases(["seed=1"]) == (["seed=1"], None)
    assert take_cases(["cases='my cases.yaml'"]) == ([], "my cases.yaml")
    for wrong in (["cases=a", "cases=b"], ["cases="], ["cases"], ["cases=a,b"], ["cases=null"]):
        with pytest.raises(ConfigError, match="file of cases"):
            take_cases(wrong)
    with pytest.raises(ConfigError, match="add -m"):
        refuse_cases(["cases=a"])


def test_the_users_own_folder_comes_first(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "policies.yaml").write_text("a: {x: 1}")
    assert list(read_cases("policies", [tmp_path, conf_folder()]).axes) == ["a"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_cases_compose_and_build(file: Path, points: Callable[..., Any]) -> None:
    found = points(f"cases={file.stem}", equal=True)
    assert len(found) >= 10
    assert [point.same_as for point in found] == [None] * len(found)
    assert {point.case for point in found} == set(read_cases(file.stem, [conf_folder()]).axes)
    assert f"#   python -m lrexp -m cases={file.stem}" in file.read_text()
    if file.stem == "policies":
        options = {file.stem for file in (conf_folder() / "lr_policy").glob("*.yaml")}
        assert {point.settings["lr_policy.name"] for point in found} == options - {"custom"}


@pytest.mark.slow
def test_the_policies_fit_a_single_epoch_and_two_layers(points: Callable[..., Any]) -> None:
    short = ("model=mlp", "model.widths=[8]", "trainer.epochs=1", "optimizer.lr=1e-5")
    found = points("cases=policies", *short, equal=True)
    equal = {point.case for point in found if point.same_as is not None}
    assert equal == {"per_layer", "gradual_unfreeze", "lp_ft", "surgical"}


def test_a_mistake_in_a_case_names_file_case_and_key(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: {lr_policy: uniform}\nb: {model.kernel_size: [3, 9]}\n")
    with pytest.raises(ConfigError) as caught:
        points(f"cases={file}", equal=True)  # found while the network is built
    assert str(caught.value).startswith("model.kernel_size=9: is too large for images of 8×8")
    assert "mine.yaml, case b: model.kernel_size=9" in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.01", "seed=1000,1001", "+data.args.x=1", "model.weights='a, b.pt'",
        "lr_policy.rules=[{match:'re:(a|b)',lr:0.1}]", "data.classes=[5,6]",
        "trainer.patience=null", "data.path=a\\=b.csv", "name=${model.name}_x",
        "data.root=\"it's\"", "data.group_by='größe'",
    ],
)  # fmt: skip
def test_made_cases_read_back_as_they_are(tmp_path: Path, override: str) -> None:
    """So that a sweep of made cases is resumed from the copy in its folder."""
    made = made_cases(
        tmp_path / "cases.yaml", {"a": ["lr_policy=lp_ft", override], "1": [override]}
    )
    assert made.axes["a"] == ["lr_policy=lp_ft", override]
    assert not made.file.exists()
    made.file.write_text(made.text, encoding="utf-8")
    assert read_cases(made.name, []) == made
