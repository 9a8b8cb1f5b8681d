"""What `task=` chooses."""
