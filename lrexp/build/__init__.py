"""Config in, live objects out: the only room that reads a config to construct."""
