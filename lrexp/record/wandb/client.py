"""W&B's own client in this program: how it behaves, whether it can send, what arrived."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrexp.record.wandb.file import to_arrive

log = logging.getLogger(__name__)

NO_LOGIN = "there is no login; `wandb login` stores one, or set WANDB_API_KEY"
TAG_LENGTH = 64  # W&B takes no longer one
ASK_S = 10  # for an answer on what the server has
SETTLES_S = 3.0  # so long a server may take to count rows that it has taken
# What an agent of a W&B sweep tells its program. With these the client would take the agent's run
# for every run that the program opens, so they are told run by run: see `agent`.
AGENTS = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
# Once for all runs: the client spends half a millisecond on every setting of every run.
BEHAVIOUR: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "host": "",
    "disable_git": True,  # environment.json has commit and machine, without names and paths
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_viewer": True,
    "x_save_requirements": False,
    "finish_timeout_raises": True,
    # with the client's own twenty attempts a login would wait for 10 s, and then say that the
    # client was busy; an artifact would outlast finish_timeout by hours
    "x_graphql_retry_max": 2,
    "x_graphql_retry_wait_min_seconds": 0.5,
    "x_graphql_retry_wait_max_seconds": 2,
    "x_graphql_timeout_seconds": 5,
    "x_file_transfer_retry_max": 2,
    "x_file_transfer_retry_wait_max_seconds": 2,
    "x_file_stream_transmit_interval": 5,  # the server is 5 s behind, not 15
    "x_transaction_log_flush_interval": 1,  # a killed run loses a second of rows, not 15
}

_prepared: Any = None  # the client that has these settings; another one follows a teardown


def prepared() -> Any:
    """The client's settings: the user's own variables and files, and BEHAVIOUR in all else."""
    global _prepared
    import wandb

    _tidy_variables()
    with _without(AGENTS):
        client = wandb.setup(settings=wandb.Settings(silent=True))  # from its first moment on
    if client is not _prepared:
        client = wandb.setup(settings=wandb.Settings(**unless_set(BEHAVIOUR)))
        _prepared = client
    return client.settings


def _tidy_variables() -> None:
    """Empty means unset, and tags may have spaces around them: the client would refuse both."""
    if "WANDB_TAGS" in os.environ:
        os.environ["WANDB_TAGS"] = ",".join(clean_tags(os.environ["WANDB_TAGS"].split(",")))
    for name in [n for n, value in os.environ.items() if n.startswith("WANDB_") and not value]:
        del os.environ[name]


def clean_tags(tags: list[str]) -> list[str]:
    """Each once, without spaces around it, none empty or too long."""
    return list(dict.fromkeys(short for tag in tags if (short := tag.strip()[:TAG_LENGTH].strip())))


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def unless_set(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of some settings for which the user has not set W&B's own variable."""
    return {k: v for k, v in settings.items() if not os.environ.get(f"WANDB_{k.upper()}")}


def why_offline() -> str:
    """What keeps the client from sending: NO_LOGIN, or why the server does not take the login.

    Empty when it can. Nobody is asked for a login. The client asks the server once per program.
    """
    import wandb

    prepared()
    try:
        return "" if wandb.login(prompt=False, verify=True) else NO_LOGIN
    except wandb.Error as error:
        return str(error).splitlines()[0]


def own_entity() -> str:
    """Whose a run is that names no entity, by the login; empty when the server does not say."""
    import wandb

    try:
        return "" if why_offline() else str(wandb.Api(timeout=ASK_S).default_entity or "")
    except Exception as error:  # whatever it is: nobody's then
        log.info("W&B was not asked whose the login is", exc_info=error)
        return ""


@dataclass(frozen=True)
class Taken:
    """What the server has of a run."""

    rows: int
    summary: dict[str, Any]


def taken(entity: str, project: str, run_id: str) -> Taken | None:
    """Ask the server what it has of a run; None when it does not say."""
    import wandb

    try:
        run = wandb.Api(timeout=ASK_S).run(f"{entity}/{project}/{run_id}")
        return Taken(int(run.historyLineCount or 0), dict(run.summary_metrics))
    except Exception as error:  # whatever it is: what was not confirmed is kept
        log.info("W&B was not asked for run %s", run_id, exc_info=error)
        return None


def not_arrived(entity: str, project: str, run_id: str, file: Path) -> str:
    """Which artifacts and files the server lacks of those that a `.wandb` file holds, in words.

    It refuses each of them by itself, and the client then closes the run as if it had not. Empty
    when it has all, and for a server that does not list them.
    """
    import wandb

    try:
        artifacts, files = to_arrive(file)
        run = wandb.Api(timeout=ASK_S).run(f"{entity}/{project}/{run_id}")
        listed = run.logged_artifacts() if artifacts else ()
        there = {(a.name.rpartition(":")[0], a.digest) for a in listed if a.state == "COMMITTED"}
        lost = [words for key, words in artifacts.items() if key not in there]
        names = {one.name for one in run.files(names=files) if one.size} if files else set[str]()
        lost += [name for name in files if name not in names]
    except Exception as error:  # whatever it is: rows and summary have been confirmed
        log.info("W&B was not asked for the files of run %s", run_id, exc_info=error)
        return ""
    return f"W&B took every row, but not: {', '.join(lost)}" if lost else ""


def missing(run: Any, rows: int, key: str, value: Any, file: Path | None = None) -> str:
    """What the server lacks of a run that has been closed; empty when it has everything.

    Args:
        run: the client's.
        rows: of its history, in all.
        key: of its summary, which is set last.
        value: of that key.
        file: of the run, which holds all that the client was to send; None: rows and summary.
    """
    deadline = time.monotonic() + SETTLES_S
    while True:
        has = taken(run.entity, run.project, run.id)
        if has is None:
            return "W&B did not say whether it has every row"
        confirmed = has.rows >= rows and has.summary.get(key) == value
        lost = ""
        if confirmed and file:
            lost = not_arrived(run.entity, run.project, run.id, file)
        if confirmed and not lost:
            return ""
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if has.rows < rows:
        return f"W&B took {has.rows} of {rows} rows"
    return lost or "W&B took every row, but not the summary"
