"""Checkpoints: written whole or not at all, and read without running code from the file."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrexp.config.errors import UserError, out_of_memory
from lrexp.folder.hold import refuse_late
from lrexp.folder.layout import CHECKPOINTS, LAST, PREVIOUS

log = logging.getLogger(__name__)


def save_checkpoint(file: Path, state: dict[str, Any], synced: bool = False) -> None:
    """Write a state of tensors and plain values beside the file, then put it in its place.

    The last.pt before is kept as previous.pt. The folder above that of the file must be there.

    Args:
        file: to write.
        state: what it is to hold.
        synced: wait until the disk has it, so that a power loss leaves no empty file in its place.
            It takes about as long as the writing itself.

    Raises:
        OSError: when it cannot be written, with its name; what was there before is there still.
        TakenOver: another program holds a folder around it that this one did.
    """
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(exist_ok=True)
        with fresh.open("wb") as stream:
            torch.save(_alone(state), stream)
            if synced:
                stream.flush()
                os.fsync(stream.fileno())
        refuse_late(file)
        if file.name == LAST and file.exists():
            file.replace(file.with_name(PREVIOUS))
        fresh.replace(file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):  # else torch's writer hides what the file system said
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(file)) from error
    finally:
        with suppress(OSError):  # the folder may be gone
            fresh.unlink(missing_ok=True)


def all_weights(
    model: Mapping[str, Tensor], average: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """A network's tensors and those of the average of its weights, if there is one, by name."""
    return {**model, **{f"average.{name}": tensor for name, tensor in (average or {}).items()}}


def _alone(value: Any) -> Any:
    """The value, with copies of tensors that are part of a larger one: it would be saved whole."""
    if isinstance(value, dict):
        return {key: _alone(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_alone(inner) for inner in value]
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone()
    return value


def load_checkpoint(
    file: Path, device: torch.device | str = "cpu", mapped: bool = False
) -> dict[str, Any]:
    """The state in a file, its tensors on `device`; only tensors and plain values are accepted.

    Tensors that are `mapped`, on the CPU, are read once somebody looks at them.
    """
    refuse_packed(file)
    state = torch.load(file, map_location=device, weights_only=True, mmap=mapped)
    refuse_expanded(state)
    return state


def refuse_packed(file: Path) -> None:
    """Raise ValueError for an archive that is larger unpacked, which torch.save makes none of."""
    if not file.is_file() or not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > file.stat().st_size:
        raise ValueError(f"it is packed: {unpacked} bytes in {file.stat().st_size}")


def refuse_expanded(value: Any) -> None:
    """Raise ValueError for tensors that stand for more numbers than were saved."""
    if isinstance(value, torch.Tensor):
        if value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(f"it holds a tensor of {tuple(value.shape)} made of fewer numbers")
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            refuse_expanded(inner)


def saved_step(folder: Path) -> int:
    """The step of the newest state in a run's folder of checkpoints; 0 where none can be read.

    That its tensors are whole is not looked at.
    """
    for file in (folder / LAST, folder / PREVIOUS):
        try:
            return int(load_checkpoint(file, mapped=True)["step"])
        except Exception as error:  # whatever a reader makes of bytes that nobody wrote
            log.info("%s", file, exc_info=error)
    return 0


def load_last(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest whole state in a run's folder of checkpoints; None when none was ever saved.

    That last.pt is damaged, and the state before is taken, is said as a warning.

    Raises:
        UserError: when there are files and all of them are damaged.
    """
    damaged = []
    for file in (folder / LAST, folder / PREVIOUS):
        if not file.exists():
            continue
        try:
            state = _whole_state(file, device)
        except Exception as error:  # whatever a reader makes of bytes that nobody wrote
            if out_of_memory(error):
                raise
            log.info("%s", file, exc_info=error)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            damaged.append(f"{CHECKPOINTS}/{file.name} is damaged ({reason})")
            continue
        for problem in damaged:
            log.warning(
                "%s; going on from checkpoints/%s, epoch %s, step %s",
                *(problem, file.name, state["epoch"], state["step"]),
            )
        return state
    if damaged:
        raise UserError("\n  ".join([*damaged, "no whole state is left; start a new run"]))
    return None


def _whole_state(file: Path, device: torch.device | str) -> dict[str, Any]:
    """The state in a file, once the archive's own checksums hold: torch does not look at them."""
    with zipfile.ZipFile(file) as archive:
        if broken := archive.testzip():
            raise ValueError(f"checksum of {broken}")
    state = load_checkpoint(file, device)
    if not isinstance(state, dict) or not {"epoch", "step"} <= state.keys():
        raise ValueError("it holds no state of a run")
    return state
