"""How a command line is answered: the verbs, their words, what is said of errors, exit codes."""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.config.errors import (
    RunFailedError,
    TakenOver,
    Terminated,
    UserError,
    for_terminal,
    in_words,
    misused,
)
from lrexp.config.launched import refuse_ranks
from lrexp.config.names import shown_path
from lrexp.config.redact import redacted
from lrexp.folder.layout import LAYER_TABLE, PLOTS

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrexp.config.compose import CheckedLoader
    from lrexp.judge.layer_test import LayerTest
    from lrexp.session.single import Ran

# What can be asked for but a run, which has no word of its own: a module here each.
VERBS = {
    "which": "which policy to use: tune each, compare their best on fresh seeds, conclude",
    "rerun": "run a saved run again, check it to the bit, or go on with it",
    "confirm": "train the best of a sweep again on fresh seeds: which is better, and by how much",
    "compare": "what differs between two runs, on one screen",
    "report": "make the report of a run or a sweep anew, from its files",
    "predict": "what a trained run says of new images, as a table",
    "export": "a trained network for programs without lrexp: weights, code, card, ONNX",
    "sync": "upload to W&B what was recorded without it",
    "dashboard": "a team's W&B dashboard, or a sweep's report there, as code",
}


def answer(dispatch: Callable[[], int]) -> int:
    """Have a command line answered by `dispatch`, and say on the terminal what went wrong.

    Returns:
        Its exit code: 0 done (a diverged run too), 1 a run failed, 2 a mistake in the request,
        130 interrupted from the keyboard, 143 terminated, also as the terminal was closed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # ± on a terminal without it is no reason to fail
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = os.environ.get("HYDRA_FULL_ERROR") == "1"  # of a log on a full disk
    try:
        return dispatch()
    except (Exception, KeyboardInterrupt, Terminated) as error:
        code, told = 2 if isinstance(error, UserError) else 1, error
        if stop := _stop_among(error):
            code, told = 130 if isinstance(stop, KeyboardInterrupt) else 143, stop
        elif isinstance(error, RunFailedError):
            code, told = 1, error.args[0]
        with suppress(OSError):  # the terminal may have been closed
            _report(told)
        return code


def _stop_among(error: BaseException | None) -> BaseException | None:
    """The interruption that an error is or came from: what it cuts short may raise its own."""
    seen: set[int] = set()
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        if id(error) in seen:  # an error may be its own cause: `raise placed(error) from error`
            return None
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return error


def _report(error: BaseException) -> None:
    """Say what went wrong on the terminal."""
    if isinstance(error, TakenOver):
        print(f"interrupted: {for_terminal(str(error))}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt | Terminated):
        print("interrupted", file=sys.stderr)
    elif os.environ.get("HYDRA_FULL_ERROR") == "1":
        print(redacted("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    elif isinstance(error, UserError):
        print(f"error: {for_terminal(redacted(str(error)))}", file=sys.stderr)
    else:
        print(f"error: {for_terminal(redacted(in_words(error)))}", file=sys.stderr)
        print("  set HYDRA_FULL_ERROR=1 to see where it came from", file=sys.stderr)


def parser_of(verb: str, description: str, examples: str, codes: str) -> argparse.ArgumentParser:
    """A parser of the words behind a verb, which raises `UserError` for what it cannot read.

    Args:
        verb: as it is typed.
        description: what it does, and what its words mean.
        examples: commands to copy, a line each.
        codes: its exit codes in words, without those of an interruption.
    """
    parser = argparse.ArgumentParser(
        prog=f"lrexp {verb}",
        description=description,
        epilog=f"examples:\n{examples}\nexit codes: {codes};\n  130 and 143 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = lambda said: misused(parser.prog, flag_meant(parser, said))  # type: ignore
    return parser


def compared_words(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what configurations are compared with, and by what."""
    parser.add_argument(
        "--baseline", metavar="NAME", help="what all others are compared with (default uniform)"
    )
    parser.add_argument(
        "--margin", type=_margin, help="a difference that does not matter (default 0.02: 2 points)"
    )
    parser.add_argument(
        "--metric",
        choices=("accuracy", "balanced_accuracy"),
        help="the verdict is on it (default accuracy, balanced where classes are uneven)",
    )


def _margin(text: str) -> float:
    margin = float(text)
    if not 0 < margin < 1:
        raise argparse.ArgumentTypeError("a share of images between 0 and 1: 0.02 is 2 points")
    return margin


_margin.__name__ = "number"  # what argparse calls it


def flag_meant(parser: argparse.ArgumentParser, message: str) -> str:
    """What a parser has against some words, and the flag that is most like an unknown one."""
    unknown = re.search(r"unrecognized arguments: .*?(--?[a-z][\w-]*)", message)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
    return f"{message}\n  did you mean {near[0]}?" if near else message


def columns() -> int:
    """How wide the terminal is; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def ended(ran: Ran) -> int:
    """The exit code of a run that came to its end; says so when that was before."""
    if ran.before:
        print(f"{ran.folder} holds this run, and it is {ran.before}: nothing to do")
    return 0


def swept(loader: CheckedLoader, overrides: Sequence[str]) -> int:
    """The exit code of a sweep that is run here, and shown."""
    from lrexp.session.sweep import run_sweep

    refuse_ranks("-m is a grid of runs")
    board = run_sweep(loader, overrides, lambda line: print(for_terminal(line), flush=True))
    return 1 if board.failed() else 0


def layers_tested(
    loader: CheckedLoader, config: DictConfig, overrides: Sequence[str], extra: str | None
) -> int:
    """The exit code of a test of layers that is run here, and shown.

    Args:
        loader: that composed the config; Hydra is set up with it.
        config: with task=layer_test.
        overrides: of the command line.
        extra: folder of the user's own YAML files.
    """
    from lrexp.report.layer_test.figures import PICTURE, layers_figure, write_layer_plots
    from lrexp.report.layer_test.lines import layers_lines
    from lrexp.report.layer_test.page import write_layer_test
    from lrexp.session.layer_test import begin_layer_test
    from lrexp.session.layer_test_asked import opening_lines, plan_layer_test

    refuse_ranks("task=layer_test is a grid of runs")

    def say(line: str) -> None:
        print(for_terminal(line), flush=True)

    def keep(folder: Path, found: LayerTest) -> Path:
        page = write_layer_test(folder, found)  # first: numbers are worth more than the picture
        write_layer_plots(folder, found)
        return page

    design = plan_layer_test(loader, config, overrides, extra)
    say("\n".join(opening_lines(design)))
    done = begin_layer_test(design, say, keep)
    say("\n".join(["", *layers_lines(done.found, done.folder, columns())]))
    drawn = f", {PLOTS}/{PICTURE}.png" * (layers_figure(done.found) is not None)
    say(f"report {shown_path(done.page)}, {LAYER_TABLE}{drawn}")
    if done.offline:
        say(f"wandb  offline; upload with: lrexp sync {shlex.quote(shown_path(done.folder))}")
    return 1 if done.undone else 0
