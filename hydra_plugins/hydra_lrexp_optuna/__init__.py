"""Hydra finds sweepers only below `hydra_plugins`: ours, which lrexp.grid.search works for."""
