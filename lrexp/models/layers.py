"""The layer map: every parameter of a model, ordered by depth."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lrexp.config.errors import ConfigError, few, nearest
from lrexp.models.decay import is_named_undecayed, is_timms, is_vector
from lrexp.models.layer_map import LayerMap, LayerParameter

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# final norms that timm's map of the same network leaves to the last layer's rate
LEFT_BY_TIMM = {"torchvision.models.densenet.DenseNet": ("features.norm5",)}


@dataclass
class _Layers:
    """Layer names below the head, in order of depth, and which parameter lies in which.

    What `of` leaves out goes to the head's layer.
    """

    order: list[str] = field(default_factory=list)
    of: dict[str, str] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)  # left out because nothing named them
    loose: list[str] = field(default_factory=list)  # placed, though in no module of their own

    def add(self, layer: str, names: Iterable[str]) -> None:
        if layer not in self.order:
            self.order.append(layer)
        self.of |= dict.fromkeys(names, layer)


def layer_map(
    model: nn.Module,
    head_name: str | tuple[str, ...] | None = None,
    loaded: Set[str] = frozenset(),
    *,
    convention: str = "timm",
    layers: list[str] | None = None,
) -> LayerMap:
    """Place every parameter of a module in a layer.

    A timm model says its layers itself (`group_matcher`). Elsewhere structure does: a layer is a
    child module with parameters, in order of registration; containers, and modules that hold
    containers of repeated blocks, are expanded into their items; a repeated module with several
    such containers has parallel branches and is one layer. A normalisation joins the layer before
    it, and so does what stands between two stages of blocks (a transition, a downsampling).
    Parameters of an expanded module itself go with the layer before it. The head is last, with the
    norms of its own container (`classifier = Sequential(LayerNorm, Flatten, Linear)`). A
    torchvision model whose parameters have timm's names has timm's layers too.

    Frozen or not makes no difference. Names are those of the bare model (see `unwrapped`), and a
    missing classifier still counts as a layer, so that what is left keeps its place.

    Args:
        model: any module; wrappers are looked through.
        head_name: dotted name of its classifier, or names; found with `head_names` when None.
        loaded: names of the parameters that came from a weights file.
        convention: `timm`; `beit`, with the final norm in the head's layer; `block`, one layer per
            child of the model; `strict`, as `timm`, but an unplaced parameter is an error.
        layers: the order by hand, from the input up: a glob or re:REGEX on parameter names per
            layer, the first match decides. The head is last without being named.

    Raises:
        ValueError: when the model has no parameter, or no module called `head_name`.
        ConfigError: for a glob that selects nothing, or what `strict` refuses.

    Source: timm.optim.param_groups_layer_decay; Bao et al. 2022 (BEiT), whose layer-wise decay
    gives the final norm the head's rate.
    """
    model = unwrapped(model)
    heads = (head_name,) if isinstance(head_name, str) else head_name or head_names(model)
    modules, tensors = dict(model.named_modules()), dict(model.named_parameters())
    for name in heads:
        if name not in modules:
            meant = nearest(name, filter(None, modules))
            hint = f"did you mean {meant!r}?" if meant else f"modules: {few(filter(None, modules))}"
            raise ValueError(f"{type(model).__name__} has no module {name!r}: {hint}")
    if not tensors:
        raise ValueError(f"{type(model).__name__} has no parameters")
    note = ""
    if layers is not None:
        found = _by_hand(layers, list(tensors), heads)
    elif convention == "block":
        found = _by_structure(_children(model, heads))
    elif hasattr(model, "group_matcher"):
        found, note = _by_matcher(model, heads), "layers by timm's own groups"
    else:
        kind = f"{type(model).__module__}.{type(model).__name__}"
        found = _by_structure(_pieces(model, "", heads), LEFT_BY_TIMM.get(kind, ()))
        if is_timms(model):
            note = "layers by structure: timm has no groups of its own for this network"
    if convention == "beit":
        norms = _final_norms(model, heads)
        found.of = {name: at for name, at in found.of.items() if not _inside(name, norms)}
        found.unplaced = [name for name in found.unplaced if not _inside(name, norms)]
    if convention == "strict" and (names := [*found.unplaced, *found.loose]):
        problem = f"{len(names)} parameters have no layer of their own: {few(names)}"
        hint = "place them with model.layers, or use another convention"
        raise ConfigError("model.convention", problem, hint, "strict")
    order, last = list(found.order), next(iter(heads), "rest")
    lost_head = bool(heads) and not any(_inside(name, heads) for name in tensors)
    if lost_head or tensors.keys() - found.of.keys():
        order.append(last)
    placed = [
        LayerParameter(
            name=name,
            shape=tuple(tensor.shape),
            layer=order.index(found.of.get(name, last)),
            layer_name=found.of.get(name, last),
            head=_inside(name, heads),
            source="loaded" if name in loaded else "fresh",
            undecayed=is_named_undecayed(model, name),
            vector=is_vector(model, name, tensor),
            module=type(model.get_submodule(name.rpartition(".")[0])).__name__,
        )
        for name, tensor in tensors.items()
    ]
    placed.sort(key=lambda p: p.layer)
    empty_head = last if placed[-1].layer < len(order) - 1 else None
    bare = (
        (name, type(module).__name__)
        for name, module in model.named_modules()
        if name and next(module.parameters(), None) is None
    )
    return LayerMap(tuple(placed), tuple(found.unplaced), empty_head, tuple(bare), note)


def unwrapped(model: nn.Module) -> nn.Module:
    """The bare model in wrappers such as DataParallel (`module`) or torch.compile (`_orig_mod`)."""
    while [name for name, _ in model.named_children()] in (["module"], ["_orig_mod"]):
        if next(model.parameters(recurse=False), None) is not None:
            break
        model = next(model.children())
    return model


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of a model's classifier: the modules whose shape follows the classes.

    timm's own (`default_cfg["classifier"]`), else the child `head`, else the last layer with
    weights in `heads`, `fc` or `classifier` (torchvision's names), else the last linear layer.
    Of a model whose classifier was replaced by Identity, the place where it was. Empty when there
    is nothing that could be one.
    """
    model = unwrapped(model)
    modules = dict(model.named_modules())
    if hasattr(model, "get_classifier"):
        named: Any = getattr(model, "default_cfg", {}).get("classifier") or ()
        names = (named,) if isinstance(named, str) else tuple(named)
        if names and all(name in modules for name in names):
            return names
    children = dict(model.named_children())
    if "head" in children:
        return ("head",)
    for child in ("heads", "fc", "classifier"):
        if child in children:
            return (_last_layer(children[child], child),)
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    return (linear[-1],) if linear else ()


