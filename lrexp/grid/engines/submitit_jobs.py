"""`hydra/launcher=slurm` and `submitit_local`: jobs through submitit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError, first_line
from lrexp.grid.engines.job import Job
from lrexp.grid.engines.jobs import LostError
from lrexp.grid.pool.pool import cores
from lrexp.grid.settings import LocalJobSettings

ARRAY = 1000  # jobs of an array, of which SLURM's MaxArraySize is one more
OF_CLUSTER = ("partition", "account", "qos", "constraint", "exclude", "array_parallelism", "setup")
OF_BOTH = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")


class Submitit:
    """Jobs of SLURM, or such that run here."""

    def __init__(self, settings: LocalJobSettings, folder: Path):
        import submitit

        given = {key: value for key, value in asdict(settings).items() if value is not None}
        local = settings.engine == "submitit_local"
        self.at_once = (settings.workers or cores()) if local else None
        wanted = {key: given[key] for key in OF_BOTH if key in given}
        if local:
            self._executor: Any = submitit.AutoExecutor(folder / "%j", cluster="local")
        else:
            self._executor = submitit.AutoExecutor(
                folder / "%j", cluster="slurm", slurm_max_num_timeout=settings.max_num_timeout
            )
            wanted |= {f"slurm_{key}": given[key] for key in OF_CLUSTER if key in given}
            wanted["slurm_signal_delay_s"] = settings.signal_delay_s
            wanted["slurm_additional_parameters"] = given["additional_parameters"]
        self._executor.update_parameters(name="lrexp", **wanted)

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Hand out jobs, as arrays."""
        handed: list[Any] = []
        for first in range(0, len(jobs), ARRAY):
            try:
                with self._executor.batch():
                    handed += [self._executor.submit(job) for job in jobs[first : first + ARRAY]]
            except Exception as error:
                raise UserError(f"no jobs could be submitted: {_said(error)}") from error
        return handed

    def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
        """See `Engine`."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        time.sleep(wait_s)
        for job in known:
            if not job.done():
                continue
            try:
                yield job, job.result()
            except (FailedJobError, UncompletedJobError) as error:
                yield job, LostError(f"job {job.job_id}: {_said(error)}")
            except Exception as error:
                yield job, error

    def stop(self, known: Sequence[Any]) -> None:
        """See `Engine`: SIGTERM first, so that state is saved."""
        for job in known:
            job.cancel(check=False)


def _said(error: Exception) -> str:
    """The last line of what a program said, or else the first of an exception's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)
