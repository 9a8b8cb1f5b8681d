"""Rates written down rule by rule."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from lrexp.config.errors import ConfigError
from lrexp.config.schema.rates import Rest, Rule
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm
from lrexp.plan.policies.layer_groups import in_range, name_layers


def per_layer(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    rules: list[Rule],
    default: Rest,
    decay_bias_norm: bool,
) -> Plan:
    """The first rule that selects a parameter decides; `default` decides for the rest.

    A rule's `scale` is lr_scale itself; its absolute `lr` becomes lr_scale = lr / base_lr, so that
    schedulers treat both alike. A rule without a rate keeps the default's scale.

    Args:
        layers: of the model.
        base_lr: optimizer.lr.
        base_weight_decay: optimizer.weight_decay, where a rule gives none.
        rules: each selects by name (`match`), module class (`type`) or depth (`layers`).
        default: for every parameter that no rule selects.
        decay_bias_norm: weight decay also on biases and normalisation weights, where no rule
            gives it.

    Raises:
        ConfigError: for a rule that selects no parameter, the same parameters as an earlier rule,
            or nothing that earlier rules left.
    """
    deciding: dict[str, int] = {}
    selections: list[set[str]] = []
    for i, rule in enumerate(rules):
        key = f"lr_policy.rules[{i}]"
        selected = {p.name for p in layers.parameters if _selects(rule, p)}
        what = _selector(rule)
        if not selected:
            if bare := _bare_modules(rule, layers):
                problem = f"{what} selects only modules without parameters ({', '.join(bare[:3])})"
                raise ConfigError(key, problem, "there is nothing in them that could learn")
            raise ConfigError(key, f"{what} selects no parameter", _nearest(rule, layers))
        for earlier, same in enumerate(selections):
            if selected == same:
                word = "repeats" if _answer(rule) == _answer(rules[earlier]) else "contradicts"
                problem = f"{what} {word} rules[{earlier}]: both select the same parameters"
                raise ConfigError(key, problem, "keep one; earlier rules decide first")
        if selected <= deciding.keys():
            by = sorted({deciding[name] for name in selected})
            raise ConfigError(
                key,
                f"{what} selects only parameters that earlier rules decide"
                f" ({', '.join(f'rules[{n}]' for n in by)})",
                "the first match wins; put the narrower rule first",
            )
        selections.append(selected)
        deciding = dict.fromkeys(selected, i) | deciding

    def treat(parameter: LayerParameter) -> Treatment:
        decay = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        if parameter.name not in deciding:
            return Treatment(default.scale, decay)
        rule = rules[deciding[parameter.name]]
        scale = default.scale if rule.scale is None else rule.scale
        if rule.lr is not None:
            scale = rule.lr / base_lr
        treatment = Treatment(scale, decay if rule.weight_decay is None else rule.weight_decay)
        return never(treatment) if rule.frozen else treatment

    return make_plan(layers, treat)


def all_absolute(settings: Mapping[str, Any]) -> bool:
    """Whether rules as plain values give every rate themselves, and leave none to the default."""
    rules = settings["rules"]
    selected = {str(rule["match"] or rule["layers"]) for rule in rules}
    everything = bool(selected & {"*", "re:", "re:.*"}) or selected >= {"head", "backbone"}
    return everything and all(rule["lr"] or rule["frozen"] for rule in rules)


def _selector(rule: Rule) -> str:
    """What a rule selects by, as the user wrote it."""
    if rule.match is not None:
        return f"match {rule.match!r}"
    return f"type {rule.type!r}" if rule.type is not None else f"layers {str(rule.layers)!r}"


def _answer(rule: Rule) -> tuple[object, ...]:
    return rule.lr, rule.scale, rule.weight_decay, rule.frozen


def _selects(rule: Rule, parameter: LayerParameter) -> bool:
    if rule.match is not None:
        return _matches(rule.match, parameter.name)
    if rule.type is not None:
        return parameter.module == rule.type
    return in_range(str(rule.layers), parameter)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return fnmatchcase(name, pattern)


def _bare_modules(rule: Rule, layers: LayerMap) -> list[str]:
    """Modules without parameters that a rule means, by name or by class."""
    if rule.match is None:
        return [name for name, kind in layers.bare_modules if kind == rule.type]
    return [
        name
        for name, _ in layers.bare_modules
        if any(_matches(rule.match, meant) for meant in (name, f"{name}.weight"))
    ]


def _nearest(rule: Rule, layers: LayerMap) -> str:
    """The name that was most likely meant, and the names there are."""
    if rule.layers is not None:
        return name_layers(layers)
    names = [p.name for p in layers.parameters]
    if rule.type is not None:
        kinds = sorted({p.module for p in layers.parameters})
        close = difflib.get_close_matches(rule.type, kinds, n=1, cutoff=0.4)
        shown = f"classes of modules with parameters: {', '.join(kinds)}"
    else:
        globs = [*names, *(f"{name}.*" for name in layers.layer_names)]
        wanted = str(rule.match).removeprefix("re:")
        close = difflib.get_close_matches(wanted, globs, n=1, cutoff=0.4)
        shown = f"parameters: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
    return f"{f'nearest: {close[0]!r}; ' if close else ''}{shown}"
