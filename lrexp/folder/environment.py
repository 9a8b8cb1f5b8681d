"""environment.json: what a rerun would have to match."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import lrexp
from lrexp.config.launched import world_size
from lrexp.config.parts import source_hashes
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
# Settings of git that keep it from running what the repository names, and from fetching.
QUIET_GIT = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "protocol.allow=never")
DIFF_BYTES = 100_000  # of what no commit has, that are kept


def write_environment(folder: Path, facts: dict[str, Any]) -> None:
    """environment.json of a run folder and, when no commit has all of the code, code.diff.

    Args:
        folder: of the run.
        facts: of `environment`.
    """
    write_atomically(folder / ENVIRONMENT, strict_json(facts, indent=2) + "\n")
    _, diff = _code_version()
    if diff:
        kept = diff[:DIFF_BYTES].decode(errors="replace")
        left_out = len(diff) - DIFF_BYTES
        if left_out > 0:
            kept += f"\n... {left_out} bytes more; diff_hash is of the whole\n"
        write_atomically(folder / DIFF, kept)


def environment(
    device: Any, threads: int, fingerprints: dict[str, str], parts: dict[str, str] | None = None
) -> dict[str, Any]:
    """What a rerun would have to match: code, packages, machine, threads, data and weights.

    Args:
        device: of the run.
        threads: of torch.
        fingerprints: of data and weights.
        parts: setting → target of functions and classes of the user's own, whose sources' hashes
            are added.
    """
    import torch

    (commit, diff), cuda, cudnn = _code_version(), device.type == "cuda", torch.backends.cudnn
    flags: dict[str, Any] = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "onednn": torch.backends.mkldnn.enabled,
    }
    if cuda:
        flags |= {f"cudnn_{n}": getattr(cudnn, n) for n in ("deterministic", "benchmark")}
        flags["cudnn_tf32"] = cudnn.allow_tf32
    return {
        "fingerprints": fingerprints,
        "code_hash": source_hash(),
        **({"parts": source_hashes(parts.values())} if parts else {}),
        "commit": commit,
        "diff_hash": hashlib.sha256(diff).hexdigest()[:16] if diff else None,
        "lrexp": lrexp.__version__,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "threads": threads,
        "world_size": world_size(),
        "backend": None if world_size() == 1 else "nccl" if cuda else "gloo",
        "packages": {name: _version(name) for name in (*PACKAGES, *_users_packages())},
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "flags": flags,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "gpu_driver": _gpu_driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": cudnn.version() if cuda else None,
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


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


@functools.cache  # that of the code as it was imported
def _code_version() -> tuple[str | None, bytes]:
    """The commit of a checkout and what no commit has, new files included; nothing of a wheel."""
    root = Path(lrexp.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, b""
    git = ("git", "-C", str(root), *(word for o in QUIET_GIT for word in ("-c", o)))
    try:
        git += _without_programs(git)
        commit = _said(*git, "rev-parse", "HEAD").decode().strip()
        how = ("--no-ext-diff", "--no-textconv", "--ignore-submodules")
        diff = _said(*git, "diff", *how, "HEAD", "--", *CODE)
        new = _said(*git, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return None, b""
    for name in sorted(filter(None, os.fsdecode(new).split("\0"))):
        with suppress(OSError):
            lines = (root / name).read_bytes().splitlines(keepends=True)
            diff += os.fsencode(f"--- /dev/null\n+++ b/{name}\n")
            diff += b"".join(b"+" + line for line in lines) + b"\n"
    return commit, diff


@functools.cache
def _gpu_driver() -> str | None:
    """The version of NVIDIA's driver, where it can be asked for."""
    try:
        said = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(said.decode(errors="replace").split()), None)


def _without_programs(git: tuple[str, ...]) -> tuple[str, ...]:
    """Options that leave out what the repository's own config would run on a file's content."""
    asked = (*git, "config", "--show-scope", "--name-only", "--get-regexp")
    done = _run(*asked, r"^filter\..*\.(clean|process|required)$")  # fails where there is none
    found = (line.split("\t") for line in os.fsdecode(done.stdout).splitlines())
    names = [name for scope, name in found if scope in ("local", "worktree")]
    return tuple(word for name in names for word in ("-c", f"{name}="))


def _said(*command: str) -> bytes:
    done = _run(*command)
    done.check_returncode()
    return done.stdout


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    """A program of the machine; no variable tells git of another repository, config or program."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # the index is left as it is
    return subprocess.run(command, capture_output=True, check=False, timeout=10, env=environment)


@functools.cache
def _cpu_model() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
