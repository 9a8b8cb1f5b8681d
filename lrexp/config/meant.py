"""A command line with the words of other tools in it, as it is written here.

Pure but for reading the names of options and what paths lead to. Nothing is composed: whether
the line then holds is for whoever prints it to see.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from lrexp.config.errors import settings_of
from lrexp.config.habits import OURS, plain, written
from lrexp.config.library_names import SOURCES, library_of, names_of
from lrexp.config.names import conf_folder
from lrexp.config.quoting import readable
from lrexp.config.schema import GROUPS, OPTIONS, TOP

PROCESSES = "--nproc_per_node="  # of torchrun, in which more than one GPU is asked for
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Word:
    """A word of a command line, a flag with its value being one, and what it is written as here."""

    typed: tuple[str, ...]
    words: tuple[str, ...]  # as typed where nothing is wrong with them
    kind: Literal["override", "flag", "run", "unknown"] = "override"

    @property
    def changed(self) -> bool:
        return self.typed != self.words

    @property
    def told(self) -> str:
        """What is wrong with it, in a line."""
        words, now = " ".join(self.typed), shlex.join(self.words)
        if now.startswith(PROCESSES):
            now = f"torchrun {now} -m lrexp"
        return f"{words}: {f'is written {now}' if now else 'is left out here'}"


def read_line(
    argv: Sequence[str],
    flags: Mapping[str, bool],
    folders: Sequence[Path] = (),
    begins_with_run: bool = False,
) -> list[Word]:
    """A command line's words behind the verb, those of other tools with what they are here.

    Args:
        argv: the words.
        flags: those of ours, and whether a value follows.
        folders: of the user's own YAML files.
        begins_with_run: the first word that is no flag names a run.
    """
    line = list(_split(list(argv), flags, tuple(folders), begins_with_run))
    line = [_of_library(word, line) for word in line]
    if any(flag in word.words for word in line for flag in ("-m", "--multirun")):
        line = [_in_grid(word) for word in line]
    return _each_choice_once(line)


def with_changed(line: Sequence[Word], old: Word, *words: str) -> list[Word]:
    """The line with other words for one of its own."""
    return _each_choice_once([replace(w, words=words) if w is old else w for w in line])


def arguments(line: Sequence[Word]) -> list[str]:
    """The corrected line's words; a `-m` that is new comes first."""
    words = [word for one in line for word in one.words if word != "-m" or one.kind == "flag"]
    is_new = any("-m" in one.words for one in line) and not {"-m", "--multirun"} & {*words}
    return [*["-m"] * is_new, *words]


def overrides(line: Sequence[Word]) -> list[str]:
    """The corrected line's KEY=VALUE words."""
    return [w for one in line if one.kind == "override" for w in one.words if w[:1] != "-"]


def chosen(line: Sequence[Word], group: str) -> list[Word]:
    """The words that choose an option of a group."""
    return [one for one in line if any(word.startswith(f"{group}=") for word in one.words)]


def _split(
    left: list[str], flags: Mapping[str, bool], folders: tuple[Path, ...], begins_with_run: bool
) -> Iterator[Word]:
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        if name in flags:
            value = [left.pop(0)] if flags[name] and not equals and left else []
            yield Word((word, *value), (word, *value), "flag")
        elif near := difflib.get_close_matches(name, flags, n=1, cutoff=0.75):  # of ours, misspelt
            value = [left.pop(0)] if flags[near[0]] and not equals and left else []
            right = (word.replace(name, near[0], 1), *value)
            yield Word((word, *value), right, "flag")
        elif re.match(r"-+[A-Za-z]", word):
            yield _flag(word, left, folders)
        elif begins_with_run:
            begins_with_run = False
            yield Word((word,), (word,), "run")
        else:
            yield _setting(word, left, folders)


def _flag(word: str, left: list[str], folders: tuple[Path, ...]) -> Word:
    """A flag of another tool, with the value that follows it: `--lr 0.01`, `--no-amp`, `--ema`."""
    name, equals, value = word.lstrip("-").partition("=")
    typed, negated = (word,), re.fullmatch(r"no[-_](.+)", name)
    if negated and not equals:
        name, value = negated[1], "false"
    elif not equals and left and not _begins(left[0]):
        value = left.pop(0)
        typed = (word, value)
    elif not equals:
        value = "true"
    found = _written(name, value, folders)
    return Word(typed, typed, "unknown") if found is None else Word(typed, found)


def _setting(word: str, left: list[str], folders: tuple[Path, ...]) -> Word:
    """KEY=VALUE, or what people write for it: `epochs: 5`, `epochs = 5`, `resnet18` alone."""
    typed = [word]
    name, equals, value = word.partition("=")
    if not equals:
        name, _, value = word.partition(":")
        value = value.strip()
    groups = [] if equals else [g for g in OPTIONS if word in options(g, folders)]
    if len(groups) == 1:
        return Word((word,), (f"{groups[0]}={word}",))
    if name.startswith("~") or (not equals and our_name(name) is None):
        return Word((word,), (word,), "override" if name.startswith("~") else "unknown")
    if not value and left and not _begins(left[0]):
        typed.append(left.pop(0))
        value = typed[-1].removeprefix("=")
        if not value and left and not _begins(left[0]):
            typed.append(left.pop(0))
            value = typed[-1]
    if not value and not equals:
        return Word(tuple(typed), tuple(typed), "unknown")
    found = _written(name.lstrip("+"), value, folders)
    if found is None or found == (word.lstrip("+"),):
        found = tuple(typed)
    return Word(tuple(typed), found)


