"""The one error a user's mistake raises, what is wrong in words, and the nearest valid name."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from lrexp.config.habits import OURS, plain, written
from lrexp.config.library_names import library_of

OTHERS_SETTING = "in the option chosen"  # of a setting that other options have
BY_OPTION = "is set by choosing an option"  # of a name that is no library's
ADD_M = "add -m to run one after the other"  # of a command line; in Python it is lrexp.sweep
SEVERAL = "several values for one run"
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MOST_NAMES = 40  # that are listed whole


class UserError(Exception):
    """A mistake in what the user asked for. Its text is all that is shown."""


class RunFailedError(Exception):
    """A run or a sweep that had begun failed, of the one exception that it holds."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP came. Like KeyboardInterrupt no Exception, so that nothing swallows it."""


class CannotGoOnError(UserError):
    """A point of a sweep was stopped, and what is left of it cannot be gone on with."""


class TakenOver(Terminated):
    """Another program has gone on in a folder of this one; the text says who."""


class OutOfMemoryError(UserError):
    """Memory ran out; its text says in which step and what to set."""


def misused(command: str, message: str) -> NoReturn:
    """Refuse arguments of a command, in argparse's words."""
    raise UserError(f"{message}\n  {command} --help says what it takes")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or in the program."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def disk_full(said: object) -> bool:
    """Whether an error, or what was said of it, is that a disk has no room left."""
    return any(os.strerror(number) in str(said) for number in (errno.ENOSPC, errno.EDQUOT))


