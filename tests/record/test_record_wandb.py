"""W&B through its real client: offline files read back, a loopback server, every way to fail."""

from __future__ import annotations

import errno
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from command_lines import main_in
from processes import HUNG_S
from wandb_log import WandbLog, read_run
from wandb_stub import WandbStub

from lrexp.__main__ import main
from lrexp.record.wandb.client import clean_tags
from lrexp.record.wandb.recorder import flat_summary, tags_of
from lrexp.record.wandb.start import ORIGIN, without_home

KEY = "local-" + "5ec2e7" * 7  # looks like an account's key, opens nothing
USERS_OWN = {
    "WANDB_MODE": "offline",
    "WANDB_API_KEY": KEY,
    "WANDB_PROJECT": "users-project",
    "WANDB_TAGS": "users-tag, another ,,",
    "WANDB_NOTES": "users notes",
}
SWEEP = ("lr_policy=uniform,freeze_backbone", "logger.project=ours", "trainer.epochs=1")


def command(folder: Path, *arguments: str, **environment: str) -> None:
    """The command from `folder`, with no account but what `environment` brings."""
    line = ["experiment=smoke", "logger=wandb", "data.leak_check=skip", *arguments]
    assert main_in(folder, *line, HOME=str(folder), **environment) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without account, settings or network."""
    folder = tmp_path_factory.mktemp("offline")
    command(folder)
    return (folder / "outputs" / "latest").resolve()


@pytest.fixture(scope="module")
def log(run: Path) -> WandbLog:
    return read_run(run)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs of a user who has W&B's own variables set."""
    folder = tmp_path_factory.mktemp("sweep")
    command(folder, "-m", *SWEEP, **USERS_OWN)
    return (folder / "outputs" / "latest").resolve()


@pytest.fixture(scope="module")
def points(sweep: Path) -> list[WandbLog]:
    return [read_run(folder) for folder in sorted(sweep.iterdir()) if folder.is_dir()]


@pytest.fixture
def train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., SimpleNamespace]]:
    """A function that runs the smoke experiment in this process and says what came of it."""

    def trained(*overrides: str) -> SimpleNamespace:
        folder, started = tmp_path / "run", time.perf_counter()
        where = f"hydra.run.dir={folder}"
        line = ["experiment=smoke", "logger=wandb", "data.leak_check=skip", where]
        code = main([*line, *overrides])
        lines = (folder / "lrexp.log").read_text().splitlines()
        return SimpleNamespace(
            code=code,
            folder=folder,
            elapsed_s=time.perf_counter() - started,
            status=json.loads((folder / "summary.json").read_text())["status"],
            warnings=[line for line in lines if " WARNING " in line],
            stderr=capsys.readouterr().err,
        )

    yield trained
    if "wandb" in sys.modules and (wandb := sys.modules["wandb"]) is not None:
        wandb.teardown()
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_read_back_from_the_offline_file_equal_metrics_jsonl(run: Path, log: WandbLog) -> None:
    assert len(log.history) == 2
    assert log.history == rows_of(run)


def test_config_is_the_full_resolved_config_and_plain_names_to_group_by(
    run: Path, log: WandbLog
) -> None:
    names = {
        "lr_policy.name": "uniform",
        "model.name": "simple_cnn",
        "data.name": "digits",
        "optimizer.name": "sgd",
        "scheduler.name": "constant",
        "config_id": json.loads((run / "summary.json").read_text())["config_id"],
    }
    saved = yaml.safe_load((run / "config.yaml").read_text())
    for config in (log.config, saved):  # with a new tag the client sends it again, without what is
        assert not config["data"].pop("eval_sets", {})  # empty
    facts = json.loads((run / "environment.json").read_text())
    told, command = log.config.pop("environment"), log.config.pop("command")
    assert log.config == saved | names
    assert told == {key: facts[key] for key in ORIGIN if key in facts}
    assert {"commit", "packages", "python", "device"} <= set(told)
    assert command == "lrexp experiment=smoke logger=wandb data.leak_check=skip"


