"""Folders held by several hosts' programs: one at a time, and a late one writes nothing.

Another host is a program with another kernel's id, on a file system without locks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from processes import HUNG_S, stat_of, wait_for

from lrexp.config.errors import TakenOver, UserError
from lrexp.folder import hold as holding
from lrexp.folder import owner as reading
from lrexp.folder.claim import Claim, InUseError, owned
from lrexp.folder.files import replacing, write_atomically
from lrexp.folder.hold import HeldError, Hold, heed, hold, owners, refuse_late
from lrexp.folder.layout import LOCK, METRICS, NEXT_OWNER, OWNER, SUMMARY
from lrexp.folder.owner import BOOT, HOST, Owner, Watched, look, owner_in
from lrexp.record.jsonl import JsonlRecorder

ELSEWHERE = Owner("a1", "node7", "another-kernel", 4242)
RENEW_S, STALE_S = 0.02, 0.5  # of these tests
# A program that holds sys.argv[1] and does what the lines it reads say.
HOLDER = f"""
import errno, fcntl, os, signal, sys
from pathlib import Path
from lrexp.config.errors import TakenOver
from lrexp.folder import hold, owner
hold.RENEW_S, owner.STALE_S = {RENEW_S}, {4 * STALE_S}  # whoever lives is seen to on any machine
folder, boot, locks = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "locks"
def no_locks(*_): raise OSError(errno.ENOLCK, "no locks")
if boot != "here":
    hold.BOOT = owner.BOOT = boot
if not locks:
    fcntl.flock = no_locks
from lrexp.folder.claim import Claim
from lrexp.folder.files import write_atomically
from lrexp.record.jsonl import JsonlRecorder
def say(word): print(word, flush=True)
hold.on_loss.append(lambda: say("noticed"))
try:
    claim = Claim(folder, resumed=True)
except Exception as error:
    say(str(error)); sys.exit(2)
recorder = JsonlRecorder(folder)
say("holds")
for line in sys.stdin:
    try:
        match line.strip():
            case "row": recorder.row({{"epoch": 1}})
            case "row in the window": recorder._file.write(b'{{"epoch": 1}}\\n')
            case "file": write_atomically(folder / "summary.json", "late")
            case "release": claim.release()
            case "undo": claim.undo()
        say("done")
    except TakenOver as loss:
        say(loss)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(holding, "RENEW_S", RENEW_S)
    monkeypatch.setattr(reading, "STALE_S", STALE_S)
    monkeypatch.setattr(holding, "_held", {})
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "lrexp-owner"]


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


class Program:
    """A `HOLDER`, spoken to by lines."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.hear()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: stat_of(self.process.pid)[0] == "T", self.process)


@contextmanager
def program(folder: Path, boot: str = "here", locks: str = "locks") -> Iterator[Program]:
    words = [sys.executable, "-c", HOLDER, str(folder), boot, locks]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Program(process)
        finally:
            process.kill()
            process.communicate(timeout=HUNG_S)


def counter(folder: Path) -> int:
    found = look(folder / OWNER, lock_too=False).owner
    return found.counter if found else -1


def taken_by(folder: Path, by: Owner = ELSEWHERE) -> None:
    """Put another's claim file in the place of the one that is there."""
    (folder / NEXT_OWNER).write_text(by.text())
    (folder / NEXT_OWNER).replace(folder / OWNER)


