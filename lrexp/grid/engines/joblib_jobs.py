"""`hydra/launcher=joblib`: programs that joblib's loky keeps, one job after the other in each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import Any

from lrexp.grid.engines.job import Job
from lrexp.grid.engines.jobs import SAVED_S, LostError
from lrexp.grid.pool.pool import cores
from lrexp.grid.settings import JoblibSettings


class Joblib:
    """Jobs as futures. Where one program dies, all that were running are lost with it."""

    def __init__(self, settings: JoblibSettings):
        count = settings.n_jobs
        # as joblib counts: -2 leaves one core free
        self._programs = max(1, cores() + 1 + count) if count < 0 else count
        self._threads = max(1, cores() // self._programs)
        # nothing is queued in joblib, where a program whose job is stopped would take the next
        self.at_once: int | None = self._programs

    def submit(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        """Hand out jobs; to new programs where the last ones have died."""
        return [self._executor().submit(job) for job in jobs]

    def ended(
        self, known: Sequence[Future[Any]], wait_s: float
    ) -> Iterator[tuple[Future[Any], Any]]:
        """See `Engine`."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        if not known:  # all are with other programs
            time.sleep(wait_s)
            return
        for one in wait(known, wait_s, FIRST_COMPLETED).done:
            error = one.exception()
            if isinstance(error, BrokenProcessPool):
                error = LostError(str(error))
            yield one, one.result() if error is None else error

    def stop(self, known: Sequence[Future[Any]]) -> None:
        """See `Engine`: SIGTERM first, so that state is saved; waits for that."""
        executor = self._executor()
        if known:
            for program in list(executor._processes):
                with suppress(ProcessLookupError):
                    os.kill(program, signal.SIGTERM)
            wait(known, SAVED_S)
        executor.shutdown(kill_workers=bool(known))

    def _executor(self) -> Any:
        from joblib.externals.loky import get_reusable_executor

        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads))
        return get_reusable_executor(self._programs, env=threads, initializer=_unless_at_work)


def _unless_at_work() -> None:
    """Let signals stop jobs alone: where a program without one dies, joblib kills all others."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
