"""`hydra/launcher=ray`: jobs as tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from lrexp.config.errors import UserError, first_line
from lrexp.grid.engines.job import Job
from lrexp.grid.engines.jobs import LostError
from lrexp.grid.settings import RaySettings


class Ray:
    """Tasks of a cluster that is there, or of one that lives as long as the sweep."""

    at_once: int | None = None

    def __init__(self, settings: RaySettings):
        import ray

        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(
                    address=settings.address, log_to_driver=False, configure_logging=False,
                    runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
                )  # fmt: skip
            except Exception as error:
                at = settings.address or os.environ.get("RAY_ADDRESS") or "this machine"
                raise UserError(f"no Ray cluster at {at}: {first_line(error)}") from error
        needs: Any = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus}
        self._remote = ray.remote(max_retries=0, **needs)(_called)

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Hand out jobs, a task each."""
        return [self._remote.remote(job) for job in jobs]

    def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
        """See `Engine`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        for one in ray.wait(list(known), num_returns=len(known), timeout=wait_s)[0]:
            try:
                yield one, ray.get(one)
            except RayTaskError as error:
                yield one, error.cause
            except RayError as error:
                yield one, LostError(first_line(error))

    def stop(self, known: Sequence[Any]) -> None:
        """See `Engine`."""
        import ray

        for one in known:
            ray.cancel(one)
        if self._ours:
            ray.shutdown()


def _called(job: Job) -> Any:
    return job()
