"""Weights & Biases, through its own client: one run per training run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from lrexp.config.errors import Terminated
from lrexp.config.names import shown_path
from lrexp.config.schema.training import Wandb
from lrexp.folder.layout import CHECKPOINTS, CONFIG, ENVIRONMENT, PLAN, PLAN_TABLE, WANDB
from lrexp.plan.plan import Row, read_plan
from lrexp.record.recorders import RunInfo
from lrexp.record.wandb.client import NO_LOGIN, prepared, unless_set, why_offline
from lrexp.record.wandb.file import last_epoch, mark_synced, runs_below, unsent

log = logging.getLogger(__name__)

START_S = 15.0  # a server that cannot be reached may cost a run this much
FINISH_S = 30.0  # to deliver what is left, and a second per MB of the artifact
AGAIN_AFTER_S = 300.0  # that long a server that could not be reached is not asked again
AT_ONCE = 8  # points of a grid whose last rows are on their way while others train
BYTES_PER_S = 1e6
EXIT_CODES = {"finished": 0, "diverged": 0, "interrupted": 130, "failed": 1}
GROUPING = ("lr_policy", "model", "data", "optimizer", "scheduler")
# of a plan's columns, by the type of the field
CELLS = {t.__name__: t for t in (str, int, float, bool)} | {
    "tuple[int, ...]": str,
    "int | None": int,
}
ARTIFACT_FILES = (CONFIG, PLAN, ENVIRONMENT)

_open: set[str] = set()  # ids of runs that this program has not closed yet
_closing: list[threading.Thread] = []
# server, and whether there is a key for it → time.monotonic() from which on it is asked again
_not_before: dict[str, float] = {}


class WandbRecorder:
    """Mirrors rows and summary to a W&B run.

    Without an account, or when the server cannot be reached, it writes an offline run into the run
    folder. W&B's own settings file and variables win over the config; the run's folder is that of
    lrexp, and its id too, unless an agent of a W&B sweep brings one.

    A run that goes on (`info.earlier`) keeps its W&B run: it is sent the rows that it lacks, and no
    row that it has.
    """

    def __init__(self, settings: Wandb, job_type: str, info: RunInfo):
        import wandb

        started = time.monotonic()
        for name in [n for n, value in os.environ.items() if n.startswith("WANDB_") and not value]:
            del os.environ[name]  # empty means unset; the client would refuse it
        own = prepared()
        self._info = info
        asked = settings.artifacts if settings.artifacts != "none" else None
        unsaid = None if info.sweep else "best"
        self._artifacts = unsaid if asked == "auto" else asked  # `best`, `last` or nothing
        self._may_wait = info.sweep is None  # a grid's next point need not wait for the last rows
        users_tags = os.environ.get("WANDB_TAGS")
        tags = users_tags.split(",") if users_tags else settings.tags
        plain_names = {f"{group}.name": info.config[group]["name"] for group in GROUPING}
        agents_id = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        self._id = info.run_id if info.sweep else agents_id or info.run_id
        # the title without the id, which W&B shows by itself
        title = [word for word in info.title.split(" ") if not word.startswith("run_id=")]
        self._plan = read_plan((info.folder / PLAN).read_text(encoding="utf-8"))
        size = 4 * sum(row.size for row in self._plan.rows) if self._artifacts else 0
        earlier_files = runs_below(info.folder, self._id)
        while len(_closing) >= AT_ONCE:
            _closing.pop(0).join()
        _closing[:] = [thread for thread in _closing if thread.is_alive()]
        server = f"{own.base_url} {'key' if os.environ.get('WANDB_API_KEY') else ''}"
        mode = _mode(settings.mode, own.mode)
        if mode in ("auto", "online"):
            mode = _reachable(server, mode)
        settings_of_run = {
            "init_timeout": max(1.0, START_S - (time.monotonic() - started)),
            "finish_timeout": FINISH_S + size / BYTES_PER_S,
            "x_disable_stats": bool(info.sweep),  # points share the machine
        }
        users_own = {  # W&B's own variables for what a run is called
            "group": ("WANDB_RUN_GROUP", settings.group or info.sweep),
            "name": ("WANDB_NAME", without_home(" ".join(title) or info.config["name"])),
            "notes": ("WANDB_NOTES", settings.notes),
            "job_type": ("WANDB_JOB_TYPE", job_type),
        }
        arguments: dict[str, Any] = {
            "project": None if own.project else settings.project,
            "entity": None if own.entity else settings.entity,
            **{k: None if os.environ.get(var) else v for k, (var, v) in users_own.items()},
            "tags": [tag[:64] for tag in (*plain_names.values(), *tags)],  # W&B takes no longer one
            "id": self._id,
            "dir": str(info.folder),
            "config": without_home({**info.config, **plain_names, "config_id": info.config_id}),
            "mode": mode,
            "reinit": "create_new",
            "resume": None if info.earlier is None else "allow",
            "settings": wandb.Settings(**unless_set(settings_of_run)),
        }
        try:
            self._run = wandb.init(**arguments)
        except wandb.Error as error:
            if mode != "online" or _open:
                raise
            _offline_from_now(server, error)
            wandb.teardown()  # the failed run still holds its id
            for leftover in info.folder.glob(f"{WANDB}/run-*-{self._id}"):
                if leftover not in [file.parent for file in earlier_files]:
                    shutil.rmtree(leftover, ignore_errors=True)
            arguments["mode"] = "offline"
            self._run = wandb.init(**arguments)
        _open.add(self._id)
        self._folder = Path(self._run.settings.sync_dir)
        self._unsent = unsent(self._folder / f"run-{self._id}.wandb")
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self._sync = f"lrexp sync {shown_path(info.folder)}"
        offline = f"offline; upload with: {self._sync}"
        self.where = offline if self._run.offline else self._run.url  # None when disabled
        self._logged = -1  # the last epoch that W&B has
        if not self._run.offline and not self._run.disabled:
            self._unsent.touch()  # until it is closed: a killed program cannot say it
        if self._run.offline:
            self._log_plan()
        if info.earlier is not None:
            self._take_up(info.earlier, earlier_files)

    def row(self, row: dict[str, float]) -> None:
        """Log one epoch."""
        if row["epoch"] > self._logged:
            self._run.log(row)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and close the run with the exit code its status stands for."""
        status = summary["status"]
        kinds = tuple(verdict["kind"] for verdict in summary["verdicts"])
        flat = flat_summary(summary) | {"verdicts": list(kinds)}
        self._run.summary.update(without_home(flat))
        if new := tuple(kind for kind in kinds if kind not in (self._run.tags or ())):
            self._run.tags = (*(self._run.tags or ()), *new)
        for verdict in summary["verdicts"]:
            if verdict["severity"] == "error":
                text = f"{verdict['message']}; {verdict['advice']}"
                self._run.alert(title=verdict["kind"], text=text, level="WARN")
        if not self._run.offline:  # last: in an outage files hold up the rows behind them
            self._log_plan()
        if status in ("finished", "diverged"):
            self._log_artifact(summary)
        code = EXIT_CODES[status]
        if status == "interrupted" and isinstance(sys.exc_info()[1], Terminated):
            code = 143
        if self._may_wait or self._run.offline:
            self._close(code)
        else:
            # no daemon: the end of the program waits for it, which finish_timeout bounds
            thread = threading.Thread(target=self._close, args=(code,), name=f"wandb-{self._id}")
            thread.start()
            _closing.append(thread)

    def _close(self, code: int) -> None:
        try:
            self._run.finish(exit_code=code)
        except TimeoutError:
            log.warning("W&B did not take every row in time; send the rest with: %s", self._sync)
        except Exception as error:  # in a thread nobody else would say it
            log.warning("W&B run %s was not closed: %s", self._id, error)
        else:
            self._unsent.unlink(missing_ok=True)
            # the client's own logs name the home folder, and nobody needs them when all went well
            shutil.rmtree(self._folder / "logs", ignore_errors=True)
        finally:
            _open.discard(self._id)

    def _take_up(self, earlier: list[dict[str, float]], files: list[Path]) -> None:
        """Find out which rows W&B has, and send it those that it lacks."""
        if self._run.offline:
            self._logged = max((last_epoch(file) for file in files), default=-1)
        else:
            if self._run.resumed:  # epoch k is row k; the summary may be ahead of the rows
                self._logged = int(self._run.starting_step)
            for file in files:  # what they hold and W&B lacks is sent from here
                mark_synced(file)
        for row in earlier:
            self.row(row)

    def _log_plan(self) -> None:
        """The plan as a table in the run's summary: no row of the history is spent on it."""
        import wandb
        from wandb.sdk.artifacts._internal_artifact import InternalArtifact

        if self._run.disabled:
            return
        columns = fields(Row)
        table = wandb.Table(
            columns=[column.name for column in columns],
            dtype=[CELLS[str(column.type)] for column in columns],
            optional=[str(column.type).endswith("None") for column in columns],
        )
        for row in self._plan.rows:  # not by add_data, which looks into the type of every cell
            cells = vars(row) | {"shape": "x".join(map(str, row.shape))}
            table.data.append([cells[column.name] for column in columns])
        # What `run.summary["plan"] = table` does, except that the file goes into the run's folder
        # and not below the home folder, where it could be cleaned away before a sync.
        artifact = InternalArtifact(f"run-{self._id}-plan", "run_table")
        file = self._folder / PLAN_TABLE
        file.write_text(json.dumps(table.to_json(artifact)), encoding="utf-8")
        _add(artifact, file)
        table._set_artifact_target(artifact, file.name)
        _publish(self._run, artifact, [])
        table.bind_to_run(self._run, "plan", "summary")
        self._run.summary["plan"] = table

    def _log_artifact(self, summary: dict[str, Any]) -> None:
        """Checkpoint, config and plan as one artifact; the files stay where they are."""
        import wandb

        which = self._artifacts
        checkpoint = self._info.folder / CHECKPOINTS / f"{which}.pt"
        if not which or not checkpoint.is_file() or self._run.disabled:
            return
        row, monitor = summary[which], self._info.monitor
        metadata = {"config_id": self._info.config_id, "plan_hash": summary["plan_hash"]}
        metadata |= {"epoch": row.get("epoch"), monitor: row.get(monitor)}
        metadata |= {"status": summary["status"]}
        name = f"{self._info.config['name']}-{self._id}"[:128]
        artifact = wandb.Artifact(name, "model", metadata=metadata)
        for file in (checkpoint, *(self._info.folder / name for name in ARTIFACT_FILES)):
            if file.is_file():
                _add(artifact, file)
        _publish(self._run, artifact, [which])


