"""W&B's own client in this program: how it behaves, and whether it can send."""

from __future__ import annotations

import os
from typing import Any

NO_LOGIN = "there is no login; `wandb login` stores one, or set WANDB_API_KEY"
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

    client = wandb.setup(settings=wandb.Settings(silent=True))  # from its first moment on
    if client is not _prepared:
        client = wandb.setup(settings=wandb.Settings(**unless_set(BEHAVIOUR)))
        _prepared = client
    return client.settings


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
