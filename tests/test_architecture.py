"""The order of the rooms, and what each of them never does; every check is shown to fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from lrexp.commands.answer import VERBS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lrexp"

# From top to bottom: a room imports rooms that stand below its own line, and itself.
ROOMS = (
    ("__main__",),
    ("commands", "api"),
    ("session",),
    ("use",),
    ("grid",),
    ("tasks",),
    ("build",),
    ("train",),
    ("record",),
    ("report",),
    ("judge",),
    ("runs",),
    ("optim",),
    ("plan",),
    ("models", "data"),
    ("folder",),
    ("config",),
)
LINE = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}

# Packages that take long to import. They are imported at module level where work is done, and
# inside functions where a command must answer before any work: `NEVER` below says where.
HEAVY = ("torch", "torchvision", "wandb", "datasets", "matplotlib", "pandas", "timm")
OPTIONAL = ("timm", "wandb", "schedulefree", "onnx", "onnxruntime", "onnxscript", "optuna",
            "joblib", "ray", "submitit")  # fmt: skip
# (files below lrexp/, modules they never import at module level, or anywhere, and why)
AT_MODULE_LEVEL = (
    (("__main__.py", "commands/**", "session/**", "api/**"), HEAVY, "a verb answers at once"),
    (("config/**", "folder/claim.py", "runs/**"), HEAVY, "what is checked first is cheap"),
    (("**",), OPTIONAL, "who does not ask for it need not have it"),
)
ANYWHERE = (
    (("judge/**",), ("torch", "hydra", "omegaconf", "wandb"), "numbers in, findings out"),
    (("report/**",), ("torch", "hydra", "wandb"), "a report is made from files alone"),
    (("plan/**",), ("torch.optim", "hydra", "omegaconf", "wandb"), "a plan is plain values"),
    (("plan/policies/**",), ("torch",), "policies are pure functions of plain values"),
    (("train/**",), ("lrexp.record", "lrexp.build"), "the loop is handed what it needs"),
    (("record/**",), ("lrexp.train", "lrexp.optim"), "recorders compute no metric"),
    (("grid/**",), ("lrexp.plan.policies",), "grid knows no policy"),
    (("**",), ("hydra.utils",), "nobody instantiates what a config names"),
    (("**",), ("scripts",), "scripts are run by people"),
)


def imports(tree: ast.AST, only_module_level: bool = False) -> Iterator[str]:
    """Every absolute name imported: in functions and for type checkers too, unless told not to."""
    for node in _module_level(tree) if only_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """What is run when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _module_level(node)


def rooms_imported(tree: ast.AST, only_module_level: bool = False) -> set[str]:
    """Rooms of ours that a file imports; the package itself (for its version) is none."""
    names = [name.split(".") for name in imports(tree, only_module_level)]
    found = {parts[1] for parts in names if parts[0] == "lrexp" and len(parts) > 1}
    return found - {"__version__"}


def upward(room: str, imported: Iterable[str]) -> set[str]:
    """Those among `imported` that do not lie below `room`."""
    return {other for other in imported if other != room and LINE[other] <= LINE[room]}


def among(names: Iterable[str], never: Iterable[str]) -> set[str]:
    """Those names that are, or lie below, one of `never`."""
    return {name for name in names if any(f"{name}.".startswith(f"{n}.") for n in never)}


def files(*patterns: str) -> list[Path]:
    found = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    found |= {file for folder in found if folder.is_dir() for file in folder.glob("*.py")}
    return sorted(file for file in found if file.suffix == ".py")


TREES = {file: ast.parse(file.read_text()) for file in files("**")}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_everything_in_the_package_is_a_room() -> None:
    flat = {file.name for file in PACKAGE.glob("*.py")}
    assert flat == {"__init__.py", "__main__.py"}
    assert {room_of(file) for file in TREES} - {"__init__"} == set(LINE)


def test_imports_point_down() -> None:
    for file, tree in TREES.items():
        room, imported = room_of(file), rooms_imported(tree)
        if room == "__init__":
            now = rooms_imported(tree, only_module_level=True)
            assert not now, "importing the package alone must cost nothing"
        else:
            assert not upward(room, imported), file
    tree = ast.parse("def f():\n    from lrexp.train.loop import X\n    import lrexp.record.jsonl")
    assert rooms_imported(tree) == {"train", "record"}
    assert upward("judge", rooms_imported(tree)) == {"train", "record"}
    assert upward("tasks", rooms_imported(tree)) == set()
    assert upward("models", {"data"}) == {"data"}


@pytest.mark.parametrize(("patterns", "never", "why"), ANYWHERE)
def test_never_imports(patterns: tuple[str, ...], never: tuple[str, ...], why: str) -> None:
    looked_at = files(*patterns)
    assert looked_at
    for file in looked_at:
        assert not among(imports(TREES[file]), never), f"{file}: {why}"
    guilty = ast.parse(f"def f():\n    from {never[0]} import thing")
    assert among(imports(guilty), never) == {f"{never[0]}.thing"}


@pytest.mark.parametrize(("patterns", "never", "why"), AT_MODULE_LEVEL)
def test_never_imports_at_once(patterns: tuple[str, ...], never: tuple[str, ...], why: str) -> None:
    looked_at = files(*patterns)
    assert looked_at
    for file in looked_at:
        found = among(imports(TREES[file], only_module_level=True), never)
        assert not found, f"{file}: {why}"
    guilty = "class C:\n    import torch\ndef f():\n    import wandb\n"
    assert list(imports(ast.parse(guilty), only_module_level=True)) == ["torch"]


