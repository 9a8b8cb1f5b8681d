"""Networks, their weights, and the map from parameters to layers."""

from lrexp.models.layers import LayerMap, LayerParameter, head_names, layer_map, unwrapped
from lrexp.models.library import timm_model, torchvision_model
from lrexp.models.mlp import MLP
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.models.weights import load_weights, save_weights, weights_fingerprint

__all__ = [
    "MLP",
    "LayerMap",
    "LayerParameter",
    "SimpleCNN",
    "head_names",
    "layer_map",
    "load_weights",
    "save_weights",
    "timm_model",
    "torchvision_model",
    "unwrapped",
    "weights_fingerprint",
]