def test_a_claim_says_who_holds_the_folder_counts_and_leaves_nothing(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run")
    said = json.loads((tmp_path / "run" / OWNER).read_text())
    assert (said["host"], said["boot"], said["pid"]) == (HOST, BOOT, os.getpid())
    wait_for(lambda: counter(tmp_path / "run") >= 3)
    claim.release()
    assert not [*(tmp_path / "run").iterdir()]


def test_one_thread_renews_all_and_ends_with_the_last(tmp_path: Path) -> None:
    def renewing() -> int:
        return sum(thread.name == "lrexp-owner" for thread in threading.enumerate())

    claims = [Claim(tmp_path / str(i)) for i in range(3)]
    assert renewing() == 1
    wait_for(lambda: min(counter(claim.folder) for claim in claims) >= 2)
    for claim in claims:
        assert renewing() == 1
        claim.release()
    assert renewing() == 0
    with owned(tmp_path / "again"):
        wait_for(lambda: counter(tmp_path / "again") >= 1)


def test_a_second_launcher_on_this_host_is_told_who_is_there(tmp_path: Path) -> None:
    with program(tmp_path) as first:
        assert first.hear() == "holds"
        with pytest.raises(InUseError) as refused:
            Claim(tmp_path, resumed=True)
        assert f"lrexp process (PID {first.process.pid} on {HOST}), which" in str(refused.value)
        first.stop()  # the lock decides here, however long it stands still
        with pytest.raises(InUseError):
            Claim(tmp_path, resumed=True)


def test_a_second_launcher_on_another_host_is_told_once_the_first_counts(
    tmp_path: Path, no_locks: None, caplog: pytest.LogCaptureFixture
) -> None:
    """And, when it has to wait for that, what it waits for."""
    with program(tmp_path, "another-kernel") as first:
        assert first.hear() == "holds"
        first.stop()
        refused: list[BaseException] = []

        def second() -> None:
            with pytest.raises(InUseError) as found:
                Claim(tmp_path, resumed=True)
            refused.append(found.value)

        reading.STALE_S = HUNG_S
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: caplog.records)
        assert not refused
        first.process.send_signal(signal.SIGCONT)
        thread.join(HUNG_S)
        who = f"PID {first.process.pid} on {HOST}"
        assert f"in use by another lrexp process ({who})" in str(refused[0])
        (waited,) = caplog.messages
        assert f"{tmp_path} is held by another lrexp process ({who}), last heard of 20" in waited
        assert first.ask("row") == "done"


def test_a_folder_that_holds_a_run_of_a_silent_host_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "STALE_S", HUNG_S)
    taken_by(tmp_path)
    (tmp_path / SUMMARY).touch()
    with pytest.raises(UserError, match="already holds a run"):
        Claim(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [OWNER, SUMMARY]


def test_what_a_killed_process_here_held_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reading, "STALE_S", HUNG_S)
    with program(tmp_path) as first:
        assert first.hear() == "holds"
        first.process.kill()
        first.process.wait()
        assert Watched().alive(tmp_path) is False
        with owned(tmp_path):
            assert look(tmp_path / OWNER).alive
    assert not caplog.records


def test_a_killed_process_on_another_host_is_waited_for_and_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with program(tmp_path, "another-kernel") as first:
        assert first.hear() == "holds"
        first.process.kill()
        first.process.wait()
        with owned(tmp_path):
            pass
    assert len(caplog.messages) == 1
    assert sorted(os.listdir(tmp_path)) == [METRICS]


def test_a_stopped_process_that_comes_back_writes_nothing_into_what_was_taken_over(
    tmp_path: Path, no_locks: None
) -> None:
    with program(tmp_path, "another-kernel", "no locks") as late:
        assert late.hear() == "holds"
        assert late.ask("row") == "done"
        late.stop()
        claim = Claim(tmp_path, resumed=True)
        mine = JsonlRecorder(tmp_path, [{"epoch": 1.0}])
        write_atomically(tmp_path / SUMMARY, "mine")
        before = sorted(os.listdir(tmp_path))
        late.process.send_signal(signal.SIGCONT)
        assert late.hear() == "noticed"
        said = late.ask("file")
        assert f"taken over by another lrexp process (PID {os.getpid()} on {HOST})" in said
        assert late.ask("row") == said
        assert late.ask("row in the window") == "done"
        assert late.ask("undo") == "done"
        mine.row({"epoch": 2.0})
        mine.finish({})
        assert (tmp_path / SUMMARY).read_text() == "mine"
        assert (tmp_path / METRICS).read_text() == '{"epoch": 1.0}\n{"epoch": 2.0}\n'
        assert sorted(os.listdir(tmp_path)) == before
        at = counter(tmp_path)
        wait_for(lambda: counter(tmp_path) > at)
        claim.release()


