"""The files of a run folder that are not written row by row."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError
from lrexp.config.redact import redacted
from lrexp.folder.layout import SUMMARY


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON that every parser reads: non-finite numbers are "NaN", "Infinity" and "-Infinity"."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent, ensure_ascii=False)


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's content as a whole: a reader sees the old text or the new one.

    Secrets of the environment that the text holds are left out.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(redacted(text), encoding="utf-8")
        fresh.replace(file)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def refuse_foreign(file: Path, mark: str) -> None:
    """Raise a UserError for a file that is there without the mark of those that lrexp writes."""
    try:
        ours = mark.encode() in file.read_bytes()
    except FileNotFoundError:
        ours = not os.path.lexists(file)
    except OSError:
        ours = False
    if not ours:
        raise UserError(f"{file} was not written by lrexp; nothing was changed\n  move it away")


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """summary.json of a run folder, replaced as a whole."""
    write_atomically(folder / SUMMARY, strict_json(summary, indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
