"""The configured network, initialised or loaded, and its layer map."""

from __future__ import annotations

import torch
from torch import nn

from lrexp.build.data import StatedData
from lrexp.config.schema import Config, chosen_option, load, settings_of
from lrexp.data.dataset import Dataset
from lrexp.data.draws import draw
from lrexp.data.generators import begun_at
from lrexp.models.layer_map import LayerMap
from lrexp.models.layers import head_names, layer_map
from lrexp.models.pretrained import pretrained_weights, transform_arguments
from lrexp.models.weights import load_weights


def build_model(
    config: Config, dataset: Dataset | StatedData, meta: bool = False
) -> tuple[nn.Module, LayerMap]:
    """The network, initialised from the seed and then from weights, and its layer map.

    Args:
        config: of the run.
        dataset: whose images and classes the network is for.
        meta: build it without values, on the meta device; of weights only shapes are read.

    Raises:
        ConfigError: when the network cannot be built for the data, or its weights do not fit it.
    """
    option, settings = chosen_option("model", config.model), settings_of(config.model)
    kind = load(option.make)
    weights, strict = settings.pop("weights"), settings.pop("strict")
    order, convention = settings.pop("layers"), settings.pop("convention")

    def made(on_meta: bool, classes: int) -> nn.Module:
        first, cpu = draw(config.seed, "init"), torch.device("cpu")
        with begun_at(first, cpu), torch.device("meta") if on_meta else cpu:
            try:
                return kind(dataset.image_shape, classes, **settings)
            except Exception:  # some networks compute with values while they are built
                if not on_meta:
                    raise
        return made(False, classes).to("meta")

    pretrained = settings.pop("pretrained", False)
    if pretrained:
        settings["args"] = transform_arguments(config.model.name) | config.model.args
    model = made(meta, len(dataset.class_names))
    if pretrained:
        library, name, args = config.model.library, config.model.name, config.model.args
        with torch.random.fork_rng(devices=[]):
            weights = pretrained_weights(library, name, args, header_only=meta)
    heads, loaded = head_names(model), set[str]()
    if option.heads:
        heads = load(option.heads)(model, made(True, len(dataset.class_names) + 1)) or heads
    if weights:
        loaded = load_weights(model, weights, dataset.class_names, heads, strict)
    layers = layer_map(model, heads, loaded, convention=convention, layers=order)
    return model, layers
