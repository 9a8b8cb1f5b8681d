"""Numbers to findings to sentences: the same for terminal, report and W&B."""
