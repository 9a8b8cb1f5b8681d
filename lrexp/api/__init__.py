"""What `import lrexp` offers: the same runs and folders as those of the commands, as objects."""
