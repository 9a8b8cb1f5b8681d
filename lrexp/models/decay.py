"""Which parameters weight decay is to leave alone, beside biases and norms."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

# As torchvision calls what timm's models of the same networks name in no_weight_decay():
# parameters, and the modules that make position biases.
NAMES = {
    *("class_token", "cls_token", "pos_embedding", "pos_embed"),
    *("relative_position_bias_table", "cpb_mlp", "logit_scale"),
}
# Their weights may have one output or one input, and are no scales for it.
MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.MultiheadAttention)


def is_timms(model: nn.Module) -> bool:
    """Whether a model says for itself, as timm's do, how it wants to be trained."""
    return any(
        hasattr(model, own) for own in ("group_matcher", "no_weight_decay", "get_classifier")
    )


def is_named_undecayed(model: nn.Module, name: str) -> bool:
    """Whether a parameter is one that its library never decays: a token, a position embedding.

    timm's models say so themselves, in names and globs; for all others torchvision's names count.
    """
    if not is_timms(model):
        return not NAMES.isdisjoint(name.split("."))
    listed: Any = getattr(model, "no_weight_decay", set)()
    return any(fnmatchcase(name, pattern) for pattern in listed)


def is_vector(model: nn.Module, name: str, tensor: Tensor) -> bool:
    """Whether a tensor of several dimensions is longer than 1 in no more than one, as a scale is.

    Never in a layer whose weight is a matrix, nor in timm's models: timm decays such tensors.
    """
    owner = model.get_submodule(name.rpartition(".")[0])
    flat = tensor.ndim > 1 and sum(size > 1 for size in tensor.shape) <= 1
    return flat and not isinstance(owner, MATRICES) and not is_timms(model)
