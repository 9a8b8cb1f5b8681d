"""A test of layers as files, a page, pictures and lines of a terminal."""
