"""Stateless randomness: every draw is a function of (seed, purpose, counters...).

Nothing here keeps a position in a stream, so what is drawn for an epoch, a step or an image does
not depend on what was drawn before, in which order, or by whom. Mixing is splitmix64's finaliser
(Steele, Lea and Flood 2014), applied once per word.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def draw(seed: int, purpose: str, *counters: int) -> int:
    """One draw: an integer in [0, 2⁶³), fit for `torch.Generator.manual_seed`."""
    state = _mix(_purpose_word(purpose) ^ (seed & _MASK))
    for counter in counters:
        state = _mix(state ^ _mix(counter & _MASK))
    return state >> 1


def draw_each(seed: int, purpose: str, samples: np.ndarray, *counters: int) -> np.ndarray:
    """A draw per sample: (n,) uint64 from (n,) sample ids, each a function of its own id alone."""
    state = np.uint64(draw(seed, purpose, *counters))
    with np.errstate(over="ignore"):
        return _mix_array(samples.astype(np.uint64) ^ state)


def order(seed: int, purpose: str, samples: np.ndarray, *counters: int) -> np.ndarray:
    """A random order of (n,) samples as (n,) positions; equal draws keep their order."""
    return np.argsort(draw_each(seed, purpose, samples, *counters), kind="stable")


def cut(order: np.ndarray, most: int) -> list[np.ndarray]:
    """An order of n samples in batches whose sizes differ by at most one, larger ones first.

    They are as few as hold at most `most` each, ceil(n / most), so that no batch is a small
    remainder of the others. An epoch, and whatever takes the place of one, is cut here.

    >>> [len(batch) for batch in cut(np.arange(97), 16)]
    [14, 14, 14, 14, 14, 14, 13]
    """
    return np.array_split(order, max(1, -(-len(order) // most)))


@functools.cache
def _purpose_word(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def _mix(word: int) -> int:
    word = (word + _GOLDEN) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def _mix_array(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(_GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
