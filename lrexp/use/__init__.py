"""What is done with a trained run, or in a loop that is not ours."""