def _begins(word: str) -> bool:
    """Whether a word is a flag or KEY=VALUE, and no value of the one before it."""
    return bool(re.match(r"-+[A-Za-z]|[+~]*[A-Za-z_][\w./@]*=", word))


def our_name(name: str) -> str | None:
    """What we call the setting or group that others call so; None where it is none of theirs.

    >>> our_name("learning-rate"), our_name("trainer.batch_size"), our_name("foo")
    ('optimizer.lr', 'data.batch_size', None)
    """
    if _is_ours(name):
        return name
    last = name.rpartition(".")[2]
    ours = next((OURS[key] for key in (plain(name), plain(last)) if key in OURS), None)
    return ours or _everywhere().get(plain(last))


def _is_ours(key: str) -> bool:
    """Whether a key names a setting or a group; what is in a setting that holds several does."""
    section, _, rest = key.partition(".")
    if re.search(r"[/@]", key) or section in ("hydra", "cases"):
        return True
    return re.split(r"[.\[]", rest)[0] in settings_of(section) if rest else key in TOP


@cache
def _everywhere() -> dict[str, str]:
    """Every setting by its last name, epochs the trainer's before any policy's; no task's."""
    groups = [group for group in ("trainer", *GROUPS) if group != "task"]
    settings = [(name, f"{group}.{name}") for group in groups for name in settings_of(group)]
    return {plain(name): key for name, key in reversed([*((t, t) for t in TOP), *settings])}


@cache
def options(group: str, folders: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """The options of a group, those of the user's folders too."""
    places = [folder / group for folder in (conf_folder(), *folders)]
    files = [(file, place) for place in places for file in place.rglob("*.yaml")]
    return tuple(f.relative_to(place).with_suffix("").as_posix() for f, place in sorted(files))


def _written(name: str, value: str, folders: tuple[Path, ...]) -> tuple[str, ...] | None:
    """A setting of any tool as it is written here; None where nothing is known of it."""
    key = our_name(name)
    if key is None:
        return None
    found = option_words(key, value, folders) if key in GROUPS else written(key, value)
    if found is None and _is_ours(key):
        found = [f"{key}={value}"]
    return None if found is None else tuple(readable(word) for word in found)


def option_words(group: str, value: str, folders: tuple[Path, ...] = ()) -> list[str] | None:
    """What others call an option, of a grid each; what libraries call theirs; where data are.

    >>> option_words("model", "resnet34"), option_words("scheduler", "CosineAnnealingLR")
    (['model=torchvision', 'model.name=resnet34'], ['scheduler=cosine'])
    """
    ours = options(group, folders)
    same = {plain(option): option for option in ours}
    items, found = value.split(","), list[str]()
    for item in items:
        meant = item if item in ours else same.get(plain(item))
        words = [f"{group}={meant}"] if meant else written(group, item)
        if words is not None and len(items) == 1:
            return words
        if words is not None and len(words) == 1 and words[0].startswith(f"{group}="):
            found.append(words[0].removeprefix(f"{group}="))
    if len(found) == len(items):
        return [f"{group}={','.join(found)}"]
    if group == "data" and (at := data_at(value)):
        return [f"data={at}", f"data.path={value}"]
    if library := library_of(group, value):
        return [f"{group}={library[0]}", f"{group}.name={library[1]}"]
    return None


def data_at(path: str) -> str | None:
    """The option of data that reads what is at a path, or a set of the Hugging Face hub.

    >>> data_at("./pictures"), data_at("labels.csv"), data_at("owner/pictures"), data_at("nothing")
    ('imagefolder', 'csv', 'hf', None)
    """
    folder = os.path.expanduser(path)
    is_folder = os.path.isdir(folder)
    if path.casefold().endswith(TABLES):
        return "csv"
    places = (folder, os.path.join(folder, "data")) if is_folder else ()
    tables = (table for place in places for table in Path(place).glob("*.parquet"))
    if path.endswith(".parquet") or next(tables, None):
        return "hf"
    if is_folder or path.startswith((".", "/", "~")) or path.endswith("/"):
        return "imagefolder"
    return "hf" if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path) else None


def _of_library(word: Word, line: Sequence[Word]) -> Word:
    """A library's name beside another library's option."""
    group, _, name = (word.words[0] if word.words else "").partition(".name=")
    for one in chosen(line, group) if name and len(word.words) == 1 else ():
        library = one.words[0].removeprefix(f"{group}=")
        known = names_of(group, library) if (group, library) in SOURCES else None
        unknown = known and {item.split(".")[0] for item in name.split(",")} - known
        if unknown and (found := library_of(group, name)):
            return replace(word, words=(f"{group}={found[0]}", f"{group}.name={found[1]}"))
    return word


def _in_grid(word: Word) -> Word:
    """The folder of a grid is called otherwise than that of a run."""
    if not word.changed:
        return word
    renamed = (re.sub(r"^hydra\.run\.dir=", "hydra.sweep.dir=", one) for one in word.words)
    return replace(word, words=tuple(renamed))


def _each_choice_once(line: Sequence[Word]) -> list[Word]:
    """The line with one option per group: what a word of others comes to wins, the last of them."""
    kept: dict[str, Word] = {}
    for word in line:
        for one in word.words:
            group = one.partition("=")[0]
            if group in GROUPS and (word.changed or not kept.get(group, word).changed):
                kept[group] = word

    def stays(one: str, word: Word) -> bool:
        return kept.get(one.partition("=")[0], word) is word

    left = [replace(w, words=tuple(one for one in w.words if stays(one, w))) for w in line]
    return [now for now, was in zip(left, line, strict=True) if was.changed or now.words]
