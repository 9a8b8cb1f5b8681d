"""Runs and sweeps of the command: exit codes, folders, what they hold."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from command_lines import JARGON, SMOKE, Outcomes, main_in, only_run, rows_of, summary_of

SWEEP = ["lr_policy=uniform,freeze_backbone", "optimizer.lr=0.01,0.1"]
RUNS = [
    ("smoke", SMOKE),
    ("no network", ["data=mnist", "data.root=nowhere"]),
    ("kernel", [*SMOKE, "model.kernel_size=9"]),
    ("bundled", [*SMOKE, "model.weights=bundled:nothing"]),
    ("rule", [*SMOKE, "lr_policy=per_layer", "lr_policy.rules=[{match: 'cnv.*', lr: 0.1}]"]),
    ("fixed folder", [*SMOKE, "model.kernel_size=9", "hydra.run.dir=mine"]),
    ("same second", SMOKE),
    ("diverged", [*SMOKE, "optimizer.lr=1e6", "trainer.limit_train_batches=null"]),
    ("sweep", ["-m", *SWEEP, *SMOKE, "logger=wandb", "trainer.monitor=val/accuracy"]),
    ("bad point", ["-m", *SMOKE, "model.kernel_size=3,9"]),
    ("failed", [*SMOKE, "trainer.epochs=5"]),
    ("failed sweep", ["-m", *SMOKE, "seed=1,2"]),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(base: Path) -> Outcomes:
    """Outcomes of runs that came far enough to need torch, each in a folder of its own."""
    return {name: outcome(base, name, arguments) for name, arguments in RUNS}


def outcome(base: Path, name: str, arguments: list[str]) -> dict[str, Any]:
    folder, out, err = base / name, io.StringIO(), io.StringIO()
    folder.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if name == "no network":
            patch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
        if name == "same second":
            patch.setattr("hydra.core.utils.datetime", StoppedClock)
            assert main_in(folder, *arguments) == 0
        if name == "sweep":
            keep_what_a_sweeper_sees(patch, base)
        if name.startswith("failed"):
            fill_the_disk(patch)
        code = main_in(folder, *arguments)
    said = {"out": out.getvalue(), "err": err.getvalue()}
    return {"code": code, "left": sorted(os.listdir(folder)), **said}


class StoppedClock(datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> StoppedClock:
        return cls(2030, 1, 2, 3, 4, 5)


def keep_what_a_sweeper_sees(patch: pytest.MonkeyPatch, base: Path) -> None:
    import lrexp.session.sweep  # not before Hydra has looked for its plugins

    original = lrexp.session.sweep.run_points

    def keep(points: Any, session: Any, board: Any) -> Any:
        returned = original(points, session, board)
        values = [returned[point.num].return_value for point in points]
        (base / "returned.json").write_text(json.dumps(values))
        return returned

    patch.setattr(lrexp.session.sweep, "run_points", keep)


def fill_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Behind the second checkpoint."""
    import lrexp.train.state

    save, saved = lrexp.train.state.save_checkpoint, []

    def disk_is_full(file: Path, state: Any, synced: bool = False) -> None:
        saved.append(file)
        if len(saved) > 2:
            raise OSError(28, "No space left on device", str(file))
        save(file, state, synced)

    patch.setattr(lrexp.train.state, "save_checkpoint", disk_is_full)


