"""Run and sweep folders, read back."""
