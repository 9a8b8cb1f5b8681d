"""The Python API: runs and sweeps as by the command, and a program that is as it was afterwards."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import pkgutil
import random
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import assert_same_run, main_in
from conftest import ROOT
from processes import HUNG_S
from report_runs import write_run
from unchanged import nothing_changed

import lrexp

SMOKE = ["experiment=smoke", "data.leak_check=skip"]
HEAVY = {
    "typing",
    "torch",
    "hydra",
    "omegaconf",
    "numpy",
    "pandas",
    "rich",
    "jinja2",
    "yaml",
    "wandb",
}


# --- The names ----------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys, lrexp; print(*dir(lrexp));"
        "print(*{m.partition('.')[0] for m in sys.modules});"
        "print(*(m for m in sys.modules if m.startswith('lrexp')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    names, packages, ours = (set(line.split()) for line in done.stdout.splitlines())
    assert names >= {"run", "sweep", "load", "results", "UserError"}
    assert not names & {"Any", "TYPE_CHECKING", "import_module"}
    assert not packages & HEAVY
    assert ours == {"lrexp"}


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse((ROOT / "lrexp" / "__init__.py").read_text())
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lrexp.")
        for alias in node.names
    }
    assert seen == lrexp._PUBLIC


def test_every_name_is_what_it_says_after_every_module_is_imported() -> None:
    for module in pkgutil.iter_modules(lrexp.__path__, "lrexp."):  # deeper ones bind nothing here
        import_module(module.name)
    for name in lrexp._PUBLIC:
        found = getattr(lrexp, name)
        assert callable(found), name
        assert found.__name__ == name
        assert inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = lrexp.rum


# --- Runs in somebody's program -------------------------------------------------------------------


@dataclass
class Theirs:
    """What a program of somebody's was, before each call and after it."""

    folder: Path
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    came_of_it: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    composed: Any = None
    logged: str = ""
    signals: list[str] = field(default_factory=list)  # that their own handler got

    def call(self, name: str, function: Any, *arguments: Any, **named: Any) -> None:
        self.before[name] = whole_program()
        try:
            self.came_of_it[name] = function(*arguments, **named)
        except BaseException as error:
            self.came_of_it[name] = error
        self.after[name] = whole_program()


def whole_program() -> dict[str, Any]:
    """What belongs to the whole program, as values that can be compared."""
    import torch
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase
    from omegaconf.basecontainer import BaseContainer

    of_numpy: Any = np.random.get_state()
    cudnn = torch.backends.cudnn
    known = {n: o for n, o in logging.root.manager.loggerDict.items() if n.startswith("their")}
    return {
        "cwd": os.getcwd(),
        "argv": list(sys.argv),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "random": random.getstate(),
        "numpy": (of_numpy[1].tobytes(), *of_numpy[2:]),
        "torch": bytes(torch.get_rng_state().numpy()),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "tf32": (torch.get_float32_matmul_precision(), cudnn.allow_tf32),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            cudnn.deterministic,
            cudnn.benchmark,
        ),
        "signals": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "filters": list(warnings.filters),
        "log": (logging.root.level, logging.root.handlers[:], logging.root.manager.disable),
        "loggers": {n: (o.level, o.handlers[:], o.disabled) for n, o in known.items()},
        "known handlers": list(logging._handlerList),  # type: ignore[attr-defined]
        "streams": (sys.stdout, sys.stderr, sys.excepthook),
        "threads under way": sorted(t.name for t in threading.enumerate()),
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "of hydra": (VersionBase.instance().getbase(), JobRuntime.instance().get("name")),
        "store": ConfigStore.instance().repo,
        "resolvers": dict(BaseContainer._resolvers),
    }


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    """A program with Hydra, logging, signals and torch set up in its own way, and calls in it."""
    folder = tmp_path_factory.mktemp("theirs")
    with nothing_changed(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "120")
        made = Theirs(folder)
        with set_up(folder, patch) as log:
            call_everything(made, patch)
            logging.getLogger("theirs").warning("still there")
        made.logged = log.read_text()
        from hydra import compose
        from hydra.core.global_hydra import GlobalHydra

        made.composed = compose("config")
        GlobalHydra.instance().clear()
        yield made