class ConfigError(UserError):
    """A setting that cannot be used.

    Args:
        key: dotted name of the setting, or the empty string when the mistake is not in one.
        problem: what is wrong, without key and place.
        hint: what would be right: the nearest name, or what is allowed.
        given: the value as the user wrote it, if known.
        place: the file or override it came from; filled in by whoever knows it.
    """

    def __init__(self, key: str, problem: str, hint: str = "", given: object = "", place: str = ""):
        super().__init__(key, problem, hint, given, place)
        self.key, self.problem, self.hint = key, problem, hint
        self.given, self.place = given, place

    def __str__(self) -> str:
        given, key = _short(str(self.given), 100), _short(self.key, 200)
        what = f"{key}={given}" if given else key
        problem = _short(self.problem, 1500)
        lines = [f"{what}: {problem}" if what else problem]
        if self.hint:
            lines.append(f"  {self.hint}")
        if self.place:
            lines.append(f"  from {_short(self.place, 400)}")
        return "\n".join(lines)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a user most likely meant by `name`, or None when nothing is close.

    Compared without case, underscores and dashes; a known synonym comes first. For dotted
    candidates the last part counts as well, so that `lr` finds `optimizer.lr`.

    >>> nearest("layerwise", ["uniform", "layerwise_decay"])
    'layerwise_decay'
    >>> nearest("learning_rate", ["optimizer.lr", "optimizer.momentum"])
    'optimizer.lr'
    """
    names = list(dict.fromkeys(candidates))
    last = name.rsplit(".", 1)[-1]
    by_key = {plain(candidate.rsplit(".", 1)[-1]): candidate for candidate in reversed(names)}
    by_key |= {plain(candidate): candidate for candidate in names}
    ours = OURS.get(plain(last), "")
    for wanted in (name, last, ours, ours.rpartition(".")[2]):
        if wanted and plain(wanted) in by_key:
            return by_key[plain(wanted)]
    for wanted in (name, last):
        close = difflib.get_close_matches(plain(wanted), by_key, n=1, cutoff=0.6)
        if close:
            return by_key[close[0]]
    return None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`did you mean 'x'? allowed: x, y, z` with the first part only when something is close.

    Of more than 40 names the 20 most like it are shown.
    """
    names = sorted(set(candidates))
    match, shown = nearest(name, names), names
    if len(names) > MOST_NAMES:
        shown = sorted(difflib.get_close_matches(name, names, n=MOST_NAMES // 2, cutoff=0.0))
    more = f", ... ({len(names)} in all)" if len(names) > len(shown) else ""
    allowed = f"allowed: {', '.join(shown)}{more}"
    return f"did you mean '{match}'? {allowed}" if match else allowed


def few(names: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """The first names, and dots when there are more."""
    shown = list(names)
    return separator.join(shown[:most]) + f"{separator}..." * (len(shown) > most)


def first_line(error: BaseException) -> str:
    """What an exception says, in a line: its type's name when it says nothing."""
    reason = getattr(error, "reason", None)  # urllib wraps what happened
    error = reason if isinstance(reason, Exception) else error
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # torch's bold letters
    lines = said.strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(":. ")


def for_terminal(text: str) -> str:
    """Lines without what a terminal would take for a command: files of others hold anything."""
    kept = (c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(kept)


def in_words(error: BaseException) -> str:
    """An exception as one message; torch's about trainer.deterministic in the user's words."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if found:
        problem = f"{found[1]} has no deterministic form on this device"
        hint = "trainer.deterministic=false trains without; or choose a model or loss without it"
        return str(ConfigError("trainer.deterministic", problem, hint, "true"))
    return f"{type(error).__name__}: {error}"


def wrong_type(key: str, value: Any = "") -> ConfigError:
    """The error for a value its schema refuses, which says what would be right."""
    hint = ""
    if key == "optimizer.lr" and str(value).startswith("["):
        hint = "different rates for different layers: lr_policy=per_layer with lr_policy.rules"
    if str(value) in ("None", "none") and type(None) in _kinds(key):
        hint = f"write {key}=null for none"
    problem = "may not be empty" if value is None else f"must be {_type_in_words(key)}"
    return ConfigError(key, problem, hint, value)


def no_option(group: str, option: str, options: Iterable[str]) -> ConfigError:
    """The error for an option without a file, or for a file without the schema it begins with."""
    from lrexp.config.schema import OPTIONS

    if not group.startswith("schema/"):
        hint = _options_in_words(group, option, list(options))
        is_ours = plain(option) in map(plain, options)
        if not is_ours and (library := library_of(group, option)):
            hint = f"write {group}={library[0]} {group}.name={library[1]}; {hint}"
        return ConfigError(group, "there is no such option", hint, option)
    group = group.removeprefix("schema/")
    hint = (
        f"{did_you_mean(option, OPTIONS.get(group, {}))}; a file that begins with one of these"
        " (defaults: [NAME, _self_]) needs no schema of its own, and a new kind of option has one"
        " in OPTIONS of lrexp/config/schema/__init__.py"
    )
    return ConfigError(group, "its file asks for a schema that is not there", hint, option)


def _options_in_words(group: str, option: str, options: list[str]) -> str:
    """The option that was meant, and those beside it; of a folder of options, what is in it."""
    match written(group, option):
        case [word] if word.startswith(f"{group}="):  # what other tools call one of ours
            return did_you_mean(word.removeprefix(f"{group}="), options)
    folder, _, last = option.rpartition("/")
    by_name = {name.rpartition("/")[2]: name for name in options}
    inside = [name for name, whole in by_name.items() if whole == f"{folder or option}/{name}"]
    if inside and not folder:
        return f"it is a folder: write {group}={option}/NAME; allowed: {', '.join(sorted(inside))}"
    if inside:
        meant = nearest(last, inside)
        said = f"allowed in {folder}/: {', '.join(sorted(inside))}"
        return f"did you mean '{folder}/{meant}'? {said}" if meant else said
    top = [name for name in options if "/" not in name]
    folders = sorted({f"{name.partition('/')[0]}/NAME" for name in options if "/" in name})
    meant = None if nearest(option, top) else nearest(last, by_name)
    said = did_you_mean(option, [*top, *folders])
    return f"did you mean '{by_name[meant]}'? {said}" if meant else said


def unknown_setting(key: str, value: Any = "", schema: type | None = None) -> ConfigError:
    """The error for a key that `schema`, or a whole config, does not have, with what was meant."""
    from lrexp.config.schema import GROUPS, TOP, Config

    section = key.rpartition(".")[0]
    schema = schema or Config
    own = [f.name for f in fields(schema)] if is_dataclass(schema) else settings_of(section)
    own = [name for name in own if not name.startswith("_")]
    problem = "there is no such setting"
    if owners := owners_of(key):
        group = section.replace("hydra.", "hydra/")
        hint = f"it belongs to {' and '.join(f'{group}={o}' for o in owners)}"
        return ConfigError(key, f"{problem} {OTHERS_SETTING}", hint, value)
    groups = ("trainer", *GROUPS)  # epochs are the trainer's before any policy's
    everywhere = [f"{group}.{name}" for group in groups for name in settings_of(group)]
    own_dotted = [f"{section}.{name}" if section else name for name in own]
    match = nearest(key, own_dotted) or nearest(key, [*TOP, *everywhere])
    named = (f"settings of {section}", sorted(own)) if section else ("groups and settings", TOP)
    allowed = f"{named[0]}: {', '.join(named[1])}"
    hint = f"did you mean {match}? {allowed}" if match else allowed
    return ConfigError(key, problem, hint, value)


def owners_of(key: str) -> list[str]:
    """The options of its group that have a setting."""
    from lrexp.config.schema import OPTIONS

    section, _, last = key.rpartition(".")
    options = OPTIONS.get(section, {}).items()
    if section == "hydra.launcher":
        return [name for name, keys in _launchers() if last in keys]
    return [name for name, option in options if last in get_type_hints(option.schema)]


def _launchers() -> list[tuple[str, list[str]]]:
    """Names of hydra/launcher that are ours, each with its settings."""
    from hydra.core.config_store import ConfigStore

    stored: Any = ConfigStore.instance().repo.get("schema", {}).get("launcher", {})
    return [(name.removesuffix(".yaml"), list(one.node)) for name, one in stored.items()]


def settings_of(section: str) -> list[str]:
    """Names under a section over all its options: of `optimizer`, lr, momentum, betas and so on."""
    from lrexp.config.schema import schemas_of

    return sorted({f.name for schema in schemas_of(section) for f in fields(schema)})


def _kinds(key: str) -> tuple[Any, ...]:
    """What a setting may be, of `X | None`; empty for one type alone."""
    from lrexp.config.schema import schemas_of

    section, _, last = key.rpartition(".")
    hints = (get_type_hints(schema) for schema in schemas_of(section))
    return next((get_args(found[last]) for found in hints if last in found), ())


def _type_in_words(key: str) -> str:
    from lrexp.config.schema import GROUPS, schemas_of

    section, _, last = key.rpartition(".")
    name, indexed = re.subn(r"\[\d*\]$", "", last)
    if not section and name in GROUPS:
        return f"an option of the group: {name}=NAME"
    hints = (h[name] for h in map(get_type_hints, schemas_of(section)) if name in h)
    hint = next(hints, str)  # a key that users name themselves holds a path
    if get_origin(hint) is dict:
        return f"settings in braces, such as '{key}={{eps: 1e-6}}'"
    if get_origin(hint) is not list:  # X, or X | None
        hint = next((kind for kind in get_args(hint) if kind is not type(None)), hint)
    if get_origin(hint) is not list:
        return _WORDS.get(hint, f"settings in braces, such as '{key}={{scale: 0.1}}'")
    item = get_args(hint)[0]
    if item is Any:
        return "a list of labels or names"
    if item not in _WORDS:
        rule = "{match: 'conv.*', scale: 0.1}"
        return (
            f"settings in braces, such as {rule}"
            if indexed
            else (f'a list of rules, such as "{key}=[{rule}]"')
        )
    return _WORDS[item] if indexed else f"a list, each item {_WORDS[item]}"
