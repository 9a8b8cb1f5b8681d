"""Writes docs/reference/: every option and setting, every verb, every public function.

    .venv/bin/python scripts/make_reference.py

Limits and types are read off the schemas, defaults and meanings off the YAML files in conf/ (the
comment of a setting, else what another option of its group says of it), the rest off `--help` and
docstrings. tests/test_reference.py compares the files with what this would write: run it after a
change of any of these, and commit.
"""

from __future__ import annotations

import ast
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import lrexp
from lrexp.__main__ import main as lrexp_main
from lrexp.commands.answer import VERBS
from lrexp.commands.help import GROUPS
from lrexp.config.schema import OPTIONS, Config
from lrexp.config.schema.rates import PerLayer, Rest, Rule
from lrexp.config.schema.training import Trainer
from lrexp.grid.settings import EXECUTORS, LEAST, ONLY, LauncherSettings
from lrexp.grid.settings import KINDS as LAUNCHERS

ROOT = Path(__file__).parent.parent
CONF, REFERENCE = ROOT / "conf", ROOT / "docs/reference"
NOTE = "<!-- Written by scripts/make_reference.py: change what it reads, and run it again. -->"
WIDTH = "100"  # of --help

# What each group decides.
DECIDES = {
    "experiment": "a whole recipe; its file says which images and weights it wants",
    "model": "the network, sized from the data",
    "data": "images, classes, splits",
    "loss": "what is optimised: one label per image (smoothing, class weights), or several",
    "optimizer": "the base rate, momentum, weight decay",
    "lr_policy": "who learns how fast",
    "scheduler": "how rates move over time, warmup",
    "trainer": "epochs, device, the metric that judges; how a step is computed",
    "logger": "Weights & Biases, or the run folder alone",
    "task": "what to do",
    "cases": "sub-grids with axes of their own, for `lrexp -m cases=NAME_OR_FILE`",
}
WHICH = ("name", "library")  # say which option it is
EVERY = ("experiment", "cases")  # groups without a schema: shown as their files are


@dataclass(frozen=True)
class Default:
    """A setting as a YAML file has it, both as text."""

    value: str
    said: str


@dataclass
class File:
    """An option's file: how it opens, what it starts from, and its settings."""

    opening: list[str] = field(default_factory=list)
    schema: str = ""
    base: str = ""
    own: dict[str, Default] = field(default_factory=dict)
    settings: dict[str, Default] = field(default_factory=dict)  # those it starts from included


@cache
def read(group: str, option: str) -> File:
    """An option's file, with the settings of those that it starts from."""
    opening, body = split(CONF / group / f"{option}.yaml")
    found = File(opening, own=dict(settings(body)))
    starts = found.own.pop("defaults", Default("", "")).value
    for part in re.findall(r"[\w/]+(?:@_here_)?", starts):
        if part.startswith("/schema/data_settings"):
            found.settings |= dict(settings(split(CONF / "schema/data_settings.yaml")[1]))
        elif part.startswith("/schema/"):
            found.schema = part.removesuffix("@_here_").rpartition("/")[2]
        elif part != "_self_":
            base = read(group, part)
            found.base, found.schema = part, base.schema
            found.settings |= base.settings
    for key, one in found.own.items():
        known = found.settings.get(key)
        found.settings[key] = one if one.said or not known else replace(one, said=known.said)
    return found


def split(file: Path) -> tuple[list[str], list[str]]:
    """The comment that a YAML file begins with, and its other lines."""
    lines = [line for line in file.read_text().splitlines() if line != "# @package _global_"]
    body = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line[1:].removeprefix(" ") for line in lines[:body]], lines[body:]


def settings(body: list[str]) -> Iterator[tuple[str, Default]]:
    """The settings of a YAML file; a comment above one, behind it, or indented below is of it."""
    above: list[str] = []
    key, value, said = "", "", list[str]()
    for line in [*body, "end:"]:
        text, _, comment = line.partition("#") if line.startswith("#") else line.partition(" #")
        if line.startswith("#"):
            above.append(comment.strip())
        elif found := re.match(r"(\w+):(.*)", text):
            if key:
                yield key, Default(value.strip(), " ".join(said))
            key, value = found[1], found[2]
            said, above = [*above, *([comment.strip()] if comment else [])], []
        else:
            value += f" {text.strip()}"
            said += [comment.strip()] if comment else []


