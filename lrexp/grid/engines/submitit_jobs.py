"""`hydra/launcher=slurm` and `submitit_local`: jobs through submitit."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError, first_line
from lrexp.config.names import new_run_id, shown_path
from lrexp.grid.engines.job import Job, StoppedError
from lrexp.grid.engines.jobs import LostError
from lrexp.grid.pool.in_worker import STOPPED
from lrexp.grid.pool.pool import cores
from lrexp.grid.settings import LocalJobSettings, SlurmSettings

ARRAY = 1000  # jobs of an array, of which SLURM's MaxArraySize is one more
OF_LOCAL = ("timeout_min", "signal_delay_s", "gpus_per_node")
OF_SLURM = {  # our names and those of sbatch, as submitit has them
    "timeout_min": "time",
    "mem_gb": "mem",
    **{key: key for key in ("signal_delay_s", "gpus_per_node", "cpus_per_task")},
    **{key: key for key in ("partition", "account", "qos", "constraint", "exclude")},
    **{key: key for key in ("array_parallelism", "setup", "additional_parameters")},
}
QUEUE_S = 5.0  # between two looks at SLURM's queue
LATE_S = 15.0  # that a file system may take to show the result of a job that has left the queue
STOP_S = 60.0  # that jobs may take to save their state; SLURM kills them before


class Submitit:
    """Jobs of SLURM, or such that run here.

    Whether a job of SLURM is still to come or runs, its queue says (`squeue`): not every cluster
    keeps the accounts that submitit asks.
    """

    def __init__(self, settings: LocalJobSettings, folder: Path):
        import submitit

        given = {key: value for key, value in asdict(settings).items() if value is not None}
        self._local = not isinstance(settings, SlurmSettings)
        self.at_once = (settings.workers or cores()) if self._local else None
        # local jobs share the cores; SLURM's have those that it gives them
        self._threads = max(1, cores() // self.at_once) if self.at_once else None
        self._gone: dict[Any, float] = {}  # jobs that have left the queue, and since when
        self._queue, self._looked = set[str](), 0.0
        # jobs' numbers can be guessed: a file that claims to be the result of one must not be there
        place = folder / new_run_id() / "%j"
        self._executor: Any
        if isinstance(settings, SlurmSettings):
            wanted = {as_named: given[key] for key, as_named in OF_SLURM.items() if key in given}
            if "mem" in wanted:
                wanted["mem"] = f"{1024 * wanted['mem']:.0f}MB"
            self._executor = submitit.SlurmExecutor(place, settings.max_num_timeout)
            self._executor.update_parameters(job_name="lrexp", **wanted)
        else:
            wanted = {key: given[key] for key in OF_LOCAL if key in given}
            self._executor = submitit.LocalExecutor(place)
            self._executor.update_parameters(**wanted)

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Hand out jobs, as arrays: all of them, or none."""
        handed: list[Any] = []
        for first in range(0, len(jobs), ARRAY):
            try:
                with _interrupt_held_back(), self._executor.batch():
                    some = [
                        replace(job, threads=self._threads) for job in jobs[first : first + ARRAY]
                    ]
                    asked = [self._executor.submit(Resubmitted(job)) for job in some]
            except Exception as error:
                self.stop(handed)
                raise UserError(f"no jobs could be submitted: {_last_line(error)}") from error
            handed += asked
        self._looked = 0.0
        return handed

    def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
        """See `Engine`."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        time.sleep(wait_s)
        left = self._left(known)
        for job in known:
            with suppress(OSError):  # reading a folder has a network's file system look anew
                os.listdir(job.paths.folder)
            if job.paths.result_pickle.exists():
                try:
                    yield job, job.result()
                except (FailedJobError, UncompletedJobError) as error:
                    yield job, RuntimeError(f"{_raised(error)}; {_log_of(job)}")
                except Exception as error:  # it cannot be read
                    yield job, LostError(f"job {job.job_id}: {first_line(error)}; {_log_of(job)}")
            elif job not in left:
                self._gone.pop(job, None)
            elif time.monotonic() - self._gone.setdefault(job, time.monotonic()) >= (
                0 if self._local else LATE_S
            ):
                yield job, LostError(f"job {job.job_id}: {_last_word(job)}; {_log_of(job)}")

    def stop(self, known: Sequence[Any]) -> None:
        """See `Engine`: SIGTERM first, so that state is saved; waits for that."""
        if not known:
            return
        if self._local:
            for job in known:
                with suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)
        else:
            subprocess.run(["scancel", *(job.job_id for job in known)], check=False)
        until = time.monotonic() + STOP_S
        while len(self._left(known, 1.0)) < len(known) and time.monotonic() < until:
            time.sleep(0.2)

    def _left(self, known: Sequence[Any], every_s: float = QUEUE_S) -> set[Any]:
        """Jobs that neither wait nor run any more."""
        if self._local:
            return {job for job in known if job.done()}
        if time.monotonic() - self._looked >= every_s:
            self._looked = time.monotonic()
            command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i"]
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
            if asked.returncode:  # its controller does not answer: nothing is known
                return set()
            self._queue = {*asked.stdout.split()}
        return {job for job in known if job.job_id not in self._queue}


@dataclass(frozen=True)
class Resubmitted:
    """What submitit calls: a job that goes on in another when its time is up."""

    job: Job

    def __call__(self) -> Any:
        """See `Job`; one that is stopped leaves no result, so that only the queue tells its end."""
        logging.getLogger("submitit").propagate = False  # what it says is in the job's own log
        with _time_is_up() as requeue:
            try:
                return self.job()
            except StoppedError:
                requeue()
                sys.exit(STOPPED)

    def checkpoint(self) -> Any:
        """For submitit, when a job's time is up: the same job goes on in another."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _time_is_up() -> Iterator[Callable[[], None]]:
    """Let SIGUSR2, which submitit listens to, stop the runs as SIGTERM does.

    What is yielded asks submitit for another job, once the runs have saved their state; it does
    nothing when it was another signal.
    """
    before, came = signal.getsignal(signal.SIGUSR2), list[int]()

    def stop(number: int, _: Any) -> None:
        came.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    def requeue() -> None:
        if came and callable(before):
            before(came[0], None)

    signal.signal(signal.SIGUSR2, stop)
    try:
        yield requeue
    finally:
        signal.signal(signal.SIGUSR2, before)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Ctrl-C comes after it, and does not reach what is started meanwhile: that is stopped by us.

    Ignored it would be lost. What is started keeps it blocked, as it would keep it ignored.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _last_line(said: object) -> str:
    """The last line of what a program said; empty where there is none."""
    return ([line.strip() for line in str(said).splitlines() if line.strip()] or [""])[-1]


def _raised(error: Exception) -> str:
    """What a job raised, from the trace that submitit has in lines of dashes."""
    parts = re.split(r"\n-{5,}\n", str(error))
    return _last_line(parts[1] if len(parts) > 2 else error)


def _last_word(job: Any) -> str:
    """What became of a job that has left no result, by its log."""
    try:
        said = job.paths.stderr.read_text(errors="replace")[-10_000:]
    except OSError:
        said = ""
    return _last_line(said)[:200] or "it ended without a word"


def _log_of(job: Any) -> str:
    return f"its log is {shown_path(job.paths.stderr)}"
