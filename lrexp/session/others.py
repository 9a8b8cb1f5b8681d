"""What is refused of a folder that goes on here, and that others may have written or changed."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.config.check import check
from lrexp.config.compose import without_hydra
from lrexp.config.errors import ConfigError, UserError
from lrexp.config.saved import refuse_writing
from lrexp.config.variables import check_read
from lrexp.folder.layout import CONFIRMED, EXPLORED, OF_SWEEP, OF_WHICH, PROTOCOL
from lrexp.grid.points.point import Point
from lrexp.grid.settings import OF_LAUNCHER
from lrexp.judge.ladders import EACH_SIDE, EXTENSIONS, MOST_TRIES, Ladder
from lrexp.judge.ranking import HIGHEST
from lrexp.runs.reading import leads_out
from lrexp.runs.sweep import POLICY, RATE, SEED, SweepPoint
from lrexp.session.procedure import Procedure

FREE = (SEED, "data.seed", "run_id", "name")  # may differ from what a configuration once ran with


def refuse_others(folder: Path, plan: Procedure) -> None:
    """Raise UserError for what no procedure of ours asks for, and for links that lead elsewhere.

    Args:
        folder: of the procedure.
        plan: as its protocol has it.
    """
    refuse_leading_out(folder, OF_WHICH, itself=False)
    for name in (EXPLORED, CONFIRMED):
        refuse_leading_out(folder / name, OF_SWEEP)
    for override in plan.overrides:
        refuse_override(override)
    for override in plan.how:
        if not OF_LAUNCHER.fullmatch(override):
            raise UserError(f"{folder / PROTOCOL}: {override} is no setting of the launcher")
    if not isinstance(plan.config_dir, str | None):
        raise UserError(f"{folder / PROTOCOL}: config_dir is {plan.config_dir!r}, no folder")
    for one in plan.ladders:
        if said := _odd(one):
            raise UserError(f"{folder / PROTOCOL}: {said}, in the ladder of {one.policy!r}")


def _odd(one: Ladder) -> str:
    """What a ladder has that none of ours does; empty for nothing."""
    steps = (one.each_side, one.down, one.up)
    if not (isinstance(one.policy, str) and re.fullmatch(r"\w[\w.-]*", one.policy)):
        return "no name of a policy"
    if one.key not in ("", RATE, HIGHEST):
        return f"{one.key!r} is no key of a rate"
    if not (one.setting == "" or re.fullmatch(rf"{POLICY}\.\w+", str(one.setting))):
        return f"{one.setting!r} is no setting of a policy"
    if not all(re.fullmatch(r"[\w.+-]+", str(value)) for value in one.values):
        return f"{list(one.values)!r} are no plain values"
    if not all(type(k) is int and 0 <= k <= EACH_SIDE + EXTENSIONS for k in steps):
        return f"{list(steps)} are no steps"
    if not (type(one.drawn) is int and 0 <= one.drawn <= MOST_TRIES):
        return f"{one.drawn!r} are no tries"
    if not (_is_number(one.decay) and one.decay >= 0):
        return f"{one.decay!r} is no weight decay"
    return "" if _is_number(one.least) else f"{one.least!r} is no rate"


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def refuse_leading_out(folder: Path, names: Iterable[str], itself: bool = True) -> None:
    """Raise UserError when what is written in a folder would be written elsewhere, by a link.

    Args:
        folder: that is written in.
        names: of what is written there.
        itself: whether the folder, too, has to lie where it seems to.
    """
    for path in (*([folder] if itself else []), *(folder / name for name in names)):
        if leads_out(path):
            raise UserError(f"{path} is a link that leads out of the folder; nothing was run")


def refuse_downloads(points: Iterable[Point]) -> None:
    """Raise a ConfigError when a point would download data where the user did not say.

    What asks for it comes from files; data that are there are used. A point that is not run again
    downloads nothing.
    """
    seen = set[tuple[Any, Any]]()
    for point in (point for point in points if point.composed):
        place = point.settings.get("data.name"), point.settings.get("data.root")
        if point.settings.get("data.download") and place not in seen:
            seen.add(place)
            refuse_writing(check(without_hydra(point.config))[1], typed=())


def refuse_unpredicted(points: Iterable[Point]) -> None:
    """Raise a ConfigError when a point would not say which images it is right on."""
    for point in points:
        if point.settings.get("trainer.predictions") == "none":
            problem = "leaves nothing that configurations can be compared by, image by image"
            hint = "trainer.predictions=labels is the least that will do"
            raise ConfigError("trainer.predictions", problem, hint, "none")


def refuse_override(override: str) -> None:
    """Raise UserError for what no sweep of ours asks its points for; others may have written it."""
    key, _, value = override.partition("=")
    if re.match(r"hydra([./@]|$)", key.lstrip("+~")):
        raise UserError(f"{override}: is no setting of an experiment")
    check_read(key, value)


def refuse_changed(
    points: Iterable[tuple[str, Point]], ran: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise UserError when a point would not be the configuration that has run under its name.

    Args:
        points: composed now, each with its name.
        ran: the settings that ran, by name.
    """
    for name, point in points:
        was, now = ran.get(name, {}), point.settings
        changed = [
            key
            for key in dict.fromkeys([*was, *now])
            if key not in FREE and _plain(was, key) != _plain(now, key)
        ]
        if was and changed:
            key = changed[0]
            more = f" (and {len(changed) - 1} more settings)" if len(changed) > 1 else ""
            raise UserError(
                f"{name} is no longer the configuration that was run: {key} was"
                f" {_plain(was, key)} and is {_plain(now, key)}{more}; nothing was run\n"
                "  work in the folder, and with the YAML files, that it was run with"
            )


def refuse_other_tries(points: Iterable[Point], ran: Sequence[SweepPoint]) -> None:
    """Raise UserError when a try of a ladder would not be the one that was begun.

    Args:
        points: composed now.
        ran: those that the folder has, former ones too, which are not looked at.
    """
    begun = {_asked(one.case, one.chosen): one.settings for one in ran if not one.former}
    refuse_changed(((_asked(one.case, one.chosen), one) for one in points), begun)


def _asked(case: str, chosen: Mapping[str, str]) -> str:
    """A try without its seed, in words: case, rate, and the main setting of its policy."""
    own = [f"{key}={value}" for key, value in chosen.items() if _of_ladder(key)]
    return " ".join([case, *own])


def _of_ladder(key: str) -> bool:
    return key in (RATE, HIGHEST) or key.startswith(f"{POLICY}.")


def _plain(settings: Mapping[str, Any], key: str) -> str:
    """A value as it is compared and shown."""
    if key not in settings:
        return "not there"
    value = settings[key]
    text = os.path.expanduser(value) if isinstance(value, str) and value[:1] == "~" else value
    return json.dumps(text, sort_keys=True, default=str)
