"""Hydra finds launchers only below `hydra_plugins`: ours, whose work is done by lrexp.grid."""
