"""The program: the first word says which verb answers; without one it is a run or a sweep."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

from lrexp.commands.answer import VERBS, answer


def main(argv: list[str] | None = None) -> int:
    """Answer one command line; returns its exit code, see `lrexp.commands.answer.answer`."""
    words = sys.argv[1:] if argv is None else argv
    verb, words = (words[0], words[1:]) if words and words[0] in VERBS else ("run", words)
    return answer(lambda: import_module(f"lrexp.commands.{verb}").main(words))


def command() -> NoReturn:
    """Entry point of the installed `lrexp` command."""
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the output any more; Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    command()
