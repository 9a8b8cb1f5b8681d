"""What several tests need: a clean environment, composed configs, and real command lines."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from unchanged import nothing_changed

ROOT = Path(__file__).parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks: a second thread only waits
# Compiled files are kept whatever the machine's custom is: every worker and every program that a
# test starts would compile all modules anew, half of what collecting costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
processes.watch()

Make = Callable[[Path], object]


# --- How the suite is run ---------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", metavar="SEED", help="run files and their tests in random order")
    parser.addoption("--costs", metavar="FILE", help="write what every test took of the CPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle files, and tests within each: what a file prepares once is prepared once."""
    if (seed := config.getoption("--shuffle")) is None:
        return
    draw = random.Random(seed)
    files = sorted({item.path for item in items})
    place = {file: draw.random() for file in files}
    items[:] = sorted(items, key=lambda item: (place[item.path], draw.random()))


def pytest_collection_finish() -> None:
    """What all tests import stays: collecting garbage, also when asked for, need not look at it."""
    gc.collect()
    gc.freeze()


class Costs:
    """CPU seconds per test, its fixtures and programs included, the most expensive shown."""

    SHOWN = 10

    def __init__(self, file: str | None) -> None:
        self._file, self._last, self.of_test = file, processes.cpu_seconds(), dict[str, float]()

    def pytest_collection_finish(self) -> None:
        self._last = processes.cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report: Any = yield
        now = processes.cpu_seconds()
        report.cpu_seconds, self._last = now - self._last, now  # xdist hands it to the controller
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        took = getattr(report, "cpu_seconds", 0.0)
        self.of_test[report.nodeid] = self.of_test.get(report.nodeid, 0.0) + took

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        ranked = sorted(self.of_test.items(), key=lambda item: -item[1])
        if self._file:
            Path(self._file).write_text(json.dumps(dict(ranked), indent=0))
        if len(ranked) > self.SHOWN:
            total = sum(self.of_test.values())
            terminalreporter.section(f"CPU seconds: {total:.0f} in all, most of them in")
            for name, took in ranked[: self.SHOWN]:
                terminalreporter.line(f"{took:6.1f}  {name}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(config.getoption("--costs")), "costs")


# --- What every test is kept apart from ---------------------------------------------------------


@pytest.fixture(autouse=True)
def _ends_what_it_started() -> Iterator[None]:
    """Programs that a test started are ended with it; one that still ran is its failure."""
    with processes.none_left():
        yield


@pytest.fixture(autouse=True)
def _changes_nothing_for_others() -> Iterator[None]:
    """What belongs to the whole program is as it was: folder, environment, logging, torch."""
    with nothing_changed():
        yield


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


# --- Made once for all tests --------------------------------------------------------------------


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Path]:
    """A function from a name and how it is made to a folder that all workers of pytest share.

    Whoever asks first makes it. It is for reading: tests copy what they change.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Make) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def image_run(made_once: Callable[[str, Make], Path]) -> Path:
    """A folder with `data`, images of every kind in three folders, and `run`, trained on them."""
    from image_runs import train_on_pictures

    return made_once("run of images", train_on_pictures)


@pytest.fixture(scope="session", autouse=True)
def _options_are_read_once() -> None:
    """Hydra's YAML files and ours are parsed once, whoever composes."""
    from composing import read_once

    read_once(ROOT / "conf")


@pytest.fixture(scope="session")
def _composer() -> Callable[..., Any]:
    from composing import Composer

    return Composer().config


@pytest.fixture
def compose(_composer: Callable[..., Any]) -> Callable[..., Any]:
    """A function from overrides to the checked `Config` of plain dataclasses, the caller's own."""
    return _composer


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

        return trainer_of(compose("trainer.device=cpu", "data.leak_check=skip", *overrides))

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
            timeout=processes.HUNG_S,
            check=False,
        )

    return run
