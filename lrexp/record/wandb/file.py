"""What W&B's client leaves on disk: `.wandb` files, read record by record, and marks beside them.

A `.wandb` file is a LevelDB log: a 7-byte header, then blocks of 32 KiB with framed pieces, each
`crc32 (4 bytes), length (2), kind (1), data`. A record is one whole piece, or a first, middle and
last one; it is one of W&B's own protocol buffers. `<file>.synced` is the client's own mark for a
file that has been uploaded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrexp.folder.layout import REPORT, WANDB

BLOCK = 32768
FRAME = struct.Struct("<IHB")
WHOLE, FIRST, LAST = 1, 2, 4


def runs_below(folder: Path, run_id: str = "*") -> list[Path]:
    """`.wandb` files in a run folder's `wandb/`, the oldest first."""
    return sorted(
        folder.glob(f"{WANDB}/*run-*-{run_id}/run-{run_id}.wandb"),
        key=lambda file: file.parent.name.removeprefix("offline-"),
    )


def records(file: Path) -> Iterator[Any]:
    """Every whole record; a torn tail, which a killed run leaves, is left out.

    Raises:
        ValueError: for a record that is none.
    """
    from wandb.proto import wandb_internal_pb2

    protocol: Any = wandb_internal_pb2  # made at run time: type checkers see nothing in it
    data = file.read_bytes()
    position, whole = FRAME.size, b""
    while position + FRAME.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < FRAME.size:  # too short for another piece: padding
            position += left
            continue
        _crc, size, kind = FRAME.unpack_from(data, position)
        position += FRAME.size
        piece = data[position : position + size]
        if kind == 0 or len(piece) < size:
            return
        position += size
        whole = piece if kind in (WHOLE, FIRST) else whole + piece
        if kind in (WHOLE, LAST):
            try:
                record = protocol.Record.FromString(whole)
            except Exception as error:  # protobuf's own, which comes with the client
                raise ValueError(f"it holds what is no record: {error}") from error
            yield record


def epochs(file: Path) -> set[int]:
    """The epochs whose rows are in a file."""
    return {
        int(json.loads(item.value_json))
        for record in records(file)
        for item in record.history.item  # none in a record of another kind
        if (item.key or ".".join(item.nested_key)) == "epoch"
    }


def has_ended(file: Path) -> bool:
    """Whether the run was brought to its end, with its summary and how it ended."""
    return any(record.WhichOneof("record_type") == "exit" for record in records(file))


def run_record(file: Path) -> Any:
    """What a file says of its run: id, project, entity, group, names, tags; empty if it does not.

    The first record has all of it; a later one, of a run that was renamed or tagged, as well.
    """
    found = None
    for record in records(file):
        if record.WhichOneof("record_type") == "run":
            found = record.run
    if found is None:
        from wandb.proto import wandb_internal_pb2

        protocol: Any = wandb_internal_pb2
        return protocol.RunRecord()
    return found


def artifact_files(file: Path) -> Iterator[tuple[str, int]]:
    """Path as it was written down, and size in bytes, of every file that artifacts still need."""
    for record in records(file):
        for artifact in (record.artifact, record.request.log_artifact.artifact):
            for entry in artifact.manifest.contents:
                if entry.local_path:
                    yield entry.local_path, entry.size


def to_arrive(file: Path) -> tuple[dict[tuple[str, str], str], list[str]]:
    """What a file says that the server gets beside rows: artifacts and a report.

    Returns:
        What it is, in words, by an artifact's name and digest; names of files.
    """
    artifacts, files = dict[tuple[str, str], str](), dict[str, None]()
    for record in records(file):
        for one in (record.artifact, record.request.log_artifact.artifact):
            if one.name:
                table = one.type == "run_table"
                words = one.name.removeprefix(f"run-{one.run_id}-") if table else one.type
                artifacts[one.name, one.digest] = f"{'table ' * table}{words}"
        files |= {one.path: None for one in record.files.files if one.path == REPORT}
    return artifacts, list(files)


def is_offline(file: Path) -> bool:
    """Whether nothing of it has been sent while it was written."""
    return file.parent.name.startswith("offline-")


def synced(file: Path) -> Path:
    """The client's mark for a file that has been uploaded."""
    return file.with_name(f"{file.name}.synced")


def unsent(file: Path) -> Path:
    """Our mark for an online run that ended before the server had every row."""
    return file.with_name(f"{file.name}.unsent")


def uploading(file: Path) -> Path:
    """Our mark for a file whose upload was begun."""
    return file.with_name(f"{file.name}.uploading")


def mark_synced(file: Path) -> None:
    """Say that nothing of a file has to be uploaded any more."""
    synced(file).touch()
    unsent(file).unlink(missing_ok=True)
