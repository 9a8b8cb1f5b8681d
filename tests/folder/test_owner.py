"""What a claim file tells: of programs of this kernel at once, of other hosts' by looking again."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lrexp.folder import owner
from lrexp.folder.claim import in_use
from lrexp.folder.layout import OWNER
from lrexp.folder.owner import BOOT, FORGOTTEN_S, GONE_S, STALE_S, Owner, Watched, look

ELSEWHERE = Owner("a1", "node7", "another-kernel", 4242)
HERE = Owner("b2", "node1", BOOT, 4243)


def write(folder: Path, by: Owner | str) -> Path:
    text = by if isinstance(by, str) else by.text()
    (folder / OWNER).write_text(text)
    return folder / OWNER


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(clock: Clock) -> Watched:
    return Watched(clock)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_claim_file_is_json_and_as_long_whatever_its_counter_is() -> None:
    said = json.loads(replace(ELSEWHERE, counter=17).text())
    assert said == {
        "owner": "a1",
        "host": "node7",
        "boot": "another-kernel",
        "pid": 4242,
        "counter": 17,
    }
    assert len({len(replace(ELSEWHERE, counter=c).text()) for c in (0, 9, 10, 10**11)}) == 1


def test_a_folder_that_nobody_claims_is_free_and_forgotten(
    tmp_path: Path, watched: Watched
) -> None:
    assert watched.alive(tmp_path) is False
    assert watched.alive(tmp_path / "nowhere") is False
    assert not watched._seen


def test_an_owner_elsewhere_lives_while_it_counts_and_is_gone_when_it_stands_still(
    tmp_path: Path, watched: Watched, clock: Clock
) -> None:
    write(tmp_path, ELSEWHERE)
    assert watched.alive(tmp_path) is None
    clock.now += STALE_S - 1
    assert watched.alive(tmp_path) is None
    write(tmp_path, replace(ELSEWHERE, counter=1))
    assert watched.alive(tmp_path) is True
    clock.now += STALE_S - 1
    assert watched.alive(tmp_path) is True
    clock.now += 1
    assert watched.alive(tmp_path) is False
    write(tmp_path, replace(ELSEWHERE, counter=2))  # it was stopped, and nobody took over
    assert watched.alive(tmp_path) is True


def test_the_time_of_the_file_says_nothing(tmp_path: Path, watched: Watched, clock: Clock) -> None:
    file = write(tmp_path, ELSEWHERE)
    assert watched.alive(tmp_path) is None
    clock.now += STALE_S - 1
    os.utime(file, (2e9, 2e9))
    assert watched.alive(tmp_path) is None
    os.utime(file, (1, 1))
    assert watched.alive(tmp_path) is None
    clock.now += 1
    assert watched.alive(tmp_path) is False


def test_of_this_kernel_the_lock_tells_at_once(tmp_path: Path, watched: Watched) -> None:
    file = write(tmp_path, HERE)
    assert watched.alive(tmp_path) is False
    with file.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert watched.alive(tmp_path) is True
        write(tmp_path, ELSEWHERE)  # a file system that shares its locks
        assert watched.alive(tmp_path) is True


def test_without_locks_an_owner_here_is_judged_as_one_elsewhere(
    tmp_path: Path, watched: Watched, clock: Clock, no_locks: None
) -> None:
    write(tmp_path, HERE)
    assert watched.alive(tmp_path) is None
    clock.now += STALE_S
    assert watched.alive(tmp_path) is False


def test_a_file_that_vanishes_is_neither_free_nor_stale_at_once(
    tmp_path: Path, watched: Watched, clock: Clock
) -> None:
    file = write(tmp_path, ELSEWHERE)
    assert watched.alive(tmp_path) is None
    file.unlink()
    assert watched.alive(tmp_path) is None
    clock.now += GONE_S / 2
    write(tmp_path, ELSEWHERE)  # it was only slow to be shown
    clock.now += GONE_S
    assert watched.alive(tmp_path) is None
    file.unlink()
    assert watched.alive(tmp_path) is None
    clock.now += GONE_S
    assert watched.alive(tmp_path) is False
    assert not watched._seen


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_file_that_is_not_whole_is_neither_free_nor_alive(
    cut: int, tmp_path: Path, watched: Watched, clock: Clock
) -> None:
    write(tmp_path, HERE.text()[:cut])
    assert watched.alive(tmp_path) is None
    clock.now += STALE_S - 1
    assert watched.alive(tmp_path) is None
    clock.now += 1
    assert watched.alive(tmp_path) is False, "whoever began with it has died"


def test_what_cannot_be_read_for_a_moment_is_no_sign_of_life(
    tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ELSEWHERE)
    assert watched.alive(tmp_path) is None
    read, opened = os.read, os.open

    def stale(*_: object) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    for name in ("open", "read"):
        monkeypatch.setattr(os, name, stale)
        assert look(tmp_path / OWNER).text == "", "neither what it holds nor that there is none"
        assert watched.alive(tmp_path) is None
        monkeypatch.setattr(os, "read", read)
        monkeypatch.setattr(os, "open", opened)
        assert watched.alive(tmp_path) is None, "the same as before, so nothing was counted"


def test_a_thousand_points_cost_one_look_each(
    tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[Path]()
    monkeypatch.setattr(owner, "look", lambda file: (looks.append(file), look(file))[1])
    points = [tmp_path / str(i) for i in range(1000)]
    assert not any(watched.alive(point) for point in points)
    assert len(looks) == 1000


def test_a_reader_says_in_use_of_another_hosts_claim_until_it_is_forgotten(tmp_path: Path) -> None:
    file = write(tmp_path, ELSEWHERE)
    assert in_use(tmp_path)
    assert in_use(tmp_path / "0_point"), "its sweep is"
    long_ago = file.stat().st_mtime - FORGOTTEN_S - 1
    os.utime(file, (long_ago, long_ago))
    assert not in_use(tmp_path)
    write(tmp_path, HERE)
    assert not in_use(tmp_path), "of this kernel a lock would be held"


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda f: f.write_text("mine"), lambda f: f.symlink_to("/dev/zero")],
)
def test_what_is_no_claim_file_is_nobodys_claim(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / OWNER)
    assert not in_use(tmp_path)


def test_without_locks_a_claim_is_in_use(tmp_path: Path, no_locks: None) -> None:
    (tmp_path / ".lock").touch()
    assert not in_use(tmp_path)
    write(tmp_path, HERE)
    assert in_use(tmp_path)
