"""Every file name of a run folder, spelled once."""

SUMMARY = "summary.json"


LOCK = ".lock"
