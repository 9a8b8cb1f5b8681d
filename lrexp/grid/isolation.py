"""What one run could leave behind in the program, put back before the next one; its memory."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 1 << 30
OF_TORCH = ("num_threads", "default_dtype", "float32_matmul_precision", "rng_state")
OF_CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back random states, torch's settings, warnings, logging, environment and folder.

    Memory that nothing refers to any more is given back as well.
    """
    before = [(put, read()) for read, put in _settings()]
    try:
        with warnings.catch_warnings():  # putting back may import what adds filters
            try:
                yield
            finally:
                for put, value in reversed(before):
                    put(value)
    finally:
        gc.collect()
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _settings() -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """What reads everything that a run may change, and what sets it."""
    yield random.getstate, random.setstate
    yield lambda: dict(os.environ), _set_environment
    yield os.getcwd, os.chdir
    yield lambda: logging.root.level, logging.root.setLevel
    yield lambda: logging.root.manager.disable, logging.disable
    if "numpy" in sys.modules:
        import numpy as np

        yield np.random.get_state, np.random.set_state
        yield np.geterr, lambda errors: np.seterr(**errors)
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    for name in OF_TORCH:
        yield getattr(torch, f"get_{name}"), getattr(torch, f"set_{name}")
    yield torch.is_grad_enabled, torch.set_grad_enabled
    yield partial(_deterministic, torch), partial(_set_deterministic, torch)
    for name in OF_CUDNN:
        cudnn = torch.backends.cudnn
        yield partial(getattr, cudnn, name), partial(setattr, cudnn, name)
    if torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all


def _deterministic(torch: Any) -> tuple[bool, bool]:
    """Whether operations must be deterministic, and whether others are only warned about."""
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warned


def _set_deterministic(torch: Any, before: tuple[bool, bool]) -> None:
    if _deterministic(torch) != before:  # setting it imports torch's compiler, half a second
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _set_environment(before: dict[str, str]) -> None:
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def small_collections() -> Iterator[None]:
    """Take what is in memory now for permanent, so that collecting garbage per point is quick.

    Garbage of just now goes before; what is old has been looked through often enough.
    """
    gc.collect(1)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, instead of handing it back and asking for it anew.

    By default glibc maps every large block (from 128 KiB, at most 32 MiB) fresh from the system,
    page by page, and returns it when it is freed. Training takes and frees the same large tensors
    at every step. Holds for the whole process; memory stays taken up to its peak.

    Returns:
        Whether it was done: False where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
