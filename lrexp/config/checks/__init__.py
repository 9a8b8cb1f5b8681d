"""Checks of what no single limit can say, a file per group of settings."""
