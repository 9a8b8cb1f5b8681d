"""Schedules: step → multiplier s(t) of every rate, and m(t) where momentum cycles with it.

Tabulated once per run, from torch's own schedulers wherever torch has the class.
"""
