"""What a grid is composed from, as a text: equal only where composing comes to the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrexp.config.saved import MAX_BYTES
from lrexp.config.sources import MOST_FILES, sources_text

Said = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """The text, of a folder of options and of overrides."""
    (tmp_path / "lr_policy").mkdir()
    (tmp_path / "lr_policy" / "mine.yaml").write_text("defaults: [uniform, _self_]\n")
    monkeypatch.chdir(tmp_path)

    def text(*asked: str, schema: str = "file", path: Path = tmp_path) -> str:
        sources = [
            SimpleNamespace(schema="pkg", path="hydra.conf"),
            SimpleNamespace(schema=schema, path=str(path)),
        ]
        runtime = SimpleNamespace(config_sources=sources)
        config: Any = SimpleNamespace(hydra=SimpleNamespace(runtime=runtime))
        loader: Any = None  # of conf/, no saved config
        return sources_text(loader, config, asked)

    return text


def test_the_same_files_say_the_same(said: Said, tmp_path: Path) -> None:
    before = said("seed=1,2")
    (tmp_path / "notes.txt").write_text("no option")
    assert before == said("seed=1,2,3")
    assert str(tmp_path / "lr_policy" / "mine.yaml") in before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("lr_policy/mine.yaml", "defaults: [layerwise_decay, _self_]\n"),
        ("model/simple_cnn.yaml", "name: simple_cnn\n"),  # hides one of ours
    ],
)
def test_a_file_of_options_that_changes_or_comes_is_noticed(
    said: Said, tmp_path: Path, file: str, content: str
) -> None:
    before = said()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert said() != before


def test_a_file_that_goes_is_noticed(said: Said, tmp_path: Path) -> None:
    before = said()
    (tmp_path / "lr_policy" / "mine.yaml").unlink()
    assert said() != before


def test_variables_that_are_read_count_and_others_do_not(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text("name: ${oc.env:LANG,C}\n")
    monkeypatch.setenv("LANG", "a")
    before, of_override = said(), said("name=${oc.env:TZ}")
    monkeypatch.setenv("TZ", "elsewhere")
    assert said() == before
    assert said("name=${oc.env:TZ}") != of_override
    monkeypatch.setenv("LANG", "b")
    assert said() != before


def test_where_relative_paths_begin_counts(said: Said, tmp_path: Path) -> None:
    before = said()
    os.chdir(tmp_path / "lr_policy")
    assert said() != before


def test_nothing_is_said_of_what_cannot_be_told(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said() != ""
    assert said("name=${oc.env:A_${seed}}") == ""
    assert said(schema="pkg", path=Path("mine.conf")) == ""
    assert said("model.weights=latest") == ""
    assert said("model.weights=outputs/latest_but_one") != ""
    os.mkfifo(tmp_path / "pipe.yaml")
    assert said() == ""
    (tmp_path / "pipe.yaml").unlink()
    (tmp_path / "large.yaml").write_text("#" * (MAX_BYTES + 1))
    assert said() == ""
    (tmp_path / "large.yaml").unlink()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    assert said() == ""
    (tmp_path / "link.yaml").unlink()
    monkeypatch.setattr("lrexp.config.sources.MOST_FILES", 1)
    assert MOST_FILES > 1
    assert said() == ""
