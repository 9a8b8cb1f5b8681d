"""A run that goes on keeps its W&B run: no row lost, none repeated. The real client throughout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from processes import HUNG_S, running, wait_for
from wandb_log import read_log
from wandb_stub import WandbStub

from lrexp.record.wandb.file import runs_below, synced, unsent

# The client rounds down to whole seconds, and takes 0 for its own 15.
QUICK = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
# Records epochs FIRST..LAST of a run, and leaves a run folder as lrexp does; `crash` ends without a
# word, as a killed program does. PAUSE s lie between rows, so that some are sent before the end.
PART = """
import json, os, signal, sys, time
import yaml
from pathlib import Path
from lrexp.record.recorders import RunInfo
from lrexp.record.wandb.recorder import WandbRecorder
from lrexp.config.schema.training import Wandb

folder, first, last, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
row = lambda epoch: {"epoch": epoch, "val/loss": 1 / epoch}
groups = ("lr_policy", "model", "data", "optimizer", "scheduler")
pause = float(sys.argv[5])
config = {"name": "smoke", **{group: {"name": "x"} for group in groups}}
logger = {"name": "wandb", "project": "p", "entity": None, "group": None, "tags": [], "notes": None}
logger |= {"mode": "auto", "artifacts": "none", "details": "auto"}
config |= {"logger": logger, "trainer": {"monitor": "val/loss"}}
summary = {"status": "running", "run_id": "goeson00", "seed": 0, "config_id": "c",
           "plan_hash": "h", "device": "cpu", "verdicts": [], "best": {}, "test": {}, "gap": {}}
(folder / "config.yaml").write_text(yaml.safe_dump(config))
(folder / "summary.json").write_text(json.dumps(summary))
written = [json.dumps(row(e)) for e in range(1, first)]
(folder / "metrics.jsonl").write_text("".join(f"{line}\\n" for line in written))
settings = Wandb("wandb", "p", None, None, [], None, "auto", "none", "auto")
info = RunInfo(folder, "goeson00", "t", None, config, "c", 9, "val/loss", [],
               earlier=None if first == 1 else [row(e) for e in range(1, first)])
recorder = WandbRecorder(settings, "train", info)
print(recorder.where, flush=True)
for epoch in range(first, last + 1):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(epoch)) + "\\n")
    recorder.row(row(epoch))
    time.sleep(pause)
if end == "crash":
    time.sleep(2.5)
    os.kill(os.getpid(), signal.SIGKILL)
summary |= {"status": end, "best": row(last)}
(folder / "summary.json").write_text(json.dumps(summary))
recorder.finish(summary)
"""
PLAN = (
    "name,shape,layer,layer_name,group,head,source,lr_scale,weight_decay,trainable_from,"
    "trainable_until,g,measured,bn_stats,frozen_dropout,schedule_restart\n"
    "w,2x3,0,l,l,true,fresh,1.0,0.0,0,,,,follow,false,\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "outputs" / "x" / "run"
    run.mkdir(parents=True)
    (run / "plan.csv").write_text(PLAN)
    return run


def record(
    folder: Path, first: int, last: int, end: str, pause: float = 0, **environment: str
) -> None:
    # the client's service inherits a pipe and would keep it open: a file it is
    said = folder / "stderr"
    with said.open("w") as errors:
        done = subprocess.run(
            [sys.executable, "-c", PART, *map(str, (folder, first, last, end, pause))],
            cwd=folder.parents[2],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            timeout=HUNG_S,
            check=False,
        )
    assert done.returncode == (-signal.SIGKILL if end == "crash" else 0), said.read_text()


def clients() -> list[str]:
    """The programs of W&B's client that run."""
    return [line for line in running().values() if "wandb-core" in line]


