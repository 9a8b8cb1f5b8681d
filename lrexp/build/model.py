"""The configured network, initialised or loaded, and its layer map."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrexp.build.data import StatedData
from lrexp.config.schema import Config, chosen_option, load, settings_of
from lrexp.config.schema.training import Model
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
    chosen, shape, classes = config.model, dataset.image_shape, len(dataset.class_names)
    weights, option = chosen.weights, chosen_option("model", chosen)
    model = build_network(config, shape, classes, meta)
    if getattr(chosen, "pretrained", False):
        library, name, args = chosen.library, chosen.name, chosen.args
        with torch.random.fork_rng(devices=[]):
            weights = pretrained_weights(library, name, args, header_only=meta)
    heads, loaded = head_names(model), set[str]()
    if option.heads:
        one_more = build_network(config, shape, classes + 1, meta=True)
        heads = load(option.heads)(model, one_more) or heads
    if weights:
        loaded = load_weights(model, weights, dataset.class_names, heads, chosen.strict)
    layers = layer_map(model, heads, loaded, convention=chosen.convention, layers=chosen.layers)
    return model, layers


def build_network(
    config: Config, image_shape: tuple[int, int, int], classes: int, meta: bool = False
) -> nn.Module:
    """The network as it is initialised from the seed; weights are not looked for.

    Args:
        config: of the run.
        image_shape: (C, H, W) of the images.
        classes: outputs of the head.
        meta: build it without values, on the meta device.

    Raises:
        ConfigError: when it cannot be built for such images.
    """
    kind = load(chosen_option("model", config.model).make)
    settings = network_settings(config.model)
    first, cpu = draw(config.seed, "init"), torch.device("cpu")
    with begun_at(first, cpu), torch.device("meta") if meta else cpu:
        try:
            return kind(image_shape, classes, **settings)
        except Exception:  # some networks compute with values while they are built
            if not meta:
                raise
    return build_network(config, image_shape, classes).to("meta")


def network_settings(model: Model) -> dict[str, Any]:
    """What a network is built with, beside the shape of images and the number of classes."""
    settings = settings_of(model)
    for of_weights in ("weights", "strict", "layers", "convention"):
        del settings[of_weights]
    if settings.pop("pretrained", False):
        settings["args"] = transform_arguments(settings["name"]) | settings["args"]
    return settings
