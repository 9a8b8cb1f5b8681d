"""Sweeps whose points Optuna chooses as it goes, from what came of earlier ones."""
