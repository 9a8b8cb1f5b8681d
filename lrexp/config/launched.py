"""How this process was started: alone, or by torchrun with others that train one run with it."""

from __future__ import annotations

import os

from lrexp.config.errors import UserError


def world_size() -> int:
    """How many processes torchrun started that train one run; 1 where it did not start this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def refuse_ranks(what: str) -> None:
    """Raise a UserError where torchrun started several processes."""
    if world_size() > 1:
        raise UserError(
            f"{what}, and the processes that torchrun started train one run together\n"
            "  torchrun --nproc_per_node=N -m lrexp [overrides], or rerun RUN; for all else leave"
            " torchrun out"
        )
