"""Config in, live objects out: a module for each part of an experiment."""
