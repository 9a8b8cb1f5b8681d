"""The one error a user's mistake raises, and the nearest valid name to suggest with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

# What other tools call our settings, and how people abbreviate them.
SYNONYMS = {
    other: ours
    for ours, others in {
        "lr": "learningrate rate baselr",
        "weight_decay": "wd l2",
        "epochs": "nepochs numepochs maxepochs",
        "max_steps": "numsteps",
        "batch_size": "bs batch",
        "lr_policy": "policy",
        "freeze_backbone": "freeze frozen",
        "cifar_resnet": "resnet20 resnet56",
        "scheduler": "lrschedule schedule lrscheduler",
        "optimizer": "opt optim",
        "data": "dataset",
        "model": "net network",
        "loss": "criterion",
        "logger": "log",
        "seed": "randomseed",
        "device": "gpu gpus",
        "patience": "earlystopping",
        "warmup": "warmupsteps warmupepochs",
        "betas": "beta beta1 beta2",
    }.items()
    for other in others.split()
}

MOST_NAMES = 40  # that are listed whole


class UserError(Exception):
    """A mistake in what the user asked for. Its text is all that is shown."""


class RunFailedError(Exception):
    """A run or a sweep that had begun failed, of the one exception that it holds."""


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt it is no Exception, so that nothing swallows it."""


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
    by_key = {_plain(candidate.rsplit(".", 1)[-1]): candidate for candidate in reversed(names)}
    by_key |= {_plain(candidate): candidate for candidate in names}
    for wanted in (name, last, SYNONYMS.get(_plain(last))):
        if wanted and _plain(wanted) in by_key:
            return by_key[_plain(wanted)]
    for wanted in (name, last):
        close = difflib.get_close_matches(_plain(wanted), by_key, n=1, cutoff=0.6)
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


def _plain(name: str) -> str:
    return re.sub(r"[_\-\s]", "", name).casefold()


def in_words(error: BaseException) -> str:
    """An exception as one message; torch's about trainer.deterministic in the user's words."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if found:
        problem = f"{found[1]} has no deterministic form on this device"
        hint = "trainer.deterministic=false trains without; or choose a model or loss without it"
        return str(ConfigError("trainer.deterministic", problem, hint, "true"))
    return f"{type(error).__name__}: {error}"
