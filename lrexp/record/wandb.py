"""Weights & Biases, through its own client: one run per training run."""

from __future__ import annotations

import logging
import os
import shutil
from typing import Any

from lrexp.record import RunInfo
from lrexp.schema import Wandb

log = logging.getLogger(__name__)

TIMEOUTS_S = {"init_timeout": 15, "finish_timeout": 30}
EXIT_CODES = {"finished": 0, "diverged": 0, "interrupted": 130, "failed": 1}


class WandbRecorder:
    """Mirrors rows and summary to a W&B run.

    Without an account it writes an offline run into the run folder. W&B's own settings file and
    variables (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_NAME, WANDB_TAGS,
    WANDB_NOTES) win over the config; the run's folder and id are those of lrexp.
    """

    def __init__(self, settings: Wandb, job_type: str, info: RunInfo):
        import wandb

        for name in [n for n, value in os.environ.items() if n.startswith("WANDB_") and not value]:
            del os.environ[name]  # empty means unset; the client would refuse it
        own = wandb.setup(settings=wandb.Settings(silent=True)).settings
        mode = _unless("WANDB_MODE", settings.mode)
        if mode == "auto" and own.mode in ("offline", "disabled"):  # W&B's settings file says so
            mode = own.mode
        elif mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        users_tags = os.environ.get("WANDB_TAGS")
        tags = users_tags.split(",") if users_tags else settings.tags
        plain_names = {f"{group}.name": info.config[group]["name"] for group in GROUPING}
        arguments: dict[str, Any] = {
            "project": None if own.project else settings.project,
            "entity": None if own.entity else settings.entity,
            "group": _unless("WANDB_RUN_GROUP", settings.group or info.sweep),
            "name": _unless("WANDB_NAME", info.title),
            "notes": _unless("WANDB_NOTES", settings.notes),
            "tags": [tag[:64] for tag in (*plain_names.values(), *tags)],  # W&B takes no longer one
            "job_type": _unless("WANDB_JOB_TYPE", job_type),
            "id": info.run_id,
            "dir": str(info.folder),
            "config": {**info.config, **plain_names, "config_id": info.config_id},
            "reinit": "create_new",
        }
        quiet: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "finish_timeout_raises": True,
            "x_transaction_log_flush_interval": 1,  # a killed run loses a second of rows, not 15
        }
        if info.sweep:  # the list of packages is the same for every point: see environment.json
            quiet["x_save_requirements"] = False
        for name, seconds in TIMEOUTS_S.items():
            if not os.environ.get(f"WANDB_{name.upper()}"):
                quiet[name] = seconds
        try:
            self._run = wandb.init(**arguments, mode=mode, settings=wandb.Settings(**quiet))
        except wandb.Error as error:
            if mode == "offline":
                raise
            log.warning("W&B cannot be reached, recording offline: %s", str(error).splitlines()[0])
            wandb.teardown()  # the failed run still holds its id
            for leftover in info.folder.glob(f"wandb/run-*-{info.run_id}"):
                shutil.rmtree(leftover, ignore_errors=True)
            self._run = wandb.init(**arguments, mode="offline", settings=wandb.Settings(**quiet))
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self._sync = f"wandb sync {os.path.relpath(str(self._run.settings.sync_dir))}"
        offline = f"offline; upload with: {self._sync}"
        self.where = offline if self._run.offline else self._run.url  # None when disabled

    def row(self, row: dict[str, float]) -> None:
        """Log one epoch."""
        self._run.log(row)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and close the run with the exit code its status stands for."""
        self._run.summary.update(flat_summary(summary))
        try:
            self._run.finish(exit_code=EXIT_CODES[summary["status"]])
        except TimeoutError:
            log.warning("W&B did not take every row in time; send the rest with: %s", self._sync)


GROUPING = ("lr_policy", "model", "data", "optimizer", "scheduler")


def flat_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """What W&B shows of summary.json, one level deep: best/, test/, test/<eval set>/, gap/."""
    test = dict(summary["test"])
    sets = {f"test/{name}": result for name, result in test.pop("eval_sets", {}).items()}
    gaps = {f"gap/{moment}": values for moment, values in summary["gap"].items()}
    flat = {key: summary[key] for key in ("status", "seed", "config_id", "plan_hash", "device")}
    for name, values in {"best": summary["best"], "test": test, **sets, **gaps}.items():
        flat |= {f"{name}/{key}": value for key, value in values.items()}
    return flat


def _unless(variable: str, value: Any) -> Any:
    """The value, or nothing where the user set W&B's own variable."""
    return None if os.environ.get(variable) else value