def epochs(rows: list[dict[str, Any]]) -> list[int]:
    return [row["epoch"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("again_from", [3, 4, 5])
def test_online_the_same_run_goes_on(folder: Path, again_from: int) -> None:
    """After 4 recorded epochs; the checkpoint may be older than the last row."""
    with WandbStub() as server:
        record(folder, 1, 4, "crash", **QUICK, **server.environment)
        # the client sends what it has until it notices that its program is gone
        wait_for(lambda: len(server.history("goeson00")) == 4 or not clients())
        record(folder, again_from, 6, "finished", **server.environment)
        wait_for(lambda: server.exit_codes.get("goeson00") == 0)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4, 5, 6]
        assert server.summary("goeson00")["epoch"] == 6
        assert list(server.runs) == ["goeson00"]


@pytest.mark.slow
def test_rows_that_a_killed_run_could_not_send_are_sent_by_the_next(folder: Path) -> None:
    with WandbStub() as server:
        never = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "60"}
        record(folder, 1, 4, "crash", **never, **server.environment)
        assert len(server.history("goeson00")) < 4
        record(folder, 5, 6, "finished", **server.environment)
        wait_for(lambda: server.exit_codes.get("goeson00") == 0)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_killed_online_run_is_uploaded_whole(folder: Path) -> None:
    with WandbStub() as server:
        never = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "60"}
        record(folder, 1, 4, "crash", **never, **server.environment)
        upload(folder, server)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4]


@pytest.mark.slow
def test_offline_a_second_file_goes_on_and_both_are_uploaded(folder: Path) -> None:
    record(folder, 1, 4, "crash", WANDB_MODE="offline")
    record(folder, 4, 6, "finished", WANDB_MODE="offline")
    first, second = runs_below(folder)
    wait_for(lambda: read_log(second).exit_code is not None)
    assert epochs(read_log(first).history) == [1, 2, 3, 4]
    assert epochs(read_log(second).history) == [5, 6]
    with WandbStub() as server:
        upload(folder, server)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4, 5, 6]
        assert server.exit_codes == {"goeson00": 0}


@pytest.mark.slow
def test_begun_offline_and_going_on_online_sends_every_row_once(folder: Path) -> None:
    record(folder, 1, 4, "crash", WANDB_MODE="offline")
    with WandbStub() as server:
        record(folder, 4, 6, "finished", **server.environment)
        wait_for(lambda: server.exit_codes.get("goeson00") == 0)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4, 5, 6]
    assert synced(runs_below(folder)[0]).exists()  # nothing of it is left to upload


