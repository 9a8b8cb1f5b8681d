"""Command lines as a user types them, each in a fresh folder, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from processes import HUNG_S
from unchanged import nothing_changed

Lrexp = Callable[..., subprocess.CompletedProcess[str]]
Outcomes = dict[str, dict[str, Any]]
SMOKE = ["experiment=smoke"]
# Words of the machinery below, which mean nothing to a user.
JARGON = re.compile(
    r"Traceback|full_key|object_type|[Mm]erge error|Error merging|Unexpected type"
    r"|ValidationError|reached the run|NoneType"
)

# Reads [[name, argv], ...] and runs each through main() in a fresh folder of that name.
DRIVER = """
import contextlib, io, json, os, sys, time
from pathlib import Path
import lrexp.__main__ as command

def run(argv):
    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main(argv)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = f"Traceback: {type(error).__name__}: {error}"
    return {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "left": sorted(os.listdir()),
        "cpu_s": time.process_time() - started,
    }

def run_all(cases):
    outcomes = {}
    for name, argv in cases:
        folder = base / name
        folder.mkdir()
        os.chdir(folder)
        outcomes[name] = before(name) or run(argv)
    return outcomes

base = Path(sys.argv[1])
cases = json.loads((base / "cases.json").read_text())
before = lambda name: None
"""
FINISH = """
outcomes = run_all(cases)
heavy = [name for name in ("torch", "torchvision", "wandb", "datasets") if name in sys.modules]
(base / "outcomes.json").write_text(json.dumps({"outcomes": outcomes, "heavy": heavy}))
"""


def user_environment(base: Path) -> dict[str, str]:
    """The environment of a user without a W&B account, for fixtures that outlive one test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "HYDRA_"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "NETRC": os.devnull,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(base / "wandb_config"),
    }


def main_in(folder: Path, *arguments: str, **environment: str) -> int:
    """The exit code of a command line in this process and a folder, for fixtures of many tests."""
    from lrexp.__main__ import main

    with nothing_changed(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in os.environ.keys() - user_environment(folder).keys():
            patch.delenv(name)
        for name, value in {**user_environment(folder), **environment}.items():
            patch.setenv(name, value)
        code = main(list(arguments))
        if (wandb := sys.modules.get("wandb")) is not None:
            wandb.teardown()  # its writer is through
    return code


def drive(base: Path, cases: list[tuple[str, list[str]]], setup: str = "") -> dict[str, Any]:
    """Run command lines one after the other in one process, each in its own folder."""
    (base / "cases.json").write_text(json.dumps(cases))
    (base / "driver.py").write_text(DRIVER + setup + FINISH)
    done = subprocess.run(
        [sys.executable, str(base / "driver.py"), str(base)],
        env=user_environment(base),
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((base / "outcomes.json").read_text())


def start(folder: Path, *arguments: str, code: str = "") -> subprocess.Popen[str]:
    """A command line of its own, running in a folder; with `code` what that makes of it."""
    program = ["-c", code] if code else ["-m", "lrexp"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env=user_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *arguments: str, code: str = "") -> tuple[int, str]:
    """The exit code of such a command line, and all that it said."""
    process = start(folder, *arguments, code=code)
    said = process.communicate(timeout=HUNG_S)[0]
    return process.returncode, said


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def only_run(cwd: Path) -> Path:
    """The one run folder under outputs/."""
    (folder,) = (p for p in cwd.glob("outputs/*/*") if p.parent.name != "latest")
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def rows_but_times(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run but how long they took."""
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows_of(folder)]


def assert_same_run(one: Path, other: Path) -> None:
    """Equal rows, plans and weights, to the bit."""
    import torch

    assert rows_but_times(one) == rows_but_times(other)
    for name in ("best.pt", "last.pt"):
        a, b = (torch.load(f / "checkpoints" / name, weights_only=True) for f in (one, other))
        assert a["model"].keys() == b["model"].keys()
        for key, tensor in a["model"].items():
            assert torch.equal(tensor, b["model"][key]), (one, name, key)
    assert (one / "plan.csv").read_text() == (other / "plan.csv").read_text()
