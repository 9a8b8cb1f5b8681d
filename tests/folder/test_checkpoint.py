"""Checkpoints are whole or absent, and never run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from lrexp.config.errors import TakenOver
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.folder.claim import owned
from lrexp.folder.layout import LOCK, OWNER
from lrexp.folder.owner import Owner


class Planted:
    """What a hostile file would hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("planted"),))


def test_tensors_and_plain_values_read_back(tmp_path: Path) -> None:
    state = {"w": torch.arange(6.0).view(2, 3), "rows": [{"val/loss": float("inf")}], "step": 7}
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", state)
    read = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert torch.equal(read.pop("w"), state.pop("w"))
    assert read == state


def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"epoch": 1})
    whole = file.read_bytes()
    save = torch.save

    def breaks_midway(state: Any, target: BinaryIO) -> None:
        save(state, target)
        target.truncate(100)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", breaks_midway)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(file, {"epoch": 2})
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


def test_of_a_folder_that_was_taken_over_no_checkpoint_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    with owned(tmp_path):
        save_checkpoint(file, {"epoch": 1})
        whole = file.read_bytes()
        (tmp_path / OWNER).write_text(Owner("a1", "node7", "another-kernel", 1).text())
        with pytest.raises(TakenOver, match="node7"):
            save_checkpoint(file, {"epoch": 2})
    assert file.read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == [LOCK, OWNER, "last.pt"]


def test_the_file_is_in_its_place_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "best.pt"
    save = torch.save

    def looking(state: Any, target: BinaryIO) -> None:
        save(state, target)
        assert not file.exists()
        assert Path(target.name).parent == file.parent  # a rename within one file system is atomic

    monkeypatch.setattr(torch, "save", looking)
    save_checkpoint(file, {"epoch": 1})
    assert list(tmp_path.iterdir()) == [file]


def test_a_synced_state_is_on_the_disk_before_it_takes_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sizes = tmp_path / "last.pt", []
    save_checkpoint(file, {"epoch": 1}, synced=True)
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        assert load_checkpoint(file) == {"epoch": 1}
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", noted)
    save_checkpoint(file, {"epoch": 2}, synced=True)
    assert sizes == [file.stat().st_size]
    save_checkpoint(file, {"epoch": 3})
    assert len(sizes) == 1


def test_a_file_with_a_pickled_object_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Planted()}, tmp_path / "hostile.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "hostile.pt")
    assert not (tmp_path / "planted").exists()
    # The same file does run its code without the guard, so the guard is what held.
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert (tmp_path / "planted").exists()
