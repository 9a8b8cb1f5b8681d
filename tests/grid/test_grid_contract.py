"""What Hydra asks of every launcher."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT
from processes import HUNG_S


@pytest.mark.slow
def test_hydras_own_suite_for_launchers_passes() -> None:
    """In a process of its own, since the suite relies on defaults that other tests change."""
    command = [sys.executable, "-m", "pytest", "-v", "tests/launcher_contract.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HUNG_S)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "22 passed" in done.stdout