def test_what_answers_help_imports_nothing_heavy() -> None:
    """What static reading cannot see: what the light modules pull in by others."""
    light = files("__main__.py", "commands/**", "session/**", "config/**", "runs/**", "api/**")
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in light]
    modules = [name.removesuffix(".__init__") for name in names]
    code = f"import sys, {', '.join(modules)}\nprint(*{set(HEAVY)} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_config_is_read_by_those_that_construct() -> None:
    """`train` is handed what it needs: of the schema it knows its own settings alone."""
    for file in files("train/**"):
        found = {n for n in imports(TREES[file]) if n.startswith("lrexp.config.schema.")}
        allowed = {"MONITORS", "TOP5_CLASSES", "Trainer"}
        assert {name.rpartition(".")[2] for name in found} <= allowed, file


def test_no_verb_imports_a_verb() -> None:
    """Verbs share what `session` has, and how a command is answered, completed and helped."""
    verbs = {f"lrexp.commands.{verb}" for verb in ("run", *VERBS)}
    assert verbs < {f"lrexp.commands.{file.stem}" for file in files("commands/**")}
    for file in files("commands/**"):
        found = among(imports(TREES[file]), verbs)
        assert not found, file
    guilty = ast.parse("from lrexp.commands.rerun import main")
    assert among(imports(guilty), verbs) == {"lrexp.commands.rerun.main"}


def said_or_ended(tree: ast.AST) -> set[str]:
    """Ways to print or to end the program that a file uses."""
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return (named | dotted) & {"print", "exit", "sys.exit", "os._exit", "sys.stdout", "SystemExit"}


def test_session_returns_and_raises() -> None:
    """What verbs and a Python API share neither prints nor ends the program."""
    for file in files("session/**"):
        assert not said_or_ended(TREES[file]), file
    guilty = ast.parse("def f():\n    print(1)\n    sys.exit(2)")
    assert said_or_ended(guilty) == {"print", "sys.exit"}


def test_only_its_recorder_knows_wandb() -> None:
    users = {
        file for file, tree in TREES.items() if among(imports(tree), ["wandb", "wandb_workspaces"])
    }
    assert users
    assert users <= set(files("record/wandb/**"))


def test_grid_names_no_policy() -> None:
    names = {file.stem for file in (ROOT / "conf" / "lr_policy").glob("*.yaml")} - {"uniform"}
    for file in files("grid/**"):
        assert not set(strings(TREES[file])) & names, file
    assert set(strings(ast.parse("x = kind == 'lp_ft'"))) & names == {"lp_ft"}


def strings(tree: ast.AST) -> Iterator[str]:
    """Text constants of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# What a function may import for itself so that others start sooner, beside the heavy ones.
SLOW = {
    *HEAVY, *OPTIONAL, "hydra", "jinja2", "markupsafe", "numpy", "omegaconf", "PIL", "pyarrow",
    "rich", "safetensors", "scipy", "huggingface_hub", "wandb_workspaces", "joblib",
}  # fmt: skip
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): tree
    for file, tree in TREES.items()
}


def loaded(name: str, modules: dict[str, ast.Module], seen: set[str]) -> set[str]:
    """`seen` with all that importing a name of this package, or another, imports at once."""
    while name not in modules and name.startswith("lrexp."):  # an object in a module
        name = name.rpartition(".")[0]
    if name in seen:
        return seen
    seen.add(name)
    for needed in imports(modules[name], only_module_level=True) if name in modules else ():
        loaded(needed, modules, seen)
    return seen


def needless(module: str, modules: dict[str, ast.Module]) -> set[str]:
    """Names that functions of a module import though that saves no slow package."""
    tree = modules[module]
    at_once = set(imports(tree, only_module_level=True))
    here = {name.partition(".")[0] for name in loaded(module, modules, set())}
    found = set()
    for name in functions_import(tree) - at_once:
        below = loaded(name, modules, set())
        slow = {part.partition(".")[0] for part in below} & SLOW - here
        if not slow and module not in below:  # nor would it be a circle
            found.add(name)
    return found


def functions_import(tree: ast.AST) -> set[str]:
    """Names imported within functions, not for type checkers alone."""
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for function in functions for name in imports(function)}


def test_functions_import_only_what_is_slow() -> None:
    for module in MODULES:
        assert not needless(module, MODULES), module
    guilty = {
        "lrexp.a": ast.parse("import numpy\ndef f():\n    from lrexp.b import x\n    import torch"),
        "lrexp.b": ast.parse("import json, numpy"),
    }
    assert needless("lrexp.a", guilty) == {"lrexp.b.x"}
    guilty["lrexp.b"] = ast.parse("from lrexp.a import f")
    assert needless("lrexp.a", guilty) == set()


def test_a_loop_of_ones_own_needs_no_hydra() -> None:
    def packages(module: str) -> set[str]:
        return {name.partition(".")[0] for name in loaded(module, MODULES, set())}

    assert {"torch", "omegaconf"} <= packages("lrexp.use.own_loop")
    assert "hydra" not in packages("lrexp.use.own_loop")
    assert "hydra" in packages("lrexp.config.compose")
