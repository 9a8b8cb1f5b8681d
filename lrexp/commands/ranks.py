"""How the processes that torchrun started answer one command line: as one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING

from lrexp.commands.answer import answer
from lrexp.config.launched import refuse_ranks
from lrexp.train.agreement import Followed, RankFailedError

if TYPE_CHECKING:
    from lrexp.train.ranks import Ranks

TRAINING = ("run", "rerun")
LAST_WORDS_S = 20.0  # torchrun ends the others soon after one has failed


def answer_as_one(verb: str, dispatch: Callable[[], int]) -> int:
    """The exit code of this process; the first one alone prints.

    Args:
        verb: of the command line.
        dispatch: answers it.
    """
    first = os.environ.get("RANK") == "0"
    with ExitStack() as stack:
        if not first:
            nothing = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
        code = answer(lambda: _answered(verb, dispatch))
        if first:
            with suppress(Exception):  # torchrun is gone, and so is whom this would tell
                _ranks().words.say("over", code)
        return code


def _answered(verb: str, dispatch: Callable[[], int]) -> int:
    """As `dispatch`, for this rank: it says when it fails, and then lets the first one speak."""
    ranks = _ranks()
    try:
        if verb not in TRAINING:
            refuse_ranks(f"{verb} is no training")
        return dispatch()
    except Followed as followed:
        return followed.code
    except Exception as error:
        ranks.words.fails(error)
        until = time.monotonic() + (0 if ranks.first or ranks.joined else LAST_WORDS_S)
        while not isinstance(error, RankFailedError) and time.monotonic() < until:
            if ranks.words.said("over"):
                break
            time.sleep(0.05)
        raise


def _ranks() -> Ranks:
    from lrexp.session.ranks import ranks_here

    ranks = ranks_here()
    assert ranks is not None
    return ranks
