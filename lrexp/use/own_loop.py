"""The program's plans and parameter groups for a training loop that is not ours.

Nothing is composed and Hydra is not imported: a policy's settings are those of its YAML file, with
the caller's own on top, checked as a command line's are.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from lrexp.build.rates import plan_under, remarks_on_layers, remarks_on_time, spreads_over_all
from lrexp.build.schedule import Steps
from lrexp.config.check import check_limits, checked_section
from lrexp.config.checks import duration
from lrexp.config.errors import ConfigError, did_you_mean, no_option
from lrexp.config.names import conf_folder
from lrexp.config.policy_checks import check_policy_alone
from lrexp.config.schema import lengths_of
from lrexp.config.schema.rates import Optimizer, Policy
from lrexp.config.schema.training import CONVENTIONS
from lrexp.models.layers import layer_map, unwrapped
from lrexp.optim import groups
from lrexp.plan.plan import Plan
from lrexp.runs.options import option_values

log = logging.getLogger(__name__)


def plan_of(
    model: nn.Module,
    policy: str,
    *,
    lr: float = 1.0,
    weight_decay: float = 0.0,
    epochs: int | None = None,
    head: str | Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    convention: str = "timm",
    **settings: Any,
) -> Plan:
    """What a policy decides for every parameter of a network, as `lrexp task=plan` shows it.

    Args:
        model: any module, left as it is. Wrappers (DataParallel, torch.compile) are looked through.
        policy: an option of lr_policy, such as layerwise_decay.
        lr: base rate. It plays a part only where a setting is an absolute rate (lr_low, rules).
        weight_decay: of what decays. Biases, normalisations and what the network's library keeps
            free (a position embedding) have none; `decay_bias_norm=True` decays the first two.
        epochs: that the loop will train, where the policy's lengths of time go by it.
        head: dotted name of the classifier, or names, such as "fc"; None: found as the program
            does (`models.layers.head_names`).
        layers: as model.layers: globs on parameter names from the input up, without the head.
        convention: as model.convention: timm, beit, block or strict.
        settings: of the policy, such as decay=0.8; as in its YAML file where not given.

    Returns:
        A row per parameter, in order of depth. Its `source` is always "fresh": what was loaded
        into the network is not known here.

    Raises:
        ConfigError: for a policy or setting that is not there or not allowed, with the nearest.
        ValueError: when the network has no parameter, or no module of the head's name.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> plan = plan_of(model, "layerwise_decay", decay=0.5, weight_decay=0.01)
    >>> [(row.name, row.lr_scale, row.weight_decay) for row in plan.rows]
    [('0.weight', 0.5, 0.01), ('0.bias', 0.5, 0.0), ('2.weight', 1.0, 0.01), ('2.bias', 1.0, 0.0)]
    """
    check_limits("", Optimizer(policy, lr, weight_decay))
    if epochs is not None and epochs < 1:
        raise ConfigError("epochs", "must be at least 1", given=epochs)
    asked = _settings(policy, epochs or 0, settings)
    if epochs is None and _goes_by_epochs(asked):
        problem = f"lr_policy={policy} goes by how long training lasts"
        raise ConfigError("epochs", problem, "give epochs=N, those that your loop trains")
    heads = head if head is None or isinstance(head, str) else tuple(head)
    by_hand = None if layers is None else list(layers)
    if convention not in CONVENTIONS:
        hint = did_you_mean(convention, CONVENTIONS)
        raise ConfigError("convention", "is not one of them", hint, convention)
    found = layer_map(_network(model), heads, convention=convention, layers=by_hand)
    steps = Steps(1, epochs or 0)
    plan = plan_under(asked, found, lr, weight_decay, steps)
    for remark in (*remarks_on_layers(plan, found), *remarks_on_time(asked, plan, found, steps)):
        log.warning("%s", remark)
    return plan


def param_groups(
    model: nn.Module,
    policy: str | Plan,
    *,
    lr: float,
    weight_decay: float = 0.0,
    **more: Any,
) -> list[dict[str, Any]]:
    """Parameter groups under a policy, for any torch optimizer; freezes what it freezes.

    A group holds `params`, `lr`, `weight_decay`, and beside what torch reads its `name`, its
    `lr_scale` (= lr of the group / `lr`) and the `names` of its parameters. A torch scheduler that
    multiplies rates keeps their ratios.

    The network is changed as `set_trainable` does before the first epoch: frozen parameters are in
    no group, take no gradient, and BatchNorm among them stays in eval mode under `model.train()`.

    Args:
        model: the network itself.
        policy: an option of lr_policy; or a `Plan` of `plan_of`, for policies that move while
            training goes on: see `set_trainable`. With a plan nothing but `lr` is given beside it.
        lr: base rate, of what has lr_scale 1.
        weight_decay: see `plan_of`.
        more: arguments and settings as of `plan_of`, such as decay=0.8 or head="fc".

    Raises:
        ConfigError: as `plan_of`, and for a policy of which groups alone are not the whole: the
            message says what the loop must do. auto_rgn measures gradients in the program's own
            loop and is refused.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> optimizer = torch.optim.SGD(param_groups(model, "layerwise_decay", lr=0.1, decay=0.5))
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('0', 0.05), ('head', 0.1)]
    >>> frozen = param_groups(model, "freeze_backbone", lr=0.1)
    >>> [group["names"] for group in frozen], model[0].weight.requires_grad
    ([['2.weight', '2.bias']], False)
    """
    if isinstance(policy, Plan):
        if more or weight_decay:
            raise TypeError("a plan holds its settings: give them to plan_of")
        plan = policy
    else:
        plan = plan_of(model, policy, lr=lr, weight_decay=weight_decay, **more)
        if duties := "; ".join(_duties(plan)):
            problem = "moves while training goes on, of which parameter groups are but a part"
            take = f'plan = lrexp.plan_of(model, "{policy}", ...), param_groups(model, plan, ...)'
            raise ConfigError("lr_policy", problem, f"{take}, and in your loop: {duties}", policy)
    if plan.measured:
        problem = "measures its rates before every epoch, which only lrexp's own loop does"
        hint = "train it with the command, or choose another policy"
        raise ConfigError("lr_policy", problem, hint, "auto_rgn")
    set_trainable(model, plan, 0)
    return groups.param_groups(unwrapped(model), plan, lr)


def set_trainable(model: nn.Module, plan: Plan, finished_epochs: int) -> None:
    """Freeze and unfreeze every parameter as the plan says for the coming epoch.

    Call it before `model.train()` of every epoch where a plan moves. What does not train has
    `requires_grad` off and no gradient; a module of nothing but frozen parameters, BatchNorm and
    dropout included, stays in eval mode under `model.train()`, unless a setting of the policy
    (bn_stats, frozen_dropout) says otherwise. The plan has the word: what was frozen by hand and
    trains under it trains.

    Where a plan has factors over time, these go with the rate at every step:
    `set_rates(optimizer, lr, s, g)`, g of `plan.factors(steps, steps_per_epoch)`.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> plan = plan_of(model, "gradual_unfreeze", epochs=4)
    >>> for epoch in range(4):
    ...     set_trainable(model, plan, epoch)
    ...     print(model[0].weight.requires_grad)
    False
    False
    True
    True
    """
    if not isinstance(plan, Plan):
        hint = 'plan = lrexp.plan_of(model, "gradual_unfreeze", epochs=10)'
        raise ConfigError("plan", "is no plan", hint, plan)
    groups.set_trainable(_network(model), plan, finished_epochs)


def _settings(policy: str, epochs: int, settings: dict[str, Any]) -> Policy:
    """A policy's settings: its file's, then those given, checked."""
    folder = conf_folder()
    stated = option_values([folder], "lr_policy", policy)
    if not stated:
        raise no_option("lr_policy", policy, _options(folder / "lr_policy"))
    whole = OmegaConf.create({"trainer": {"epochs": epochs}, "lr_policy": {}})
    for key, value in stated.items():
        OmegaConf.update(whole, f"lr_policy.{key}", value)
    if "target" in stated:  # of a function of the user's own, whose name it is as well
        if "target" not in settings:
            hint = 'name your function: target="mypkg.rates.slower"'
            raise ConfigError("target", f"of lr_policy={policy} has no value", hint)
        whole.lr_policy.target = str(settings["target"])
    plain: Any = OmegaConf.to_container(whole.lr_policy, resolve=True)
    own = plain.keys() - {"name", "library"}
    for key in settings.keys() - own:
        known = [*own, *(inspect.getfullargspec(plan_of).kwonlyargs)]
        problem = f"is no setting of lr_policy={policy}"
        raise ConfigError(key, problem, did_you_mean(key, known), settings[key])
    given: Policy = checked_section("lr_policy", plain | settings)
    check_policy_alone(given, epochs)
    return given


def _options(folder: Path) -> list[str]:
    return [file.stem for file in folder.glob("*.yaml")]


def _goes_by_epochs(policy: Policy) -> bool:
    """Whether its plan depends on how many epochs are trained."""
    written = {name: getattr(policy, name) for name in lengths_of(policy)}
    return spreads_over_all(policy) or any(
        value is None or duration(f"lr_policy.{name}", value, of_policy=True)[1] == "share"
        for name, value in written.items()
    )


def _duties(plan: Plan) -> Iterator[str]:
    """What a loop must do beside stepping an optimizer over the plan's groups."""
    if any(not row.frozen and not row.trains_throughout for row in plan.rows):
        yield "before every epoch lrexp.set_trainable(model, plan, finished_epochs)"
    if any(row.g for row in plan.rows):
        yield "at every step lrexp.set_rates, with the factors of plan.factors"
    if first := plan.schedule_restart:
        yield f"your schedule starts anew after {first} epoch{'s' * (first > 1)}"


def _network(model: object) -> nn.Module:
    """The network itself, or a ConfigError for what is none."""
    if not isinstance(model, nn.Module):
        problem = "is no torch.nn.Module"
        raise ConfigError("model", problem, "give the network, not its parameters", type(model))
    return unwrapped(model)
