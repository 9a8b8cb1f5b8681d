"""Imports point one way: entry points, tasks, train, build, records, numbers, plans, parts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lrexp"

# From top to bottom. A room imports rooms that stand below its own line.
ROOMS = [
    {"__main__", "compose", "help", "recompose", "rerun", "compare", "sync", "dashboard"},
    {"tasks"},
    {"grid"},
    {"report"},
    {"train"},
    {"build"},
    {"builders"},
    {"differences", "preview", "record"},
    {"checkpoint", "metrics", "optim", "optimizers", "schedulers"},
    {"policies"},
    {"plan"},
    {"models", "data"},
    {"resume"},
    {"targets"},
    {"config", "saved", "folder", "draws", "signals"},
    {"mistakes"},
    {"schema", "redact"},
    {"errors"},
]
LINE = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
BESIDE = {  # allowed on one line
    ("__main__", "compose"),
    ("__main__", "help"),
    ("recompose", "compose"),
    ("rerun", "__main__"),
    ("rerun", "compose"),
    ("rerun", "recompose"),
    ("compare", "__main__"),
}
LIGHT = (
    *("rerun", "recompose", "compare", "differences", "resume", "sync", "dashboard"),
    *("__main__", "compose", "config", "saved", "targets", "mistakes", "schema", "folder"),
    *("errors", "redact", "help"),
)
HEAVY = {"torch", "torchvision", "wandb", "datasets"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """The module or folder directly under the package; `` for its __init__."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(tree: ast.AST) -> Iterator[str]:
    """Every absolute name imported anywhere: in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def rooms_imported(tree: ast.AST) -> set[str]:
    """Rooms of ours a file imports; the package itself (for its version) is none."""
    names = [name.split(".") for name in imports(tree)]
    found = {parts[1] for parts in names if parts[0] == "lrexp" and len(parts) > 1}
    return found - {"__version__"}


def wrong_imports(room: str, imported: set[str]) -> set[str]:
    """Those among `imported` that do not lie below `room`."""
    return {
        other
        for other in imported
        if other != room and (room, other) not in BESIDE and LINE[other] <= LINE[room]
    }


def test_every_room_has_its_place() -> None:
    assert {room_of(file) for file in FILES} - {""} == set(LINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    room, imported = room_of(file), rooms_imported(ast.parse(file.read_text()))
    if not room:
        assert not imported, "importing the package alone must cost nothing"
        return
    assert not wrong_imports(room, imported)
    if room == "train":
        assert "record" not in imported, "the loop is handed its recorder"
    if room not in ("__main__", "rerun", "tasks", "grid", "train", "build"):
        assert not imported & ({"build", "builders", "train", "tasks"} - {room})


def test_the_check_sees_what_it_must_refuse() -> None:
    upward = "def f():\n    from lrexp.train import Trainer\n    import lrexp.record.jsonl"
    imported = rooms_imported(ast.parse(upward))
    assert imported == {"train", "record"}
    assert wrong_imports("metrics", imported) == {"train", "record"}
    assert wrong_imports("tasks", imported) == set()
    assert rooms_imported(ast.parse("from lrexp import draws, __version__")) == {"draws"}
    assert wrong_imports("models", {"data"}) == {"data"}


def test_only_train_takes_one_name_from_build() -> None:
    names = set(imports(ast.parse((PACKAGE / "train.py").read_text())))
    assert {n for n in names if n.startswith("lrexp.build")} == {"lrexp.build.Experiment"}


def test_policies_are_pure_functions_of_plain_values() -> None:
    files = [*(PACKAGE / "policies").glob("*.py"), PACKAGE / "plan.py"]
    assert len(files) > 5
    for file in files:
        for name in imports(ast.parse(file.read_text())):
            assert name.split(".")[0] not in {"torch", "hydra", "omegaconf", "wandb"}, (file, name)


def test_recorders_compute_no_metrics() -> None:
    for file in (PACKAGE / "record").glob("*.py"):
        assert not rooms_imported(ast.parse(file.read_text())) & {"metrics", "optim", "checkpoint"}


def test_only_its_recorder_and_its_files_know_wandb() -> None:
    users = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        if any(name.split(".")[0] == "wandb" for name in imports(ast.parse(file.read_text())))
    }
    assert users == {f"record/{name}.py" for name in ("wandb", "wandb_client", "wandb_file")}


def test_nobody_instantiates_what_a_config_names() -> None:
    for file in FILES:
        for name in imports(ast.parse(file.read_text())):
            assert not name.startswith("hydra.utils"), file


def test_what_answers_help_imports_nothing_heavy() -> None:
    modules = ["lrexp", *(f"lrexp.{room}" for room in LIGHT), "lrexp.tasks"]
    code = f"import sys, {', '.join(modules)}\nprint(*{HEAVY} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_nothing_outside_the_scripts_imports_them() -> None:
    for file in [*FILES, *(ROOT / "tests").glob("*.py")]:
        assert not any(n.split(".")[0] == "scripts" for n in imports(ast.parse(file.read_text())))
