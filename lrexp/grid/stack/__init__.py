"""Runs of one network trained together."""
