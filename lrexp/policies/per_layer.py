"""Rates written down rule by rule."""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase

from lrexp.errors import ConfigError
from lrexp.models.layers import LayerMap, LayerParameter
from lrexp.plan import Plan, Treatment, make_plan, never, no_decay_on_bias_and_norm
from lrexp.schema import Rest, Rule


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
        rules: each selects by name (`match`) or by depth (`layers`).
        default: for every parameter that no rule selects.
        decay_bias_norm: weight decay also on biases and normalisation weights, where no rule
            gives it.

    Raises:
        ConfigError: for a rule that selects nothing, or nothing that earlier rules left.
    """
    deciding: dict[str, Rule] = {}
    for i, rule in enumerate(rules):
        key = f"lr_policy.rules[{i}]"
        selected = [p.name for p in layers.parameters if _selects(rule, p, layers)]
        what = rule.match if rule.match is not None else f"layers {rule.layers}"
        if not selected:
            raise ConfigError(key, f"{what!r} selects no parameter", _nearest(rule, layers))
        fresh = [name for name in selected if name not in deciding]
        if not fresh:
            raise ConfigError(
                key,
                f"{what!r} selects only parameters that earlier rules decide",
                "the first match wins; put the narrower rule first",
            )
        deciding |= dict.fromkeys(fresh, rule)

    def treat(parameter: LayerParameter) -> Treatment:
        decay = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        rule = deciding.get(parameter.name)
        if rule is None:
            return Treatment(default.scale, decay)
        scale = default.scale if rule.scale is None else rule.scale
        if rule.lr is not None:
            scale = rule.lr / base_lr
        treatment = Treatment(scale, decay if rule.weight_decay is None else rule.weight_decay)
        return never(treatment) if rule.frozen else treatment

    return make_plan(layers, treat)


def _selects(rule: Rule, parameter: LayerParameter, layers: LayerMap) -> bool:
    if rule.match is not None:
        if rule.match.startswith("re:"):
            return re.search(rule.match[3:], parameter.name) is not None
        return fnmatchcase(parameter.name, rule.match)
    wanted = str(rule.layers)
    if wanted in ("head", "backbone"):
        return parameter.head == (wanted == "head")
    first, _, last = wanted.partition("-")
    return int(first) <= parameter.layer <= int(last or first)


def _nearest(rule: Rule, layers: LayerMap) -> str:
    if rule.match is None:
        return f"the layers are 0 to {layers.depth - 1}: {', '.join(layers.layer_names)}"
    names = [p.name for p in layers.parameters]
    globs = [*names, *(f"{name}.*" for name in layers.layer_names)]
    close = difflib.get_close_matches(rule.match.removeprefix("re:"), globs, n=1, cutoff=0.4)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{f'nearest: {close[0]!r}; ' if close else ''}parameters: {shown}"