def test_a_late_process_finds_out_though_whoever_took_over_has_ended(
    tmp_path: Path, no_locks: None
) -> None:
    with program(tmp_path, "another-kernel", "no locks") as late:
        assert late.hear() == "holds"
        late.stop()
        with owned(tmp_path):
            write_atomically(tmp_path / SUMMARY, "mine")
        late.process.send_signal(signal.SIGCONT)
        assert late.hear() == "noticed"
        assert ".owner was removed" in late.ask("file")
        assert (tmp_path / SUMMARY).read_text() == "mine"


def taken_by_one_of_many(folder: Path) -> None:
    folder.mkdir()
    taken_by(folder)
    won, lost, together = list[Hold](), list[HeldError](), threading.Barrier(8)

    def take() -> None:
        together.wait()
        try:
            won.append(hold(folder))
        except HeldError as error:
            lost.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HUNG_S)
    (winner,) = won
    assert [error.owner and error.owner.id for error in lost] == 7 * [winner.owner.id]
    assert winner.release()
    assert not [*folder.iterdir()]


def test_of_many_takers_one_wins(tmp_path: Path, no_locks: None) -> None:
    for attempt in range(3):
        taken_by_one_of_many(tmp_path / str(attempt))


def test_of_many_programs_that_take_over_one_wins(tmp_path: Path) -> None:
    taken_by(tmp_path)
    with ExitStack() as started:
        takers = [started.enter_context(program(tmp_path, f"kernel{i}", "none")) for i in range(4)]
        said = [taker.hear() for taker in takers]
    assert said.count("holds") == 1
    assert sum("is in use by another lrexp process (PID" in line for line in said) == 3


def test_who_judged_an_owner_gone_does_not_replace_the_one_after_it(tmp_path: Path) -> None:
    taken_by(tmp_path)
    watched = Watched()
    judged, _ = watched.judged(tmp_path / OWNER)
    taken_by(tmp_path, Owner("b2", "node8", "third-kernel", 7))
    me = Owner("me", HOST, BOOT, os.getpid())
    assert holding._made_instead(tmp_path, me, judged, watched) is None
    assert os.listdir(tmp_path) == [OWNER]
    assert look(tmp_path / OWNER).owner == Owner("b2", "node8", "third-kernel", 7)


