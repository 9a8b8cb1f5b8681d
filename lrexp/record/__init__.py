"""Recorders: they write down what a run did. None of them can stop it."""