def _add(artifact: Any, file: Path) -> None:
    """By its path as seen from here: what W&B writes down then names no home folder."""
    artifact.add_file(os.path.relpath(file), policy="immutable", skip_cache=True)


def _publish(run: Any, artifact: Any, aliases: list[str]) -> None:
    """`run.log_artifact` without its question to the server for the type of the artifact.

    In an outage it would hold up the run, and the artifact would be lost. Without it the artifact
    goes the way of the rows: on disk at once, sent when the server takes it.
    """
    artifact, aliases = run._prepare_artifact(artifact, None, None, ["latest", *aliases])
    run._interface.publish_artifact(
        run, artifact, aliases, [], finalize=True, is_user_created=True, use_after_commit=False
    )


def flat_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """What W&B shows of summary.json, one level deep: best/, test/, test/<eval set>/, gap/."""
    test = dict(summary["test"])
    sets = {f"test/{name}": result for name, result in test.pop("eval_sets", {}).items()}
    gaps = {f"gap/{moment}": values for moment, values in summary["gap"].items()}
    flat = {key: summary[key] for key in ("status", "seed", "config_id", "plan_hash", "device")}
    for name, values in {"best": summary["best"], "test": test, **sets, **gaps}.items():
        flat |= {f"{name}/{key}": value for key, value in values.items()}
    return flat


def without_home(value: Any) -> Any:
    """Plain values with the user's home folder as `~` in every text of them."""
    if isinstance(value, dict):
        return {key: without_home(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(inner) for inner in value]
    home = os.path.expanduser("~")
    return value.replace(home, "~") if isinstance(value, str) and len(home) > 1 else value


def _mode(asked: str, clients: str) -> str:
    """By the user's variable, the config, the client's settings file; auto is still open."""
    own = os.environ.get("WANDB_MODE")
    if own:
        return own if own in ("offline", "disabled") else "online"
    return clients if asked == "auto" and clients in ("offline", "disabled") else asked


def _reachable(server: str, mode: str) -> str:
    """`online` when the server takes the login, else `offline`, with a warning if there is one."""
    if time.monotonic() < _not_before.get(server, 0):
        return "offline"
    why = why_offline()
    if why == NO_LOGIN and mode != "online":
        _not_before[server] = time.monotonic() + AGAIN_AFTER_S
    elif why:
        _offline_from_now(server, why)
    return "offline" if why else "online"


def _offline_from_now(server: str, why: object) -> None:
    _not_before[server] = time.monotonic() + AGAIN_AFTER_S
    log.warning("W&B cannot be reached, recording offline: %s", str(why).splitlines()[0])
