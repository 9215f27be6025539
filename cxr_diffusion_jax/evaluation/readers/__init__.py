"""Blinded readers: a sheet with its key apart, and what their answers come to."""
