"""Schemas, checks, composing and saved configs, errors. Imports no other room."""