class set_up:  # noqa: N801  read as a statement
    """A program's own settings of all that a run sets as well."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch

    def __enter__(self) -> Path:
        import torch
        from hydra import initialize_config_dir
        from hydra.core.config_store import ConfigStore
        from hydra.core.utils import setup_globals
        from omegaconf import OmegaConf

        setup_globals()
        store, patch = ConfigStore.instance(), self.patch
        patch.setattr(store, "repo", dict(store.repo))
        store.store(name="config", node={"of_theirs": "${now:x}"})  # as our own file is called
        from omegaconf.basecontainer import BaseContainer

        patch.setattr(BaseContainer, "_resolvers", dict(BaseContainer._resolvers))
        OmegaConf.register_new_resolver("now", lambda _: "their now", replace=True)
        (self.folder / "conf").mkdir()
        initialize_config_dir(str(self.folder / "conf"), version_base="1.2", job_name="theirs")
        OmegaConf.register_new_resolver("now", lambda _: "their now", replace=True)
        self.handler = logging.FileHandler(self.folder / "their.log", mode="w")
        patch.setattr(logging.root, "handlers", [*logging.root.handlers, self.handler])
        patch.setattr(logging.root, "level", logging.INFO)
        logging.getLogger("theirs").setLevel(logging.DEBUG)
        self.dtype, self.handled = torch.get_default_dtype(), signal.getsignal(signal.SIGTERM)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        patch.setattr(torch.backends.cudnn, "benchmark", True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self.folder / "their.log"

    def __exit__(self, *_: object) -> None:
        import torch

        self.handler.close()
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(True)
        signal.signal(signal.SIGTERM, self.handled)


def call_everything(made: Theirs, patch: pytest.MonkeyPatch) -> None:
    """A run, mistakes, one that fails, one that is interrupted, and a sweep in a thread."""
    import contextlib
    import io

    import lrexp.api.run
    import lrexp.tasks.train

    def in_thread(*arguments: Any) -> Any:
        returned: list[Any] = []
        call = threading.Thread(target=lambda: returned.append(lrexp.sweep(*arguments)))
        call.start()
        call.join()
        return returned[0]

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        made.call("run", lrexp.run, [*SMOKE, "hydra.run.dir=run", "trainer.deterministic=true"])
    made.said["run"] = said.getvalue()
    made.call("mistake", lrexp.run, [*SMOKE, "optimizer.rl=1", "hydra.run.dir=mistake"])
    made.call("cannot be built", lrexp.run, [*SMOKE, "model.kernel_size=9", "hydra.run.dir=k"])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), patch.context() as failing:
        failing.setattr(lrexp.tasks.train.Training, "conclude", fail)
        made.call("failed", lrexp.run, [*SMOKE, "hydra.run.dir=failed"], quiet=True)
    made.said["failed"] = said.getvalue()
    with patch.context() as stopped:
        stopped.setattr(lrexp.tasks.train.Training, "conclude", interrupt)
        made.call("interrupted", lrexp.run, [*SMOKE, "hydra.run.dir=interrupted"])
    with patch.context() as stopped:
        stopped.setattr(lrexp.tasks.train.Training, "conclude", terminate)
        before = signal.signal(signal.SIGTERM, lambda *_: made.signals.append("theirs"))
        made.call("terminated", lrexp.run, [*SMOKE, "hydra.run.dir=terminated"], quiet=True)
        signal.signal(signal.SIGTERM, before)
    words = [*SMOKE, "lr_policy=uniform,layerwise_decay", "hydra.sweep.dir=sweep"]
    words += ["hydra.launcher.executor=serial", "trainer.epochs=1"]
    made.call("sweep", in_thread, words)


def fail(training: Any) -> None:
    raise RuntimeError("the last straw")


def interrupt(training: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate(training: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


CALLS = ("run", "mistake", "cannot be built", "failed", "interrupted", "terminated", "sweep")


@pytest.mark.parametrize("call", CALLS)
def test_a_program_is_afterwards_as_it_was(call: str, theirs: Theirs) -> None:
    before, after = theirs.before[call], theirs.after[call]
    changed = {name for name, value in before.items() if after[name] != value}
    assert not changed
    assert (before["dtype"], before["grad"]) != (after["tf32"], after["cwd"])


def test_runs_and_sweeps_of_a_folder_are_equal_and_can_be_keys(tmp_path: Path) -> None:
    for kind in (lrexp.Run, lrexp.Sweep):
        one, again, other = kind(tmp_path, {"t": []}), kind(tmp_path), kind(tmp_path / "other")
        assert {one: 1}[again] == 1
        assert one != other


def test_what_the_program_does_with_torch_holds_for_none_of_a_run() -> None:
    import torch

    from lrexp.session.guest import as_guest

    def product() -> tuple[torch.dtype, str]:
        ones = torch.ones(2, 2)
        return (ones @ ones).dtype, ones.device.type

    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        with as_guest():
            assert product() == (torch.float32, "cpu")
        assert torch.ones(1).device.type == "meta"
        assert torch.is_autocast_enabled("cpu")


def test_their_hydra_and_their_log_go_on(theirs: Theirs) -> None:
    assert theirs.composed == {"of_theirs": "their now"}
    assert theirs.logged == "still there\n"


def test_what_comes_of_a_call(theirs: Theirs) -> None:
    done, swept = theirs.came_of_it["run"], theirs.came_of_it["sweep"]
    assert isinstance(done, lrexp.Run)
    assert (done.status, len(done.rows), done.folder) == ("finished", 2, theirs.folder / "run")
    assert done.best == done.rows[int(done.best["epoch"]) - 1]
    assert done.config["trainer"]["deterministic"] is True
    assert {row.lr_scale for row in done.plan.rows} == {1.0}
    assert repr(done).startswith(f"<Run finished, val/loss {done.best['val/loss']:.4g} in epoch ")
    assert isinstance(swept, lrexp.Sweep)
    assert [one.status for one in swept.runs] == ["finished", "finished"]
    assert "val loss" in theirs.said["run"]
    assert not theirs.said["failed"]


def test_what_a_call_raises(theirs: Theirs) -> None:
    mistake, unbuilt, failed, stopped = (theirs.came_of_it[name] for name in CALLS[1:5])
    assert isinstance(mistake, lrexp.ConfigError)
    assert "did you mean optimizer.lr?" in str(mistake)
    frames = traceback.format_exception(mistake)
    assert "/lrexp/config/" not in "".join(frames)  # the program's own lines and two of ours
    assert mistake.__suppress_context__
    assert isinstance(unbuilt, lrexp.UserError)
    assert isinstance(failed, lrexp.RunFailedError)
    assert "the last straw" in str(failed)
    assert isinstance(stopped, KeyboardInterrupt)
    there = {path.name for path in theirs.folder.iterdir()}
    assert there == {"conf", "their.log", "run", "failed", "interrupted", "terminated", "sweep"}
    assert lrexp.load(theirs.folder / "failed").status == "failed"
    assert lrexp.load(theirs.folder / "interrupted").status == "interrupted"


def test_sigterm_saves_the_run_and_is_then_the_programs_own(theirs: Theirs) -> None:
    assert lrexp.load(theirs.folder / "terminated").status == "interrupted"
    assert theirs.signals == ["theirs"]
    assert type(theirs.came_of_it["terminated"]).__name__ == "Terminated"


def test_hooks_of_the_programs_end_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrexp.session.guest import as_guest

    before = sys.excepthook, sys.exit
    with as_guest():
        monkeypatch.setattr(sys, "excepthook", print)  # as W&B does
        monkeypatch.setattr(sys, "exit", print)
    assert (sys.excepthook, sys.exit) == before


def test_their_log_gets_none_of_our_words(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrexp.session.guest import as_guest

    caplog.set_level(logging.INFO)
    with as_guest():
        logging.getLogger("lrexp").info("before Hydra has set up a log")
        logging.getLogger("lrexp").warning("a warning")
    logging.getLogger("theirs").info("theirs")
    assert caplog.messages == ["theirs"]
    assert capsys.readouterr().err == "a warning\n"


def test_a_run_is_the_commands_to_the_bit(theirs: Theirs, tmp_path: Path) -> None:
    command = [*SMOKE, "hydra.run.dir=run", "trainer.deterministic=true"]
    assert main_in(tmp_path, *command) == 0
    ours, by_command = theirs.came_of_it["run"], lrexp.load(tmp_path / "run")
    assert_same_run(ours.folder, by_command.folder)
    for key in ("weights_hash", "config_id", "plan_hash", "test"):
        assert ours.summary[key] == by_command.summary[key], key


def test_the_results_of_a_sweep_are_its_own_table(theirs: Theirs) -> None:
    import pandas as pd

    swept = theirs.came_of_it["sweep"]
    table = lrexp.results(theirs.folder / "sweep")
    written = pd.read_csv(theirs.folder / "sweep" / "points.csv")
    pd.testing.assert_frame_equal(table.drop(columns="folder"), written.drop(columns="folder"))
    assert list(table["lr_policy"]) == ["uniform", "layerwise_decay"]
    for row, done in zip(table.to_dict("records"), swept.runs, strict=True):
        assert lrexp.load(row["folder"]) == done
        assert row["val/loss"] == done.best["val/loss"]
    first = swept.leaderboard["configurations"][0]["settings"]["lr_policy"]
    assert swept.best.config["lr_policy"]["name"] == first
    assert "by lowest val/loss" in str(swept)
    (theirs.folder / "sweep" / "points.csv").rename(theirs.folder / "kept")
    try:  # of a sweep that was killed before it wrote one
        pd.testing.assert_frame_equal(lrexp.results(theirs.folder / "sweep"), table)
    finally:
        (theirs.folder / "kept").rename(theirs.folder / "sweep" / "points.csv")


def test_a_run_has_its_network(theirs: Theirs) -> None:
    from PIL import Image

    done = lrexp.load(theirs.folder / "run")
    assert "trained" not in vars(done)
    images = done.transform([Image.new("L", (20, 20))] * 3)
    assert done.model(images).shape == (3, 10)
    assert done.class_names == tuple("0123456789")


SCRIPT = """
import lrexp
print("begun")
done = lrexp.sweep(
    "experiment=smoke seed=0,1 data.leak_check=skip hydra.launcher.executor=pool"
    " hydra.launcher.workers=2 hydra.sweep.dir=sweep"
)
print([run.status for run in done.runs])
"""


@pytest.mark.slow
def test_a_script_without_a_guard_sweeps_in_workers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=True,
    )
    assert done.stdout.splitlines().count("begun") == 1
    assert done.stdout.splitlines()[-1] == "['finished', 'finished']"


# --- What is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["-m", "seed=1,2"], "lrexp.sweep"),
        (["--config-dir", "here"], "config_dir"),
        (["rerun"], "no override"),
        ([{"seed": 1}], "no override"),
        (["seed=1,2"], "several values for one run\n  lrexp.sweep runs them one after the other"),
        (["hydra.mode=MULTIRUN"], "use lrexp.sweep"),
        (["task=layer_test"], "trains runs of its own"),
    ],
)
def test_what_is_no_request_for_a_run_is_refused(
    overrides: list[Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lrexp.UserError) as caught:
        lrexp.run(overrides)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_argument_that_is_no_part_is_refused() -> None:
    with pytest.raises(lrexp.UserError, match="epochs"):
        lrexp.run(SMOKE, epochs=3)


@pytest.mark.slow
def test_own_options_are_found(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [smoke]\noptimizer: {lr: -1}\n"
    )
    with pytest.raises(lrexp.UserError, match=r"optimizer\.lr=-1(.|\n)*mine\.yaml"):
        lrexp.run("experiment=mine", config_dir=tmp_path)


def test_one_of_torchruns_processes_is_sent_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(lrexp.UserError, match="torchrun"):
        lrexp.run(SMOKE)


def test_a_folder_is_a_runs_or_a_sweeps(tmp_path: Path, theirs: Theirs) -> None:
    sweep, run = theirs.folder / "sweep", theirs.folder / "run"
    with pytest.raises(lrexp.UserError, match=r"lrexp\.results reads it"):
        lrexp.load(sweep)
    with pytest.raises(lrexp.UserError, match=r"lrexp\.load reads"):
        lrexp.results(run)
    with pytest.raises(lrexp.UserError, match="holds no run"):
        lrexp.load(tmp_path)
    with pytest.raises(lrexp.UserError, match="there is no folder"):
        lrexp.load(tmp_path / "nothing")


# --- A notebook -----------------------------------------------------------------------------------


def shown(cell: str) -> str:
    """The page in the frame of a cell."""
    from html import unescape

    assert cell.startswith("<iframe ")
    assert cell.endswith("</iframe>")
    return unescape(cell.partition('srcdoc="')[2].partition('"')[0])


def test_a_notebook_shows_a_runs_headline_and_curves(tmp_path: Path) -> None:
    verdict = {"kind": "unstable", "severity": "warning", "message": "it swings in epoch 2"}
    run = lrexp.load(write_run(tmp_path / "run", name='<b>"&amp;', verdicts=[verdict]))
    page = shown(run._repr_html_())
    for said in ("finished", "The gap there is", "It swings in epoch 2.", "Gap"):
        assert said in page
    assert "&lt;b&gt;" in page
    assert page.count("<svg") >= 3
    assert "<script" not in page
    assert "<a " not in page


def test_a_notebook_shows_a_sweeps_leaderboard(theirs: Theirs) -> None:
    page = shown(theirs.came_of_it["sweep"]._repr_html_())
    assert "leaderboard" in page
    assert "layerwise_decay" in page
    assert "All 2 points finished" in page
    assert "<script" not in page
    assert "<a " not in page
    assert "<button" not in page


def test_a_notebook_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from lrexp.record.console import terminal

    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels do
    assert terminal(Console).is_terminal
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter
    assert (terminal(Console).is_jupyter, terminal(Console).is_terminal) == (False, False)


def test_whatever_prints_in_a_run_asks_for_the_same_terminal() -> None:
    makers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "lrexp").rglob("*.py")
        if file.parent.name != "commands"  # no notebook is there
        and "Console(" in file.read_text().replace("class _Terminal(Console)", "")
    }
    assert makers == {"lrexp/record/console.py"}