@cache
def comments(source: Path) -> dict[str, dict[str, str]]:
    """What stands behind the fields of a module's classes: class → field → comment."""
    lines = source.read_text().splitlines()
    return {
        one.name: {
            str(ast.unparse(item.target)): lines[(item.end_lineno or 1) - 1].partition("  # ")[2]
            for item in one.body
            if isinstance(item, ast.AnnAssign)
        }
        for one in ast.parse("\n".join(lines)).body
        if isinstance(one, ast.ClassDef)
    }


def behind(schema: type, name: str) -> str:
    """The comment behind a field, where it is declared."""
    for owner in schema.__mro__[:-1]:
        source = Path(str(sys.modules[owner.__module__].__file__))
        if said := comments(source).get(owner.__name__, {}).get(name):
            return said
    return ""


KINDS = {"dict[str, Any]": "dict", "Any": "any", "list[Rule]": "list of rules", "Rest": "dict"}


def kind(one: Field[Any]) -> str:
    """A setting's type."""
    if "length" in one.metadata:
        return "length"
    text = str(one.type).replace(" | None", " or null").replace("list[Any]", "list")
    return KINDS.get(text, text)


def allowed(group: str, one: Field[Any]) -> str:
    """The values that a setting takes, in words."""
    said = one.metadata
    if words := said.get("allowed"):
        return ", ".join(f"`{word}`" for word in words)
    if limits := said.get("limits"):
        parts = [
            f"{name} {value:g}"
            for name, value in limits.items()
            if value is not None and name not in ("count", "such as")
        ]
        return ", ".join(parts + [f"{limits['count']} values"] * bool(limits["count"]))
    if "length" in said:
        steps = "" if group == "lr_policy" else ", `'N steps'`"
        return f"a share in (0, 1), `'N epochs'`{steps}" + (", epochs" if not steps else "")
    paths = {"only": "a path", "maybe": "a path or a name", "plan": "a run or its plan.csv"}
    return paths.get(said.get("path", ""), "`true`, `false`" if one.type == "bool" else "")