@pytest.mark.parametrize("resumed", [True, False])
def test_undoing_a_claim_leaves_what_others_began_while_it_waited(
    resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waited(folder: Path, *_: object) -> Hold:
        (folder / "3").mkdir()  # a job that was queued begins
        return hold(folder)

    monkeypatch.setattr("lrexp.folder.claim.hold", waited)
    claim = Claim(tmp_path / "sweep", resumed, [f"{i}/{SUMMARY}" for i in range(5)])
    (claim.folder / "4").mkdir()
    claim.undo()
    assert sorted(os.listdir(claim.folder)) == (["3", "4"] if resumed else ["3"])


def test_who_claims_a_sweep_leaves_what_a_job_elsewhere_is_writing_and_tidies_the_rest(
    tmp_path: Path,
) -> None:
    names = [f"a/{i}/checkpoints/last.pt" for i in range(2)]
    begun = [tmp_path / name.replace(".pt", ".4194999.tmp") for name in names]  # no PID here
    for file in begun:
        file.parent.mkdir(parents=True)
        file.touch()
    taken_by(tmp_path / "a" / "0")
    Claim(tmp_path, resumed=True, names=names).release()
    assert [file.exists() for file in begun] == [True, False]
    with owned(tmp_path / "a" / "0"):
        assert not begun[0].exists()


@pytest.mark.parametrize("died_in", ["another-kernel", BOOT])
def test_who_died_taking_over_is_in_nobodys_way(died_in: str, tmp_path: Path) -> None:
    taken_by(tmp_path)
    (tmp_path / NEXT_OWNER).write_text(Owner("dead", "node9", died_in, 1).text())
    with owned(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [LOCK, OWNER]
    (tmp_path / NEXT_OWNER).write_text(Owner("dead", "node9", died_in, 1).text())
    with owned(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [LOCK, OWNER]


def writes(folder: Path) -> dict[str, Callable[[], object]]:
    def streamed() -> None:
        with replacing(folder / "deeper" / "predictions.parquet") as file:
            file.write(b"late")

    return {"as a whole": lambda: write_atomically(folder / SUMMARY, "late"), "in parts": streamed}


@pytest.mark.parametrize("how", ["as a whole", "in parts"])
def test_what_is_written_after_a_loss_is_refused_below_the_folder_and_nowhere_else(
    how: str, tmp_path: Path
) -> None:
    for name in ("run", "other"):
        (tmp_path / name / "deeper").mkdir(parents=True)
    write, elsewhere = writes(tmp_path / "run")[how], writes(tmp_path / "other")[how]
    with owned(tmp_path / "run"):
        write()
        before = {
            file: file.read_bytes() for file in (tmp_path / "run").rglob("*[a-z]") if file.is_file()
        }
        taken_by(tmp_path / "run")
        before[tmp_path / "run" / OWNER] = ELSEWHERE.text().encode()
        with pytest.raises(TakenOver, match=r"\(PID 4242 on node7\) while this one gave no sign"):
            write()
        elsewhere()
    after = {
        file: file.read_bytes() for file in (tmp_path / "run").rglob("*[a-z]") if file.is_file()
    }
    assert after == before
    with pytest.raises(TakenOver):  # until this program holds it anew
        write()


def test_a_folder_that_was_lost_is_refused_itself_as_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with owned(tmp_path / "run"):
        taken_by(tmp_path / "run")
        refuse_late(tmp_path / "runs")
        with pytest.raises(TakenOver):
            refuse_late(tmp_path / "run")


def test_who_holds_nothing_looks_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "look", None)
    write_atomically(tmp_path / SUMMARY, "{}")


def test_a_claim_file_that_cannot_be_read_for_a_moment_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "RENEW_S", HUNG_S)
    monkeypatch.setattr(holding, "AGAIN_S", (0.0, 0.0, 0.0))
    with owned(tmp_path):
        whole = look(tmp_path / OWNER)
        seen = [
            reading.Sight(None),
            reading.Sight(""),
            reading.Sight(whole.text and whole.text[:9]),
        ]
        monkeypatch.setattr(holding, "look", lambda *_, **__: seen.pop() if seen else whole)
        write_atomically(tmp_path / SUMMARY, "mine")
        assert not seen
        monkeypatch.setattr(holding, "look", lambda *_, **__: reading.Sight(""))
        with pytest.raises(OSError, match="Stale file handle"):
            write_atomically(tmp_path / SUMMARY, "late")
        monkeypatch.setattr(holding, "look", look)
        write_atomically(tmp_path / SUMMARY, "mine again")


def test_a_folder_that_was_removed_is_said_by_the_write_itself(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run")
    recorder = JsonlRecorder(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    recorder.row({"epoch": 1.0})  # a checkpoint comes first, and fails
    recorder.finish({})
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "run" / SUMMARY, "{}")
    claim.release()


def test_a_program_that_does_the_work_of_another_heeds_what_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owned(tmp_path):
        held = owners()
        monkeypatch.setattr(holding, "_held", {})  # as in a worker
        heed(held)
        write_atomically(tmp_path / SUMMARY, "mine")
        taken_by(tmp_path)
        with pytest.raises(TakenOver):
            write_atomically(tmp_path / SUMMARY, "late")
        monkeypatch.undo()


def test_a_file_of_somebody_elses_in_its_place_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / OWNER).write_text("mine")
    with pytest.raises(UserError, match=f"holds {OWNER}, which this would write over"):
        Claim(tmp_path)
    assert os.listdir(tmp_path) == [OWNER]
    assert (tmp_path / OWNER).read_text() == "mine"


def test_a_late_counter_goes_into_the_file_that_was_replaced(tmp_path: Path) -> None:
    mine = hold(tmp_path)
    taken_by(tmp_path)
    mine.renew()  # between a look and the writing it was stopped
    found = owner_in((tmp_path / OWNER).read_text())
    assert found == ELSEWHERE
    assert mine.release() is False
