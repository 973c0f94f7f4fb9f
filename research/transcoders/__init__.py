"""Transcoders of every layer: how good they are, what their graphs explain, and whether interventions agree."""
