"""A server that is silent, away for a while, or steers: the real client against a loopback one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from processes import HUNG_S, wait_for
from wandb_log import read_run
from wandb_stub import WandbStub

from lrexp.record.wandb.file import is_offline, runs_below, unsent
from lrexp.record.wandb.start import without_home


def lrexp_with(server: WandbStub, folder: Path, *arguments: str, **more: str) -> str:
    """Run the real command against a server; returns what it printed."""
    out = folder / "output.txt"  # a file: the client's service inherits a pipe and keeps it open
    with out.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "lrexp", "experiment=smoke", "logger=wandb", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **server.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=HUNG_S,
            check=False,
        )
    assert done.returncode == 0, out.read_text()
    return out.read_text()


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_home_folder_becomes_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    value = {"a": ["/home/alice/x", 1, None], "b": {"c": "in /home/alice"}, "d": "/data"}
    expected = {"a": ["~/x", 1, None], "b": {"c": "in ~"}, "d": "/data"}
    assert without_home(value) == expected


@pytest.mark.slow
def test_a_server_that_never_answers_costs_at_most_15_s(tmp_path: Path) -> None:
    with WandbStub() as server:
        server.silent = True
        lrexp_with(server, tmp_path, "hydra.run.dir=plain", "logger=none")
        said = lrexp_with(server, tmp_path, "hydra.run.dir=run")
    assert said.count("recording offline") == 1
    run = tmp_path / "run"
    assert [is_offline(file) for file in runs_below(run)] == [True]
    assert read_run(run).history == rows_of(run)
    facts = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("run", "plain")]
    startups = [fact["timings"]["startup_s"] for fact in facts]
    assert startups[0] - startups[1] < 15 + startups[1]  # on a busy machine everything takes longer


@pytest.mark.slow
def test_a_grid_waits_for_a_silent_server_once(tmp_path: Path) -> None:
    with WandbStub() as server:
        server.silent = True
        grid = ("-m", "seed=0,1,2", "trainer.epochs=1")
        said = lrexp_with(server, tmp_path, *grid, WANDB_HTTP_TIMEOUT="4")
    assert said.count("recording offline") == 1
    sweep = (tmp_path / "outputs" / "latest").resolve()
    assert len(list(sweep.glob("*/wandb/offline-run-*"))) == 3


@pytest.mark.slow
def test_after_an_outage_every_row_arrives(tmp_path: Path) -> None:
    import threading

    with WandbStub() as server:

        def end_outage() -> None:
            wait_for(lambda: server.down)  # however long the program takes to start
            time.sleep(12)
            server.down = False

        server.down_after_init = True
        back = threading.Thread(target=end_outage)
        back.start()
        lrexp_with(server, tmp_path, "hydra.run.dir=run", "run_id=outage01")
        back.join()
        assert server.history("outage01") == rows_of(tmp_path / "run")
        assert server.exit_codes == {"outage01": 0}
    (file,) = runs_below(tmp_path / "run")
    assert not unsent(file).exists()


@pytest.mark.slow
def test_a_grid_online_with_artifacts_tags_and_alerts(tmp_path: Path) -> None:
    with WandbStub() as server:
        grid = ("-m", "optimizer.lr=0.1,1e9", "trainer.epochs=3", "logger.artifacts=last")
        lrexp_with(server, tmp_path, *grid)
        sweep = (tmp_path / "outputs" / "latest").resolve()
        by_status = {
            json.loads(file.read_text())["status"]: json.loads(file.read_text())
            for file in sweep.glob("*/summary.json")
        }
        assert set(by_status) == {"finished", "diverged"}
        assert set(server.exit_codes.values()) == {0}
        assert len(server.exit_codes) == 2
        for folder in sweep.glob("[0-9]*"):
            summary = json.loads((folder / "summary.json").read_text())
            run = server.runs[summary["run_id"]]
            assert run.facts["groupName"] == sweep.name
            assert len(server.history(summary["run_id"])) == len(rows_of(folder))
            assert server.summary(summary["run_id"])["plan"]["_type"] == "table-file"
        diverged = by_status["diverged"]["run_id"]
        assert "diverged" in server.runs[diverged].facts["tags"]
        assert "diverged" not in server.runs[by_status["finished"]["run_id"]].facts["tags"]
        assert len(server.alerts) == 1
        assert {a["state"] for a in server.artifacts.values()} == {"COMMITTED"}
        sent = {name.split("/")[-1] for name in server.uploads}
        assert {"last.pt", "config.yaml", "plan.csv"} <= sent


def agent_runs(server: WandbStub, folder: Path, rates: list[float], *arguments: str) -> list[str]:
    """Let an agent of a W&B sweep run our scripts/wandb_sweep.yaml; returns its trials' run ids."""
    import yaml

    sweep = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    sweep["command"] += arguments
    sweep["parameters"] = {
        "lr_policy": {"values": ["uniform"]},
        "optimizer.lr": {"values": rates},
        "experiment": {"value": "smoke"},
        "logger": {"value": "wandb"},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    # The agent calls `python`, as a user's shell finds it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    with (folder / "output.txt").open("w") as output:
        for words in (["sweep", "sweep.yaml"], ["agent", "team/lrexp/sw0"]):
            done = subprocess.run(
                [sys.executable, "-m", "wandb", *words],
                cwd=folder,
                env={**environment, **server.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=HUNG_S,
                check=False,
            )
            assert done.returncode == 0, (folder / "output.txt").read_text()
    return server.sweeps["sw0"]["runs"]


@pytest.mark.slow
def test_an_agent_of_a_wandb_sweep_drives_lrexp(tmp_path: Path) -> None:
    with WandbStub() as server:
        runs = agent_runs(server, tmp_path, [0.1, 0.03])
        assert len(runs) == 2
        assert server.exit_codes == dict.fromkeys(runs, 0)
        rates = {server.config(run)["optimizer"]["lr"] for run in runs}
        assert rates == {0.1, 0.03}
        folders = {
            json.loads(file.read_text())["run_id"]
            for file in tmp_path.glob("outputs/smoke/*/summary.json")
        }
        assert folders == set(runs)
        for run in runs:
            assert server.summary(run)["best/val/loss"] > 0
            assert server.runs[run].facts["sweep"] == "sw0"


@pytest.mark.slow
def test_a_grid_inside_a_trial_has_a_run_per_point_and_the_trial_gets_its_value(
    tmp_path: Path,
) -> None:
    with WandbStub() as server:
        (own,) = agent_runs(server, tmp_path, [0.1], "-m", "seed=0,1")
        sweep = (tmp_path / "outputs" / "latest").resolve()
        points = {}
        for folder in sweep.glob("[0-9]*"):
            summary = json.loads((folder / "summary.json").read_text())
            points[summary["run_id"]] = summary["best"]["val/loss"]
            assert server.history(summary["run_id"]) == rows_of(folder)
        assert set(server.runs) == {own, *points}
        assert len(points) == 2
        assert server.exit_codes == dict.fromkeys(server.runs, 0)
        for run_id in points:
            facts = server.runs[run_id].facts
            assert facts["groupName"] == sweep.name
            assert "sweep" not in facts
        assert server.history(own) == []
        assert server.runs[own].facts["sweep"] == "sw0"
        assert server.runs[own].facts["groupName"] == sweep.name
        told = server.summary(own)
        assert told["best/val/loss"] == pytest.approx(sum(points.values()) / 2)
        assert (told["status"], told["seeds"]) == ("finished", 2)
        assert server.config(own)["optimizer.lr"] == 0.1