def heads_by_shape(model: nn.Module, larger: nn.Module) -> tuple[str, ...]:
    """Modules whose parameters change shape with the number of classes, in order.

    Args:
        model: for some number of classes.
        larger: the same for more.
    """
    shapes = {name: p.shape for name, p in larger.named_parameters()}
    changed = [n for n, p in model.named_parameters() if n in shapes and p.shape != shapes[n]]
    return tuple(dict.fromkeys(n.rpartition(".")[0] for n in changed if "." in n))


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation: torch's, or one that is called so and has no matrix."""
    named = "norm" in type(module).__name__.lower()
    return isinstance(module, NORMS) or (named and all(p.ndim <= 1 for p in module.parameters()))


def _last_layer(module: nn.Module, name: str) -> str:
    """The last of a module's layers that could classify, or what stands in its place."""
    leaves = [(n, m) for n, m in module.named_modules(prefix=name) if _is_leaf(m)]
    layers = (nn.Linear, nn.modules.conv._ConvNd, nn.Identity)
    return next((n for n, m in reversed(leaves) if isinstance(m, layers)), name)


def _by_hand(layers: list[str], names: list[str], heads: tuple[str, ...]) -> _Layers:
    """As model.layers says; what no entry selects is unplaced."""
    found = _Layers()
    left = [name for name in names if not _inside(name, heads)]
    for i, pattern in enumerate(layers):
        if pattern.startswith("re:"):
            matches = [name for name in names if re.search(pattern[3:], name)]
        else:
            matches = [name for name in names if fnmatchcase(name, pattern)]
        chosen = [name for name in matches if name in left]
        if not chosen:
            raise _selects_nothing(f"model.layers[{i}]", pattern, matches, names, heads)
        left = [name for name in left if name not in chosen]
        found.add(pattern, chosen)
    found.unplaced = left
    return found


def _selects_nothing(
    key: str, pattern: str, matches: list[str], names: list[str], heads: tuple[str, ...]
) -> ConfigError:
    if matches and all(_inside(name, heads) for name in matches):
        problem = "selects only the head"
        hint = "the head is the last layer without being named; remove this entry"
    elif matches:
        problem = "selects only what earlier entries took"
        hint = "the first match decides; put the narrower entry first"
    else:
        parents = dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in names if "." in name)
        close = difflib.get_close_matches(pattern, [*names, *parents], n=1, cutoff=0.4)
        problem = "selects no parameter"
        hint = f"{f'nearest: {close[0]!r}; ' if close else ''}parameters: {few(names)}"
    return ConfigError(key, problem, hint, pattern)


def _by_matcher(model: nn.Module, heads: tuple[str, ...]) -> _Layers:
    """timm's own layers, under the names its patterns match."""
    from timm.models import group_parameters

    matcher: Any = model.group_matcher(coarse=False)  # type: ignore[operator]
    index: Any = group_parameters(model, matcher, reverse=True)  # parameter → layer
    labels = {name: _label(matcher, name) for name, _ in model.named_parameters()}
    found = _Layers(unplaced=[n for n in labels if labels[n] is None and not _inside(n, heads)])
    for i in range(max(index.values()) + 1):
        inside = {n: label for n, label in labels.items() if label and index.get(n) == i}
        if inside:
            _, layer = min(inside.values(), key=lambda label: label[0])  # the first on ties
            found.add(layer if layer not in found.order else f"{layer}_{i}", inside)
    return found


