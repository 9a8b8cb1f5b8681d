"""What a module without parameters stands between: whose output it gets, whose input it makes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def parameters_beside(
    model: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, frozenset[str]]:
    """Module without parameters → names of the parameters right before and right behind it.

    Found in the autograd graph of one empty image in eval mode, so neither the order in which
    modules were registered nor where they are kept plays a part. Before it: the next parameters on
    every way back to the image. Behind it: those that get nothing of the image but what passed
    through it, so that a branch which is added to its shortcut (stochastic depth) is behind
    nothing. A module called several times has what is beside any of its calls; one that is never
    called, or a network that cannot take the image, is left out.

    Args:
        model: left as it was; what it draws is the caller's to put back.
        image_shape: (C, H, W).
    """
    model = copy.deepcopy(model)  # one may count how often it is called
    bare = {name: m for name, m in model.named_modules() if next(m.parameters(), None) is None}
    made: list[tuple[str, Any]] = []  # (name, node of its output), a call each
    for name, module in bare.items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: _marked(output, name, made)
        )
    device = next(model.parameters()).device
    try:
        with torch.enable_grad():
            model.eval().requires_grad_(True)
            image = torch.zeros(1, *image_shape, device=device, requires_grad=True)
            graph = _Graph(model, image, model(image.clone()))  # some work in place
    except Exception:  # training will say what is wrong, of a batch that the network is meant for
        return {}
    found: dict[str, frozenset[str]] = {}
    for name, node in made:
        if node in graph.fed:
            found[name] = found.get(name, frozenset()) | graph.before(node) | graph.behind(node)
    return found


def _marked(output: Any, name: str, made: list[tuple[str, Any]]) -> Any:
    """A module's output with a node of its own in the graph, which goes into `made`."""
    if isinstance(output, tuple | list):
        return type(output)(_marked(item, name, made) for item in output)
    if not isinstance(output, Tensor) or output.grad_fn is None:
        return output
    output = output.clone()
    made.append((name, output.grad_fn))
    return output


class _Graph:
    """The nodes of an autograd graph that get something of the image, and their parameters."""

    def __init__(self, model: nn.Module, image: Tensor, output: Tensor):
        names: dict[Any, str] = {tensor: name for name, tensor in model.named_parameters()}
        self._sources: dict[Any, list[Any]] = {}  # node → the nodes it gets something of
        self._own: dict[Any, frozenset[str]] = {}  # node → parameters that meet the image in it
        self._users: dict[Any, list[Any]] = {}  # node → the nodes that get something of it
        self.fed: set[Any] = set()  # nodes that get something of the image
        reached: dict[Any, frozenset[str]] = {}  # all parameters of a node without the image
        for node in _from_the_leaves_up(output.grad_fn):
            leaf = getattr(node, "variable", None)
            sources = [source for source, _ in node.next_functions if source is not None]
            fed = [source for source in sources if source in self.fed]
            aside = (reached[source] for source in sources if source not in self.fed)
            own = frozenset[str]().union(*aside)
            if leaf is image or fed:
                self.fed.add(node)
                self._sources[node], self._own[node] = fed, own
                for source in fed:
                    self._users.setdefault(source, []).append(node)
            else:
                reached[node] = own | ({names[leaf]} if leaf in names else set())

    def before(self, node: Any) -> frozenset[str]:
        """The next parameters on every way back to the image."""
        return frozenset[str]().union(*(self._own[stop] for stop in self._stops(node, None)))

    def behind(self, node: Any) -> frozenset[str]:
        """The next parameters on every way on, that no way around the node leads to."""
        found, seen, left = frozenset[str](), set[Any](), list(self._users.get(node, ()))
        while left:
            user = left.pop()
            if user in seen:
                continue
            seen.add(user)
            if not self._own[user]:
                left += self._users.get(user, ())
            elif not any(self._stops(user, node)):
                found |= self._own[user]
        return found

    def _stops(self, node: Any, through: Any) -> Iterator[Any]:
        """Where ways back from a node first meet parameters or the image, but for those `through`
        another node."""
        seen, left = {through}, list(self._sources[node])
        while left:
            source = left.pop()
            if source in seen:
                continue
            seen.add(source)
            if self._own[source] or not self._sources[source]:
                yield source
            else:
                left += self._sources[source]


def _from_the_leaves_up(root: Any) -> Iterator[Any]:
    """Every node of a graph once, after all that it gets something of."""
    done, left = set[Any](), [(root, False)]
    while left:
        node, expanded = left.pop()
        if expanded:
            yield node
        elif node not in done:
            done.add(node)
            left.append((node, True))
            left += [(n, False) for n, _ in node.next_functions if n is not None]
