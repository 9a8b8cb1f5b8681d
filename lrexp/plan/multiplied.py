"""A plan written down as rules of lr_policy=per_layer, the rates of chosen layers multiplied."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lrexp.config.errors import ConfigError, few
from lrexp.models.layer_map import LayerMap, LayerParameter
from lrexp.plan.plan import Plan, Row, no_decay_on_bias_and_norm
from lrexp.plan.policies.layer_groups import layer_groups

DOUBLE, SINGLE = '"', "'"  # around a pattern: on a command line, which a shell has in single quotes


@dataclass(frozen=True)
class Part:
    """Neighbouring layers whose rates are multiplied together, most often a single one."""

    name: str  # of the layer, or `FIRST to LAST`
    first: int  # layer, 0 is nearest to the input
    last: int
    parameters: int  # values in them
    trained: int  # of these, values that the plan ever trains
    low: float  # the lowest and highest lr_scale of what trains; 0 where nothing does
    high: float

    @property
    def layers(self) -> range:
        return range(self.first, self.last + 1)


@dataclass(frozen=True)
class Rule:
    """A line of lr_policy.rules."""

    selector: str  # "layers" or "match"
    selects: str
    frozen: bool
    scale: float = 1.0
    weight_decay: float | None = None  # None: as optimizer.weight_decay has it


@dataclass(frozen=True)
class Rules:
    """The settings of lr_policy=per_layer that make a plan."""

    rules: tuple[Rule, ...]
    default: float  # scale of what no rule selects
    decay_bias_norm: bool

    @property
    def overrides(self) -> list[str]:
        """As Hydra reads them on a command line; the numbers come back as they are."""
        return [
            "lr_policy=per_layer",
            f"lr_policy.rules=[{','.join(map(_written, self.rules))}]",
            f"lr_policy.default.scale={self.default!r}",
            f"lr_policy.decay_bias_norm={str(self.decay_bias_norm).lower()}",
        ]

    def yaml(self, comments: Sequence[str]) -> str:
        """As a file of the group lr_policy, below comments."""
        lines = [
            *(f"# {line}" for line in comments),
            "defaults: [/schema/lr_policy/per_layer@_here_, _self_]",
            "",
            "name: per_layer",
            "rules:" if self.rules else "rules: []",
            *(_as_yaml(rule) for rule in self.rules),
            f"default: {{ scale: {self.default!r} }}",
            f"decay_bias_norm: {str(self.decay_bias_norm).lower()}",
        ]
        return "\n".join(lines) + "\n"


def parts_of(layers: LayerMap, plan: Plan, most: int) -> list[Part]:
    """The layers from the input to the head; of more than `most` neighbours merged evenly.

    The last layer stays one alone. Layers without parameters of their own are no parts.
    """
    depth = layers.depth
    group = layer_groups(layers, min(most, depth) if depth > most else None)
    members: dict[int, list[Row]] = {}
    for row in plan.rows:
        members.setdefault(group[row.layer], []).append(row)
    return [_part(rows) for _, rows in sorted(members.items())]


def _part(rows: Sequence[Row]) -> Part:
    ordered = sorted(rows, key=lambda row: row.layer)
    first, last = ordered[0], ordered[-1]
    alone = first.layer == last.layer
    scales = [row.lr_scale for row in rows if not row.frozen]
    return Part(
        first.layer_name if alone else f"{first.layer_name} to {last.layer_name}",
        first.layer,
        last.layer,
        sum(row.size for row in rows),
        sum(row.size for row in rows if not row.frozen),
        min(scales, default=0.0),
        max(scales, default=0.0),
    )


def refuse_moving(layers: LayerMap, plan: Plan, policy: str) -> None:
    """Raise a ConfigError for a plan that rules cannot make: rates that move in time by themselves,
    or statistics and dropout of frozen layers that go on."""
    norms = {parameter.name for parameter in layers.parameters if parameter.is_norm}
    for row in plan.rows:
        said = ""
        if row.measured:
            said = "measures its rates in the run"
        elif row.g or row.schedule_restart or not (row.trains_throughout or row.frozen):
            said = "moves rates, or what is frozen, in time"
        elif (row.frozen and row.frozen_dropout) or (
            row.name in norms and row.bn_stats == ("live" if row.frozen else "frozen")
        ):
            said = "treats BatchNorm or dropout of frozen layers in a way of its own"
        elif not row.frozen and not row.lr_scale > 0:
            said = f"has rates of {row.lr_scale:g}"
        if said:
            problem = f"{said}, which no rule of lr_policy=per_layer can multiply"
            hint = "choose a policy with fixed rates: uniform, layerwise_decay, discriminative"
            raise ConfigError("lr_policy", problem, hint, policy)


def rules_of(
    layers: LayerMap,
    plan: Plan,
    factors: Mapping[int, float],
    *,
    base_weight_decay: float,
    decay_bias_norm: bool,
) -> Rules:
    """Rules under which per_layer makes this plan, with lr_scale × factor in the layers named.

    Factor 0 freezes a layer in truth (see `Row.frozen`); what the plan freezes stays frozen. The
    scale that most layers share becomes the default, neighbours that are treated alike share a
    rule, and a layer whose parameters differ gets one per treatment.

    Args:
        layers: of the model.
        plan: whose rates stand still, see `refuse_moving`.
        factors: by layer; 1 for those that are not named.
        base_weight_decay: optimizer.weight_decay.
        decay_bias_norm: of the policy that made the plan.
    """
    rows = {row.name: row for row in plan.rows}
    answers: dict[int, dict[str, _Answer]] = {}
    for parameter in layers.parameters:
        row, factor = rows[parameter.name], factors.get(parameter.layer, 1.0)
        usual = no_decay_on_bias_and_norm(parameter, base_weight_decay, decay_bias_norm)
        frozen = row.frozen or factor == 0
        decay = None if frozen or row.weight_decay == usual else row.weight_decay
        answer = _Answer(frozen, 1.0 if frozen else row.lr_scale * factor, decay)
        answers.setdefault(parameter.layer, {})[parameter.name] = answer
    whole = {layer: next(iter(some.values())) for layer, some in answers.items() if _alike(some)}
    plain = [a.scale for a in whole.values() if not a.frozen and a.weight_decay is None]
    counted = Counter(plain).most_common(1)
    default = _Answer(False, counted[0][0] if counted else 1.0, None)
    rules: list[Rule] = []
    for first, last, answer in _stretches(whole):
        if answer != default:
            rules.append(
                _rule("layers", str(first) if first == last else f"{first}-{last}", answer)
            )
    for layer in sorted(set(answers) - set(whole)):
        for answer in dict.fromkeys(answers[layer].values()):
            if answer != default:
                names = [name for name, one in answers[layer].items() if one == answer]
                rules.append(_rule("match", _pattern(names, layers.parameters), answer))
    return Rules(tuple(rules), default.scale, decay_bias_norm)


def difference(one: Plan, other: Plan) -> str:
    """The first parameter that two plans treat otherwise, in words; empty where there is none.

    Compared are what trains, lr_scale and weight decay, to the last bit.
    """
    theirs = {row.name: row for row in other.rows}
    if theirs.keys() != {row.name for row in one.rows}:
        return "they have other parameters"
    for row in one.rows:
        a, b = ((r.frozen, r.lr_scale, r.weight_decay) for r in (row, theirs[row.name]))
        if a != b and not (row.frozen and theirs[row.name].frozen):
            return f"{row.name}: (frozen, scale, decay) {a} and {b}"
    return ""


@dataclass(frozen=True)
class _Answer:
    frozen: bool
    scale: float
    weight_decay: float | None


def _alike(answers: Mapping[str, _Answer]) -> bool:
    return len(set(answers.values())) == 1


def _stretches(whole: Mapping[int, _Answer]) -> Iterable[tuple[int, int, _Answer]]:
    """Neighbouring layers of one answer, as (first, last, answer)."""
    found: list[tuple[int, int, _Answer]] = []
    for layer in sorted(whole):
        if found and found[-1][1] == layer - 1 and found[-1][2] == whole[layer]:
            found[-1] = (found[-1][0], layer, whole[layer])
        else:
            found.append((layer, layer, whole[layer]))
    return found


def _rule(selector: str, selects: str, answer: _Answer) -> Rule:
    return Rule(selector, selects, answer.frozen, answer.scale, answer.weight_decay)


def _pattern(names: Sequence[str], parameters: Sequence[LayerParameter]) -> str:
    """What matches these parameters and no others."""
    if len(names) == 1 and not re.search(r"[*?\[\]]", names[0]) and not names[0].startswith("re:"):
        return names[0]
    pattern = f"^({'|'.join(names)})$"
    found = {p.name for p in parameters if re.search(pattern, p.name)}
    exact = found == set(names)
    return f"re:{pattern}" if exact else f"re:^({'|'.join(map(re.escape, names))})$"


def _written(rule: Rule) -> str:
    """As Hydra reads it: `{layers:0-2,scale:4.0}`."""
    return f"{{{','.join(f'{key}:{value}' for key, value in _cells(rule, DOUBLE))}}}"


def _as_yaml(rule: Rule) -> str:
    cells = ", ".join(f"{key}: {value}" for key, value in _cells(rule, SINGLE))
    return f"  - {{ {cells} }}"


def _cells(rule: Rule, quote: str) -> list[tuple[str, str]]:
    quoted = quote if rule.selector == "match" else ""
    cells = [(rule.selector, f"{quoted}{rule.selects}{quoted}")]
    cells.append(("frozen", "true") if rule.frozen else ("scale", repr(rule.scale)))
    if rule.weight_decay is not None:
        cells.append(("weight_decay", repr(rule.weight_decay)))
    return cells


def merged_words(parts: Sequence[Part], depth: int) -> str:
    """What was merged, in a sentence; empty for nothing."""
    merged = [part.name for part in parts if part.first != part.last]
    if not merged:
        return ""
    return (
        f"{depth} layers are measured as {len(parts)} parts (task.layers_at_most); merged:"
        f" {few(merged, 12)}"
    )