def test_the_run_says_what_it_is(run: Path, log: WandbLog) -> None:
    assert log.run["run_id"] == json.loads((run / "summary.json").read_text())["run_id"]
    assert log.run["project"] == "lrexp"
    assert log.run["job_type"] == "train"
    assert "experiment=smoke" in log.run["display_name"]
    assert log.run["run_group"] == ""
    assert {"uniform", "simple_cnn", "digits", "sgd"} <= set(log.tags)


def test_every_metric_is_drawn_over_epochs(log: WandbLog) -> None:
    assert log.step_metrics == {"epoch": "", "*": "epoch"}


def test_summary_has_the_best_epoch_the_test_and_the_gap(run: Path, log: WandbLog) -> None:
    ours = json.loads((run / "summary.json").read_text())
    expected = {f"{part}/{k}": v for part in ("best", "test") for k, v in ours[part].items()}
    expected |= {f"gap/best/{k}": v for k, v in ours["gap"]["best"].items()}
    expected |= {f"timings/{k}": v for k, v in ours["timings"].items()}
    expected |= {f"parameters/{k}": v for k, v in ours["parameters"].items()}
    expected |= {"status": "finished", "device": ours["device"]}
    assert {k: log.summary.get(k) for k in expected} == expected


def test_further_test_sets_are_flat_under_test() -> None:
    test = {"loss": 0.5, "images": 10, "eval_sets": {"night": {"loss": 1.5, "images": 7}}}
    whole = dict.fromkeys(("status", "seed", "config_id", "plan_hash", "device"), "x")
    flat = flat_summary({**whole, "best": {}, "test": test, "gap": {"last": {"loss": 0.1}}})
    assert {k: v for k, v in flat.items() if k not in whole} == {
        "test/loss": 0.5,
        "test/images": 10,
        "test/night/loss": 1.5,
        "test/night/images": 7,
        "gap/last/loss": 0.1,
    }
    assert "eval_sets" in test  # the summary itself is left as it is


def test_a_single_run_has_its_report_its_mix_ups_and_its_most_wrong_images(
    run: Path, log: WandbLog
) -> None:
    (files,) = run.glob("wandb/offline-run-*/files")
    assert (files / "report.html").read_bytes() == (run / "report.html").read_bytes()
    tables = {
        name: json.loads((files.parent / f"{name}.table.json").read_text())
        for name in ("confusion", "wrong_images")
    }
    for name, table in tables.items():
        assert log.summary[name]["nrows"] == len(table["data"]) > 0
    lines = (run / "confusion.csv").read_text().splitlines()[1:]
    counted = sum(int(cell) for line in lines for cell in line.split(",")[2:])
    assert sum(row[-1] for row in tables["confusion"]["data"]) == counted
    shown = {row[0]["path"] for row in tables["wrong_images"]["data"]}
    kept = {f"media/images/{file.name}" for file in files.parent.glob("wrong_images/*.png")}
    assert shown == kept


def test_a_finished_run_exits_with_0(log: WandbLog) -> None:
    assert log.exit_code == 0


def test_the_offline_run_lies_inside_the_run_folder_alone(run: Path) -> None:
    assert [p.name for p in run.glob("wandb/offline-run-*")] != []
    assert not list(run.parents[2].glob("wandb"))


def test_points_of_a_sweep_are_separate_runs_of_one_group(
    sweep: Path, points: list[WandbLog]
) -> None:
    assert len(points) == 2
    assert len({point.run["run_id"] for point in points}) == 2
    assert {point.run["run_group"] for point in points} == {sweep.name}
    assert {point.config["lr_policy.name"] for point in points} == {"uniform", "freeze_backbone"}
    for point in points:
        assert len(point.history) == 1
        assert point.exit_code == 0
        assert point.config["lr_policy.name"] in point.run["display_name"]


def test_variables_of_the_user_win_over_the_config(points: list[WandbLog]) -> None:
    for point in points:
        assert point.run["project"] == "users-project"
        assert point.run["notes"] == "users notes"
        assert {"users-tag", "another"} <= set(point.tags)
        assert [tag for tag in point.tags if tag != tag.strip() or not tag] == []
        assert not {"confusion", "wrong_images"} & set(point.summary)  # a setting asks for them


