"""What settings of a policy must be, by themselves and together with training and schedule."""

from __future__ import annotations

import re
from typing import Any

from lrexp.config.checks import check_regex, duration
from lrexp.config.errors import ConfigError
from lrexp.config.schema import Config, chosen_option, lengths_of
from lrexp.config.schema.rates import Rule


def check_policy(config: Config) -> None:
    """Raise a ConfigError for the first setting of the policy that cannot be used."""
    policy, scheduler, trainer = config.lr_policy, config.scheduler, config.trainer
    check_policy_alone(policy, trainer.epochs)
    if policy.name == "lp_ft" and chosen_option("scheduler", scheduler).follows:
        problem = "does not start anew for the second phase of lr_policy=lp_ft"
        hint = "write scheduler=constant, or scheduler=cosine"
        raise ConfigError("scheduler", problem, hint, scheduler.name)
    if policy.name == "freezeout" and policy.epochs != trainer.epochs:
        problem = "lr_policy=freezeout spreads over all of training"
        hint = f"write lr_policy.epochs={trainer.epochs}"
        raise ConfigError("lr_policy.epochs", problem, hint, policy.epochs)
    if policy.name == "freezeout" and scheduler.name != "constant":
        problem = "does not go with lr_policy=freezeout, which moves every layer's rate by itself"
        raise ConfigError("scheduler", problem, "write scheduler=constant", scheduler.name)


def check_policy_alone(policy: Any, epochs: int) -> None:
    """The same of what needs nothing of the run but how many epochs it trains; 0: not known."""
    if policy.name == "per_layer":
        for i, rule in enumerate(policy.rules):
            check_rule(f"lr_policy.rules[{i}]", rule)
    if policy.name == "layerwise_decay":
        _refuse_several(policy, "decay", "stem_scale")
        if policy.decay is None and policy.stem_scale is None:
            raise ConfigError(
                "lr_policy.decay", "and stem_scale are both empty", "give one of them"
            )
    if policy.name in ("discriminative", "ulmfit"):
        _refuse_several(policy, "lr_low", "ratio", "stem_scale")
    if policy.name == "surgical" and (type(policy.block) not in (int, str) or policy.block == ""):
        hint = "allowed: a layer index such as 0, a range such as 0-2, a module name such as layer1"
        raise ConfigError("lr_policy.block", "selects no layers", hint, policy.block)
    _check_lengths(policy, epochs)


def _refuse_several(policy: Any, *names: str) -> None:
    """Raise a ConfigError when more than one of settings that exclude each other is given."""
    given = [name for name in names if getattr(policy, name) is not None]
    if len(given) > 1:
        one, other = given[:2]
        hint = f"keep one: lr_policy.{one}=null or lr_policy.{other}=null"
        problem = f"and {other} are both given"
        raise ConfigError(f"lr_policy.{one}", problem, hint, getattr(policy, one))


def _check_lengths(policy: Any, epochs: int) -> None:
    for name, length in lengths_of(policy).items():
        key, written = f"lr_policy.{name}", getattr(policy, name)
        if written is None and length.spread:
            continue
        amount, unit = duration(key, written, of_policy=True)
        if not amount:
            raise ConfigError(key, "must be longer than 0", given=written)
        if length.whole and unit == "epochs":
            if amount % 1:
                raise ConfigError(key, "must be whole epochs", f"write {key}={amount:.0f}", written)
            refuse_too_long(key, written, amount, epochs)


def refuse_too_long(key: str, written: Any, amount: float, epochs: int) -> None:
    """Raise a ConfigError for a first phase that leaves none of `epochs` for what follows it."""
    if 0 < epochs <= amount:
        problem = f"leaves nothing of {epochs} epoch{'s' * (epochs > 1)} for what follows"
        hint = f"write {key}=0.33, a share of the epochs that fits any number of them"
        hint += f", or at most {epochs - 1}" if epochs > 1 else ""
        raise ConfigError(key, problem, hint, written)


def check_rule(key: str, rule: Rule) -> None:
    """Raise a ConfigError for a rule that selects or gives nothing, or too much."""
    if sum(selector is not None for selector in (rule.match, rule.type, rule.layers)) != 1:
        hint = "match: a glob or re:REGEX; type: a module class; layers: head, backbone, 0, 0-2"
        raise ConfigError(key, "needs one of match, type and layers", hint)
    if rule.lr is not None and rule.scale is not None:
        raise ConfigError(key, "gives both lr and scale", "keep one")
    answered = (rule.lr, rule.scale, rule.weight_decay) != (None, None, None)
    if rule.frozen and answered:
        raise ConfigError(key, "freezes and gives a rate or weight decay", "keep one")
    if not rule.frozen and not answered:
        raise ConfigError(key, "gives nothing", "add lr, scale, weight_decay or frozen: true")
    if rule.layers is not None and not re.fullmatch(r"head|backbone|\d+|\d+-\d+", str(rule.layers)):
        hint = "allowed: head, backbone, an index such as 0, a range such as 0-2"
        raise ConfigError(f"{key}.layers", "selects no layers", hint, rule.layers)
    check_regex(f"{key}.match", rule.match)
