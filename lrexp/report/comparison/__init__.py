"""Conclusions: in a terminal, as a page, and as files."""
