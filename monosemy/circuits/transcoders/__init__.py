"""Transcoders: dictionaries that read what goes into an MLP and give what comes out of it."""
