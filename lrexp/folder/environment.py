"""environment.json: what a rerun would have to match."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lrexp
from lrexp.folder.files import strict_json, write_atomically
from lrexp.folder.layout import DIFF, ENVIRONMENT

PACKAGES = (
    "torch",
    "torchvision",
    "hydra-core",
    "omegaconf",
    "wandb",
    "datasets",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
    "timm",
    "schedulefree",
)


# What of the environment decides which kernels run, and how; recorded where it is set.
VARIABLES = (
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ENABLE_MPS_FALLBACK",
)


CODE = ("lrexp", "conf", "hydra_plugins")  # of a checkout


DIFF_BYTES = 100_000  # of it that are kept


def write_environment(folder: Path, facts: dict[str, Any]) -> None:
    """environment.json of a run folder and, when no commit has all of the code, code.diff.

    Args:
        folder: of the run.
        facts: of `environment`.
    """
    write_atomically(folder / ENVIRONMENT, strict_json(facts, indent=2) + "\n")
    if diff := _code_version().diff:
        kept = diff[:DIFF_BYTES].decode(errors="replace")
        left_out = len(diff) - DIFF_BYTES
        if left_out > 0:
            kept += f"\n... {left_out} bytes more; diff_hash is of the whole\n"
        write_atomically(folder / DIFF, kept)


def environment(device: Any, threads: int, fingerprints: dict[str, str]) -> dict[str, Any]:
    """What a rerun would have to match: code, packages, machine, threads, data and weights."""
    import torch

    code, cuda = _code_version(), device.type == "cuda"
    return {
        "lrexp": lrexp.__version__,
        "commit": code.commit,
        "diff_hash": hashlib.sha256(code.diff).hexdigest()[:16] if code.diff else None,
        "code_hash": source_hash(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*PACKAGES, *_users_packages())},
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_driver": _gpu_driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "flags": _flags(cuda),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "fingerprints": fingerprints,
        "executable": Path(sys.executable).name,
    }


def _flags(cuda: bool) -> dict[str, Any]:
    """Settings of torch that decide which kernels run, those of CUDA where it is used."""
    import torch

    flags: dict[str, Any] = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "onednn": torch.backends.mkldnn.enabled,
    }
    if cuda:
        cudnn = torch.backends.cudnn
        flags |= {f"cudnn_{n}": getattr(cudnn, n) for n in ("deterministic", "benchmark")}
        flags["cudnn_tf32"] = cudnn.allow_tf32
    return flags


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _users_packages() -> list[str]:
    """Packages that the user allows configs to name networks of, as far as they have a version."""
    allowed = os.environ.get("LREXP_ALLOW_TARGETS", "").split(",")
    names = {name.strip().partition(".")[0] for name in allowed} - {""}
    return sorted(name for name in names if _version(name) is not None)


@functools.cache
def source_hash() -> str:
    """16 hex digits over the package's Python files, in a checkout and in a wheel alike."""
    package, digest = Path(lrexp.__file__).resolve().parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _CodeVersion:
    commit: str | None  # of a checkout; None in a wheel
    diff: bytes  # what no commit has, new files included; empty in a wheel


@functools.cache  # that of the code as it was imported
def _code_version() -> _CodeVersion:
    root = Path(lrexp.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return _CodeVersion(None, b"")
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        diff = _git(root, "diff", "--no-ext-diff", "HEAD", "--", *CODE)
        new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return _CodeVersion(None, b"")
    for name in sorted(filter(None, new.decode(errors="surrogateescape").split("\0"))):
        diff += _as_new_file(root, name)
    return _CodeVersion(commit, diff)


def _as_new_file(root: Path, name: str) -> bytes:
    """A file that git does not know yet, in the form of a diff."""
    try:
        lines = (root / name).read_bytes().splitlines(keepends=True)
    except OSError:
        return b""
    head = f"diff --git a/{name} b/{name}\nnew file\n--- /dev/null\n+++ b/{name}\n"
    body = b"".join(b"+" + line for line in lines)
    return head.encode(errors="surrogateescape") + body + b"\n" * (not body.endswith(b"\n"))


@functools.cache
def _gpu_driver() -> str | None:
    """The version of NVIDIA's driver, where it can be asked for."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(said.decode(errors="replace").split()), None)


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
