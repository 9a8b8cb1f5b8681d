"""One fine-tune in five ways: the same network, images and rates, and about the same accuracy."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from conftest import ROOT
from torch.optim.optimizer import register_optimizer_step_post_hook

from lrexp.plan.plan import read_plan

SCRIPTS = ROOT / "scripts" / "same_finetune"
WAYS = ("command.sh", "api.py", "plain.py", "with_lightning.py", "with_transformers.py")
STEPS = 15 * 7  # of 100 images in batches of 16
WORDS = shlex.split((SCRIPTS / "command.sh").read_text().replace("\\\n", " "), comments=True)
OVERRIDES = [w for w in WORDS[WORDS.index("lrexp") + 1 :] if w != "$@"]
Rates = dict[str, list[float]]  # parameter → its rate and weight decay

# Runs a script; at the end writes the rates of every optimizer step to a file.
WATCHED = """
import json, runpy, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
written, script = sys.argv[1:]
steps = []
def see(optimizer, *_):
    groups = optimizer.param_groups
    steps.append({n: [g["lr"], g["weight_decay"]] for g in groups for n in g["names"]})
register_optimizer_step_post_hook(see)
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
open(written, "w").write(json.dumps(steps))
"""


def rates_of(optimizer: Any) -> Rates:
    groups = optimizer.param_groups
    return {name: [g["lr"], g["weight_decay"]] for g in groups for name in g["names"]}


def accuracy_in(said: str) -> float:
    found = re.search(r"^val accuracy ([\d.]+)%$", said, re.MULTILINE)
    assert found, said
    return float(found[1])


@pytest.fixture
def theirs(prepare: Callable[..., Any]) -> Any:
    """The experiment that the command would train."""
    return prepare(*OVERRIDES).experiment


def test_a_plain_loop_trains_what_the_command_trains(
    theirs: Any,
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    sys.modules.pop("shared", None)
    import shared  # type: ignore[import-not-found]

    ours, wanted = shared.model.state_dict(), theirs.model.state_dict()
    assert all(ours[name].equal(tensor) for name, tensor in wanted.items())
    for own, split in ((shared.train, theirs.dataset.train), (shared.val, theirs.dataset.val)):
        assert own.tensors[0].equal(split.images)
        assert own.tensors[1].equal(split.labels)
    seen: list[Rates] = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(rates_of(optimizer)))
    try:
        runpy.run_path(str(SCRIPTS / "plain.py"))
    finally:
        hook.remove()
        del sys.modules["shared"]
    assert seen == [rates_of(theirs.optimizer)] * STEPS
    assert len({tuple(rate) for rate in seen[0].values()}) == 6  # 3 layers, decayed and not
    assert 93 <= accuracy_in(capsys.readouterr().out) <= 99  # 95.0 to 97.2 over 12 orders


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS[1:])
def test_every_way_trains_at_the_commands_rates(name: str, theirs: Any, tmp_path: Path) -> None:
    written = tmp_path / "rates.json"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(written), str(SCRIPTS / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=processes.HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(written.read_text()) == [rates_of(theirs.optimizer)] * STEPS
    assert 93 <= accuracy_in(done.stdout) <= 99


@pytest.mark.slow
def test_the_command_trains_at_these_rates(theirs: Any, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(SCRIPTS / "command.sh"), f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
        capture_output=True,
        text=True,
        timeout=processes.HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = read_plan((tmp_path / "run" / "plan.csv").read_text()).rows
    rates = {row.name: [theirs.base_lr * row.lr_scale, row.weight_decay] for row in rows}
    assert rates == rates_of(theirs.optimizer)
    *_, last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["step"] == STEPS
    assert 0.93 <= json.loads(last)["val/accuracy"] <= 0.99


@pytest.mark.parametrize("name", WAYS)
def test_every_way_is_short_and_shown_whole(name: str) -> None:
    text = (SCRIPTS / name).read_text()
    code = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 25
    kind = "bash" if name.endswith(".sh") else "python"
    assert f"```{kind}\n{text}```\n" in (ROOT / "docs" / "own_loop.md").read_text()
