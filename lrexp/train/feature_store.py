"""Where features are kept: in memory on the device, or in a file that memory is mapped to."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lrexp.data.feeding import Computed, free_bytes
from lrexp.folder.layout import FEATURES

log = logging.getLogger(__name__)

SHARE = 4  # of what is free, in memory and on the disk: a quarter
_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def named_here(pixels: Any) -> str:
    """A name of images that no others have, in any program: an id() is soon another's."""
    return _names.setdefault(pixels, uuid.uuid4().hex)


class NotCachedError(Exception):
    """Why a phase computes what is frozen at every step, in a sentence."""


class FeatureStore:
    """What frozen parts of networks made of images, for one run or for all that share it.

    The oldest are given up when together they would take more than a quarter of the free memory;
    what does not fit by itself goes into a file, and so does what worker programs have in common.
    Close it when the runs are over: that removes the files.

    Args:
        folder: takes a folder of files, if there are any; None: the system's for what is temporary.
        shared: several runs take from it.
    """

    def __init__(self, folder: Path | None = None, shared: bool = False):
        self.folder, self.shared = folder, shared
        self.samples: dict[str, Tensor] = {}  # by key what the first images became
        self.computed = 0  # how often something was, here
        self._held: dict[str, Computed] = {}
        self._files: Path | None = None
        self._of_worker = False

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str, device: torch.device) -> Computed | None:
        """What is held under a key, now the newest."""
        if key in self._held:
            self._held[key] = self._held.pop(key)
        elif self._of_worker and self._files is not None:
            for file in self._files.glob(f"{key}.*"):
                self._held[key] = Computed.mapped(file, device)
        return self._held.get(key)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Of several worker programs one is in it at a time, for a key; the others wait."""
        if not self._of_worker or self._files is None:
            yield
            return
        with (self._files / f"lock-{key}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when it is closed, or its program dies
            yield

    def keep(self, key: str, made: Computed) -> None:
        """Hold what was computed."""
        if made.file is not None:
            made.file = made.file.rename(made.file.with_name(f"{key}.{made.form}"))
        self._held[key] = made
        self.computed += 1

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Computed:
        """Room for (n, ...) values, in memory on the device where they fit, else in a file.

        Raises:
            NotCachedError: when there is none.
        """
        size = math.prod(shape) * dtype.itemsize
        free = free_bytes(device) // SHARE
        together = self._of_worker and device.type == "cpu" and self._files is not None
        if size <= free and not together:
            held = {key: made.nbytes for key, made in self._held.items() if made.file is None}
            while held and sum(held.values()) + size > free:
                oldest = next(iter(held))
                del held[oldest], self._held[oldest]
            return Computed(torch.empty(shape, dtype=dtype, device=device), device)
        try:
            self._files = self._files or self._made_folder()
            if size > shutil.disk_usage(self._files).free // SHARE:
                said = f"{size / 1e9:.1f} GB of features are too much for memory and disk"
                raise NotCachedError(said)
            number, name = tempfile.mkstemp(dir=self._files)
            os.close(number)
            values = torch.from_file(name, shared=True, size=math.prod(shape), dtype=dtype)
        except (OSError, RuntimeError) as error:
            raise NotCachedError(f"features cannot be kept in a file: {error}") from error
        log.info("%s MB of features are kept in %s", f"{size / 2**20:,.0f}", name)
        return Computed(values.view(shape), device, Path(name))

    def close(self) -> None:
        """Forget all, and remove the files unless this is a worker's."""
        self._held.clear()
        self.samples.clear()
        if self._files is not None and not self._of_worker:
            shutil.rmtree(self._files, ignore_errors=True)
        self._files = None

    def for_worker(self) -> FeatureStore:
        """The same for worker programs: with what other programs can have, and files in common."""
        other = FeatureStore(self.folder, self.shared)
        with suppress(OSError):  # each computes by itself
            self._files = self._files or self._made_folder()
        other._files, other._of_worker = self._files, True
        of_cpu = {k: made for k, made in self._held.items() if made.values.device.type == "cpu"}
        other._held = of_cpu
        return other

    def _made_folder(self) -> Path:
        """A new one, in place of those that a killed run left; an OSError when there is none."""
        if self._of_worker:
            raise OSError("the session has no folder for it")
        for left in self.folder.glob(f"{FEATURES}*") if self.folder else ():
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=FEATURES, dir=self.folder))
