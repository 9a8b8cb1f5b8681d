"""What the words of a command line mean: a file per verb."""
