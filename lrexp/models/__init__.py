"""Networks, their weights, and the map from parameters to layers."""
