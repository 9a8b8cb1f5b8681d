"""`hydra/launcher=ray`: jobs as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lrexp.config.errors import UserError, first_line
from lrexp.grid.engines.job import Job
from lrexp.grid.engines.jobs import SAVED_S, LostError
from lrexp.grid.settings import RaySettings

# Of the session's environment: what tasks need to find modules, data and W&B. Ray shows whoever may
# see its dashboard what tasks are given, so that keys are left out: a node has its own login.
SENT = ("PYTHONPATH", "LREXP_ALLOW_TARGETS", "WANDB_MODE", "WANDB_DIR", "WANDB_ENTITY")

log = logging.getLogger(__name__)


class Ray:
    """Tasks of a cluster that is there, or of one that lives as long as the sweep."""

    at_once: int | None = None

    def __init__(self, settings: RaySettings):
        import ray

        self._ours = not ray.is_initialized()
        # not None, which joins whatever cluster was last begun on this machine, also a dead one
        at = settings.address or os.environ.get("RAY_ADDRESS") or "local"
        if self._ours:
            sent = {name: os.environ[name] for name in SENT if name in os.environ}
            how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if at == "local":
                how["include_dashboard"] = False
            try:
                ray.init(address=at, runtime_env={"env_vars": sent}, **how)
            except Exception as error:
                said = f"hydra.launcher.address={at}: no Ray cluster is to be had there"
                raise UserError(f"{said}: {first_line(error)}") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        problem = unfit(nodes, settings)
        if problem and self._ours and at == "local":
            ray.shutdown()
            raise UserError(problem)
        if problem:  # a cluster may have nodes that it starts when they are asked for
            log.warning("%s; tasks wait until one joins", problem)
        needs: Any = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus}
        self._remote = ray.remote(max_retries=0, **needs)(_called)

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """Hand out jobs, a task each."""
        return [self._remote.remote(job) for job in jobs]

    def ended(self, known: Sequence[Any], wait_s: float) -> Iterator[tuple[Any, Any]]:
        """See `Engine`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        if not known:
            time.sleep(wait_s)
            return
        for one in ray.wait(list(known), num_returns=len(known), timeout=wait_s)[0]:
            try:
                yield one, ray.get(one)
            except RayTaskError as error:
                yield one, error.cause
            except RayError as error:
                yield one, LostError(first_line(error))

    def stop(self, known: Sequence[Any]) -> None:
        """See `Engine`: tasks that run get a KeyboardInterrupt, and save their state."""
        import ray

        with suppress(Exception):  # the cluster may be gone
            for one in known:
                ray.cancel(one)
            if known:
                ray.wait(list(known), num_returns=len(known), timeout=SAVED_S)
        if self._ours:
            ray.shutdown()


def unfit(nodes: Sequence[Mapping[str, float]], settings: RaySettings) -> str:
    """Why no node that is there can ever run a task, in words; empty where one can."""
    cpus, gpus = settings.num_cpus, settings.num_gpus
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return ""
    there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g}" for node in nodes)
    asked = f"hydra.launcher.num_cpus={cpus:g} hydra.launcher.num_gpus={gpus:g}"
    return f"no node of the Ray cluster has room for {asked}: they have {there or 'no'} GPUs"


def _called(job: Job) -> Any:
    return job()
