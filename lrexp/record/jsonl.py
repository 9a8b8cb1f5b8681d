"""metrics.jsonl: a row per epoch, on disk as soon as it is known. The record the others mirror."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrexp.record.files import strict_json


class JsonlRecorder:
    """Appends each row as a line of strict JSON and flushes it at once."""

    def __init__(self, folder: Path):
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def row(self, row: dict[str, float]) -> None:
        """Append one epoch."""
        self._file.write(strict_json(row) + "\n")
        self._file.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        self._file.close()
