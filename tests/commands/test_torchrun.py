"""`torchrun --nproc_per_node=N -m lrexp ...`: one run, one voice, one end, whoever fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_lines import (
    main_in,
    only_run,
    rows_but_times,
    run,
    summary_of,
    user_environment,
)
from processes import HUNG_S, wait_for

from lrexp.commands import ranks as answering
from lrexp.commands.answer import swept
from lrexp.config.errors import UserError
from lrexp.config.launched import refuse_ranks, world_size

SMALL = ("logger=none", "data.limit=120", "data.leak_check=skip", "trainer.device=cpu")
# A network of the user's own that ends one of two processes in its third step.
FAILING = """
import os
import signal
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes: int, how: str):
        super().__init__()
        self.head, self.how, self.seen = torch.nn.Linear(64, num_classes), how, 0

    def forward(self, images):
        if self.training and torch.is_grad_enabled() and os.environ.get("RANK") == "1":
            self.seen += 1
            if self.seen == 3 and self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.seen == 3:
                raise ValueError("enough of this")
        return self.head(images.flatten(1))
"""


def start(folder: Path, world: int, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """torchrun with so many processes of a command line, in a folder."""
    own = {"GLOO_SOCKET_IFNAME": "lo", **environment}
    program = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world}"]
    return subprocess.Popen(
        [*program, "-m", "lrexp", *arguments],
        cwd=folder,
        env=user_environment(folder) | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(program: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    said = program.communicate(timeout=HUNG_S)[0]
    return program.returncode, said


def as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)


def test_only_torchrun_makes_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # of some scheduler
    assert world_size() == 1
    refuse_ranks("anything")
    as_two(monkeypatch)
    assert world_size() == 2
    with pytest.raises(UserError, match=r"^anything, and the processes that torchrun started"):
        refuse_ranks("anything")


def test_grids_and_verbs_are_refused_under_torchrun_in_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    class Words:
        def fails(self, error: Exception) -> None:
            said.append(str(error))

        def say(self, name: str, value: Any) -> None:
            said.append(f"{name}: {value}")

    alone: Any = type("First", (), {"words": Words(), "first": True, "joined": False})()
    as_two(monkeypatch)
    monkeypatch.setattr(answering, "_ranks", lambda: alone)
    loader: Any = None
    assert answering.answer_as_one("run", lambda: swept(loader, [])) == 2
    assert answering.answer_as_one("report", lambda: 0) == 2
    shown = capsys.readouterr().err
    assert shown.count("error: ") == 2
    assert "error: -m is a grid of runs, and the processes that torchrun started" in shown
    assert "error: report is no training, and" in shown
    assert said[1::2] == ["over: 2", "over: 2"]


@pytest.mark.slow
def test_two_processes_are_one_run_that_can_be_checked_to_the_bit(tmp_path: Path) -> None:
    code, said = ended(start(tmp_path, 2, *SMALL, "trainer.epochs=2", "optimizer=adamw"))
    assert code == 0, said
    assert said.count("model  simple_cnn") == 1
    assert said.count("ranks  2 processes train it together (gloo)") == 1
    assert said.count("report ") == 1
    folder = only_run(tmp_path)
    summary = summary_of(folder)
    environment = json.loads((folder / "environment.json").read_text())
    for known in (summary, environment):
        assert (known["world_size"], known["backend"]) == (2, "gloo")
    assert summary["status"] == "finished"
    alone = tmp_path / "alone"
    alone.mkdir()
    assert main_in(alone, *SMALL, "trainer.epochs=2", "optimizer=adamw") == 0
    expected = only_run(alone)
    for row, other in zip(rows_but_times(folder), rows_but_times(expected), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    test = summary_of(expected)["test"]
    assert summary["test"] == pytest.approx(test, rel=1e-3, abs=1e-4)

    code, said = ended(start(tmp_path, 2, "rerun", str(folder), "--check"))
    assert (code, said.count("check  identical")) == (0, 1), said
    code, said = run(tmp_path, "rerun", str(folder), "--check")
    assert code in (0, 3), said
    assert "world_size" in said
    assert "2 → 1" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [("raised", "rank 1 of 2: ValueError: enough of this"), ("killed", "ended without a word")],
)
def test_a_rank_that_dies_ends_the_run_as_failed(tmp_path: Path, how: str, told: str) -> None:
    (tmp_path / "failing_net.py").write_text(FAILING)
    given = {"LREXP_ALLOW_TARGETS": "failing_net"}
    path = f"{user_environment(tmp_path)['PYTHONPATH']}:{tmp_path}"
    net = ("model=custom", "model.target=failing_net.Net", f"model.args.how={how}")
    code, said = ended(start(tmp_path, 2, *SMALL, *net, PYTHONPATH=path, **given))
    assert code == 1
    assert said.count("error: ") == 1, said
    summary = summary_of(only_run(tmp_path))
    assert summary["status"] == "failed"
    assert told in summary["error"]
    assert told in said


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3])
def test_a_stopped_run_goes_on_with_another_number_of_processes(tmp_path: Path, world: int) -> None:
    how = (*SMALL, "trainer.epochs=60", "optimizer.lr=0.01", "trainer.checkpoint_every_steps=3")
    folder = tmp_path / "stopped"
    program = start(tmp_path, 2, *how, f"hydra.run.dir={folder}")
    rows = folder / "metrics.jsonl"
    wait_for(lambda: rows.is_file() and len(rows.read_text().splitlines()) > 2, program)
    program.send_signal(signal.SIGTERM)
    code, said = ended(program)
    assert code != 0
    assert said.count("resume lrexp rerun") == 1, said
    assert summary_of(folder)["status"] == "interrupted"
    trained = len(rows.read_text().splitlines())
    assert trained < 60
    more = ("rerun", str(folder), "--resume")
    if world == 1:
        code, said = run(tmp_path, *more)
    else:
        code, said = ended(start(tmp_path, world, *more))
    assert code == 0, said
    assert "resume from epoch" in said
    summary = summary_of(folder)
    assert (summary["status"], summary["world_size"]) == ("finished", world)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert main_in(alone, *how) == 0
    for row, other in zip(rows_but_times(folder), rows_but_times(only_run(alone)), strict=True):
        for name in ("train/loss", "val/loss", "train/accuracy"):
            assert row[name] == pytest.approx(other[name], rel=0.02, abs=0.02)


@pytest.mark.slow
def test_what_is_no_run_is_refused_by_one_voice_and_leaves_nothing(tmp_path: Path) -> None:
    cases = [
        (("-m", "seed=0,1"), "-m is a grid of runs"),
        (("task=plan",), "task=plan: is no training"),
        (("trainer.device=cuda:1",), "trainer.device=cuda:1: is one"),
        (("trainer.sync_batchnorm=true",), "trainer.sync_batchnorm=true: exchanges"),
        (("compare", "a", "b"), "compare is no training"),
    ]
    for words, told in cases:
        code, said = ended(start(tmp_path, 2, *words))
        assert code == 1  # torchrun's own
        assert said.count("error: ") == 1, said
        assert told in said
        assert not (tmp_path / "outputs").exists()
