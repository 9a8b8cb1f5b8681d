"""Many points of a grid in one session."""
