"""What a run leaves behind is put back before the next one."""

from __future__ import annotations

import gc
import logging
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lrexp.grid.isolation import small_collections, undisturbed


def state() -> list[object]:
    return [
        *(random.random(), np.random.rand(), torch.rand(1).item(), np.geterr()),
        *(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        *(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        torch.get_float32_matmul_precision(),
        *(warnings.filters[:], dict(os.environ), os.getcwd()),
        *(logging.root.level, logging.root.manager.disable),
    ]


@pytest.mark.slow
def test_everything_is_put_back(tmp_path: Path) -> None:
    with undisturbed():
        before = state()
    with undisturbed():
        state()
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("medium")
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        np.seterr(all="raise")
        warnings.simplefilter("ignore")
        os.environ["LREXP_LEFT_BEHIND"] = "x"
        os.environ.pop("HOME", None)
        os.chdir(tmp_path)
        logging.root.setLevel(1)
        logging.disable(logging.ERROR)
    with undisturbed():
        assert state() == before


def test_it_is_put_back_after_a_failure_too() -> None:
    dtype = torch.get_default_dtype()

    def fail() -> None:
        with undisturbed():
            torch.set_default_dtype(torch.float64)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert torch.get_default_dtype() is dtype


def test_what_was_there_before_is_not_collected_again() -> None:
    with small_collections():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
