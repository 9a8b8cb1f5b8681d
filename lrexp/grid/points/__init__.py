"""Points of a grid: cases, equal ones, going on."""
