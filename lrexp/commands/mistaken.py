"""The right command for a command line that was typed as for another tool."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from hydra._internal.utils import get_args_parser

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import UserError, misused
from lrexp.config.launched import world_size
from lrexp.config.meant import PROCESSES, read_line
from lrexp.config.recompose import SavedLoader
from lrexp.runs.differences import read_run
from lrexp.session.right_words import RERUN, right_words

COMPOSED = ("run", "rerun", "which")  # verbs that take KEY=VALUE


def in_right_words(error: UserError, verb: str, words: Sequence[str]) -> UserError:
    """The error, or one that says what is wrong in all of the line and what to write instead."""
    if verb not in COMPOSED:
        return error
    parser = _parser(verb)
    flags = {flag: one.nargs != 0 for one in parser._actions for flag in one.option_strings}
    folder, of_run = _config_dir(words), verb == "rerun"
    line = read_line(words, flags, [Path(folder)] if folder else [], begins_with_run=of_run)

    def loader() -> CheckedLoader:
        if not of_run:
            return CheckedLoader(folder)
        try:
            saved = read_run(next((one.typed[0] for one in line if one.kind == "run"), "latest"))
        except UserError:  # without the run nothing can be said of the other words
            raise error from None
        return SavedLoader(saved.config, saved.file, folder)

    answer = right_words(line, error, flags, loader)
    if answer is None:
        return error
    said = [answer.lines[0], *(f"  {told.strip()}" for told in answer.lines[1:])]
    if answer.words is not None:
        several = [word for word in answer.words if word.startswith(PROCESSES)]
        program = ["torchrun", several[-1], "-m", "lrexp"] if several else _program()
        right = [word for word in answer.words if word not in several]
        try:
            if right[:1] != [RERUN]:
                parser.parse_intermixed_args(right)
            verbs = [] if verb == "run" else [verb]
            said.append(f"  write: {shlex.join([*program, *verbs, *right])}")
        except UserError as wrong:  # a flag of ours with a value that it does not take
            said += [f"  {told.strip()}" for told in str(wrong).splitlines()]
    return UserError("\n".join(said))


def _program() -> list[str]:
    """How this program was started."""
    if (count := world_size()) > 1:
        return ["torchrun", f"{PROCESSES}{count}", "-m", "lrexp"]
    for i, pair in enumerate(pairwise(sys.orig_argv)):
        if pair == ("-m", "lrexp"):
            return sys.orig_argv[: i + 2]
    return ["lrexp"]


def _parser(verb: str) -> argparse.ArgumentParser:
    """What reads the words behind a verb."""
    if verb != "run":
        return import_module(f"lrexp.commands.{verb}").parser()
    parser = get_args_parser()
    parser.error = partial(misused, "lrexp")  # type: ignore[method-assign]
    return parser


def _config_dir(words: Sequence[str]) -> str | None:
    """The user's folder of YAML files, which flags name in several ways."""
    for word, after in pairwise([*words, ""]):
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return value or after or None
    return None
