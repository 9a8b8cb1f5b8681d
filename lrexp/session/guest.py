"""A run inside of somebody else's program: all that it changes there is put back afterwards."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf.basecontainer import BaseContainer

from lrexp.grid.isolation import undisturbed

OURS = ("hydra", "schema", "_dummy_empty_config_.yaml")  # of Hydra's store, what we compose with

_turn = threading.RLock()  # of threads: logging, torch and Hydra are the whole program's


@contextmanager
def as_guest() -> Iterator[None]:
    """Run what is in it as if the program were ours, and leave the program as it was.

    Hydra, logging, torch's settings, random generators, environment, warnings and working folder
    are as before afterwards, however it ends. What the program does with torch at the call (no
    gradients, autocast, a default type or device) holds for none of it. Threads take turns; one may
    be within another.
    """
    import torch  # first: what it sets as it is imported is no change

    with _turn, ExitStack() as stack:
        for kept in (_hydra, _logging, _hooks, undisturbed, _generators_of_gpus):
            stack.enter_context(kept())
        stack.enter_context(torch.inference_mode(False))  # gradients are on as well
        torch.set_default_dtype(torch.float32)
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # else for nothing: every call would pay
            stack.enter_context(torch.device("cpu"))
        # as lrexp.data.images says when it is imported, which may have been in an earlier run
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra without what the program told it, which it has again afterwards."""
    theirs, config = GlobalHydra.instance(), HydraConfig.instance()
    base, job, store = VersionBase.instance(), JobRuntime.instance(), ConfigStore.instance()
    before = theirs.hydra, config.cfg, base.version_base, job.conf.copy(), store.repo
    resolvers = dict(BaseContainer._resolvers)
    # a config of theirs that is called as one of ours would be merged into it
    store.repo = {name: node for name, node in store.repo.items() if name in OURS}
    try:
        yield
    finally:
        theirs.hydra, config.cfg, base.version_base, job.conf, store.repo = before
        BaseContainer._resolvers = resolvers


@contextmanager
def _logging() -> Iterator[None]:
    """Logging's handlers and levels; Hydra closes every handler as it sets up its own."""
    root, named = logging.root, list(logging.root.manager.loggerDict.values())
    known = [root, *(one for one in named if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.disabled, one.propagate, one.handlers[:]) for one in known]
    kept = dict(logging._handlers), logging._handlerList[:]  # type: ignore[attr-defined]
    _forget_handlers()
    root.handlers.clear()  # theirs are not for our words
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()  # of the run's lrexp.log
        for one, level, disabled, propagate, own in before:
            one.setLevel(level)
            one.disabled, one.propagate, one.handlers[:] = disabled, propagate, own
        _forget_handlers()
        logging._handlers.update(kept[0])  # type: ignore[attr-defined]
        logging._handlerList[:] = kept[1]  # type: ignore[attr-defined]


def _forget_handlers() -> None:
    """Let `logging.config` know of none, so that it closes none."""
    logging._handlers.clear()  # type: ignore[attr-defined]
    logging._handlerList.clear()  # type: ignore[attr-defined]


@contextmanager
def _hooks() -> Iterator[None]:
    """What happens as the program ends; W&B wants to know."""
    before = {name: getattr(sys, name) for name in ("excepthook", "exit")}
    try:
        yield
    finally:
        for name, hook in before.items():
            setattr(sys, name, hook)


@contextmanager
def _generators_of_gpus() -> Iterator[None]:
    """Those of GPUs that nobody had used, as if nobody had yet; others `undisturbed` puts back."""
    import torch

    fresh, seed = not torch.cuda.is_initialized(), torch.initial_seed()
    try:
        yield
    finally:
        if fresh and torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
