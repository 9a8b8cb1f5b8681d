"""docs/reference says what there is: the files are current, and nothing is missing in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
from conftest import ROOT

import lrexp
from lrexp.commands.answer import VERBS
from lrexp.config.schema import GROUPS, schemas_of
from lrexp.grid.settings import LauncherSettings

REFERENCE = ROOT / "docs/reference"
TO_WRITE = ".venv/bin/python scripts/make_reference.py"
PAGES = ("groups", "general", "verbs", "python", "cases", *GROUPS)


@pytest.fixture(scope="module")
def made() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield import_module("make_reference")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def written(made: Any) -> dict[str, str]:
    """What would be written now, by the name of its file."""
    return made.pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_current(name: str, written: dict[str, str]) -> None:
    if name == "verbs" and sys.version_info >= (3, 13):
        pytest.skip("argparse of Python 3.13 writes flags in another way")
    assert (REFERENCE / f"{name}.md").read_text() == written[f"{name}.md"], TO_WRITE


def test_the_reference_has_these_pages_and_no_others(written: dict[str, str]) -> None:
    assert {file.name for file in REFERENCE.iterdir()} == set(written), TO_WRITE
    assert {f"{name}.md" for name in PAGES} == set(written)


@pytest.mark.parametrize("group", [*GROUPS, "cases"])
def test_every_option_and_setting_of_a_group_is_there(group: str) -> None:
    page = (REFERENCE / f"{group}.md").read_text()
    folder = ROOT / "conf" / group
    for file in folder.rglob("*.yaml"):
        assert f"\n## `{group}={file.relative_to(folder).with_suffix('').as_posix()}`\n" in page
    for schema in schemas_of(group):
        for one in fields(schema):
            if one.name not in ("name", "library"):  # which say what option it is
                assert f"\n| `{group}.{one.name}` | " in page, schema


@pytest.mark.parametrize(("group", "page"), [("lr_policy", "policies"), ("scheduler", "schedules")])
def test_every_option_has_its_line_in_the_table_of_its_page(group: str, page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    names = [file.stem for file in (ROOT / "conf" / group).glob("*.yaml")]
    assert [name for name in names if f"\n| {name} | " not in text] == []


def test_settings_of_rules_and_of_no_group_are_there() -> None:
    policies = (REFERENCE / "lr_policy.md").read_text()
    for section, there in (("rules[0]", "rules[]"), ("default", "default")):
        (schema,) = schemas_of(f"lr_policy.{section}")
        assert all(f"\n| `lr_policy.{there}.{one.name}` | " in policies for one in fields(schema))
    general = (REFERENCE / "general.md").read_text()
    assert all(f"\n| `{key}` | " in general for key in ("name", "seed", "run_id"))
    launcher = (f"hydra.launcher.{one.name}" for one in fields(LauncherSettings))
    assert all(f"\n| `{key}` | " in general for key in launcher)


def test_every_verb_and_public_function_is_there() -> None:
    verbs = (REFERENCE / "verbs.md").read_text()
    assert [verb for verb in VERBS if f"\nusage: lrexp {verb} " not in verbs] == []
    functions = (REFERENCE / "python.md").read_text()
    assert [name for name in lrexp._PUBLIC if f"\n## `lrexp.{name}`\n" not in functions] == []


def test_a_public_function_is_described_by_its_signature_and_docstring(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, load = {"Length": "lrexp.config.schema.meaning"}, {"load": "lrexp.config.schema"}
    monkeypatch.setattr(lrexp, "_PUBLIC", length | load)
    page = made.python_page()
    assert (
        "\n## `lrexp.load`\n\n```python\ndef load(target: str) -> Callable[..., Any]\n```" in page
    )
    assert "Raises:\n    ConfigError: when there is none" in page
    assert "@dataclass(frozen=True)\nclass Length:\n    least: int = 0\n" in page
    monkeypatch.setattr(lrexp, "_PUBLIC", {"spelled_wrong": "lrexp.config.schema.meaning"})
    with pytest.raises(ValueError, match="has no spelled_wrong"):
        made.python_page()


def test_a_setting_that_nothing_explains_is_an_error(made: Any) -> None:
    with pytest.raises(ValueError, match=r"loss\.epochs: no comment says what it means"):
        made.rows("loss", made.Trainer, {}, ["epochs"])


def test_comments_are_of_the_setting_that_they_stand_at(made: Any) -> None:
    body = [
        "# above",
        "one: 1",
        "two: [1, 2] # behind",
        "       # and below",
        "three:",
        "  - a # in",
    ]
    found = {key: (one.value, one.said) for key, one in made.settings(body)}
    assert found == {
        "one": ("1", "above"),
        "two": ("[1, 2]", "behind and below"),
        "three": ("- a", "in"),
    }