def _label(matcher: Any, name: str) -> tuple[int, str] | None:
    """What timm's pattern for a parameter matched, 0 or 1 before it; None without a match.

    1 marks a pattern for what joins another layer, which should not name that layer.
    """
    if callable(matcher):
        found = matcher(name)
        last = found[-1] if isinstance(found, tuple | list) else found
        return None if last is None or last == float("inf") else (0, f"layer{last}")
    for group, patterns in matcher.items():
        if patterns is None:
            continue
        for pattern in patterns if isinstance(patterns, list | tuple) else [(patterns, None)]:
            if match := re.match(pattern[0], name):
                label = match[0].strip(".") if match.groups() else group
                return int(pattern[1] is not None), label
    return None


@dataclass(frozen=True)
class _Piece:
    """What structure yields from the input up: a module to place, or loose parameters."""

    name: str
    module: nn.Module
    names: list[str]  # of its parameters, without the head's
    joins: bool  # goes with the layer before it
    loose: bool = False


def _by_structure(pieces: Iterator[_Piece], left: tuple[str, ...] = ()) -> _Layers:
    """A layer per piece that joins no other, without those `left` to the head's layer."""
    found, early = _Layers(), []
    for piece in pieces:
        if piece.loose:
            found.loose += piece.names
        if piece.name in left:
            found.unplaced += piece.names
        elif piece.loose and not found.order:
            early += piece.names
        else:
            joins = piece.joins and found.order
            found.add(found.order[-1] if joins else piece.name, piece.names)
    if found.order:
        found.of |= dict.fromkeys(early, found.order[0])
    return found


def _children(model: nn.Module, heads: tuple[str, ...]) -> Iterator[_Piece]:
    """The model's own parameters and its children, without the one that holds the head."""
    own = [name for name, _ in model.named_parameters(recurse=False)]
    yield _Piece("", model, own, joins=True, loose=True)
    for name, child in model.named_children():
        names = [f"{name}.{inner}" for inner, _ in child.named_parameters()]
        if names and not any(f"{head}.".startswith(f"{name}.") for head in heads):
            yield _Piece(name, child, names, joins=is_norm(child))


def _pieces(module: nn.Module, prefix: str, heads: tuple[str, ...]) -> Iterator[_Piece]:
    own = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    yield _Piece(prefix.rstrip("."), module, own, joins=True, loose=True)
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    stages = [i for i, (name, child) in enumerate(children) if name not in heads and _stage(child)]
    kinds = Counter(type(child) for _, child in children)
    beside = [child for name, child in children if name not in heads and _has_parameters(child)]
    if prefix and any(name in heads for name, _ in children) and all(map(is_norm, beside)):
        return  # norms in the head's own container go with the head
    for i, (name, child) in enumerate(children):
        names = [f"{name}.{n}" for n, _ in child.named_parameters()]
        names = [n for n in names if not _inside(n, heads)]
        if name in heads or not names:
            continue
        between = bool(stages) and stages[0] < i < stages[-1] and i not in stages
        branching = kinds[type(child)] > 1 and sum(map(_has_blocks, child.children())) > 1
        opens = isinstance(child, CONTAINERS) or (_has_blocks(child) and not branching)
        if opens and not between:
            yield from _pieces(child, f"{name}.", heads)
        else:
            yield _Piece(name, child, names, joins=between or is_norm(child))


def _stage(module: nn.Module) -> bool:
    """Whether a module is a container of blocks, each a module with parts, or holds some."""
    if not isinstance(module, CONTAINERS):
        return _has_blocks(module)
    return any(_is_block(item) for item in module.children())


def _has_blocks(module: nn.Module) -> bool:
    """Whether containers anywhere in a module repeat one kind of block."""
    kinds = Counter(
        type(item)
        for inner in module.modules()
        if isinstance(inner, CONTAINERS)
        for item in inner.children()
        if not isinstance(item, CONTAINERS) and _is_block(item)
    )
    return any(count > 1 for count in kinds.values())


def _is_block(module: nn.Module) -> bool:
    """Whether a module has parts and parameters."""
    return not _is_leaf(module) and _has_parameters(module)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _final_norms(model: nn.Module, heads: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the norms between the last block and the head; a lone layer's norm is its own."""
    pieces = [piece for piece in _pieces(model, "", heads) if not piece.loose]
    norms: list[str] = []
    while pieces and is_norm(pieces[-1].module):
        norms.append(pieces.pop().name)
    return tuple(norms) if pieces and not _is_leaf(pieces[-1].module) else ()


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{module}." for module in modules))
