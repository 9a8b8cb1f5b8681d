"""Reads the `.wandb` file an offline W&B run leaves behind, record by record.

The file is a LevelDB log: a 7-byte header, then 32 KiB blocks of framed pieces, each `crc32 (4),
length (2), kind (1), data`; a record is one FULL piece or FIRST, MIDDLE..., LAST. The records are
W&B's own protocol buffers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import wait_for
from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768
HEADER = struct.calcsize("<IHB")
FULL, FIRST, _MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbLog:
    """What the run told W&B, in the order it was told."""

    run: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # without W&B's own _step, ...
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)  # metric or glob -> its x axis
    alerts: list[tuple[str, str]] = field(default_factory=list)  # title and text
    exit_code: int | None = None


def read_run(folder: Path) -> WandbLog:
    """The only W&B run in a run folder, once its writer, a process of its own, is through."""
    (file,) = folder.glob("wandb/*run-*/run-*.wandb")
    wait_for(lambda: read_log(file).exit_code is not None)
    return read_log(file)


def read_log(file: Path) -> WandbLog:
    """Everything in one `.wandb` file."""
    log = WandbLog()
    for record in _records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            names = ("run_id", "project", "run_group", "job_type", "display_name", "notes")
            log.run = {name: getattr(record.run, name) for name in names}
            log.tags = list(record.run.tags)
            log.config |= _values(record.run.config.update)
        elif kind == "config":
            log.config |= _values(record.config.update)
        elif kind == "history":
            row = _values(record.history.item)
            log.history.append({k: v for k, v in row.items() if not k.startswith("_")})
        elif kind == "summary":
            log.summary |= _values(record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            log.step_metrics[name] = record.metric.step_metric
        elif kind == "alert":
            log.alerts.append((record.alert.title, record.alert.text))
        elif kind == "exit":
            log.exit_code = record.exit.exit_code
    log.config.pop("_wandb", None)
    return log


def _records(data: bytes) -> Iterator[pb.Record]:
    position, whole = HEADER, b""
    while True:
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too short for another piece: padding
            position += left
            continue
        if position + HEADER > len(data):
            return
        _crc, size, kind = struct.unpack_from("<IHB", data, position)
        piece = data[position + HEADER : position + HEADER + size]
        if len(piece) < size:  # the torn tail of a killed run
            return
        position += HEADER + size
        whole = piece if kind in (FULL, FIRST) else whole + piece
        if kind in (FULL, LAST):
            yield pb.Record.FromString(whole)


def _values(items: Any) -> dict[str, Any]:
    return {
        ".".join(item.nested_key) if item.nested_key else item.key: json.loads(item.value_json)
        for item in items
    }
