"""What can be wrong with a run, a function for each kind, from its rows and what is known of it."""
