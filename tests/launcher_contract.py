"""What Hydra asks of every launcher, as its own suite puts it: run by test_grid_contract.py."""

from __future__ import annotations

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

NAME = "lrexp"
# The suite's own example programs give no version base.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Future Hydra versions"),
    pytest.mark.filterwarnings("ignore:\\nThe version_base parameter is not specified"),
]


def test_hydra_finds_the_launcher() -> None:
    found = [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]
    assert "LrexpLauncher" in found


@pytest.mark.parametrize(("launcher_name", "overrides"), [(NAME, [])])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [(NAME, ["hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", f"hydra/launcher={NAME}"])]
)
class TestIntegration(IntegrationTestSuite):
    pass
