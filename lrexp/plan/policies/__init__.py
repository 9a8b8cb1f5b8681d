"""Policies: pure functions (layer map, base_lr, base_weight_decay, settings) → Plan."""
