"""Sweeps over a base rate that no parameter follows."""

from __future__ import annotations

import copy
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from lrexp.config.errors import ConfigError
from lrexp.config.schema import OPTIONS, load


def may_be_absolute(policy: str) -> bool:
    """Whether a policy of that name may give every rate itself."""
    return bool(OPTIONS["lr_policy"][policy].absolute)


def refuse_moot_rates(points: list[DictConfig]) -> None:
    """Refuse a sweep over optimizer.lr under a policy whose rates are all absolute.

    Such points differ in optimizer.lr alone and would train alike.

    Raises:
        ConfigError: for the first two points of which that is true.
    """
    seen: dict[str, Any] = {}  # the rest of a point's settings → its optimizer.lr
    for point in points:
        plain = copy.copy(point)
        with flag_override(plain, ["struct", "readonly"], False):
            del plain["hydra"]
        resolved: Any = OmegaConf.to_container(plain, resolve=True)
        policy, given = resolved["lr_policy"], resolved["optimizer"].pop("lr")
        del resolved["run_id"]
        if not _all_absolute(policy):
            continue
        rest = json.dumps(resolved, sort_keys=True, default=str)
        if seen.setdefault(rest, given) != given:
            problem = f"changes nothing: every rate of lr_policy={policy['name']} is absolute"
            raise ConfigError("optimizer.lr", problem, "sweep the policy's own rates", given)


def _all_absolute(policy: dict[str, Any]) -> bool:
    """Whether a policy with these settings gives every rate itself."""
    option = OPTIONS["lr_policy"][policy["name"]]
    return bool(option.absolute) and load(option.absolute)(policy)
