"""What settings of a policy must be together, with the schedule and with the trainer."""

from __future__ import annotations

import re
from typing import NoReturn

from lrexp.config.errors import ConfigError
from lrexp.config.limits import check_regex
from lrexp.config.schema import Config, chosen_option
from lrexp.config.schema.policy import (
    Discriminative,
    Freezeout,
    LayerwiseDecay,
    LpFt,
    PerLayer,
    Rule,
    Surgical,
)


def check_policy(config: Config) -> None:
    """Raise a ConfigError for the first setting that cannot be used."""
    policy = config.lr_policy
    if isinstance(policy, PerLayer):
        for i, rule in enumerate(policy.rules):
            _check_rule(f"lr_policy.rules[{i}]", rule)
    if isinstance(policy, LayerwiseDecay) and (policy.decay is None) == (policy.stem_scale is None):
        _refuse_not_one("decay", "stem_scale", policy.decay)
    if isinstance(policy, Discriminative) and (policy.lr_low is None) == (policy.ratio is None):
        _refuse_not_one("lr_low", "ratio", policy.lr_low)
    if isinstance(policy, Surgical) and not (
        (isinstance(policy.block, str) and policy.block) or type(policy.block) is int
    ):
        hint = "allowed: a layer index such as 0, a range such as 0-2, a module name such as layer1"
        raise ConfigError("lr_policy.block", "selects no layers", hint, policy.block)
    if isinstance(policy, LpFt) and 0 < config.trainer.epochs <= policy.head_epochs:
        raise ConfigError(
            "lr_policy.head_epochs",
            f"leaves nothing of trainer.epochs={config.trainer.epochs} for fine-tuning",
            "lr_policy=freeze_backbone trains the head alone",
            policy.head_epochs,
        )
    if isinstance(policy, LpFt) and chosen_option("scheduler", config.scheduler).follows:
        problem = "does not start anew for the second phase of lr_policy=lp_ft"
        raise ConfigError("scheduler", problem, "choose another scheduler", config.scheduler.name)
    if isinstance(policy, Freezeout) and (
        policy.epochs != config.trainer.epochs or config.trainer.max_steps
    ):
        problem = "spreads over all of training: trainer.epochs, without trainer.max_steps"
        hint = "write lr_policy.epochs=${trainer.epochs}, and trainer.max_steps=null"
        raise ConfigError("lr_policy", problem, hint, "freezeout")
    if isinstance(policy, Freezeout) and config.scheduler.name != "constant":
        raise ConfigError(
            "scheduler",
            "does not go with lr_policy=freezeout, which moves every layer's rate by itself",
            "write scheduler=constant",
            config.scheduler.name,
        )


def _refuse_not_one(first: str, second: str, given: object) -> NoReturn:
    key = f"lr_policy.{first}"
    if given is None:
        raise ConfigError(key, f"and {second} are both empty", "give one of them")
    hint = f"keep one: lr_policy.{first}=null or lr_policy.{second}=null"
    raise ConfigError(key, f"and {second} are both given", hint, given)


def _check_rule(key: str, rule: Rule) -> None:
    if sum(selector is not None for selector in (rule.match, rule.type, rule.layers)) != 1:
        hint = "match: a glob or re:REGEX; type: a module class; layers: head, backbone, 0, 0-2"
        raise ConfigError(key, "needs one of match, type and layers", hint)
    if rule.lr is not None and rule.scale is not None:
        raise ConfigError(key, "gives both lr and scale", "keep one")
    answers = (rule.lr, rule.scale, rule.weight_decay)
    if rule.frozen and any(answer is not None for answer in answers):
        raise ConfigError(key, "freezes and gives a rate or weight decay", "keep one")
    if not rule.frozen and all(answer is None for answer in answers):
        raise ConfigError(key, "gives nothing", "add lr, scale, weight_decay or frozen: true")
    if rule.layers is not None and not re.fullmatch(r"head|backbone|\d+|\d+-\d+", str(rule.layers)):
        hint = "allowed: head, backbone, an index such as 0, a range such as 0-2"
        raise ConfigError(f"{key}.layers", "selects no layers", hint, rule.layers)
    if rule.match and rule.match.startswith("re:"):
        check_regex(f"{key}.match", rule.match)
