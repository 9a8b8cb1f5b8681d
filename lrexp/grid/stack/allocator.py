"""How this process gets memory from its system."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 1 << 30


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
