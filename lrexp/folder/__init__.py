"""Run folders: claims, atomic writes, checkpoints, environment, file names."""
