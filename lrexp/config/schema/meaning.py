"""Fields of schemas: limits of a setting's value, and what the setting means to a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING


@dataclass(frozen=True)
class Meaning:
    """What a setting means to a run. Written as metadata of its field, else of its section's."""

    identity: bool = True  # part of config_id
    neutral: Any = MISSING  # the value at which it changes nothing, and config_id leaves it out
    # In a run that goes on: it may change, stays as it was, or has no effect.
    resume: Literal["may", "stays", "ignored"] = "stays"
    # Of runs that train stacked: `shared` by all, each `member` has its own, `ignored`, or the
    # reason why they cannot be stacked.
    stack: str = "shared"
    # A file or folder and nothing else (`only`), or possibly (`maybe`: else a name); `plan`: a run
    # or its plan.csv.
    path: Literal["", "only", "maybe", "plan"] = ""
    decides: bool = True  # has a say in what is computed
    reads: bool = False  # decides which data are read, and how they are held
    splits: bool = False  # decides which image is in which split
    in_epochs: bool = False  # counts finished epochs, of which there may be too few


@dataclass(frozen=True)
class Length:
    """Of a setting that is a length of time: a share of training, "N epochs" or "N steps".

    Of a policy it comes to epochs, which a whole number counts as well, and has no steps.
    """

    least: int = 0  # steps; when it is above 0, the setting must be, too
    empty: str = ""  # the setting that it takes its length from when it is null
    fits: bool = False  # into what the warmup leaves of training
    whole: bool = False  # of a policy: epochs, rounded, that leave at least one to come
    spread: bool = False  # of a policy: null brings every group in during the first half


def setting(**meaning: Any) -> Any:
    """A field whose type says all about its value. Keywords here and below: those of `Meaning`."""
    return field(default=MISSING, metadata=meaning)


def number(
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    count: int | None = None,
    such_as: str = "",
    default: Any = MISSING,
    **meaning: Any,
) -> Any:
    """A field for a finite number, or a list of them (`count` in all, for example `such_as`)."""
    limits = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    return field(
        default=default,
        metadata={"limits": limits | {"count": count, "such as": such_as or None}, **meaning},
    )


def choice(*allowed: str | int, **meaning: Any) -> Any:
    """A field for one of a few words or numbers."""
    return field(default=MISSING, metadata={"allowed": allowed, **meaning})


def length(
    *,
    least: int = 0,
    empty: str = "",
    fits: bool = False,
    whole: bool = False,
    spread: bool = False,
    **meaning: Any,
) -> Any:
    """A field for a length of time.

    A scheduler receives it as steps, under its name with `_steps`; a policy as epochs.
    """
    said = Length(least, empty, fits, whole, spread)
    return field(default=MISSING, metadata={"length": said, **meaning})


def location(only: bool, **meaning: Any) -> Any:
    """A field for where something lies, `only` or else a name such as one on the Hugging Face hub.

    Fingerprints say what it is, and it may move.
    """
    moves = {"path": "only" if only else "maybe", "decides": False, "resume": "may"}
    return field(default=MISSING, metadata=moves | meaning)