def table(rows: list[tuple[str, ...]], *head: str) -> str:
    """A Markdown table without the columns in which no row has anything."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(line[i].replace('|', chr(92) + '|') for i in kept)} |" for line in lines
    )


def rows(
    group: str, schema: type, defaults: Mapping[str, Default], names: list[str]
) -> list[tuple[str, ...]]:
    """A row for each of a schema's settings that are asked for.

    Raises:
        ValueError: for one of which nothing says what it means.
    """
    found = []
    for one in fields(schema):
        if one.name not in names:
            continue
        default = defaults.get(one.name, Default("", ""))
        said = default.said or behind(schema, one.name) or elsewhere(group).get(one.name, "")
        if not said:
            raise ValueError(f"{group}.{one.name}: no comment says what it means")
        value = default.value
        if not value and one.default is not MISSING and one.default != "???":
            value = {"None": "null"}.get(str(one.default), str(one.default))
            value = value.lower() if isinstance(one.default, bool) else value
        key = f"{group}.{one.name}".lstrip(".")
        shown = f"`{value}`" if value and value != "???" else "to be given" * bool(value)
        found.append((f"`{key}`", kind(one), shown, allowed(group, one), said))
    return found


HEAD = ("setting", "type", "default", "allowed", "meaning")


@cache
def elsewhere(group: str) -> dict[str, str]:
    """What the options of a group say of settings, by their names."""
    return {
        key: one.said
        for option in reversed(options(group))
        for key, one in read(group, option).settings.items()
        if one.said
    }


@cache
def options(group: str) -> list[str]:
    """The options of a group, in the order of the schema, then by name."""
    files = sorted((CONF / group).rglob("*.yaml"))
    names = [file.relative_to(CONF / group).with_suffix("").as_posix() for file in files]
    first = list(OPTIONS.get(group, {}))
    rank = {name: (name.count("/"), first.index(name) if name in first else 99) for name in names}
    return sorted(names, key=lambda name: (rank[name], name))


def prose(lines: list[str]) -> str:
    """A comment as Markdown: what is indented in it are commands."""
    text, block = list[str](), False
    for line in lines:
        indented = line.startswith("  ")
        if indented != block:
            text += ["", "```bash"] if indented else ["```", ""]
        block = indented
        text.append(line[2:].removeprefix(" ") if indented else line.replace("<", "&lt;"))
    return "\n".join([*text, *["```"] * block])


@dataclass(frozen=True)
class Group:
    """A group whose options have schemas."""

    name: str
    files: dict[str, File]
    schemas: dict[str, type]
    common: list[str]  # settings that every option has
    differing: list[str]  # those of them whose default is not the same in all


def group_of(name: str) -> Group:
    files = {option: read(name, option) for option in options(name)}
    if name == "trainer":  # one schema, and files that change its defaults
        return Group(name, files, dict.fromkeys(files, Trainer), [], [])
    schemas = {option: OPTIONS[name][file.schema].schema for option, file in files.items()}
    every = [[one.name for one in fields(schema)] for schema in schemas.values()]
    common = [one for one in every[0] if one not in WHICH and all(one in some for some in every)]
    values = {one: {file.settings[one].value for file in files.values()} for one in common}
    return Group(name, files, schemas, common, [one for one in common if len(values[one]) > 1])


def group_page(name: str) -> str:
    """A config group: what every option of it has, then one option after the other."""
    parts = [f"# `{name}`", f"Decides {DECIDES[name]}. [All groups](groups.md)."]
    if name in EVERY:
        return page(*parts, *(part for option in options(name) for part in file_part(name, option)))
    group = group_of(name)
    parts += common_part(group) if group.common else []
    return page(*parts, *(part for option in group.files for part in option_part(group, option)))


def file_part(group: str, option: str) -> list[str]:
    """An option that is no more than its file."""
    opening, body = split(CONF / group / f"{option}.yaml")
    shown = ["```yaml\n" + "\n".join(body).strip() + "\n```"] if any(body) else []
    return [f"## `{group}={option}`", prose(opening), *shown]


def common_part(group: Group) -> list[str]:
    """The settings that all options have, said as most of them say it."""
    usual = {}
    for name in group.common:
        every = [file.settings[name] for file in group.files.values()]
        said = Counter(one.said for one in every).most_common(1)[0][0]
        usual[name] = Default("" if name in group.differing else every[0].value, said)
    schema = next(iter(group.schemas.values()))
    parts = ["## Every option has", table(rows(group.name, schema, usual, group.common), *HEAD)]
    if group.differing:
        parts.append("Where no default is given here, each option has its own, below.")
    return parts


def option_part(group: Group, option: str) -> list[str]:
    """An option, with the settings that are its own or have defaults of its own."""
    file, schema = group.files[option], group.schemas[option]
    parts = [f"## `{group.name}={option}`", prose(file.opening)]
    made = OPTIONS.get(group.name, {}).get(option)
    if made and made.needs and "Needs" not in parts[-1]:
        parts.append(f"Needs `pip install 'lrexp[{made.needs}]'`.")
    if file.base:
        parts.append(f"It is [`{file.base}`](#{anchor(group.name, file.base)}), but for:")
        shown = [name for name in file.own if name != "library"]
    else:
        known = [name for name in group.common if name not in group.differing]
        names = [one.name for one in fields(schema) if one.name not in known]
        hidden = ("library",) if "library" in names else WHICH
        shown = [name for name in names if name not in hidden]
    told = {name: file.settings[name] for name in shown if name in file.settings}
    if "name" in told and not told["name"].said:
        told["name"] = replace(told["name"], said="the library's own name of it")
    if shown:
        parts.append(table(rows(group.name, schema, told, shown), *HEAD))
    if schema is PerLayer:
        for section, inner in (("rules[]", Rule), ("default", Rest)):
            names = [one.name for one in fields(inner)]
            parts.append(table(rows(f"{group.name}.{section}", inner, {}, names), *HEAD))
    return parts


def groups_page() -> str:
    """The groups with their options, each a link to where it is described."""
    found = []
    for group in (*GROUPS, "cases"):
        links = [f"[{one}]({group}.md#{anchor(group, one)})" for one in options(group)]
        found.append((f"[`{group}`]({group}.md)", DECIDES[group], ", ".join(links)))
    return page("# Groups and their options", table(found, "group", "decides", "options"))


def anchor(group: str, option: str) -> str:
    """What GitHub calls the heading of an option."""
    return re.sub(r"[^\w-]", "", f"{group}{option}")


def general_page() -> str:
    """Settings that belong to no group."""
    top = dict(settings(split(CONF / "config.yaml")[1]))
    names = [one.name for one in fields(Config) if one.name not in GROUPS]
    limits = {f"`hydra.launcher.{name}`": f"at least {least}" for name, least in LEAST.items()}
    for name, words in (("executor", EXECUTORS), ("only", ONLY)):
        limits[f"`hydra.launcher.{name}`"] = ", ".join(f"`{word}`" for word in words)
    launcher = [
        (key, type_, default, limits.get(key, choices), said)
        for key, type_, default, choices, said in rows(
            "hydra.launcher", LauncherSettings, {}, LAUNCHER
        )
    ]
    return page(
        "# Settings of no group",
        table(rows("", Config, top, names), *HEAD),
        "## How a grid is run (`-m`)",
        table(launcher, *HEAD),
        "With another `hydra/launcher` points are jobs of an engine ([clusters](../clusters.md)),"
        " and these are there as well:",
        *engine_tables(),
        "`hydra.run.dir` and `hydra.sweep.dir` say where a run and a sweep go; all else below"
        " `hydra` is Hydra's own: `lrexp --hydra-help`.",
    )


LAUNCHER = [one.name for one in fields(LauncherSettings)]


def engine_tables() -> Iterator[str]:
    """The settings of every engine; what one has of another stands there."""
    for name, settings in LAUNCHERS.items():
        own = [key for key in settings.__annotations__ if key not in LAUNCHER]
        if own:
            also = [
                n for n, one in LAUNCHERS.items() if one in settings.__mro__[1:] and n != "lrexp"
            ]
            yield f"### `hydra/launcher={name}`" + "".join(
                f", which has those of `{n}` too" for n in also
            )
            yield table(rows("hydra.launcher", settings, {}, own), *HEAD)


def said_by(*words: str) -> str:
    """What a command prints that only answers."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    out = io.StringIO()
    try:
        with redirect_stdout(out), suppress(SystemExit):
            lrexp_main(list(words))
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {"COLUMNS": before} if before is not None else {}
    return "```text\n" + out.getvalue().strip() + "\n```"


