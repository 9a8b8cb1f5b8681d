"""A run of a Python program that another host took over fails; the program itself goes on."""

from __future__ import annotations

from typing import Any

import pytest

from lrexp.api import run as api
from lrexp.config.errors import RunFailedError, TakenOver


def test_a_program_whose_run_was_taken_over_is_told_and_not_terminated() -> None:
    def trained(*_: Any) -> None:
        raise TakenOver("run was taken over by another lrexp process (PID 7 on node7)")

    with pytest.raises(RunFailedError, match="node7"):
        api._as_asked(trained, [], None, True, {})
