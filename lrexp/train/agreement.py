"""What the processes of one run tell each other through a store, and where they stop together."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lrexp.config.errors import Terminated, UserError, in_words

log = logging.getLogger(__name__)

POLL_S = 0.05
LISTEN_S = 0.2  # between two looks of the thread that listens
ANSWER_S = 15.0  # torchrun kills what has not ended 30 s after its signal
KINDS = {kind.__name__: kind for kind in (KeyboardInterrupt, Terminated)}


class Store(Protocol):
    """torch.distributed's: keys with values that all processes see."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def check(self, keys: list[str], /) -> bool: ...

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


class RankFailedError(UserError):
    """Another process of the run failed; its text says which, and what it said."""


class Followed(Exception):  # noqa: N818 (it is no error)
    """The first rank has come to its end, or goes on alone: nothing is left for this one to do.

    Args:
        code: to exit with.
    """

    def __init__(self, code: int = 0):
        super().__init__(code)
        self.code = code


class Words:
    """What the ranks of a run say, each word once.

    Args:
        store: that all of them have.
        rank: of this process, from 0.
        world: how many there are.
    """

    def __init__(self, store: Store, rank: int, world: int):
        self.store, self.rank, self.world = store, rank, world

    def say(self, name: str, value: Any = None) -> None:
        """Let the others know."""
        self.store.set(name, json.dumps(value))

    def said(self, *names: str) -> bool:
        """Whether all of these were said."""
        return self.store.check(list(names))

    def hear(self, name: str) -> Any:
        """What is said under a name, once it is.

        Raises:
            RankFailedError: when another rank failed meanwhile.
            Followed: when the first rank has come to its end.
        """
        pause_s = 0.001  # most words are about to be said
        while not self.said(name):
            self.refuse_failed()
            if self.rank and self.said("over"):
                raise Followed(self._value("over"))
            time.sleep(pause_s)
            pause_s = min(POLL_S, 1.5 * pause_s)
        return self._value(name)

    def fails(self, error: BaseException) -> None:
        """Say what ended this rank, unless another has failed before, or all were asked to stop."""
        if isinstance(error, RankFailedError | Followed) or not isinstance(error, Exception):
            return
        said = str(error) if isinstance(error, UserError) else in_words(error)
        self.store.compare_set("failed", "", json.dumps([self.rank, said]))

    def refuse_failed(self) -> None:
        """Raise a RankFailedError when another rank has failed."""
        if self.said("failed"):
            rank, said = self._value("failed")
            if rank != self.rank:
                raise RankFailedError(f"rank {rank} of {self.world}: {said}")

    def wait_for_failure(self, at_most_s: float) -> None:
        """As `refuse_failed`, of ranks that fail soon."""
        until = time.monotonic() + at_most_s
        while time.monotonic() < until:
            self.refuse_failed()
            time.sleep(POLL_S)

    def _value(self, name: str) -> Any:
        return json.loads(self.store.get(name))


class Agreement:
    """Where ranks that run the same program stop, though none of them waits for the others before.

    All of them pass the same points in the same order. One that is asked to stop says so; a thread
    of every rank listens, holds its own rank at its next point, and says how many it has passed.
    They go on to the furthest of these and stop there: nobody is left waiting in an exchange.

    Args:
        words: of this rank.
        asked: signals that want it to stop; see `signals_stop`.
        free: frees a rank that waits for one that has failed.
    """

    def __init__(
        self, words: Words, asked: Sequence[type[BaseException]], free: Callable[[], None]
    ):
        self._words, self._asked, self._free = words, asked, free
        self._lock, self._over = threading.Lock(), threading.Event()
        self._passed, self._held = 0, False
        self._last: int | None = None  # points that are passed by all before they stop
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def stops_here(self) -> type[BaseException] | None:
        """Pass the next point; what all ranks are to raise instead when they stop here.

        Raises:
            RankFailedError: when another rank failed, or does not answer.
        """
        with self._lock:
            if not self._held:
                self._passed += 1
                return None
        until = time.monotonic() + ANSWER_S
        while self._last is None:
            self._words.refuse_failed()
            if time.monotonic() > until:
                raise RankFailedError(gone(self._words.world))
            time.sleep(POLL_S)
        if self._passed < self._last:
            self._passed += 1
            return None
        return KINDS[self._words.hear("stop")]

    def close(self) -> None:
        """Listen no more: this rank has passed all its points."""
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        try:
            while not self._over.wait(LISTEN_S):
                if self._asked and not self._words.said("stop"):
                    self._words.say("stop", self._asked[-1].__name__)
                if self._words.said("stop"):
                    break
                if self._words.said("failed"):
                    self._held = True  # at the next point it is told
                    self._free()
                    return
            with self._lock:
                self._held, passed = True, self._passed
            self._words.say(f"passed/{self._words.rank}", passed)
            names = [f"passed/{rank}" for rank in range(self._words.world)]
            while not self._words.said(*names):
                if self._over.wait(POLL_S):
                    return
            self._last = max(self._words.hear(name) for name in names)
        except Exception as error:  # the store went with torchrun: the exchange says what happened
            log.info("the ranks' store", exc_info=error)


def gone(world: int) -> str:
    """What is known of a rank that ended without a word."""
    return (
        f"one of the {world} processes ended without a word, as one does that is killed when memory"
        " runs out; torchrun says which"
    )
