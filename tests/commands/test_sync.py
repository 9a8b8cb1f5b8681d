"""Uploading offline runs through the real client, against a loopback server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import main_in
from conftest import ROOT
from processes import HUNG_S, wait_for
from wandb_log import read_run
from wandb_stub import WandbStub

from lrexp.__main__ import main
from lrexp.record.wandb.allowed import neutral_folder
from lrexp.record.wandb.file import (
    BLOCK,
    FRAME,
    artifact_files,
    epochs,
    records,
    synced,
    unsent,
    uploading,
)
from lrexp.record.wandb.upload import _base, unsynced


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with one run that was recorded offline, checkpoint and all."""
    folder = tmp_path_factory.mktemp("sync") / "home of alice"
    folder.mkdir()
    line = ("experiment=smoke", "logger=wandb", "run_id=syncrun0")
    assert main_in(folder, *line, HOME=str(folder), WANDB_MODE="offline") == 0
    read_run((folder / "outputs" / "latest").resolve())  # its writer is through
    return folder


@pytest.fixture
def work(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, elsewhere, as the working directory."""
    folder = tmp_path / "moved"
    shutil.copytree(recorded / "outputs", folder / "outputs", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def the_file(work: Path) -> Path:
    (file,) = unsynced(work / "outputs")
    return file


def command(work: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lrexp", "sync", *arguments],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )


def test_our_reader_agrees_with_the_tests_own(work: Path) -> None:
    log = read_run(work / "outputs" / "smoke" / the_file(work).parents[2].name)
    assert epochs(the_file(work)) == {row["epoch"] for row in log.history} == {1, 2}
    names = {Path(path).name for path, _ in artifact_files(the_file(work))}
    assert {"best.pt", "config.yaml", "plan.csv", "plan.table.json"} <= names


def test_a_torn_file_is_read_up_to_the_tear(work: Path) -> None:
    file = the_file(work)
    whole = file.read_bytes()
    found = set()
    for cut in range(7, len(whole), 97):
        file.write_bytes(whole[:cut])
        found.add(max(epochs(file), default=-1))
    assert found == {-1, 1, 2}


def test_nothing_to_upload_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 0
    assert "nothing to upload" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


def test_without_login_nothing_is_begun(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync"]) == 2
    assert "wandb login" in capsys.readouterr().err
    assert not uploading(the_file(work)).exists()


def test_a_dry_run_lists_and_sends_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would upload outputs/smoke/" in said
    assert said.endswith("1 to upload, 0 would be left; nothing was sent\n")
    assert main(["sync", "--dry-run", "latest"]) == 0
    assert capsys.readouterr().out == said
    assert not uploading(the_file(work)).exists()


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_missing_or_changed_artifact_file_is_named(
    work: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = the_file(work).parents[2] / "checkpoints" / "best.pt"
    if harm == "gone":
        checkpoint.unlink()
    else:
        checkpoint.write_bytes(b"another")
    assert main(["sync"]) == 1
    said = capsys.readouterr().out
    assert harm in said
    assert "best.pt" in said
    assert "0 uploaded, 1 left" in said


def test_a_run_that_is_still_written_is_left(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrexp.folder.claim import Claim

    claim = Claim(the_file(work).parents[2], resumed=True)
    try:
        assert main(["sync"]) == 1
        assert "still being written" in capsys.readouterr().out
    finally:
        claim.release()


def test_online_runs_count_only_when_the_server_lacks_rows(work: Path) -> None:
    file = the_file(work)
    online = file.parent.with_name(file.parent.name.removeprefix("offline-"))
    file.parent.rename(online)
    assert unsynced(work) == []
    unsent(online / file.name).touch()
    assert unsynced(work) == [online / file.name]


def write_records(file: Path, *changed: Callable[[Any], None]) -> None:
    """A `.wandb` file of its own records, each shown to what changes them first."""
    found = list(records(file))
    whole = bytearray(b":W&B\xee\xbf\x00")[: FRAME.size]
    for record in found:
        for change in changed:
            change(record)
        data = record.SerializeToString()
        first = True
        while first or data:
            left = BLOCK - len(whole) % BLOCK
            if left < FRAME.size:
                whole += bytes(left)
                continue
            piece, data = data[: left - FRAME.size], data[left - FRAME.size :]
            kind = (1 if first else 4) if not data else (2 if first else 3)
            whole += FRAME.pack(0, len(piece), kind) + piece
            first = False
    file.write_bytes(bytes(whole))


def of_artifact(path: str) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for entry in record.artifact.manifest.contents:
            if entry.local_path.endswith("best.pt"):
                entry.local_path, entry.size = path, Path(path).stat().st_size

    return change


def elsewhere(key: str, value: str) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        if record.WhichOneof("record_type") == "run":
            setattr(record.run, key, value)

    return change


def of_files(path: str) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for item in record.files.files:
            item.path = path

    return change


def listed_elsewhere(record: Any) -> None:
    if record.WhichOneof("record_type") == "artifact":
        record.artifact.manifest.manifest_file_path = "/etc/passwd"


def a_folder_to_read(record: Any) -> None:
    if record.WhichOneof("record_type") == "exit":
        record.tbrecord.log_dir = "/etc"


FOREIGN: dict[str, tuple[Callable[[Any], None], str]] = {
    "a file of the machine": (of_artifact("/etc/hostname"), "outside of the run's folder"),
    "a file beside the run": (of_files("../../../../other"), "outside of the run's folder"),
    "an absolute file": (of_files("/etc/hostname"), "outside of the run's folder"),
    "a list elsewhere": (listed_elsewhere, "listed elsewhere"),
    "a folder of events": (a_folder_to_read, "what no run of lrexp records: tbrecord"),
    "another project": (elsewhere("project", "theirs"), "--to theirs"),
    "another team": (elsewhere("entity", "them"), "--to them/lrexp"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_the_runs_own_is_not_sent(
    work: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = FOREIGN[name]
    write_records(the_file(work))
    assert main(["sync", "--dry-run"]) == 0  # as it was
    assert "to lrexp at http" in capsys.readouterr().out
    write_records(the_file(work), change)
    assert main(["sync"]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "0 uploaded, 1 left" in out
    if "--to" in said:
        assert main(["sync", "--dry-run", *said.split()]) == 0
        assert said.split()[1] in capsys.readouterr().out


def test_links_among_a_runs_files_are_not_followed(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = the_file(work)
    link = file.parent / "files" / "own.txt"
    link.symlink_to("/etc/hostname")
    assert main(["sync"]) == 1
    assert "files/own.txt is a link" in capsys.readouterr().out
    link.unlink()
    link = synced(file)
    link.symlink_to(tmp_path / "made")
    assert main(["sync"]) == 1
    assert "is a link" in capsys.readouterr().out
    link.unlink()
    checkpoint = file.parents[2] / "checkpoints" / "best.pt"
    checkpoint.rename(tmp_path / "best.pt")
    checkpoint.symlink_to(tmp_path / "best.pt")
    assert main(["sync"]) == 1
    assert "outside of the run's folder" in capsys.readouterr().out


def test_a_file_that_is_no_record_is_left(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    the_file(work).write_bytes(bytes(7) + FRAME.pack(0, 4, 1) + b"\xff\xff\xff\xff")
    assert main(["sync"]) == 1
    assert "it cannot be read" in capsys.readouterr().out


def test_settings_in_the_folder_decide_no_server(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = the_file(work).parents[2]
    (run / "wandb" / "settings").write_text("[default]\nbase_url = http://localhost:9\n")
    monkeypatch.chdir(run)
    monkeypatch.setattr("lrexp.record.wandb.client._prepared", None)
    assert main_in(run, "sync", ".", "--dry-run") == 2
    assert "would decide where runs of this folder go" in capsys.readouterr().err


def test_the_client_is_started_where_nothing_can_be_imported(work: Path) -> None:
    file = the_file(work)
    hostile = 'raise SystemExit("imported")\n'
    for folder in (work, file.parents[2], file.parent):
        (folder / "wandb.py").write_text(hostile)
    base = _base(file, [path for path, _ in artifact_files(file)])
    with neutral_folder([file], base) as (here, environment):
        seen = {p.relative_to(here): p.resolve() for p in here.rglob("*") if not p.is_dir()}
        for path, size in artifact_files(file):
            assert (here / path).resolve().is_relative_to(file.parents[2])
            assert (here / path).stat().st_size == size
        code = "import sys, wandb; print(wandb.__file__, '' in sys.path)"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert {p.name for p in seen} >= {"best.pt", "config.yaml"}
    assert "site-packages" in done.stdout
    assert "False" in done.stdout


@pytest.mark.slow
def test_an_offline_run_arrives_whole_and_once(work: Path, tmp_path: Path) -> None:
    file = the_file(work)
    (work / "wandb.py").write_text('raise SystemExit("imported")\n')  # not by the client either
    rows = [json.loads(r) for r in (file.parents[2] / "metrics.jsonl").read_text().splitlines()]
    with WandbStub() as server:
        first = command(tmp_path, "moved/outputs", **server.environment)
        second = command(tmp_path, "moved/outputs", **server.environment)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "1 uploaded, 0 left" in first.stdout
    assert "nothing to upload" in second.stdout
    assert server.history("syncrun0") == rows
    assert server.exit_codes == {"syncrun0": 0}
    assert server.summary("syncrun0")["status"] == "finished"
    assert {a["state"] for a in server.artifacts.values()} == {"COMMITTED"}
    assert {"best.pt", "plan.table.json"} <= {name.split("/")[-1] for name in server.uploads}
    assert synced(file).exists()
    assert not uploading(file).exists()


def test_a_server_that_is_down_is_said_and_nothing_begun(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with WandbStub() as server:
        server.down = True
        assert main_in(work, "sync", WANDB_HTTP_TIMEOUT="1", **server.environment) == 2
    assert "nothing was uploaded" in capsys.readouterr().err
    assert not uploading(the_file(work)).exists()


@pytest.mark.slow
def test_an_upload_that_broke_off_is_ended_by_the_next(work: Path) -> None:
    with WandbStub() as server:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **server.environment}
        first = subprocess.Popen(
            [sys.executable, "-m", "lrexp", "sync"],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(uploading(the_file(work)).exists, first)
        server.down = True
        time.sleep(2)
        first.send_signal(signal.SIGINT)
        assert first.wait(HUNG_S) == 130
        server.down = False
        again = command(work, **server.environment)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "nothing to upload" in command(work, **server.environment).stdout
    assert [row["epoch"] for row in server.history("syncrun0")] == [1, 2]
    assert server.summary("syncrun0")["status"] == "finished"
    assert server.exit_codes == {"syncrun0": 0}
    assert {a["state"] for a in server.artifacts.values()} == {"COMMITTED"}
    assert {"best.pt", "plan.table.json"} <= {name.split("/")[-1] for name in server.uploads}
