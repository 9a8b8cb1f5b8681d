"""Networks, their weights, and the map from parameters to layers."""

from lrexp.models.layers import LayerMap, LayerParameter, layer_map
from lrexp.models.mlp import MLP
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.models.weights import load_weights, save_weights, weights_fingerprint

__all__ = [
    "MLP",
    "LayerMap",
    "LayerParameter",
    "SimpleCNN",
    "layer_map",
    "load_weights",
    "save_weights",
    "weights_fingerprint",
]