def test_the_api_key_is_in_no_file_of_the_sweep(sweep: Path) -> None:
    files = [file for file in sweep.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [str(file) for file in files if KEY.encode() in file.read_bytes()] == []


def test_group_name_and_id_of_the_user_win_and_a_failed_run_says_why(
    train: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "users-group")
    monkeypatch.setenv("WANDB_NAME", "users name")
    monkeypatch.setenv("WANDB_RUN_ID", "users-id")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))

    def no_right(_trainer: Any, checkpoints: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(checkpoints / "last.pt"))

    monkeypatch.setattr("lrexp.train.loop.save_last", no_right)  # epoch 1 fails
    done = train("logger.group=ours")
    log = read_run(done.folder)
    assert (done.code, done.status) == (1, "failed")
    assert log.exit_code == 1
    assert len(log.history) == 1
    assert (log.run["run_group"], log.run["display_name"]) == ("users-group", "users name")
    assert log.run["run_id"] == "users-id"
    assert any("WANDB_DIR is not followed" in line for line in done.warnings)
    error = json.loads((done.folder / "summary.json").read_text())["error"]
    assert log.summary["error"] == without_home(error)
    assert "checkpoints" in error
    assert "failed" in log.tags
    assert log.alerts == [("failed", without_home(error))]


def test_tags_are_stripped_cut_and_each_there_once() -> None:
    assert clean_tags([" a", "a ", "", "  ", "b" * 70]) == ["a", "b" * 64]


def test_tags_of_what_is_no_longer_found_go() -> None:
    had = ("sgd", "mine", "too_slow", "leak", "failed")
    assert tags_of(had, ["sgd", "mine"], ["healthy"]) == ("sgd", "mine", "failed", "healthy")
    assert tags_of(had, ["sgd", "leak"], ["too_slow"]) == had  # leak is the user's own


def test_missing_wandb_is_one_warning(
    train: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # import wandb raises ImportError
    done = train()
    assert (done.code, done.status) == (0, "finished")
    assert len(done.warnings) == 1
    assert "W&B" in done.warnings[0]
    assert "W&B" in done.stderr
    assert len(rows_of(done.folder)) == 2


def test_broken_wandb_is_one_warning_and_waiting_for_its_server_is_bounded(
    train: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    asked: dict[str, Any] = {}

    def broken(**arguments: Any) -> None:
        asked.update(arguments)
        raise RuntimeError("out of order")

    monkeypatch.setattr(wandb, "init", broken)
    done = train()
    assert (done.code, done.status) == (0, "finished")
    assert len(done.warnings) == 1
    assert "out of order" in done.warnings[0]
    assert len(rows_of(done.folder)) == 2
    assert 0 < asked["settings"].init_timeout <= 30
    assert 0 < asked["settings"].finish_timeout <= 60


@pytest.mark.slow
def test_an_unreachable_server_is_one_warning_and_an_offline_run(
    train: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    done = train("logger.mode=online")
    assert (done.code, done.status) == (0, "finished")
    assert len(done.warnings) == 1
    assert "offline" in done.warnings[0]
    assert "connection refused" in done.warnings[0]  # not that the client was busy asking again
    (file,) = done.folder.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0
    assert done.elapsed_s < HUNG_S


def test_an_online_run_delivers_the_same_rows(
    train: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    with WandbStub() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        done = train("run_id=online00")
        import wandb

        wandb.teardown()  # before the server goes
    assert (done.code, done.status, done.warnings) == (0, "finished", [])
    assert "wandb:" not in done.stderr
    assert server.history("online00") == rows_of(done.folder)
    ours = json.loads((done.folder / "summary.json").read_text())
    assert server.summary("online00")["best/val/loss"] == ours["best"]["val/loss"]
    assert server.exit_codes == {"online00": 0}


@pytest.mark.slow
def test_an_outage_while_training_is_one_warning_and_no_endless_wait(
    train: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    with WandbStub() as server:
        server.down_after_init = True
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
        done = train("run_id=outage00")
        import wandb

        wandb.teardown()
    assert server.exit_codes == {}
    assert (done.code, done.status) == (0, "finished")
    assert len(done.warnings) == 1
    assert read_run(done.folder).history == rows_of(done.folder)  # `wandb sync` can send them
    assert done.elapsed_s < HUNG_S