def test_a_run_folder_holds_what_it_should(runs: Outcomes, base: Path) -> None:
    assert runs["smoke"]["code"] == 0, runs["smoke"]
    folder = only_run(base / "smoke")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    wanted = {
        *(f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")),
        *("config.yaml", "plan.csv", "environment.json", "metrics.jsonl", "summary.json"),
        *("checkpoints/last.pt", "checkpoints/best.pt", "predictions.parquet", "lrexp.log"),
    }
    assert found >= wanted
    assert not {name for name in found if name.endswith((".lock", ".tmp"))}
    summary = summary_of(folder)
    assert (summary["status"], summary["error"]) == ("finished", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[a-z0-9]{8}", folder.name)
    assert folder.name.endswith(f"-{summary['run_id']}")
    assert folder.parent.name == summary["name"] == "smoke"
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2]


def test_config_yaml_is_what_really_ran(runs: Outcomes, base: Path) -> None:
    folder = only_run(base / "smoke")
    text = (folder / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    assert "name: smoke" in text
    assert f"run_id: {summary_of(folder)['run_id']}" in text


def test_the_console_says_where_the_run_is(runs: Outcomes, base: Path) -> None:
    assert str(only_run(base / "smoke").relative_to(base / "smoke")) in runs["smoke"]["out"]


def test_outputs_latest_is_the_newest(runs: Outcomes, base: Path) -> None:
    for name in ("smoke", "sweep"):
        latest = base / name / "outputs" / "latest"
        assert latest.is_symlink()
        assert not os.path.isabs(os.readlink(latest))
        assert latest.resolve() == only_run(base / name)


LATE_MISTAKES = {
    "kernel": ["model.kernel_size=9", "8×8"],
    "fixed folder": ["model.kernel_size=9", "8×8"],
    "bundled": ["model.weights=bundled:nothing", "bundled:simple_cnn_digits_0_4"],
    "rule": ["lr_policy.rules[0]", "cnv.*", "conv", "lr_policy.rules=[{match"],
    "no network": ["data=mnist", "nowhere/MNIST/raw", "data.root=FOLDER"],
}


@pytest.mark.parametrize("name", LATE_MISTAKES)
def test_a_mistake_found_while_building_leaves_nothing(runs: Outcomes, name: str) -> None:
    said = runs[name]["out"] + runs[name]["err"]
    assert runs[name]["code"] == 2, runs[name]
    assert not JARGON.search(said), said
    for words in LATE_MISTAKES[name]:
        assert words in said, f"{words!r} is not in:\n{said}"
    assert runs[name]["left"] == []


def test_a_diverged_run_is_a_result_in_strict_json(runs: Outcomes, base: Path) -> None:
    assert runs["diverged"]["code"] == 0, runs["diverged"]
    folder = only_run(base / "diverged")
    assert summary_of(folder)["status"] == "diverged"
    assert [v["kind"] for v in summary_of(folder)["verdicts"]] == ["diverged"]
    assert rows_of(folder)[-1]["val/loss"] in ("NaN", "Infinity")


def test_a_run_that_fails_in_training_says_so_in_its_summary(runs: Outcomes, base: Path) -> None:
    assert runs["failed"]["code"] == 1, runs["failed"]
    folder = only_run(base / "failed")
    summary = summary_of(folder)
    assert summary["status"] == "failed"
    assert "No space left on device" in summary["error"]
    assert "No space left on device" in runs["failed"]["err"]
    assert "Traceback" not in runs["failed"]["out"] + runs["failed"]["err"]
    assert "Traceback" in (folder / "lrexp.log").read_text()
    assert summary["last"]["epoch"] == len(rows_of(folder)) > 0


def test_two_runs_in_the_same_second_get_two_folders(runs: Outcomes, base: Path) -> None:
    assert runs["same second"]["code"] == 0, runs["same second"]
    folders = sorted((base / "same second" / "outputs" / "smoke").iterdir())
    assert [folder.name[:-8] for folder in folders] == ["2030-01-02_03-04-05-"] * 2
    assert [summary_of(folder)["status"] for folder in folders] == ["finished"] * 2


def points_of(base: Path, name: str = "sweep") -> list[Path]:
    return sorted(p for p in only_run(base / name).iterdir() if p.is_dir())


def test_a_sweep_gives_a_readable_folder_per_point(runs: Outcomes, base: Path) -> None:
    assert runs["sweep"]["code"] == 0, runs["sweep"]
    assert [p.name for p in points_of(base)] == [
        f"{number}_lr_policy_{policy}_optimizer.lr_{rate}"
        for number, (policy, rate) in enumerate(
            (policy, rate) for policy in ("uniform", "freeze_backbone") for rate in ("0.01", "0.1")
        )
    ]


def test_points_of_a_sweep_are_runs_of_their_own(runs: Outcomes, base: Path) -> None:
    summaries = [summary_of(folder) for folder in points_of(base)]
    assert [summary["status"] for summary in summaries] == ["finished"] * 4
    assert len({summary["run_id"] for summary in summaries}) == 4
    assert len({summary["config_id"] for summary in summaries}) == 4
    assert all((folder / ".hydra" / "config.yaml").is_file() for folder in points_of(base))


def test_points_of_a_sweep_are_wandb_runs_in_one_group(runs: Outcomes, base: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import RunRecord

    group = only_run(base / "sweep").name.encode()
    number = RunRecord.DESCRIPTOR.fields_by_name["run_group"].number
    recorded = bytes([number << 3 | 2, len(group)]) + group
    files = (base / "sweep").glob("outputs/*/*/*/wandb/*/*.wandb")
    in_group = {file.stem: recorded in file.read_bytes() for file in files}
    assert in_group == {f"run-{summary_of(p)['run_id']}": True for p in points_of(base)}


def test_a_sweeper_sees_the_best_monitored_value(runs: Outcomes, base: Path) -> None:
    returned = json.loads((base / "returned.json").read_text())
    assert returned == [summary_of(p)["best"]["val/accuracy"] for p in points_of(base)]
    assert returned == [max(r["val/accuracy"] for r in rows_of(p)) for p in points_of(base)]


def test_a_point_that_cannot_be_built_is_found_before_the_first_one(runs: Outcomes) -> None:
    said = runs["bad point"]["out"] + runs["bad point"]["err"]
    assert runs["bad point"]["code"] == 2
    assert "model.kernel_size=9: is too large for images of 8×8" in said
    assert runs["bad point"]["left"] == []


def test_a_sweep_with_a_failed_point_says_so(runs: Outcomes, base: Path) -> None:
    said = runs["failed sweep"]["out"] + runs["failed sweep"]["err"]
    assert runs["failed sweep"]["code"] == 1, runs["failed sweep"]
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "failed" in [summary_of(p)["status"] for p in points_of(base, "failed sweep")]
