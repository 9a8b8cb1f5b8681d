"""Compose, check, claim, run: one run or a sweep."""
