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

# name in torch of what reads a setting, and of what sets it
TORCH_SETTINGS = (
    ("get_num_threads", "set_num_threads"),
    ("get_default_dtype", "set_default_dtype"),
    ("get_float32_matmul_precision", "set_float32_matmul_precision"),
    ("is_grad_enabled", "set_grad_enabled"),
    ("get_rng_state", "set_rng_state"),
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 1 << 30
CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back random states, torch's settings, warnings, logging, environment and folder.

    Memory that nothing refers to any more is given back as well.
    """
    put_back = [*_of_python(), *_of_torch()]
    try:
        yield
    finally:
        for undo in reversed(put_back):
            undo()
        gc.collect()
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _of_python() -> Iterator[Callable[[], Any]]:
    state, caught = random.getstate(), warnings.catch_warnings()
    caught.__enter__()
    environment, folder = dict(os.environ), os.getcwd()
    level, disabled = logging.root.level, logging.root.manager.disable

    def undo() -> None:
        random.setstate(state)
        caught.__exit__(None, None, None)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        logging.root.setLevel(level)
        logging.disable(disabled)

    yield undo
    if "numpy" in sys.modules:
        import numpy as np

        numpy_state, errors = np.random.get_state(), np.geterr()
        yield lambda: (np.random.set_state(numpy_state), np.seterr(**errors))


def _of_torch() -> Iterator[Callable[[], Any]]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    for read, put in TORCH_SETTINGS:
        yield _setter(getattr(torch, put), getattr(torch, read)())
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    yield lambda: torch.use_deterministic_algorithms(deterministic, warn_only=only_warn)
    for name in CUDNN:
        put = partial(setattr, torch.backends.cudnn, name)
        yield _setter(put, getattr(torch.backends.cudnn, name))
    if torch.cuda.is_initialized():
        yield _setter(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def _setter(put: Callable[[Any], Any], value: Any) -> Callable[[], Any]:
    return lambda: put(value)


@contextmanager
def small_collections() -> Iterator[None]:
    """Take what is in memory now for permanent, so that collecting garbage per point is quick."""
    gc.collect()
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
