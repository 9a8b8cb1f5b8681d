"""Run folders: names, locks, what is left behind, and the newest one."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import HUNG_S

from lrexp.config.errors import UserError
from lrexp.config.names import conf_folder, new_run_id, point_name
from lrexp.folder.claim import Claim, in_the_way, link_latest, wait_until_left
from lrexp.folder.layout import LOCK, OF_RUN, OF_SWEEP, SUMMARY


@given(st.text(alphabet="aZ09._-=,/[]{}'\" \t\näß漢🙂", max_size=300))
def test_point_name_is_a_safe_short_folder_name(overrides: str) -> None:
    name = point_name(overrides)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert len(name.encode()) <= 90


def test_point_name_reads_like_its_overrides() -> None:
    assert point_name("lr_policy=uniform,optimizer.lr=0.01") == (
        "lr_policy_uniform_optimizer.lr_0.01"
    )
    assert point_name("") == "default"
    assert point_name("data.classes=[5,6]") == "data.classes_5_6"


def test_run_ids_are_8_safe_characters_and_never_repeat() -> None:
    ids = {new_run_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[a-z0-9]{8}", run_id) for run_id in ids)


def test_run_ids_owe_nothing_to_a_seed() -> None:
    import random

    random.seed(0)
    first = new_run_id()
    random.seed(0)
    assert new_run_id() != first


def everything_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_undo_leaves_no_trace(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "outputs" / "name" / "run")
    (claim.folder / "half-written").write_text("")
    (claim.folder / ".hydra").mkdir()
    claim.undo()
    assert everything_in(tmp_path) == []


def test_undo_keeps_what_others_wrote(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "outputs" / "name" / "run")
    other = tmp_path / "outputs" / "name" / "other"
    other.mkdir()
    (other / "file").write_text("")
    claim.undo()
    assert everything_in(tmp_path / "outputs") == ["name", "name/other", "name/other/file"]


def test_undo_keeps_a_folder_that_was_there_before_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("keep")
    claim = Claim(folder)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("")
    (folder / "lrexp.log").write_text("")
    claim.undo()
    assert everything_in(folder) == ["notes.txt"]


def test_undo_keeps_what_others_wrote_into_a_folder_that_was_there(
    tmp_path: Path,
) -> None:
    claim = Claim(tmp_path)
    (tmp_path / "thesis.tex").write_text("keep")
    (tmp_path / SUMMARY).write_text("")
    claim.undo()
    assert everything_in(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("name", [name for name in OF_RUN if name != SUMMARY])
def test_a_file_that_a_run_would_write_over_is_named_and_stays(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=f"holds {name}, which this would write over"):
        Claim(tmp_path)
    assert everything_in(tmp_path) == before
    assert file.read_text() == "mine"


def test_links_and_files_in_the_place_of_folders_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "checkpoints").write_text("mine")
    (tmp_path / "wandb").mkdir()  # empty
    assert in_the_way(tmp_path, OF_RUN) == ["config.yaml", "checkpoints"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints").symlink_to("elsewhere")
    assert in_the_way(tmp_path, OF_RUN) == ["config.yaml"]
    (tmp_path / "elsewhere" / "best.pt").write_text("mine")
    assert in_the_way(tmp_path, OF_RUN) == ["config.yaml", "checkpoints/best.pt"]


def test_a_run_needs_none_of_the_files_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text("mine")
    (tmp_path / "my.pt").write_text("mine")
    Claim(tmp_path).undo()
    with pytest.raises(UserError, match=r"holds cases\.yaml"):
        Claim(tmp_path, names=OF_SWEEP)
    assert everything_in(tmp_path) == ["cases.yaml", "my.pt"]


def test_a_lock_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("pid 12")
    for resumed in (False, True):
        with pytest.raises(UserError, match=f"holds {LOCK}"):
            Claim(tmp_path, resumed)
    assert (tmp_path / LOCK).read_text() == "pid 12"


def test_what_a_killed_process_left_is_taken_over_and_its_half_written_files_go(
    tmp_path: Path,
) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from lrexp.folder.claim import Claim\n"
        "folder = Claim(Path(sys.argv[1])).folder; (folder / 'config.yaml').touch()\n"
        "(folder / 'checkpoints').mkdir()\n"
        "for name in ('.plan.csv', 'checkpoints/last', '.mine', 'last'):\n"
        "    (folder / f'{name}.{os.getpid()}.tmp').touch()\n"
        "(folder / f'.plan.csv.{os.getppid()}.tmp').touch(); print(os.getpid(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, check=False
    )
    was = killed.stdout.strip()
    Claim(folder).release()
    others = [f".mine.{was}.tmp", "checkpoints", "config.yaml", f"last.{was}.tmp"]
    assert everything_in(folder) == sorted(others)


def test_what_somebody_is_writing_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".report.html.{os.getppid()}.tmp").touch()
    Claim(tmp_path).release()
    assert everything_in(tmp_path) == [f".report.html.{os.getppid()}.tmp"]


def test_who_comes_second_to_go_on_is_told_that_it_goes_on(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    with pytest.raises(UserError, match="is at this run already\n  there is nothing to do"):
        Claim(tmp_path, resumed=True)
    (tmp_path / "multirun.yaml").touch()
    with pytest.raises(UserError, match="is at this sweep already"):
        Claim(tmp_path, resumed=True)
    claim.release()


def test_a_lock_file_that_its_last_owner_removed_is_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def replaced_meanwhile(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", replaced_meanwhile)
    with pytest.raises(UserError, match="in use"):
        Claim(tmp_path)


def test_release_keeps_the_run_and_takes_the_lock_away(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run")
    assert (claim.folder / LOCK).exists()
    (claim.folder / SUMMARY).write_text("{}")
    claim.release()
    assert everything_in(tmp_path) == ["run", f"run/{SUMMARY}"]


def test_a_claimed_folder_is_refused_and_free_again_after_release(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run")
    with pytest.raises(UserError, match="is in use by another lrexp process"):
        Claim(tmp_path / "run")
    assert (tmp_path / "run" / LOCK).exists()
    claim.release()
    Claim(tmp_path / "run").undo()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from lrexp.folder.claim import Claim\n"
        "claim = Claim(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert killed.returncode == -9
    assert (tmp_path / "run" / LOCK).exists()
    Claim(tmp_path / "run").release()


def test_who_works_in_a_folder_is_waited_for_until_its_process_ends(tmp_path: Path) -> None:
    assert wait_until_left(tmp_path, 0.0)
    code = (
        "import pathlib, sys; from lrexp.folder.claim import work_in;"
        "work_in(pathlib.Path(sys.argv[1])); print(flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as worker:  # type: ignore[call-overload]
        worker.stdout.readline()
        assert not wait_until_left(tmp_path, 0.1)
        worker.kill()
        assert wait_until_left(tmp_path, HUNG_S)


@pytest.mark.parametrize("mark", [SUMMARY, "multirun.yaml"])
def test_a_folder_that_holds_a_run_is_refused_unchanged(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).write_text("old")
    with pytest.raises(UserError, match="already holds a run; nothing was changed"):
        Claim(tmp_path)
    assert everything_in(tmp_path) == [mark]
    assert (tmp_path / mark).read_text() == "old"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"cannot write to {folder}: "):
            Claim(folder)
    assert everything_in(tmp_path) == ["file"]


@pytest.mark.parametrize("folder", ["/proc/nothing/here", "x" * 300])
def test_a_folder_that_cannot_be_made_is_not_said_to_be_in_use(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write to .*: (No such file|File name too long)"):
        Claim(tmp_path / folder)


def test_latest_is_a_relative_link_to_the_newest(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for name in ("first", "second"):
        folder = outputs / "digits" / name
        folder.mkdir(parents=True)
        link_latest(folder)
        assert (outputs / "latest").resolve() == folder
    assert os.readlink(outputs / "latest") == "digits/second"
    assert sorted(p.name for p in outputs.iterdir()) == ["digits", "latest"]
    outputs.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest" / "..").resolve().name == "digits"


def test_latest_is_only_written_under_outputs(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link_latest(tmp_path / "elsewhere")
    assert everything_in(tmp_path) == ["elsewhere"]


def test_a_folder_in_the_place_of_latest_is_left_alone(tmp_path: Path) -> None:
    run, latest = tmp_path / "outputs" / "run", tmp_path / "outputs" / "latest"
    run.mkdir(parents=True)
    latest.mkdir()
    (latest / "file").write_text("")
    link_latest(run)
    assert everything_in(tmp_path / "outputs") == ["latest", "latest/file", "run"]


def test_a_file_in_the_place_of_latest_is_left_alone(tmp_path: Path) -> None:
    run, latest = tmp_path / "outputs" / "run", tmp_path / "outputs" / "latest"
    run.mkdir(parents=True)
    latest.write_text("mine")
    link_latest(run)
    assert latest.read_text() == "mine"
    assert everything_in(tmp_path / "outputs") == ["latest", "run"]


def test_conf_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (conf_folder() / "config.yaml").is_file()
    assert conf_folder() == Path(__file__).resolve().parents[2] / "conf"
