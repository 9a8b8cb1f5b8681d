"""metrics.jsonl: a row per epoch, on disk as soon as it is known. The record the others mirror."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrexp.folder.files import strict_json, write_atomically
from lrexp.folder.hold import refuse_late
from lrexp.folder.layout import METRICS

log = logging.getLogger(__name__)

SYNC_ROWS = 8  # rows at most that a power loss takes: waiting for the disk at each costs 4 ms


class JsonlRecorder:
    """Appends each row as a line of strict JSON and flushes it at once.

    What cannot be written, on a full disk, is tried again with every row that follows. The file is
    made anew, with the rows before in it: what a late owner of the folder appends to the former one
    is read by nobody.

    Args:
        folder: of the run.
        earlier: rows of the epochs before; whatever else the file holds is dropped, such as a line
            that was cut off or an epoch that is trained again.
        synced: rows are to outlive a power loss.
    """

    def __init__(
        self, folder: Path, earlier: Sequence[dict[str, float]] = (), synced: bool = False
    ):
        self._path = path = folder / METRICS
        text = "".join(f"{strict_json(row)}\n" for row in earlier)
        write_atomically(path, text)
        self._file = path.open("r+b", buffering=0)
        self._length = len(text.encode())  # of what is whole
        self._waiting = b""
        self._synced, self._rows, self._doubtful = synced, len(earlier), False
        self.kept = 0  # rows from the first on that the file surely has, whatever comes
        self._keep()

    def row(self, row: dict[str, float]) -> None:
        """Append one epoch; a TakenOver when the run is another program's by now."""
        self._waiting += f"{strict_json(row)}\n".encode()
        self._rows += 1
        self._write()
        if not self._waiting and (not self._synced or self._rows - self.kept >= SYNC_ROWS):
            self._keep()

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        if self._waiting:
            self._write()
        self._file.close()

    def _keep(self) -> None:
        """See to it that all rows so far stay, and count them."""
        if self._doubtful:
            return
        try:
            if self._synced:
                os.fsync(self._file.fileno())
            self.kept = self._rows
        except OSError as error:
            log.warning("metrics.jsonl may not outlive a power loss: %s", error)
            self._doubtful = True  # a later call may succeed without these rows

    def _write(self) -> None:
        first = len(self._waiting.splitlines()) == 1
        try:
            refuse_late(self._path)
            self._file.seek(self._length)
            left = self._waiting
            while left:  # a disk that fills up takes a part first
                left = left[self._file.write(left) :]
        except OSError as error:
            if first:
                log.warning("metrics.jsonl cannot be written, tried again later: %s", error)
            self._file.truncate(self._length)
            return
        self._length += len(self._waiting)
        self._waiting = b""
