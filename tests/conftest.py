"""What several tests need: a clean environment, composed configs, and real command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks: a second thread only waits


@pytest.fixture(autouse=True)
def _no_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No W&B account, settings or error reports of the machine reach a test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "wandb_config"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    yield
    if "wandb" in sys.modules and (wandb := sys.modules["wandb"]) is not None:
        wandb.teardown()  # its settings, and the service whose address it leaves in the environment


@pytest.fixture
def compose() -> Iterator[Callable[..., object]]:
    """A function from overrides to the checked `Config` of plain dataclasses."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode
    from omegaconf import flag_override

    from lrexp.config.check import check
    from lrexp.config.compose import CONFIG_NAME, CheckedLoader

    version.setbase("1.3")
    setup_globals()
    loader = CheckedLoader()

    def composed(*overrides: str) -> object:
        config = loader.load_configuration(CONFIG_NAME, list(overrides), RunMode.RUN)
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
        return check(config)[1]

    yield composed
    GlobalHydra.instance().clear()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: the sums of a test do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def prepare(compose: Callable[..., object]) -> Callable[..., object]:
    """A function from overrides to a `Trainer` on the CPU that has not trained yet."""

    def prepared(*overrides: str) -> object:
        from trainers import trainer_of

        return trainer_of(compose("trainer.device=cpu", *overrides))

    return prepared


@pytest.fixture
def lrexp(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs `python -m lrexp ARGUMENTS` in a fresh folder, as a user would."""

    def run(
        *arguments: str, cwd: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lrexp", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
