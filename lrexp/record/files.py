"""The files of a run folder that are not written row by row."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lrexp
from lrexp.redact import redacted

PACKAGES = (
    "torch",
    "torchvision",
    "hydra-core",
    "omegaconf",
    "wandb",
    "datasets",
    "numpy",
    "pyarrow",
    "safetensors",
)


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


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """summary.json of a run folder, replaced as a whole."""
    write_atomically(folder / "summary.json", strict_json(summary, indent=2) + "\n")


def environment(device: Any, threads: int, fingerprints: dict[str, str]) -> dict[str, Any]:
    """What a rerun would have to match: code, packages, machine, threads, data and weights."""
    import torch

    return {
        "lrexp": lrexp.__version__,
        **_code_version(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "fingerprints": fingerprints,
        "executable": Path(sys.executable).name,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache  # that of the code as it was imported
def _code_version() -> dict[str, str | None]:
    """Commit of a checkout and a hash of what is changed in it; both empty in a wheel."""
    root = Path(lrexp.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"commit": None, "diff_hash": None}
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        diff = _git(root, "diff", "HEAD", "--", "lrexp", "conf", "hydra_plugins")
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "diff_hash": None}
    return {"commit": commit, "diff_hash": hashlib.sha256(diff).hexdigest()[:16] if diff else None}


def _git(root: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout


@functools.cache
def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = [line for line in file if line.startswith("model name")]
    except OSError:
        found = []
    if found:
        return found[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()
