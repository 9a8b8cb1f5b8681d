"""The program: the first word says which verb answers; without one it is a run or a sweep."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

from lrexp.commands.answer import VERBS, answer
from lrexp.commands.ranks import answer_as_one
from lrexp.config.errors import UserError
from lrexp.config.launched import world_size


def main(argv: list[str] | None = None) -> int:
    """Answer one command line; returns its exit code, see `lrexp.commands.answer.answer`."""
    words = sys.argv[1:] if argv is None else argv
    verb, words = (words[0], words[1:]) if words and words[0] in VERBS else ("run", words)

    def dispatch() -> int:
        try:
            return import_module(f"lrexp.commands.{verb}").main(words)
        except UserError as error:
            mistaken = import_module("lrexp.commands.mistaken")
            raise mistaken.in_right_words(error, verb, words) from error

    return answer(dispatch) if world_size() == 1 else answer_as_one(verb, dispatch)


def command() -> NoReturn:
    """Entry point of the installed `lrexp` command."""
    # runs last: Python would let Ctrl-C kill the program while it takes down what was imported
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        code = main()
    except KeyboardInterrupt:  # once more, while the first one was answered
        code = 130
    # what is left, such as an upload, can be cut short
    signal.signal(signal.SIGINT, lambda *_: os._exit(code or 130))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more; Python would complain at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


if __name__ == "__main__":
    command()
