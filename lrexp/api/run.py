"""`lrexp.run` and `lrexp.sweep`: what the commands train, asked for in Python."""

from __future__ import annotations

import io
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeVar

from lrexp.api.folders import Run, Sweep
from lrexp.config.errors import (
    ADD_M,
    ConfigError,
    RunFailedError,
    TakenOver,
    Terminated,
    UserError,
    for_terminal,
)
from lrexp.config.launched import refuse_ranks
from lrexp.config.parts import handed_over
from lrexp.session.parts import given_parts

if TYPE_CHECKING:
    from lrexp.config.compose import CheckedLoader

T = TypeVar("T")


def run(
    overrides: Sequence[str] | str = (),
    *,
    config_dir: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **parts: Any,
) -> Run:
    """Train one experiment, as `lrexp [overrides]` does, and return its folder as an object.

    The program that asks for it is afterwards as it was: Hydra, logging, torch's settings, random
    generators, environment, signal handlers and working folder, however the run ends. In another
    thread than the main one no signal stops it; threads take turns.

    Args:
        overrides: as on the command line, words of a list or one text of them.
        config_dir: folder of your own YAML files, as --config-dir.
        quiet: print nothing but warnings.
        parts: of your own, as objects: `model` (a class or function), `data` (a function, arrays or
            a Dataset), `policy`, `scheduler`, `loss` (functions) and `metrics` (functions by name);
            see docs/own_parts.md.

    Returns:
        The run: finished, or diverged, which is a result as well.

    Raises:
        UserError: for a mistake in what was asked for; nothing has been trained.
        RunFailedError: when the run had begun; its folder says as much.
        KeyboardInterrupt: the run was interrupted; its state is saved. SIGTERM saves it as well,
            and then does what it does in the program without a run.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = run(["experiment=smoke", f"hydra.run.dir={folder}/run"], quiet=True)
    ...     done.status, len(done.rows), done.rows[0]["epoch"]
    ('finished', 2, 1)
    """

    def trained(loader: CheckedLoader, words: list[str]) -> Run:
        from hydra.types import RunMode

        from lrexp.session.single import compose_single, run_single

        config = compose_single(loader, words)
        if config.hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("hydra.mode", "is for a grid of runs", "use lrexp.sweep", "MULTIRUN")
        return Run(run_single(loader, config, words).folder, handed_over())

    return _as_asked(trained, overrides, config_dir, quiet, parts)


def sweep(
    overrides: Sequence[str] | str = (),
    *,
    config_dir: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **parts: Any,
) -> Sweep:
    """Train a grid of runs, as `lrexp -m [overrides]` does, and return its folder as an object.

    See `run` for what is as before afterwards.

    Args:
        overrides: as on the command line: `["lr_policy=uniform,layerwise_decay", "seed=0,1,2"]`.
        config_dir: folder of your own YAML files, as --config-dir.
        quiet: print nothing but warnings.
        parts: of every experiment of the grid, as of `run`.

    Returns:
        The sweep. A point that failed stops no other, and is no error: see its `results`.

    Raises:
        UserError: for a mistake in what was asked for; nothing has been trained.
        RunFailedError: when the sweep as a whole failed.
        KeyboardInterrupt: it was interrupted; `hydra.launcher.resume=FOLDER` goes on with it.
    """

    def say(line: str) -> None:
        print(for_terminal(line), flush=True)

    def trained(loader: CheckedLoader, words: list[str]) -> Sweep:
        from lrexp.session.sweep import run_sweep

        return Sweep(run_sweep(loader, words, say).folder, handed_over())

    return _as_asked(trained, overrides, config_dir, quiet, parts)


def _as_asked(
    trained: Callable[[CheckedLoader, list[str]], T],
    overrides: Sequence[str] | str,
    config_dir: str | os.PathLike[str] | None,
    quiet: bool,
    parts: dict[str, Any],
) -> T:
    """What is trained, given what composes it and the words; the program is as it was after."""
    refuse_ranks("lrexp.run and lrexp.sweep are for one process")
    try:
        words = _words(overrides)
        from lrexp.config.compose import CheckedLoader
        from lrexp.session.guest import as_guest
        from lrexp.session.hydra import hydra_of

        with ExitStack() as stack:
            stack.enter_context(as_guest())
            if quiet:
                stack.enter_context(redirect_stdout(io.StringIO()))
            chosen = stack.enter_context(given_parts(parts))
            loader = CheckedLoader(None if config_dir is None else os.fspath(config_dir))
            stack.enter_context(hydra_of(loader))
            return trained(loader, [*chosen, *words])
    except TakenOver as error:
        raise RunFailedError(UserError(str(error))) from None
    except Terminated:  # the run has saved its state; the rest is the program's own affair
        signal.raise_signal(signal.SIGTERM)
        raise
    except UserError as error:
        if ADD_M in str(error):
            error = UserError(
                str(error).replace(ADD_M, "lrexp.sweep runs them one after the other")
            )
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise error.with_traceback(None) from None  # its text says all; pages of frames do not


def _words(overrides: Sequence[str] | str) -> list[str]:
    """The overrides one by one.

    >>> _words("lr_policy=uniform name='my run'")
    ['lr_policy=uniform', 'name=my run']

    Raises:
        UserError: for what is no override.
    """
    words = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    for word in words:
        if not isinstance(word, str):
            raise UserError(f'{word!r} is no override: give text such as ["optimizer.lr=0.1"]')
        if word in ("-m", "--multirun"):
            raise UserError(f"{word}: lrexp.sweep runs a grid, and takes the other words")
        if word.startswith("-") or ("=" not in word and not word.startswith("~")):
            hint = 'give ["optimizer.lr=0.1"]; --config-dir is the argument config_dir'
            raise UserError(f"{word!r} is no override\n  {hint}")
    return words
