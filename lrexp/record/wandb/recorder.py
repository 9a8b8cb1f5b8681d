"""Weights & Biases, through its own client: one run per training run."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lrexp.config.errors import Terminated
from lrexp.config.names import shown_path
from lrexp.config.schema.training import Wandb
from lrexp.folder.layout import PLAN, WANDB
from lrexp.judge.verdicts import KINDS
from lrexp.plan.plan import read_plan
from lrexp.record.recorders import RunInfo
from lrexp.record.wandb.agent import trial
from lrexp.record.wandb.client import clean_tags, missing, prepared, taken, unless_set
from lrexp.record.wandb.details import log_mistakes, log_plan, log_report, log_weights
from lrexp.record.wandb.file import epochs, mark_synced, runs_below, unsent
from lrexp.record.wandb.start import (
    arguments,
    as_recorded,
    mode_of,
    offline_from_now,
    without_home,
)

log = logging.getLogger(__name__)

START_S = 15.0  # a server that cannot be reached may cost a run this much
FINISH_S = 30.0  # to deliver what is left, and a second per MB of the artifact
AT_ONCE = 8  # points of a grid whose last rows are on their way while others train
BYTES_PER_S = 1e6
EXIT_CODES = {"finished": 0, "diverged": 0, "interrupted": 130, "failed": 1}
KILLED = 1  # exit code of a run whose program never said how it ended

_open: set[str] = set()  # ids of runs that this program has not closed yet
_closing: list[threading.Thread] = []


class WandbRecorder:
    """Mirrors rows and summary to a W&B run.

    Without an account, or when the server cannot be reached, it writes an offline run into the run
    folder. W&B's own settings file and variables win over the config; the run's folder is that of
    lrexp.

    Row k of the W&B run is the run's k-th epoch, however often it was stopped, sent and taken up: a
    run that goes on (`info.earlier`) keeps its W&B run, and is sent the rows that it lacks alone.

    Args:
        settings: the config's.
        job_type: the task.
        info: of the run.
        again: a file of the run, which is only sent what W&B lacks of it; it is never offline then.
    """

    def __init__(self, settings: Wandb, job_type: str, info: RunInfo, again: Path | None = None):
        import wandb

        started = time.monotonic()
        own = prepared()
        self._info, self.lacks = info, ""
        self._in_grid = info.sweep is not None
        asked = settings.artifacts if settings.artifacts != "none" else None
        unsaid = None if self._in_grid else "best"
        self._weights = unsaid if asked == "auto" else asked  # `best`, `last` or nothing
        self._details = settings.details == "all" or (
            settings.details == "auto" and not self._in_grid
        )
        self._may_wait = not self._in_grid or again is not None  # a grid's next point need not
        self._plan = read_plan((info.folder / PLAN).read_text(encoding="utf-8"))
        size = 4 * sum(row.size for row in self._plan.rows) if self._weights else 0
        while len(_closing) >= AT_ONCE:
            _closing.pop(0).join()
        _closing[:] = [thread for thread in _closing if thread.is_alive()]
        opening = arguments(settings, job_type, info, own)
        self._asked = opening["tags"]
        opening |= as_recorded(again) if again else {}
        self._id = opening["id"]
        earlier_files = runs_below(info.folder, self._id)
        mode = "online" if again else mode_of(settings.mode, own)
        told = None if self._in_grid or again else trial()
        of_run: dict[str, Any] = {
            "init_timeout": max(1.0, START_S - (time.monotonic() - started)),
            "finish_timeout": FINISH_S + size / BYTES_PER_S,
            "x_disable_stats": self._in_grid or again is not None,  # points share the machine
        }
        of_run = unless_set(of_run) | ({"sweep_id": told.sweep_id} if told else {})
        opening["mode"], opening["settings"] = mode, wandb.Settings(**of_run)
        try:
            self._run = wandb.init(**opening)
        except wandb.Error as error:
            if mode != "online" or _open or again:
                raise
            offline_from_now(own, error)
            wandb.teardown()  # the failed run still holds its id
            prepared()
            for leftover in info.folder.glob(f"{WANDB}/run-*-{self._id}"):
                if leftover not in [file.parent for file in earlier_files]:
                    shutil.rmtree(leftover, ignore_errors=True)
            opening["mode"] = "offline"
            self._run = wandb.init(**opening)
        _open.add(self._id)
        self._folder = Path(self._run.settings.sync_dir)
        self._file = self._folder / f"run-{self._id}.wandb"
        self._online = not self._run.offline and not self._run.disabled
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self._sync = f"lrexp sync {shlex.quote(shown_path(info.folder))}"
        offline = f"offline; upload with: {self._sync}"
        self.where = offline if self._run.offline else self._run.url  # None when disabled
        self._rows = self._there = 0  # given so far; that W&B had before
        if self._online:
            unsent(self._file).touch()  # until it is closed: a killed program cannot say it
        if self._run.offline:
            log_plan(self._run, self._plan)
        if info.earlier is not None:
            self._take_up(info.earlier, earlier_files)

    def row(self, row: dict[str, float]) -> None:
        """Log one epoch, unless W&B has it."""
        self._rows += 1
        if self._rows > self._there:
            self._run.log(row)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and close the run with the exit code its status stands for."""
        status, run = summary["status"], self._run
        kinds = [verdict["kind"] for verdict in summary["verdicts"]]
        alerts = {
            verdict["kind"]: f"{verdict['message']}; {verdict['advice']}"
            for verdict in summary["verdicts"]
            if verdict["severity"] == "error"
        }
        if status == "failed":
            alerts["failed"] = str(summary.get("error"))
        had = tuple(run.tags or ())
        if (tags := tags_of(had, self._asked, [*kinds, *alerts])) != had:
            run.tags = tags
        for title, text in alerts.items():
            run.alert(title=title, text=without_home(text), level="WARN")
        if not run.disabled:
            try:
                self._add_details(summary)
            except Exception as error:  # the run has to be closed all the same
                log.warning("W&B run %s lacks a table or a file: %s", self._id, error)
                log.info("W&B", exc_info=error)
        first = next(iter(summary["verdicts"]), {})
        told = {
            "verdicts": kinds,
            "verdict": first.get("kind"),
            "verdict_says": first.get("message"),
        }
        run.summary.update(without_home(flat_summary(summary) | told))
        code = EXIT_CODES.get(status, KILLED)
        if status == "interrupted" and isinstance(sys.exc_info()[1], Terminated):
            code = 143
        if self._may_wait or self._run.offline:
            self._close(code, status)
        else:
            # no daemon: the end of the program waits for it, which finish_timeout bounds
            thread = threading.Thread(
                target=self._close, args=(code, status), name=f"wandb-{self._id}"
            )
            thread.start()
            _closing.append(thread)

    def _add_details(self, summary: dict[str, Any]) -> None:
        """Tables and files; after the rows: in an outage files hold up what is behind them."""
        run, folder = self._run, self._info.folder
        if self._online:
            log_plan(run, self._plan)
        if self._details:
            log_mistakes(run, folder)
            log_report(run, folder)
        if self._weights and summary["status"] in ("finished", "diverged"):
            named = (self._info.config["name"], self._info.monitor)
            log_weights(run, folder, self._weights, summary, *named)

    def _close(self, code: int, status: str) -> None:
        """Close the run, and keep everything that the server lacks afterwards."""
        try:
            self._run.finish(exit_code=code)
            if self._online:  # the client says nothing of what a server refused
                self.lacks = missing(self._run, self._rows, "status", status, self._file)
        except TimeoutError:
            self.lacks = "W&B did not take every row in time"
        except Exception as error:  # in a thread nobody else would say it
            self.lacks = f"it was not closed: {error}"
        finally:
            _open.discard(self._id)
        if self.lacks:
            text = "W&B run %s: %s; nothing is lost here, send the rest with: %s"
            log.warning(text, self._id, self.lacks, self._sync)
            return
        unsent(self._file).unlink(missing_ok=True)
        # the client's own logs name the home folder, and nobody needs them when all went well
        shutil.rmtree(self._folder / "logs", ignore_errors=True)

    def _take_up(self, earlier: list[dict[str, float]], files: list[Path]) -> None:
        """Find out which rows W&B has, and send it those that it lacks."""
        run = self._run
        if run.offline:
            self._there = len(set().union(*map(epochs, files)))
        elif run.resumed:
            # The client goes on behind the rows that were there when it opened the run. Since then
            # the client of a killed program may have sent more, and where there are none yet it
            # takes its step from the summary.
            has = taken(run.entity, run.project, run.id)
            self._there = min(int(run.starting_step), has.rows if has else run.starting_step)
        if self._online:
            for file in files:  # what they hold and W&B lacks is sent from here
                mark_synced(file)
        for row in earlier:
            self.row(row)


def tags_of(had: Sequence[str], asked: Collection[str], found: Sequence[str]) -> tuple[str, ...]:
    """The tags of a run that ends: those it had, and what was found of it.

    What was found when it was stopped before, and no longer is, goes, unless it was asked for.
    """
    kept = [tag for tag in had if tag in asked or tag in found or tag not in KINDS]
    return tuple(dict.fromkeys([*kept, *clean_tags([*found])]))


def flat_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """What W&B shows of summary.json, one level deep: best/, test/, gap/, timings/, ..."""
    test = dict(summary["test"])
    sets = {f"test/{name}": result for name, result in test.pop("eval_sets", {}).items()}
    gaps = {f"gap/{moment}": values for moment, values in summary["gap"].items()}
    flat = {key: summary[key] for key in ("status", "seed", "config_id", "plan_hash", "device")}
    parts = {"best": summary["best"], "test": test, **sets, **gaps}
    for name, values in parts.items():
        flat |= {f"{name}/{key}": value for key, value in values.items()}
    for name in ("timings", "parameters"):
        flat |= {f"{name}/{key}": value for key, value in (summary.get(name) or {}).items()}
    flat |= {key: summary[key] for key in ("executor", "error", "stopped_by") if summary.get(key)}
    return flat
