"""A plan carried out: parameter groups, optimizers, schedules."""
