"""Networks, their weights, and the map from parameters to layers."""

from lrexp.models.cifar_resnet import CifarResNet
from lrexp.models.custom import custom_model
from lrexp.models.expected_input import ExpectedInput, expected_input
from lrexp.models.layers import (
    LayerMap,
    LayerParameter,
    head_names,
    heads_by_shape,
    layer_map,
    unwrapped,
)
from lrexp.models.library import timm_model, torchvision_model
from lrexp.models.mlp import MLP
from lrexp.models.pretrained import pretrained_file, pretrained_weights, transform_arguments
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.models.weights import (
    Weights,
    adapted_to_channels,
    load_weights,
    read_weights,
    save_weights,
    weights_fingerprint,
    weights_name,
)

__all__ = [
    "MLP",
    "CifarResNet",
    "ExpectedInput",
    "LayerMap",
    "LayerParameter",
    "SimpleCNN",
    "Weights",
    "adapted_to_channels",
    "custom_model",
    "expected_input",
    "head_names",
    "heads_by_shape",
    "layer_map",
    "load_weights",
    "pretrained_file",
    "pretrained_weights",
    "read_weights",
    "save_weights",
    "timm_model",
    "torchvision_model",
    "transform_arguments",
    "unwrapped",
    "weights_fingerprint",
    "weights_name",
]
