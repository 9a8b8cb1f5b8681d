"""Points in worker programs."""
