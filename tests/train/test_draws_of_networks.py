"""Networks of the user's own that draw from any generator: reproduced, resumed, apart in a grid."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrexp.__main__ import main
from lrexp.build.experiment import build
from lrexp.data.generators import begin_at, begun_at, moved
from lrexp.tasks.train import Training

CPU = torch.device("cpu")
NET = """
import random
import numpy as np
import torch

AT_HOME = np.random.default_rng(0)

class Net(torch.nn.Module):
    def __init__(self, num_classes, of):
        super().__init__()
        self.out = torch.nn.Linear(64, num_classes)
        self.of, self.shift = of, random.random() + np.random.rand()  # drawn with the weights

    def forward(self, x):
        drawn = {
            "all": lambda: random.gauss(0, 1) + np.random.randn() + float(torch.randn(())),
            "nothing": lambda: 0.0,
            "itself": lambda: AT_HOME.normal(),
        }[self.of]()
        return self.out(x.flatten(1)) * (1 + 0.1 * drawn) + self.shift
"""
LINE = (
    *("trainer.device=cpu", "data.limit=100", "logger=none", "data.leak_check=skip"),
    *("data.batch_size=16", "trainer.epochs=2", "model=custom", "model.target=drawing.Net"),
)


@pytest.fixture(autouse=True)
def _own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drawing.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "drawing")
    monkeypatch.delitem(sys.modules, "drawing", raising=False)


def stir() -> None:
    random.seed(os.urandom(8))
    np.random.seed(int.from_bytes(os.urandom(4), "big"))
    torch.manual_seed(int.from_bytes(os.urandom(7), "big"))


def trained(folder: str, *overrides: str) -> list[Any]:
    """A run in a program whose generators stand anywhere; what it came to."""
    stir()
    assert main([*LINE, *overrides, f"hydra.run.dir={folder}"]) == 0
    return numbers(Path(folder))


def numbers(folder: Path) -> list[Any]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    timeless = [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]
    return [summary["weights_hash"], summary["test"], timeless]


@pytest.mark.slow
def test_a_network_that_draws_from_any_generator_is_reproduced_resumed_and_alone_in_a_grid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained("whole", "model.args.of=all")
    assert trained("again", "model.args.of=all") == whole
    assert trained("calm", "model.args.of=nothing")[0] != whole[0]  # it does draw
    with monkeypatch.context() as patch:
        patch.setattr(Training, "start", stopping_after(9, Training.start))  # in epoch 2
        line = [*LINE, "model.args.of=all", "trainer.checkpoint_every_steps=1"]
        assert main([*line, "hydra.run.dir=stopped"]) == 143
    stir()
    assert main(["rerun", "stopped", "--resume"]) == 0
    assert numbers(Path("stopped")) == whole
    capsys.readouterr()
    stir()
    grid = ["-m", *LINE, "model.args.of=all", "seed=0,1", "hydra.launcher.executor=stacked"]
    assert main([*grid, "hydra.sweep.dir=grid"]) == 0
    said = capsys.readouterr()
    first, second = sorted(Path("grid").glob("[01]_*"))
    assert numbers(first) == whole
    assert numbers(second) == trained("second", "model.args.of=all", "seed=1")
    assert "points 0-1 train one by one: the network draws random numbers" in said.out + said.err
    assert json.loads((first / "summary.json").read_text())["executor"] == "serial"


def stopping_after(steps: int, start: Any) -> Any:
    """Training.start, and a signal that is to end the run behind so many steps."""

    def begin(run: Training) -> None:
        start(run)
        set_rates = run.trainer.set_rates

        def then_stop(step: int) -> None:
            if step == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            set_rates(step)

        run.trainer.set_rates = then_stop  # type: ignore[method-assign]

    return begin


def test_a_network_that_draws_from_its_own_generator_is_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained("own", "model.args.of=itself", "trainer.max_steps=1")
    said = " ".join(capsys.readouterr().out.split())
    assert "drawing.Net gives something else when it sees the same images again" in said
    trained("calm", "model.args.of=all", "trainer.max_steps=1")
    assert "gives something else" not in capsys.readouterr().out


def test_networks_of_libraries_draw_from_torchs_generator_alone() -> None:
    """Which is why the other two are not begun anew at every step of theirs."""
    draws = re.compile(r"^\s*(import|from) random\b|\b(np|numpy)\.random\b", re.MULTILINE)
    rooms = ["torch.nn.modules", "torchvision.models", "torchvision.ops", "timm.models"]
    found: list[str] = []
    for room in [*rooms, "timm.layers", "lrexp.models"]:
        folder = Path(importlib.import_module(room).__path__[0])
        files = {file: file.read_text(encoding="utf-8") for file in folder.rglob("*.py")}
        assert len(files) > 5
        found += [str(file) for file, text in files.items() if draws.search(text)]
    assert not found


def test_only_with_a_network_of_the_users_own_is_every_generator_begun_anew(compose: Any) -> None:
    begin_at(7, CPU)
    begin_at(8, CPU, torchs_alone=True)
    after = random.random(), torch.rand(()).item()
    begin_at(7, CPU)
    assert random.random() == after[0]
    begin_at(8, CPU)
    assert torch.rand(()).item() == after[1]
    assert build(compose(*LINE[:4])).own_network is False
    assert build(compose(*LINE, "model.args.of=nothing")).own_network is True


def test_generators_begin_at_a_draw_and_are_put_back() -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    begin_at(2**62 + 5, CPU)
    first = drawn()
    begin_at(2**62 + 6, CPU)
    assert drawn() != first
    begin_at(2**62 + 5, CPU)
    assert drawn() == first
    begin_at(7, CPU)
    with begun_at(2**62 + 5, CPU):
        assert drawn() == first
    assert moved(7, CPU) is None
    for name, draw in {
        "Python's random": random.random,
        "numpy.random": np.random.rand,
        "torch's generator": lambda: torch.rand(1),
    }.items():
        begin_at(7, CPU)
        draw()
        assert moved(7, CPU) == name
