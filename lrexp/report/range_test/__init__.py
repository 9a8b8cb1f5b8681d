"""The report of a range test: what its files hold, in words and in a picture."""
