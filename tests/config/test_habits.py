"""The words of other tools: what they are written as here, and that this holds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hydra._internal.utils import get_args_parser

from lrexp.config import library_names
from lrexp.config.errors import settings_of
from lrexp.config.habits import NAMES, VALUES, plain, written
from lrexp.config.library_names import SOURCES, library_of, names_of
from lrexp.config.meant import Word, arguments, options, our_name, overrides, read_line
from lrexp.config.names import conf_folder
from lrexp.config.schema import GROUPS, OPTIONS

PAGE = (ROOT / "docs" / "mistakes.md").read_text()
FLAGS = {
    flag: action.nargs != 0
    for action in get_args_parser()._actions
    for flag in action.option_strings
}
# What composing finds, and nothing before: a name that is no library's, an option left out, no -m.
DEFAULTS = dict(
    next(iter(choice.items()))
    for choice in yaml.safe_load((conf_folder() / "config.yaml").read_text())["defaults"]
    if isinstance(choice, dict)
)
MENDED = {
    *("lrexp optimizer.lr=0.1,0.01", "lrexp 'seed=range(5)'", "lrexp pretrained=true"),
    *("lrexp data.path=./folder", "lrexp model.name=resnet34", "lrexp optimizer.name=adamw"),
    "lrexp lr_policy.layer_decay=0.75",
}


def rows() -> list[tuple[str, str]]:
    """What people type, and the right command, as the page has it."""
    return re.findall(r"^\| `((?:lrexp|torchrun)[^`]*)` \| `([^`]*)` \|$", PAGE, re.MULTILINE)


def read(line: str) -> list[Word]:
    return read_line(shlex.split(line)[1:], FLAGS)


def command(line: list[Word]) -> str:
    words = arguments(line)
    if several := [word for word in words if word.startswith("--nproc_per_node")]:
        words = [word for word in words if word not in several]
        return shlex.join(["torchrun", *several, "-m", "lrexp", *words])
    return shlex.join(["lrexp", *words])


@pytest.mark.parametrize(("typed", "right"), [row for row in rows() if row[0] not in MENDED])
def test_the_page_says_what_a_habit_is_written_as(typed: str, right: str) -> None:
    assert command(read(typed)) == right


def test_the_page_has_every_name_of_the_table() -> None:
    for ours, others in NAMES.items():
        listed = ", ".join(f"`{other}`" for other in others.split())
        assert not others or f"| `{ours}` | {listed} |" in PAGE, ours
    assert PAGE.count("\n| `") == len(rows()) + sum(map(bool, NAMES.values()))


def test_the_page_has_every_value_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[tuple[str, str]] = set()

    def noting(name: str, value: str) -> list[str] | None:
        for form in (re.sub(r"\s", "", value).casefold(), plain(value)):
            for pattern in VALUES.get(name, {}):
                if re.fullmatch(pattern, form):
                    met.add((name, pattern))
                    return written(name, value)
        return None

    monkeypatch.setattr("lrexp.config.meant.written", noting)
    for typed, _ in rows():
        read(typed)
    every = {(name, pattern) for name, values in VALUES.items() for pattern in values}
    assert every - met == {("pretrained", ".*")}  # which takes a file


def test_every_name_leads_to_a_setting_or_to_values() -> None:
    known = {*GROUPS, *settings_of(""), "hydra.run.dir"}
    known |= {f"{group}.{name}" for group in GROUPS for name in settings_of(group)}
    assert set(NAMES) <= known | set(VALUES)
    assert set(VALUES) <= known | set(NAMES)
    others = [plain(other) for names in NAMES.values() for other in names.split()]
    assert len(others) == len(set(others))
    assert not set(others) & {plain(name) for name in NAMES}
    assert not {other for other in others if other in settings_of("")}


@pytest.mark.parametrize("group", [name for name in VALUES if name in OPTIONS])
def test_no_value_of_the_table_is_an_option_of_ours(group: str) -> None:
    assert not [option for option in OPTIONS[group] if read(f"lrexp {group}={option}")[0].changed]


def test_what_is_right_is_left_as_it_is() -> None:
    ids = json.loads((ROOT / "tests/config/config_ids.json").read_text())
    for line in [*ids, *(right.removeprefix("lrexp ") for _, right in rows())]:
        if line and not line.startswith(("torchrun", "rerun")):
            assert not [word for word in read(f"lrexp {line}") if word.changed], line


def test_several_mistakes_and_right_words_stay_in_their_places() -> None:
    typed = "lrexp --cfg job model=resnet18 lr=0.1 --epochs 5 ~x +model.args.y=1 epochs: 3 --no-amp"
    assert command(read(typed)) == (
        "lrexp --cfg job model=resnet18 optimizer.lr=0.1 trainer.epochs=5 '~x' +model.args.y=1"
        " trainer.epochs=3 trainer.precision=fp32"
    )
    assert command(read("lrexp --multirun seeds=2 out=x")) == (
        "lrexp --multirun seed=0,1 hydra.sweep.dir=x"
    )


def test_an_option_that_a_habit_asks_for_takes_the_place_of_another() -> None:
    line = read("lrexp lr_policy=layerwise_decay optimizer.lr='slice(1e-5, 1e-3)' model=vit")
    assert command(line) == (
        "lrexp lr_policy=discriminative lr_policy.lr_low=1e-5 optimizer.lr=1e-3 model=vit_b_16"
    )


def test_what_is_no_habit_is_told_apart() -> None:
    kinds = [word.kind for word in read("lrexp --foo 3 bar seed=1 -m which")]
    assert kinds == ["unknown", "unknown", "override", "flag", "unknown"]
    ours = ("hydra.run.dri", "model.args.foo", "lr_policy.rules[0].scal")
    assert [our_name(key) for key in (*ours, "sed")] == [*ours, None]


def test_a_path_is_quoted_where_hydra_has_other_uses_for_its_signs(tmp_path: Path) -> None:
    assert overrides(read("lrexp data='a (1).csv'")) == ["data=csv", 'data.path="a (1).csv"']
    (tmp_path / "train.parquet").touch()
    assert overrides(read(f"lrexp data={tmp_path}")) == ["data=hf", f"data.path={tmp_path}"]


def test_options_of_the_users_own_folder_are_known(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "vit.yaml").write_text("defaults: [mlp, _self_]\n")
    assert not read_line(["model=vit"], FLAGS, [tmp_path])[0].changed
    assert read_line(["model=vit"], FLAGS)[0].changed


def test_a_name_of_a_library_that_is_not_there_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    none = {key: ("no_such_package", *rest) for key, (_, *rest) in SOURCES.items()}
    monkeypatch.setattr(library_names, "SOURCES", none)
    names_of.cache_clear()
    try:
        assert library_of("model", "resnet34") is None
    finally:
        monkeypatch.undo()
        names_of.cache_clear()


@pytest.mark.slow
def test_names_read_off_libraries_are_those_they_list() -> None:
    import timm
    import torchvision
    from timm.optim._optim_factory import list_optimizers

    assert names_of("model", "timm") == set(timm.list_models())
    models = torchvision.models
    assert names_of("model", "torchvision") == set(models.list_models(module=models))
    assert names_of("optimizer", "timm") <= set(list_optimizers())
    assert len(names_of("optimizer", "timm")) > 50


def sections(words: list[str]) -> set[str]:
    """Of which words are; what decides rates may not go together, and counts as one."""
    found = (re.split("[.=]", word)[0] for word in words)
    return {"rates" if one in ("optimizer", "lr_policy", "scheduler") else one for one in found}


def packed() -> Iterator[list[str]]:
    """The right commands' overrides in few lines, which have of every section those of one."""
    left = [shlex.split(right) for _, right in rows() if not re.search(r"rerun|range", right)]
    commands = dict.fromkeys(tuple(w.split(",")[0] for w in words if "=" in w) for words in left)
    left = [[word for word in words if word[0] != "-"] for words in commands]
    while left:
        line, later = list[str](), list[list[str]]()
        for words in left:
            if sections(words) & sections(line):
                later.append(words)
            else:
                line += words
        yield line
        left = later


@pytest.mark.parametrize(("typed", "right"), rows())
def test_a_right_command_names_options_and_their_settings(typed: str, right: str) -> None:
    words = [word.partition("=") for word in shlex.split(right) if "=" in word and word[0] != "-"]
    chosen = {key: value.split(",") for key, _, value in words if key in GROUPS}
    for group, names in chosen.items():
        assert set(names) <= set(options(group)), typed
    for key, _, value in words:
        section, _, name = key.partition(".")
        if section in OPTIONS and name:
            files = chosen.get(section, [DEFAULTS[section]])
            schemas = [OPTIONS[section][option_in(section, file)].schema for file in files]
            assert all(name in {f.name for f in fields(schema)} for schema in schemas), typed
        assert value, typed


def option_in(group: str, file: str) -> str:
    """The option that a YAML file is, or fills in."""
    content = yaml.safe_load((conf_folder() / group / f"{file}.yaml").read_text())
    return file if file in OPTIONS[group] else content["defaults"][0]


@pytest.mark.slow
def test_every_right_command_composes(
    compose: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.csv").touch()
    lines = list(packed())
    assert len(set(chain(*lines))) > 80
    for line in lines:
        assert compose(*line).task.name
