"""Dashboards: every name in them is one that real runs log; saved through the real client."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import wandb_keys as keys
from command_lines import main_in
from conftest import ROOT
from processes import HUNG_S
from synthetic_sweep import outcome, went_wrong, write_sweep
from wandb_log import WandbLog, read_run
from wandb_stub import WandbStub

from lrexp.__main__ import main
from lrexp.report.figure import policy_colour
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.headline import headline
from lrexp.runs.sweep import read_sweep

pytest.importorskip("wandb_workspaces", reason="needs the extra `dashboards`")
with warnings.catch_warnings():  # of wandb-workspaces itself
    warnings.simplefilter("ignore")
    from lrexp.record.wandb.dashboard import (
        _groups_of,
        conclusions,
        leaderboard_table,
        outline,
        wandb_id,
    )

# of wandb-workspaces itself
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")
TEAM = ("--entity", "team", "--project", "p")


def command(module: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """Run a real command; returns its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two points, recorded offline."""
    folder = tmp_path_factory.mktemp("dashboard")
    policies = "lr_policy=uniform,freeze_backbone"
    arguments = ("-m", "experiment=smoke", "logger=wandb", policies, "logger.artifacts=best")
    arguments = (*arguments, "logger.details=all")
    told = {"WANDB_MODE": "offline", "WANDB_RUN_GROUP": "users-group"}
    assert main_in(folder, *arguments, **told) == 0
    return (folder / "outputs" / "latest").resolve()


@pytest.fixture(scope="module")
def log(sweep: Path) -> WandbLog:
    """What W&B's client wrote of the first point."""
    return read_run(next(folder for folder in sorted(sweep.iterdir()) if folder.is_dir()))