def verbs_page() -> str:
    """What `--help` says, of the program and of every verb."""
    parts = ["# Verbs", "What each says with `--help`.", "## `lrexp`", said_by("--help")]
    for verb in VERBS:
        parts += [f"## `lrexp {verb}`", said_by(verb, "--help")]
    return page(*parts)


def python_page() -> str:
    """The public functions and classes: signature and docstring."""
    parts = ["# The public functions", "Each is imported when it is first used."]
    for name, module in sorted(lrexp._PUBLIC.items()):
        node = declared(module, name)
        parts += [f"## `lrexp.{name}`", *described(node, name)]
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    parts += [f"### `{name}.{item.name}`", *described(item, item.name)]
    return page(*parts)


def declared(module: str, name: str) -> ast.FunctionDef | ast.ClassDef:
    """The function or class that a module of ours defines, or takes from another of ours."""
    base = ROOT / module.replace(".", "/")
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return declared(str(node.module), name)
    raise ValueError(f"{module} has no {name}")


def described(node: ast.FunctionDef | ast.ClassDef, name: str) -> list[str]:
    """The signature and the docstring of a function or class.

    Raises:
        ValueError: when it has none.
    """
    text = ast.get_docstring(node)
    if not text:
        raise ValueError(f"{name}: a public function without a docstring")
    decorators = [f"@{ast.unparse(one)}" for one in node.decorator_list]
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        held = [f"    {ast.unparse(item)}" for item in node.body if isinstance(item, ast.AnnAssign)]
        first = f"class {name}({bases})" if bases else f"class {name}"
        signature = "\n".join([*decorators, first + ":" * bool(held), *held])
    else:
        bare = ast.FunctionDef(name, node.args, [ast.Pass()], [], node.returns)
        plain = ast.unparse(ast.fix_missing_locations(bare)).removesuffix(":\n    pass")
        signature = "\n".join([*decorators, plain])
    return [f"```python\n{signature}\n```", f"```text\n{text}\n```"]


def page(*parts: str) -> str:
    """A page of its title, the note where it comes from, and its parts."""
    title, *rest = parts
    return "\n\n".join([title, NOTE, *rest]) + "\n"


def pages() -> dict[str, str]:
    """The text of every file of docs/reference, by its name."""
    groups = {f"{group}.md": group_page(group) for group in (*GROUPS, "cases")}
    rest = {"groups.md": groups_page(), "general.md": general_page()}
    return groups | rest | {"verbs.md": verbs_page(), "python.md": python_page()}


def main() -> None:
    REFERENCE.mkdir(parents=True, exist_ok=True)
    found = pages()
    for file in REFERENCE.glob("*.md"):
        if file.name not in found:
            file.unlink()
    for name, text in found.items():
        (REFERENCE / name).write_text(text)
    print(f"{len(found)} pages in docs/reference")


if __name__ == "__main__":
    main()
