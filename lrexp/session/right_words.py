"""What a command line with the words of other tools should have been, and whether that holds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.errors import (
    BY_OPTION,
    OTHERS_SETTING,
    SEVERAL,
    ConfigError,
    UserError,
    no_option,
    owners_of,
)
from lrexp.config.meant import (
    Word,
    arguments,
    chosen,
    data_at,
    option_words,
    options,
    overrides,
    with_changed,
)
from lrexp.config.schema import GROUPS
from lrexp.grid.points.cases import take_cases
from lrexp.session.hydra import hydra_of

RERUN = "rerun"  # a verb among the words of the table
SHOWN = ("--cfg", "-c", "--info", "-i")
MOST_MENDED = 8  # mistakes that composing finds one after the other


@dataclass(frozen=True)
class Answer:
    """What is said of a command line that cannot be read."""

    lines: list[str]  # what is wrong with it
    words: list[str] | None  # what to write behind the verb; None where something is still wrong


def right_words(
    line: Sequence[Word],
    error: UserError,
    flags: Collection[str],
    loader: Callable[[], CheckedLoader],
) -> Answer | None:
    """The line as it is right here, composed and checked; None where it says nothing of the error.

    Args:
        line: as `read_line` makes it.
        error: of the line as it was typed.
        flags: of the verb.
        loader: makes what composes it.
    """
    said = [word.told for word in line if word.changed]
    if not said and not (isinstance(error, ConfigError) and _mended(line, error)):
        return None
    unknown = [word.typed[0] for word in line if word.kind == "unknown"]
    unknown += [word for word in arguments(line) if word == "-m" and word not in flags]
    if unknown:
        return Answer(said + [_no_word(word, flags) for word in unknown], None)
    if again := next((word for word in line if RERUN in word.words), None):
        if any(word.kind == "run" for word in line):  # behind `rerun RUN`
            line = with_changed(line, again, "--resume")
        elif any(word.startswith("hydra.run.dir=") for word in arguments(line)):
            line = with_changed(line, again, "trainer.resume=auto")
        else:
            return Answer(said, list(again.words))
    if "-m" in arguments(line) and _shows(line):
        return Answer(
            [*said, "--cfg and --info show one run: give one value of each setting"], None
        )
    composing = loader()
    for _ in range(MOST_MENDED):
        try:
            with hydra_of(composing):
                _compose(composing, arguments(line), overrides(line))
            return Answer(said, arguments(line)) if said else None
        except UserError as found:
            mended = _mended(line, found) if isinstance(found, ConfigError) else None
            if mended is None:
                return Answer([*said, *str(found).splitlines()], None)
            line, told = mended
            said += told
    return Answer(said, None)


def _shows(line: Sequence[Word]) -> bool:
    """Whether Hydra is to show a config, which it does of one run alone."""
    return any(one.kind == "flag" and one.words[0].partition("=")[0] in SHOWN for one in line)


def _no_word(word: str, flags: Collection[str]) -> str:
    if word == "-m":
        return "-m: this verb makes grids of its own, of one value for each setting"
    near = difflib.get_close_matches(word, flags, n=1)
    return f"{word}: is no word here" + (f"; did you mean {near[0]}?" if near else "")


def _mended(line: Sequence[Word], error: ConfigError) -> tuple[list[Word], list[str]] | None:
    """The line without a mistake that composing found, and what is said of it."""
    told = [line.strip() for line in str(error).splitlines()[:2]]
    if SEVERAL in error.problem and "-m" not in arguments(line) and not _shows(line):
        return [Word((), ("-m",)), *line], told
    group, key = error.key.rpartition(".")[0], error.key
    word = next((one for one in line if any(w.startswith(f"{key}=") for w in one.words)), None)
    if word is None:
        return None
    value = next(w for w in word.words if w.startswith(f"{key}=")).partition("=")[2]
    if error.problem == BY_OPTION and (words := option_words(group, value)):
        line = with_changed(line, word, *words)
        return line, [one.told for one in line if one.typed == word.typed]
    if OTHERS_SETTING in error.problem and group != "task" and not chosen(line, group):
        owner = data_at(value) if key == "data.path" else owners_of(key)[0]
        if owner is not None and (group != "data" or key == "data.path"):
            told = [f"{key}={value}: {error.hint}"]
            return with_changed(line, word, f"{group}={owner}", *word.words), told
    return None


def _compose(loader: CheckedLoader, words: Sequence[str], given: Sequence[str]) -> None:
    """Compose and check a run, or of a grid a point; of its other points the options are known."""
    if {"-m", "--multirun"} & {*words}:
        given = [_first(loader, override) for override in take_cases(given)[0]]
    config = loader.load_configuration(CONFIG_NAME, list(given), RunMode.RUN)
    loader.check(config, list(given))


def _first(loader: CheckedLoader, override: str) -> str:
    """An override with the first of its values."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        if not parsed.is_sweep_override():
            return override
        values = list(parsed.sweep_string_iterator())
    except HydraException:  # which composing says in words
        return override
    group = parsed.get_key_element()
    known = options(group, tuple(loader.folders[:-1])) if group in GROUPS else values
    if wrong := [value for value in values if value not in known]:
        raise no_option(group, wrong[0], known)
    return f"{group}={values[0]}"