@pytest.fixture(scope="module")
def specs(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Specifications of the view and of the sweep's report, built with no login."""
    folder, found = tmp_path_factory.mktemp("specs"), {}
    for name, more in {"view": [], "report": ["--report", str(sweep)]}.items():
        assert main(["dashboard", *TEAM, "--json", str(folder / name), *more]) == 0
        found[name] = json.loads((folder / name).read_text())
    return found


def names_in(spec: Any) -> dict[str, set[str]]:
    """Every name of logged data in a specification, by kind."""
    found: dict[str, set[str]] = {
        kind: set()
        for kind in ("metric", "pattern", "summary", "config", "system", "run", "legend", "table")
    }

    def add(name: str) -> None:
        name = (
            name.split("::", 1)[-1] if name.startswith(("c::", "config::", "summary::")) else name
        )
        kind, colon, rest = name.partition(":")
        if colon and kind in ("config", "summary", "run"):
            found[kind].add(rest)
        elif name.startswith("config."):
            found["config"].add(name.removeprefix("config."))
        elif name.startswith("system/"):
            found["system"].add(name.removeprefix("system/"))
        elif not name.startswith("_"):
            found["metric"].add(name)

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if key in ("metrics", "xAxis", "yAxis", "zAxis", "groupBy") and value:
                for name in value if isinstance(value, list) else [value]:
                    if isinstance(name, str):
                        found["config"].add(_key(name)) if key == "groupBy" else add(name)
            elif key == "metricRegex" and value:
                found["pattern"].add(value)
            elif key == "accessor":
                add(value)
            elif key == "legendTemplate":
                found["legend"] |= set(re.findall(r"\$\{config:([^}]*)\}", value or ""))
            elif key == "key" and isinstance(value, dict) and value.get("nodeType") == "const":
                found["table"].add(value["val"])
            elif key in ("columnPinned", "columnVisible"):
                for name in value:
                    add(name)
            elif key == "expressions":
                for text in value or []:
                    for name in text.replace("${", "\0{").split("\0{")[1:]:
                        add(name.partition("}")[0])
            elif key == "key" and isinstance(value, dict) and "section" in value:
                add(f"{value['section']}:{value['name']}")
            walk(value)

    walk(spec)
    return found


def _key(name: str) -> str:
    return name.removeprefix("config:").removeprefix("config.")


def is_stored(config: dict[str, Any], path: str) -> bool:
    """Whether W&B finds something at a path of a run's config, as the client keeps it.

    It keeps {"optimizer": {"value": {"lr": 0.1}}}: the path is `optimizer.value.lr`.
    """
    parts = path.split(".")
    for i in range(1, len(parts)):
        value: Any = config.get(".".join(parts[:i]), {})
        if parts[i] == "value" and ".".join(parts[:i]) in config:
            for part in parts[i + 1 :]:
                value = value.get(part, {}) if isinstance(value, dict) else {}
            return value != {}
    return False


def test_the_lint_knows_where_a_setting_lies() -> None:
    config = {"optimizer": {"lr": 0.1}, "seed": 0, "lr_policy.name": "uniform"}
    assert is_stored(config, "optimizer.value.lr")
    assert is_stored(config, "seed.value")
    assert is_stored(config, "lr_policy.name.value")
    for wrong in ("optimizer.lr.value", "optimizer.lr", "seed", "sed.value", "optimizer.value.r"):
        assert not is_stored(config, wrong)


def test_the_list_of_keys_is_what_a_real_run_logs(log: WandbLog) -> None:
    for row in log.history:
        assert [name for name in row if not keys.is_metric(name)] == []
        assert set(keys.METRICS) | set(keys.TRAINED) <= set(row)
    for prefix in ("lr", "drift", "update_ratio"):
        assert any(name.startswith(f"{prefix}/") for name in log.history[0])
    assert [
        name for name in log.summary if not name.startswith("_") and not keys.is_summary(name)
    ] == []
    assert {*keys.FACTS, *keys.GAPS, *keys.TEST} <= set(log.summary)
    assert set(keys.GROUPING) <= set(log.config)
    for name in (*keys.SETTINGS, *keys.ORIGIN):
        value: Any = log.config
        for part in name.split("."):
            value = value[part]


@pytest.mark.parametrize("which", ["report", "view"])
def test_every_name_in_a_dashboard_is_logged(
    which: str, specs: dict[str, Any], log: WandbLog
) -> None:
    names = names_in(specs[which])
    assert len(names["metric"]) > 5
    assert [n for n in names["metric"] if not (keys.is_metric(n) or keys.is_summary(n))] == []
    assert [n for n in names["summary"] if not keys.is_summary(n)] == []
    assert len(names["config"]) > 3
    assert [n for n in names["config"] if not is_stored(log.config, n)] == []
    assert names["legend"] <= set(keys.GROUPING)
    tables = [key for key, value in log.summary.items() if isinstance(value, dict)]
    assert names["table"] <= {t for t in tables if log.summary[t]["_type"] == "table-file"}
    assert names["system"] <= set(keys.SYSTEM)
    logged = log.history[0]
    for pattern in names["pattern"]:
        assert any(re.search(pattern, name) for name in logged), pattern


def test_a_name_that_nobody_logs_is_found() -> None:
    panel = {"config": {"metrics": ["val/los"], "groupBy": "lr_polcy.value.name"}}
    names = names_in({"panels": [panel], "columnPinned": ["config:optimizer.lr.value"]})
    assert not keys.is_metric(*names["metric"])
    assert names["config"] == {"lr_polcy.value.name", "optimizer.lr.value"}
    config = {"optimizer": {"lr": 0.1}, "lr_policy": {"name": "uniform"}}
    assert not any(is_stored(config, name) for name in names["config"])


def test_the_view_has_the_panels_a_team_looks_at(specs: dict[str, Any]) -> None:
    panels = [p for s in sections(specs["view"]) for p in s["panels"]]
    titled = {p["config"].get("chartTitle"): p["config"] for p in panels if "config" in p}
    rates = titled["best val/loss against optimizer.lr"]
    assert rates["xAxisLogScale"] is True
    band = titled["val/loss by configuration"]
    assert (band["groupAgg"], band["groupArea"]) == ("mean", "minmax")
    gap = titled["gap/loss by policy, ± se over runs"]
    assert gap["groupArea"] == "stderr"
    assert titled["drift per group"]["metricRegex"] == "^drift/"
    assert titled["rate per group"]["metricRegex"] == "^lr/"
    assert "summary:verdicts" in json.dumps(specs["view"])


def sections(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return spec["spec"]["section"]["panelBankConfig"]["sections"]


def test_the_report_has_leaderboard_conclusions_and_a_colour_per_policy(
    sweep: Path, specs: dict[str, Any]
) -> None:
    text = json.dumps(specs["report"], ensure_ascii=False)
    assert "| rank | configuration | val/loss ± se |" in text
    read = read_sweep(sweep)
    assert headline(explore(read)).title in text
    assert sweep.name in text
    assert all(policy_colour(policy) in text for policy in ("uniform", "freeze_backbone"))
    for folder in sweep.glob("*_*"):
        if (folder / "summary.json").is_file():
            assert json.loads((folder / "summary.json").read_text())["run_id"] in text


def board(*means: tuple[float, float | str, int]) -> dict[str, Any]:
    row = {
        "case": "",
        "status": dict.fromkeys(("finished", "diverged", "failed", "interrupted"), 0),
    }
    rows = [
        row
        | {
            "rank": i,
            "settings": {"optimizer.lr": str(i)},
            "points": [i],
            "val/loss": {"mean": mean, "std": std, "n": n},
            "test/accuracy": {"mean": 0.5, "std": "NaN", "n": 1},
            "gap/loss": {"mean": 0.5, "std": "NaN", "n": 1},
        }
        for i, (mean, std, n) in enumerate(means, 1)
    ]
    return {"monitor": "val/loss", "configurations": rows}


def test_conclusions_are_those_of_the_sweeps_own_report(tmp_path: Path) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        if chosen["optimizer.lr"] == 1e6:
            return went_wrong("diverged")
        return outcome({"a": 0.1, "b": 0.2}[chosen["lr_policy"]] + 0.05 * chosen["seed"] ** 2)

    axes = {"lr_policy": "ab", "optimizer.lr": (0.1, 1e6), "seed": (0, 1)}
    said = conclusions(write_sweep(tmp_path, axes, result))
    read = read_sweep(tmp_path)
    found = headline(explore(read))
    told = [f"{found.title}.", *found.sentences, *found.advice]
    assert said[: len(told)] == told
    assert said[len(told)].startswith("Diverged: a lr=1e+06 seed=0; a lr=1e+06 seed=1; b ")


def test_the_leaderboard_is_a_table() -> None:
    assert leaderboard_table(board((0.1, 0.01, 3)))[2].startswith("| 1 | lr=1 | 0.1 ± 0.0058 |")


def test_the_outline_has_headings_and_panels_and_nothing_of_the_client(
    specs: dict[str, Any],
) -> None:
    view, report = (outline(specs[which]) for which in ("view", "report"))
    assert view[0] == "Which rate, which policy"
    assert report[0] == "Conclusions"
    assert "Leaderboard" in report
    for lines in (view, report):
        assert any("best val/loss against optimizer.lr" in line for line in lines)
        assert not {"unused-name", "Hidden Panels", "Report Panels"} & set(lines)


def test_the_runs_of_a_report_are_those_of_the_group_that_w_and_b_was_told(
    sweep: Path, specs: dict[str, Any], tmp_path: Path
) -> None:
    assert _groups_of(sweep) == ["users-group"]  # of WANDB_RUN_GROUP, which no config knows
    assert "users-group" in json.dumps(specs["report"])
    point = tmp_path / "0_x"  # without its wandb/
    point.mkdir()
    (point / "config.yaml").write_text("logger: {group: mine}")
    assert _groups_of(tmp_path) == ["mine"]
    (point / "config.yaml").write_text("logger: {group: null}")
    assert _groups_of(tmp_path) == [tmp_path.name]


def test_a_baseline_is_named_by_its_folder_or_its_id(sweep: Path, tmp_path: Path) -> None:
    folder = next(folder for folder in sorted(sweep.iterdir()) if folder.is_dir())
    run_id = json.loads((folder / "summary.json").read_text())["run_id"]
    assert wandb_id(str(folder)) == run_id
    assert main(["dashboard", *TEAM, "--baseline", run_id, "--json", str(tmp_path / "v")]) == 0
    (found,) = re.findall(r'"baselineRunId": "([^"]*)"', (tmp_path / "v").read_text())
    assert base64.b64decode(found).decode() == f"Run:v1:{run_id}:p:team"
    assert main(["dashboard", *TEAM, "--baseline", str(tmp_path)]) == 2


def test_a_damaged_leaderboard_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "leaderboard.json").write_text("{")
    assert main(["dashboard", *TEAM, "--report", str(tmp_path)]) == 2
    assert "leaderboard.json cannot be read" in capsys.readouterr().err


def test_without_login_saving_is_refused_and_nothing_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["dashboard", *TEAM, "--save"]) == 2
    assert "wandb login" in capsys.readouterr().err


def test_a_wrong_metric_and_a_wrong_folder_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["dashboard", *TEAM, "--monitor", "val/los"]) == 2
    assert "did you mean 'val/loss'" in capsys.readouterr().err
    assert main(["dashboard", *TEAM, "--report", str(tmp_path)]) == 2
    assert "leaderboard.json" in capsys.readouterr().err


@pytest.mark.slow
def test_saving_twice_updates_the_same_view_and_the_same_report(
    sweep: Path, tmp_path: Path
) -> None:
    with WandbStub() as server:
        for more in ([], ["--report", str(sweep)]):
            said = [
                command(
                    "lrexp",
                    "dashboard",
                    *TEAM,
                    "--save",
                    *more,
                    cwd=tmp_path,
                    **server.environment,
                )
                for _ in range(2)
            ]
            assert said[0] == said[1]
            assert "saved: http" in said[0]
    assert len(server.views) == 2
    view, report = server.views.values()
    assert (view["type"], view["entityName"], view["projectName"]) == ("project-view", "team", "p")
    assert "by policy" in view["spec"]
    assert "users-group" in report["spec"]  # the fixture's WANDB_RUN_GROUP: whose runs it shows
    assert report["displayName"] == f"lrexp sweep {sweep.name}"
