"""Tab completion: lines that begin with a verb are completed here, all others by Hydra."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from contextlib import redirect_stderr, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.commands.answer import VERBS
from lrexp.config.names import CONFIG_NAME
from lrexp.folder.layout import PROTOCOL
from lrexp.runs.run import is_run, is_sweep

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

PATHS = ("RUN", "RUN_A", "RUN_B", "FOLDER", "SWEEP")  # words of a verb that are run folders


def complete(hydra: Hydra, asked: list[str]) -> None:
    """Do what a shell asks for with `-sc`: `install=SHELL`, `uninstall=SHELL` or `query=SHELL`.

    A query prints what could stand at the end of the line in COMP_LINE, a word a line. A line that
    cannot be completed prints nothing: people are still typing.
    """
    line = os.environ.get("COMP_LINE", "")
    if not line or not any(word.startswith("query=") for word in asked):
        hydra.shell_completion(CONFIG_NAME, asked)
        return
    if (point := os.environ.get("COMP_POINT", "")).isdecimal():
        line = line[: int(point)]
    _, *words = line.split() + [""] * line[-1:].isspace()
    if not words:
        return
    with suppress(Exception), Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        if len(words) > 1 and words[0] in VERBS:
            _behind_verb(*words, asked=asked)
            return
        if len(words) == 1:
            _offer(words[0], VERBS)
        _of_hydra(hydra, words, asked)


def _behind_verb(verb: str, *words: str, asked: list[str]) -> None:
    """Offer what could stand for the last word behind a verb."""
    parser: argparse.ArgumentParser = import_module(f"lrexp.commands.{verb}").parser()
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    places = [action for action in parser._actions if not action.option_strings]
    *before, word = words
    given, flag = [], None  # words that are no flags, and the flag that waits for its value
    for one in before:
        if flag is None and not one.startswith("-"):
            given.append(one)
        flag = flags.get(one) if flag is None else None
        flag = flag if flag and flag.nargs is None else None
    place = flag or (places[len(given)] if len(given) < len(places) else None)
    if word.startswith("-"):
        _offer(word, flags)
    elif place and place.metavar in PATHS:
        _offer(word, run_folders(word))
    elif flag is None and places and places[-1].nargs == "*":
        from lrexp.config.recompose import SavedLoader
        from lrexp.runs.differences import read_run
        from lrexp.session.hydra import hydra_of

        saved = read_run(given[0])
        with hydra_of(SavedLoader(saved.config, saved.file)) as hydra:
            _of_hydra(hydra, [*given[1:], word], asked)


def run_folders(word: str) -> list[str]:
    """`latest`, the runs and sweeps below outputs/, and the points of the one that is typed."""
    link = Path("outputs", "latest")
    found = [f for f in Path("outputs").glob("*/*") if f.parent != link and _is_ours(f)]
    found += [f for sweep in found if word.startswith(f"{sweep}/") for f in sweep.glob("*")]
    return ["latest"] * link.exists() + sorted(str(folder) for folder in found if _is_ours(folder))


def _is_ours(folder: Path) -> bool:
    return is_run(folder) or is_sweep(folder) or (folder / PROTOCOL).is_file()


def _of_hydra(hydra: Hydra, words: list[str], asked: list[str]) -> None:
    """Offer what Hydra does for a line of flags and overrides."""
    os.environ["COMP_LINE"] = " ".join(["lrexp", *words])
    hydra.shell_completion(CONFIG_NAME, asked)


def _offer(word: str, candidates: Iterable[str]) -> None:
    for candidate in candidates:
        if candidate.startswith(word):
            print(candidate)