def upload(folder: Path, server: WandbStub, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lrexp", "sync", str(folder), "--to", "p"],
        cwd=folder.parents[2],
        env={**os.environ, "PYTHONPATH": str(ROOT), **server.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_killed_run_has_every_row_that_is_a_second_old_on_disk(folder: Path) -> None:
    record(folder, 1, 3, "crash", WANDB_MODE="offline")
    (file,) = runs_below(folder)
    assert epochs(read_log(file).history) == [1, 2, 3]
    assert json.dumps(read_log(file).exit_code) == "null"


OFFLINE = {"WANDB_MODE": "offline"}
# What happens to a run after it was killed with some of its 8 rows sent.
# s: sync, k: resumed and killed again, K: the same offline, r: resumed to the end, R: offline.
ORDERS = ("sr", "ksr", "sKsRs")


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_every_epoch_is_there_once_whatever_comes_after_a_kill(folder: Path, order: str) -> None:
    last = 8
    with WandbStub() as server:
        server.down_after_rows = 3  # then it is away, until the program is gone
        record(folder, 1, last, "crash", 0.3, **QUICK, **server.environment)
        sent = len(server.history("goeson00"))
        assert 3 <= sent < last
        server.down = False
        for what in order:
            if what == "s":
                upload(folder, server)
                continue
            end = "finished" if what in "rR" else "crash"
            where = OFFLINE if what in "KR" else QUICK | server.environment
            if what == "k":
                server.down_after_rows = last + 2
            record(folder, last + 1, last + 4, end, 0.3, **where)
            server.down, server.down_after_rows, last = False, 0, last + 4
        wait_for(lambda: len(server.history("goeson00")) >= last)
        assert epochs(server.history("goeson00")) == list(range(1, last + 1))
        assert list(server.runs) == ["goeson00"]
        upload(folder, server)  # nothing is left, and nothing comes twice
        assert epochs(server.history("goeson00")) == list(range(1, last + 1))
        if "r" in order.lower():
            assert server.exit_codes == {"goeson00": 0}
            assert server.summary("goeson00")["status"] == "finished"


@pytest.mark.slow
def test_rows_that_the_server_refused_are_told_kept_and_sent_later(folder: Path) -> None:
    with WandbStub() as server:
        server.refuses_after_rows = 2
        record(folder, 1, 6, "finished", 0.4, **QUICK, **server.environment)
        assert len(server.history("goeson00")) < 6
        said = (folder / "stderr").read_text()
        assert re.search(r"W&B took \d of 6 rows", said), said
        assert f"lrexp sync {folder.relative_to(folder.parents[2])}" in said
        (file,) = runs_below(folder)
        assert unsent(file).exists()
        assert (file.parent / "logs").is_dir()
        assert "of 6 rows" in upload(folder, server, code=1)  # it still refuses
        server.refuses_after_rows = None
        upload(folder, server)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4, 5, 6]
        assert server.summary("goeson00")["status"] == "finished"
        assert server.exit_codes == {"goeson00": 0}
        assert not any(unsent(file).exists() for file in runs_below(folder))


@pytest.mark.slow
def test_an_upload_that_the_server_refuses_is_told_and_sent_later(folder: Path) -> None:
    record(folder, 1, 6, "finished", **OFFLINE)
    wait_for(lambda: read_log(runs_below(folder)[0]).exit_code is not None)
    with WandbStub() as server:
        server.refuses_after_rows = 0
        assert "took 0 of 6 rows" in upload(folder, server, code=1)
        server.refuses_after_rows = None
        upload(folder, server)
        assert epochs(server.history("goeson00")) == [1, 2, 3, 4, 5, 6]
        assert server.exit_codes == {"goeson00": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.table.json", "report.html"])
def test_a_file_that_the_server_alone_refused_is_told_kept_and_sent_later(
    folder: Path, name: str
) -> None:
    what = {"plan.table.json": "table plan", "report.html": "report.html"}[name]
    (folder / "report.html").write_text("<p>what came of it</p>")
    with WandbStub() as server:
        server.refuses = re.escape(name)
        record(folder, 1, 3, "finished", **QUICK, **server.environment)
        assert epochs(server.history("goeson00")) == [1, 2, 3]
        assert f"W&B took every row, but not: {what}; nothing is lost here, send the rest" in (
            folder / "stderr"
        ).read_text().replace("\n", " ")
        assert unsent(runs_below(folder)[0]).exists()
        assert f"but not: {what}" in upload(folder, server, code=1)  # it still refuses
        server.refuses = ""
        upload(folder, server)
        assert any(name in sent for sent in server.uploads)
        assert epochs(server.history("goeson00")) == [1, 2, 3]
        assert not any(unsent(file).exists() for file in runs_below(folder))


@pytest.mark.slow
def test_an_upload_of_which_one_file_is_refused_is_told_and_sent_later(folder: Path) -> None:
    record(folder, 1, 3, "finished", **OFFLINE)
    wait_for(lambda: read_log(runs_below(folder)[0]).exit_code is not None)
    with WandbStub() as server:
        server.refuses = r"plan\.table\.json"
        assert "but not: table plan" in upload(folder, server, code=1)
        server.refuses = ""
        upload(folder, server)
        assert {one["state"] for one in server.artifacts.values()} >= {"COMMITTED"}
        assert epochs(server.history("goeson00")) == [1, 2, 3]
